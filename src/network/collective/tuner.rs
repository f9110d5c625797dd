//! The library's choice of algorithm and protocol: an argmin over what its tuner believes.
//!
//! NCCL (and RCCL and others in its wake) estimates `latency + bytes / bandwidth` for every
//! algorithm and protocol from a table of constants, and takes the smallest. The estimate is not
//! a good prediction of the time, which is why [`super::predict`] does not use it for that; but
//! it is what the library acts on. Form and constants: `src/graph/tuning.cc` of NCCL, restated;
//! the values stand in the catalogue with their source.

use super::{Algorithm, LibraryModel, Operation, Protocol, Request, TransportModel};
use crate::hardware::ScaleUpKind;

/// The tuner's derating of trees for messages of 64 B times powers of two, by protocol (NCCL,
/// `src/graph/tuning.cc`, table of tree corrections).
const TREE_CORRECTION: [[f64; 24]; 3] = [
    [
        1.0, 1.0, 1.0, 1.0, 0.9, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.4, 0.4, 0.5, 0.6, 0.7, 0.8,
        0.9, 1.0, 1.0, 1.0, 1.0, 1.0,
    ],
    [
        1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 0.8, 0.8, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.8, 0.9,
        0.9, 0.9, 0.9, 1.0, 1.0, 1.0,
    ],
    [
        0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.8, 0.7, 0.6, 0.6, 0.5, 0.5, 0.5, 0.5, 0.6, 0.7, 0.8,
        0.7, 0.7, 0.8, 0.9, 0.9, 0.9,
    ],
];

/// Which branches exist for a request, in the order in which ties are decided.
pub(super) fn candidates(
    library: &LibraryModel,
    transport: Option<&TransportModel>,
    request: &Request,
) -> Vec<(Algorithm, Protocol)> {
    let group = request.group;
    let allowed = |algorithm: Algorithm, protocol: Protocol| {
        request.algorithm.is_none_or(|wanted| wanted == algorithm)
            && request.protocol.is_none_or(|wanted| wanted == protocol)
    };
    let ll128 = request.protocol == Some(Protocol::Ll128)
        || if group.nodes > 1 {
            transport.is_none_or(|t| t.ll128)
        } else {
            library.tuner.ll128_one_node
        };
    let mut found = Vec::with_capacity(8);
    for protocol in Protocol::ALL {
        if protocol == Protocol::Ll128 && !ll128 {
            continue;
        }
        if allowed(Algorithm::Ring, protocol) {
            found.push((Algorithm::Ring, protocol));
        }
        if request.operation == Operation::AllReduce
            && group.nodes > 1
            && allowed(Algorithm::Tree, protocol)
        {
            found.push((Algorithm::Tree, protocol));
        }
    }
    let forced = matches!(request.algorithm, Some(Algorithm::InSwitch | Algorithm::InSwitchTree));
    if let Some((_, _, _, min_ranks)) = library.tuner.in_switch
        && request.operation == Operation::AllReduce
        && request.links.scale_up == ScaleUpKind::Switch
        && (forced || !request.no_in_switch)
        && (forced || group.nodes > 1 || group.min_per_node >= min_ranks)
        && group.min_per_node >= 2
    {
        let algorithm = if group.nodes > 1 { Algorithm::InSwitchTree } else { Algorithm::InSwitch };
        if allowed(algorithm, Protocol::Simple) {
            found.push((algorithm, Protocol::Simple));
        }
    }
    found
}

