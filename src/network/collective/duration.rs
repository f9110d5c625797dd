//! The duration of a branch, and the prediction made from it.

use serde::Serialize;

use super::tuner::choose;
use super::{Algorithm, BranchModel, LibraryModel, Operation, Protocol, Request, TransportModel};
use crate::error::{Error, Result};
use crate::hardware::ScaleUpKind;
use crate::units::{Bytes, Seconds};

/// What a collective takes and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Duration on every rank, from the moment the last one has entered.
    pub time: Seconds,
    /// Algorithm it was predicted with.
    pub algorithm: Algorithm,
    /// Protocol it was predicted with.
    pub protocol: Protocol,
    /// The part that does not shrink with the size: `L` of the module's equation.
    pub latency: Seconds,
    /// Time of the busiest link: `B` of the module's equation.
    pub transfer: Seconds,
    /// Quantise and dequantise kernels, included in `time`.
    pub quantise: Seconds,
    /// Bytes one rank sends over scale-up links.
    pub scale_up_bytes: Bytes,
    /// Bytes that leave the busiest node.
    pub scale_out_bytes: Bytes,
    /// Bytes one rank reads and writes in its own memory: what compute beside it loses.
    pub memory_bytes: Bytes,
    /// SMs or CUs the collective occupies at most.
    pub compute_units: f64,
    /// Why the prediction lies outside of what was measured; empty where it does not.
    pub extrapolated: Vec<&'static str>,
}

/// Steps and bytes of an algorithm; the table of the module's documentation.
#[derive(Clone, Copy, Debug)]
struct Volume {
    steps_up: f64,
    steps_net: f64,
    up: f64,
    net: f64,
    chunk: f64,
}

fn volume(request: &Request, algorithm: Algorithm, bytes: f64) -> Volume {
    let group = request.group;
    let (n, nodes) = (f64::from(group.ranks), f64::from(group.nodes));
    let r = f64::from(group.max_per_node);
    let levels = nodes.log2().ceil();
    // Two nodes exchange the buffer once; in a larger double binary tree every node is inner in
    // one tree and sends half a buffer up and two halves down, and half up as a leaf of the other.
    let tree_out = match group.nodes {
        1 => 0.0,
        2 => bytes,
        _ => 2.0 * bytes,
    };
    let rounds = if request.operation == Operation::AllReduce { 2.0 } else { 1.0 };
    match algorithm {
        Algorithm::Ring => {
            let moved = match request.operation {
                Operation::Broadcast | Operation::Reduce => bytes,
                _ => rounds * bytes * (n - 1.0) / n,
            };
            let steps_net = rounds * (nodes - 1.0);
            Volume {
                steps_up: rounds * (n - 1.0) - steps_net,
                steps_net,
                up: if group.max_per_node > 1 { moved } else { 0.0 },
                net: if group.nodes > 1 { moved } else { 0.0 },
                chunk: bytes / n,
            }
        }
        Algorithm::Tree => Volume {
            steps_up: 2.0 * (r - 1.0),
            steps_net: 2.0 * levels,
            up: if group.max_per_node > 1 { 2.0 * bytes } else { 0.0 },
            net: tree_out,
            chunk: bytes / n,
        },
        Algorithm::InSwitch | Algorithm::InSwitchTree => Volume {
            steps_up: 0.0,
            steps_net: 2.0 * levels,
            up: bytes,
            net: tree_out,
            chunk: bytes / r,
        },
        Algorithm::Hierarchical | Algorithm::HierarchicalOverlapped => Volume {
            steps_up: rounds * (r - 1.0),
            steps_net: rounds * (nodes - 1.0),
            up: rounds * bytes * (r - 1.0) / r,
            net: rounds * bytes * (nodes - 1.0) / nodes,
            chunk: bytes / n,
        },
        Algorithm::Direct | Algorithm::TwoHop => {
            if request.operation == Operation::SendReceive {
                let crosses = group.nodes > 1;
                return Volume {
                    steps_up: f64::from(u8::from(!crosses)),
                    steps_net: f64::from(u8::from(crosses)),
                    up: if crosses { 0.0 } else { bytes },
                    net: if crosses { bytes } else { 0.0 },
                    chunk: bytes,
                };
            }
            if let Some(fanout) = request.fanout.filter(|f| f.copies > 1) {
                let copies = f64::from(fanout.copies);
                // Expected number of distinct places among the destinations of one item.
                let distinct = |places: f64| places * (1.0 - (1.0 - 1.0 / places).powf(copies));
                let items = bytes / copies;
                let within = if fanout.nodes > 0 { nodes.min(fanout.nodes.into()) } else { nodes };
                return Volume {
                    steps_up: r - 1.0,
                    steps_net: if group.nodes > 1 { 1.0 } else { 0.0 },
                    up: items * distinct(n) * (r - 1.0) / r,
                    net: items * distinct(within) * (nodes - 1.0) / nodes * r,
                    chunk: bytes / n,
                };
            }
            let remote = bytes * (n - r) / n;
            let local = bytes * (r - 1.0) / n;
            // The first of two hops brings the remote share to the member on the right rail; one
            // r-th of it is there already.
            let forwarded =
                if algorithm == Algorithm::TwoHop { remote * (r - 1.0) / r } else { 0.0 };
            Volume {
                steps_up: r - 1.0,
                steps_net: if group.nodes > 1 { 1.0 } else { 0.0 },
                up: local + forwarded,
                net: remote * r,
                chunk: bytes / n,
            }
        }
    }
}

