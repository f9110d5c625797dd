//! A node of MI250X modules: pairs of dies with four links, modules with one or two between them.
//!
//! What a copy reaches is not the sum of its links: a transfer by a copy engine is capped at about
//! 50 GB/s on any pair, and a kernel copy needs tens of MiB to approach its route's rate.
//! [`transfer_rate`] has both; measured on a GPU-aware MPI benchmark and TransferBench
//! (ROCm/rocm-blogs, gpu-aware-mpi; ROCm/gpu-cluster-networking, single-node configuration).

use super::{LOCAL_LATENCY, link, refuse};
use crate::error::Result;
use crate::network::topology::{LinkKind, NodeKind, Topology};

/// What distinguishes one such node from another.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// Dies in a node.
    pub dies: u32,
    /// Pairs of dies with the number of links between them.
    pub links: Vec<(u32, u32, u16)>,
    /// Specified rate of a link, bytes per second, one direction.
    pub link_rate: f64,
}

/// How a transfer is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// By a kernel on the compute units.
    Kernel,
    /// By a copy (SDMA) engine.
    Copy,
}

impl Parameters {
    /// Four MI250X as in Frontier and LUMI (OLCF user guide, node diagram): die pairs 0-1, 2-3,
    /// 4-5, 6-7 share a module (four links); two-link routes 0-6, 1-7, 2-4, 3-5 and one-link routes
    /// 0-2, 1-3, 4-6, 5-7, 1-5, 3-7, of 50 GB/s each.
    #[must_use]
    pub fn mi250x() -> Self {
        Self {
            dies: 8,
            links: vec![
                (0, 1, 4),
                (2, 3, 4),
                (4, 5, 4),
                (6, 7, 4),
                (0, 6, 2),
                (1, 7, 2),
                (2, 4, 2),
                (3, 5, 2),
                (0, 2, 1),
                (1, 3, 1),
                (4, 6, 1),
                (5, 7, 1),
                (1, 5, 1),
                (3, 7, 1),
            ],
            link_rate: 50e9,
        }
    }

    /// Links between two dies.
    #[must_use]
    pub fn between(&self, a: u32, b: u32) -> u16 {
        self.links
            .iter()
            .find(|(x, y, _)| (*x, *y) == (a.min(b), a.max(b)))
            .map_or(0, |(_, _, links)| *links)
    }
}

/// Fraction of the specified rate that a long kernel copy reaches over four, two and one links:
/// 142.2, 76.3 and 39.0 of 200, 100 and 50 GB/s at 16 MiB, with the ramp below taken out.
const KERNEL_FRACTION: [(u16, f64); 3] = [(4, 0.88), (2, 0.86), (1, 0.82)];
/// Bytes at which a kernel copy over one link reaches half of its long rate: 31.6 GB/s at 4 MB
/// against 39.0 at 16 MiB.
const RAMP_PER_LINK: f64 = 1.2e6;
/// Cap of one copy engine: 49.4 GB/s in a module, 41.9 over one link.
const COPY_ENGINE: f64 = 50e9;

/// Rate a transfer of `bytes` reaches between two dies, bytes per second; pairs without a link of
/// their own go through a neighbour at the narrowest link's rate (35 to 37 GB/s measured).
#[must_use]
pub fn transfer_rate(p: &Parameters, a: u32, b: u32, bytes: f64, engine: Engine) -> f64 {
    let direct = p.between(a, b);
    let links = if direct > 0 {
        direct
    } else {
        // The widest two-hop route.
        (0..p.dies)
            .filter(|via| *via != a && *via != b)
            .map(|via| p.between(a, via).min(p.between(via, b)))
            .max()
            .unwrap_or(0)
            .max(1)
    };
    let fraction = KERNEL_FRACTION
        .iter()
        .find(|(n, _)| *n <= links)
        .map_or(KERNEL_FRACTION[2].1, |(_, fraction)| *fraction);
    let relay = if direct > 0 { 1.0 } else { 0.92 };
    let long = p.link_rate * f64::from(links) * fraction * relay;
    let ramp = RAMP_PER_LINK * f64::from(links);
    let kernel = long * bytes / (bytes + ramp);
    match engine {
        Engine::Kernel => kernel,
        Engine::Copy => kernel.min(COPY_ENGINE),
    }
}

/// Builds `nodes` of them.
///
/// # Errors
/// A pair names a die that does not exist.
pub fn build(p: &Parameters, nodes: u32) -> Result<Topology> {
    let mut t = Topology::new(
        format!("{nodes} x {} dies on xGMI", p.dies),
        (nodes * p.dies) as usize,
        nodes as usize * p.links.len(),
    );
    t.endpoints_per_node = p.dies;
    for node in 0..nodes {
        let dies: Vec<_> = (0..p.dies).map(|i| t.add(NodeKind::Device, node, i)).collect();
        for (a, b, count) in &p.links {
            let (Some(x), Some(y)) = (dies.get(*a as usize), dies.get(*b as usize)) else {
                return Err(refuse(format!("the pair {a}-{b} is outside of {} dies", p.dies)));
            };
            t.link(*x, *y, link(p.link_rate, LOCAL_LATENCY, LinkKind::Backplane, *count));
        }
        t.endpoints.extend(dies);
    }
    Ok(t)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Within 15 % of what was measured at 16 MiB and at 4 MB (the two sources differ in machine
    /// and program, so no closer fit is claimed).
    #[test]
    fn rates_are_those_measured_on_mi250x() {
        let p = Parameters::mi250x();
        let mib16 = 16.0 * 1_048_576.0;
        for (a, b, bytes, measured) in [
            (0, 1, mib16, 142.2e9),
            (0, 6, mib16, 76.3e9),
            (0, 2, mib16, 39.0e9),
            (0, 3, mib16, 36.9e9),
            (0, 5, mib16, 35.0e9),
            (0, 2, 4e6, 31.6e9),
            (0, 6, 4e6, 47.5e9),
        ] {
            let rate = transfer_rate(&p, a, b, bytes, Engine::Kernel);
            assert!((rate / measured - 1.0).abs() < 0.15, "{a}-{b}: {rate} against {measured}");
        }
        let copy = transfer_rate(&p, 0, 1, mib16, Engine::Copy);
        assert!((copy / 49.4e9 - 1.0).abs() < 0.05, "{copy}");
    }
}