/// What the tuner believes a branch takes, in seconds.
pub(super) fn estimate(
    library: &LibraryModel,
    transport: Option<&TransportModel>,
    request: &Request,
    algorithm: Algorithm,
    protocol: Protocol,
) -> f64 {
    let tuner = &library.tuner;
    let group = request.group;
    let (n, nodes) = (f64::from(group.ranks), f64::from(group.nodes));
    let p = protocol as usize;
    let row = match group.nodes {
        1 => 0,
        2 => 1,
        _ => 2,
    };
    let link = usize::from(request.links.scale_up == ScaleUpKind::Pcie);
    let inside = request.links.scale_up_bandwidth.get()
        * if link == 1 { library.pcie_efficiency } else { tuner.ring_bandwidth };
    let out = request.links.nic_bandwidth.get() * f64::from(group.min_per_node);
    let bus = if group.nodes > 1 { inside.min(out) } else { inside };
    let plugin = transport.map_or(0.0, |t| t.tuner_latency);
    let bytes = request.bytes.get();

    match algorithm {
        Algorithm::Ring => {
            let bandwidth = match protocol {
                Protocol::Ll => tuner.ll_max[row].min(bus * 0.5),
                Protocol::Ll128 => (bus * 0.92).min(tuner.channels * tuner.ring_ll128_channel[row]),
                Protocol::Simple => bus,
            };
            let (steps, net_steps) = match request.operation {
                Operation::AllReduce => (2.0 * (n - 1.0), 2.0 * (nodes - 1.0)),
                Operation::AllGather | Operation::ReduceScatter => (n - 1.0, nodes - 1.0),
                _ => (n, nodes - 1.0),
            };
            let mut latency = tuner.ring_base[p]
                + (steps - net_steps) * tuner.ring_hop[link][p]
                + net_steps * (tuner.ring_hop[2][p] + plugin);
            if protocol == Protocol::Simple
                && group.nodes > 1
                && request.operation == Operation::AllReduce
                && bytes / (tuner.channels * n) >= 64.0
            {
                latency *= 1.4; // the tuner's "plateau effect of ring"
            }
            latency + bytes * steps / n / bandwidth
        }
        Algorithm::Tree => {
            let mut bandwidth = bus * 0.92;
            match protocol {
                Protocol::Ll => bandwidth = (bandwidth / 3.8).min(tuner.ll_max[row]),
                Protocol::Ll128 => {
                    bandwidth = (bandwidth * 120.0 / 128.0)
                        .min(tuner.channels * tuner.tree_ll128_channel[row]);
                }
                Protocol::Simple => {}
            }
            let size_class = (bytes / 64.0).max(1.0).log2().floor() as usize;
            bandwidth *= TREE_CORRECTION[p].get(size_class).copied().unwrap_or(1.0);
            let latency = tuner.tree_base[p]
                + 2.0
                    * ((f64::from(group.max_per_node) - 1.0) * tuner.tree_hop[link][p]
                        + nodes.log2().floor() * (tuner.tree_hop[2][p] + plugin));
            latency + bytes / (bandwidth * 0.5)
        }
        Algorithm::InSwitch | Algorithm::InSwitchTree => {
            let Some((base, net, efficiency, _)) = tuner.in_switch else {
                return f64::INFINITY;
            };
            let spread = (tuner.channels - 1.0) / tuner.channels;
            let mut bandwidth = inside * efficiency * spread;
            let mut latency = base;
            if group.nodes > 1 {
                latency += 2.0 * nodes.log2().floor() * (net + plugin);
                bandwidth = bandwidth.min(if group.nodes == 2 { out } else { out / 2.0 });
            }
            latency + bytes / bandwidth
        }
        Algorithm::Hierarchical
        | Algorithm::HierarchicalOverlapped
        | Algorithm::Direct
        | Algorithm::TwoHop => 0.0,
    }
}

/// The branch the library takes: the smallest estimate among what exists and is allowed.
#[must_use]
pub fn choose(
    library: &LibraryModel,
    transport: Option<&TransportModel>,
    request: &Request,
) -> Option<(Algorithm, Protocol)> {
    match request.operation {
        Operation::AllToAll | Operation::SendReceive => {
            let algorithm = request.algorithm.unwrap_or(Algorithm::Direct);
            return matches!(algorithm, Algorithm::Direct | Algorithm::TwoHop)
                .then_some((algorithm, Protocol::Simple));
        }
        _ => {}
    }
    if let Some(algorithm @ (Algorithm::Hierarchical | Algorithm::HierarchicalOverlapped)) =
        request.algorithm
    {
        let protocol = request.protocol.unwrap_or(Protocol::Simple);
        let ring = matches!(
            request.operation,
            Operation::AllReduce | Operation::AllGather | Operation::ReduceScatter
        );
        return ring.then_some((algorithm, protocol));
    }
    candidates(library, transport, request)
        .into_iter()
        .map(|branch| (estimate(library, transport, request, branch.0, branch.1), branch))
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, branch)| branch)
}