fn branch_of(library: &LibraryModel, algorithm: Algorithm, protocol: Protocol) -> BranchModel {
    match algorithm {
        Algorithm::Ring
        | Algorithm::Tree
        | Algorithm::Hierarchical
        | Algorithm::HierarchicalOverlapped => *library.ring(protocol),
        Algorithm::InSwitch | Algorithm::InSwitchTree => {
            library.in_switch.unwrap_or(*library.ring(Protocol::Simple))
        }
        Algorithm::Direct | Algorithm::TwoHop => library.point_to_point,
    }
}

/// Predicts the duration of a collective on links that nobody else uses.
///
/// # Errors
/// The group does not exist, it crosses nodes without a transport or a card, or the algorithm is
/// not one for the operation.
pub fn predict(
    library: &LibraryModel,
    transport: Option<&TransportModel>,
    request: &Request,
) -> Result<Prediction> {
    request.group.check()?;
    let group = request.group;
    if !(request.bytes.get() >= 0.0 && request.bytes.get().is_finite()) {
        return Err(Error::Unsupported(format!(
            "a collective of {} bytes does not exist",
            request.bytes.get()
        )));
    }
    if group.max_per_node > 1 && request.links.scale_up_bandwidth.get() <= 0.0 {
        return Err(Error::MissingFigure {
            what: "bandwidth of the links inside a node, for a collective of several ranks on one"
                .into(),
            hint: "give `scale_up.bandwidth` in the node's file".into(),
        });
    }
    let crosses = group.nodes > 1;
    if crosses && (transport.is_none() || request.links.nic_bandwidth.get() <= 0.0) {
        return Err(Error::MissingFigure {
            what: format!("network of a collective over {} nodes", group.nodes),
            hint: "give the cluster a fabric and its nodes a network card".into(),
        });
    }
    if group.ranks == 1 {
        return Ok(nothing());
    }
    // Libraries do not choose hierarchical rings, so neither do their tuners choose a protocol for
    // them: the fastest is taken.
    if request.protocol.is_none()
        && matches!(
            request.algorithm,
            Some(Algorithm::Hierarchical | Algorithm::HierarchicalOverlapped)
        )
    {
        let mut fastest: Option<Prediction> = None;
        for protocol in Protocol::ALL {
            let one = Request { protocol: Some(protocol), ..*request };
            let prediction = predict(library, transport, &one)?;
            if fastest.as_ref().is_none_or(|f| prediction.time.get() < f.time.get()) {
                fastest = Some(prediction);
            }
        }
        return Ok(fastest.unwrap_or_else(nothing));
    }
    let (algorithm, protocol) = choose(library, transport, request).ok_or_else(|| {
        Error::Unsupported(format!(
            "{} by {} is not an algorithm of {} for {} ranks on {} nodes",
            request.operation.as_str(),
            request.algorithm.map_or("the wanted protocol", Algorithm::as_str),
            library.name,
            group.ranks,
            group.nodes
        ))
    })?;
    let wire = request.compression.map_or(1.0, |c| c.wire_factor);
    let bytes = request.bytes.get() * wire;
    let volume = volume(request, algorithm, bytes);
    let branch = branch_of(library, algorithm, protocol);

    // Direct messages take LL up to 16 KiB (NCCL_P2P_LL_THRESHOLD); inside a node the fitted branch
    // covers both.
    let direct = matches!(algorithm, Algorithm::Direct | Algorithm::TwoHop);
    let wire_protocol = if direct && volume.chunk <= 16_384.0 { Protocol::Ll } else { protocol };

    let routed = request
        .routed
        .filter(|_| request.operation == Operation::SendReceive && !crosses)
        .map(Seconds::get);
    let mut latency = match routed {
        Some(_) => branch.base + volume.steps_up * branch.step,
        None => branch.latency(volume.steps_up, volume.chunk),
    };
    let up_rate = request.links.scale_up_bandwidth.get()
        * library.efficiency(&branch, protocol, request.links.scale_up);
    let up_time = match routed {
        Some(time) => time,
        None if volume.up > 0.0 => volume.up / up_rate,
        None => 0.0,
    };
    let mut net_time = 0.0;
    if let Some(transport) = transport.filter(|_| crosses) {
        latency += transport.base
            + volume.steps_net * transport.hop[wire_protocol as usize]
            + f64::from(group.nodes - 2) * transport.per_node
            + request.path.over(volume.steps_net).get();
        let cards = f64::from(group.min_per_node);
        let reached = transport.efficiency
            * match wire_protocol {
                Protocol::Simple => 1.0,
                Protocol::Ll | Protocol::Ll128 => transport.small_message_efficiency,
            };
        let rate = request.links.nic_bandwidth.get() * reached * wire_protocol.payload();
        let sent = volume.net / cards;
        let ramp = transport.fill_bytes * sent / (sent + transport.fill_bytes).max(1.0);
        net_time = (sent + ramp) / rate;
    }
    let transfer = match algorithm {
        // One level after the other, or the second hop after the first.
        Algorithm::Hierarchical | Algorithm::TwoHop => up_time + net_time,
        _ => up_time.max(net_time),
    };
    let quantise = request.compression.map_or(0.0, |_| quantise_time(library, request));
    let time = branch.combine(latency, transfer) + quantise;
    Ok(Prediction {
        time: Seconds(time),
        algorithm,
        protocol,
        latency: Seconds(latency),
        transfer: Seconds(transfer),
        quantise: Seconds(quantise),
        scale_up_bytes: Bytes(volume.up),
        scale_out_bytes: Bytes(volume.net),
        memory_bytes: Bytes(memory_bytes(request, algorithm, &volume)),
        compute_units: compute_units(library, request, &branch, &volume),
        extrapolated: extrapolated(library, transport, request, algorithm),
    })
}

