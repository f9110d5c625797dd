//! A node of MI250X modules: pairs of dies with four links, modules with one or two between them.
//!
//! What a copy between two dies reaches is not the sum of its links: [`crate::network::Routes`].

use super::{Generator, LOCAL_LATENCY, Parameter, Preset, Unit, link, refuse};
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

impl Parameters {
    /// Four MI250X as in Frontier and LUMI (OLCF user guide, node diagram): die pairs 0-1, 2-3,
    /// 4-5, 6-7 share a module (four links); two-link routes 0-6 and 2-4 and one-link routes 0-2,
    /// 1-3, 4-6, 5-7, 1-5, 3-7, of 50 GB/s each. Odd dies have a link less: it leads to their card.
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
                (2, 4, 2),
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
}

/// [`Parameters`] by name.
pub static GENERATOR: Generator = Generator {
    presets: &[Preset {
        name: "mi250x",
        about: "eight dies of four MI250X on xGMI (Frontier, LUMI)",
        set: &[],
    }],
    parameters: &[Parameter::new("link_rate", Unit::Rate, 50e9, "of one xGMI link")],
    one_server: true,
    links: |_, nodes| nodes * 16.0,
    fits: |_, _| Ok(()),
    build: |v, nodes| {
        build(&Parameters { link_rate: v.number("link_rate"), ..Parameters::mi250x() }, nodes)
    },
    fabrics: &[],
};

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