fn nothing() -> Prediction {
    Prediction {
        time: Seconds::ZERO,
        algorithm: Algorithm::Ring,
        protocol: Protocol::Simple,
        latency: Seconds::ZERO,
        transfer: Seconds::ZERO,
        quantise: Seconds::ZERO,
        scale_up_bytes: Bytes::ZERO,
        scale_out_bytes: Bytes::ZERO,
        memory_bytes: Bytes::ZERO,
        compute_units: 0.0,
        extrapolated: Vec::new(),
    }
}

/// A rank quantises what it contributes and dequantises what it receives: a gather turns its shard
/// and reads all of them, a reduction the reverse, an all-reduce both.
fn quantise_time(library: &LibraryModel, request: &Request) -> f64 {
    let bytes = request.bytes.get();
    let shard = bytes / f64::from(request.group.ranks);
    let turned = match request.operation {
        Operation::AllGather | Operation::ReduceScatter => bytes + shard,
        Operation::AllReduce => 2.0 * (bytes + shard),
        Operation::AllToAll | Operation::Broadcast | Operation::Reduce | Operation::SendReceive => {
            2.0 * bytes
        }
    };
    turned / library.quantise_rate
}

/// A ring step reads what it sends, and a reducing one its own share as well; what arrives is
/// written.
fn memory_bytes(request: &Request, algorithm: Algorithm, volume: &Volume) -> f64 {
    let sent = volume.up.max(volume.net / f64::from(request.group.max_per_node));
    let per_byte = match (request.operation, algorithm) {
        (_, Algorithm::InSwitch | Algorithm::InSwitchTree) => 2.0,
        (Operation::AllReduce, _) => 2.5,
        (Operation::ReduceScatter | Operation::Reduce, _) => 3.0,
        _ => 2.0,
    };
    sent * per_byte
}

/// Channels grow with the message until all are in use, which is when chunks are full.
fn compute_units(
    library: &LibraryModel,
    request: &Request,
    branch: &BranchModel,
    volume: &Volume,
) -> f64 {
    // A pair gets one channel (assumed; one to four by version, size and peer).
    if request.operation == Operation::SendReceive {
        return library.units_per_channel;
    }
    if request.links.scale_up == ScaleUpKind::Pcie {
        return 2.0 * library.units_per_channel;
    }
    let share = (volume.chunk / branch.chunk).clamp(1.0 / library.tuner.channels, 1.0);
    (library.tuner.channels * share).ceil() * library.units_per_channel
}

fn extrapolated(
    library: &LibraryModel,
    transport: Option<&TransportModel>,
    request: &Request,
    algorithm: Algorithm,
) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    let bytes = request.bytes.get();
    if !library.fitted {
        reasons.push("no measured collective of this architecture in the fit");
    }
    if !(512.0..=17_179_869_184.0).contains(&bytes) {
        reasons.push("size outside of 512 B to 16 GiB");
    }
    if request.group.nodes > 1
        && let Some(transport) = transport
    {
        if !transport.fitted {
            reasons.push("no measured collective over this transport in the fit");
        } else if request.group.nodes > transport.max_nodes {
            reasons.push("more nodes than any measured group over this transport");
        }
        if request.operation == Operation::AllToAll {
            reasons.push("no measured all-to-all across nodes in the fit");
        }
    } else if request.group.ranks > library.max_ranks {
        reasons.push("more ranks in a node than any measured group");
    }
    if matches!(
        algorithm,
        Algorithm::Hierarchical | Algorithm::HierarchicalOverlapped | Algorithm::TwoHop
    ) {
        reasons.push("algorithm that was not measured");
    }
    reasons
}
