//! Collectives of a step by the library's algorithms and protocols, with fitted constants.
//!
//! The interface between a step's calls and [`super::collective`]: which library runs on the
//! accelerator, which transport on the fabric, which rates a member of a group has, and what the
//! arrangement of the switches does to traffic that leaves a rail.

use super::collective::{
    self, Algorithm, LibraryModel, Links, Operation, Protocol, Request, TransportModel,
};
use super::routes::{Routes, TransferEngine};
use super::sites::card_rate;
use super::{CollectiveTime, CollectiveTimes, GroupPlace};
use crate::error::Result;
use crate::hardware::{CollectiveLibrary, DeviceLinks, Fabric, Node, Transport};
use crate::program::{Collective, CollectiveCall};
use crate::units::{Bytes, BytesPerSecond, Seconds};

/// What the user prescribes instead of leaving it to the library, for all groups for which the
/// library has it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Choices {
    /// Algorithm of all-reduces.
    pub all_reduce: Option<Algorithm>,
    /// Algorithm of all-gathers and reduce-scatters.
    pub gather_scatter: Option<Algorithm>,
    /// Algorithm of all-to-alls.
    pub all_to_all: Option<Algorithm>,
    /// Protocol of all-reduces, all-gathers, reduce-scatters and broadcasts.
    pub protocol: Option<Protocol>,
    /// What carries out sends and receives inside a node whose links differ.
    pub transfer_engine: TransferEngine,
    /// In-switch reduction is off (`NCCL_NVLS_ENABLE=0`), although the node has it.
    pub no_in_switch: bool,
}

/// The model for one kind of node on one fabric with one library.
#[derive(Clone, Debug)]
pub struct Fitted<'a> {
    node: &'a Node,
    fabric: Option<&'a Fabric>,
    device: &'a DeviceLinks,
    library: LibraryModel,
    transport: Option<TransportModel>,
    choices: Choices,
    routes: Option<Routes>,
}

impl<'a> Fitted<'a> {
    /// A model; `fabric` and `transport` may be absent where everything is in one domain.
    #[must_use]
    pub fn new(
        node: &'a Node,
        fabric: Option<&'a Fabric>,
        (library, device): (&'a CollectiveLibrary, &'a DeviceLinks),
        transport: Option<&Transport>,
        choices: Choices,
    ) -> Self {
        Self {
            node,
            fabric,
            device,
            library: LibraryModel::new(library),
            transport: transport.map(TransportModel::new),
            choices,
            routes: Routes::new(node),
        }
    }

    /// Specified scale-up rate of a member of a group with so many members in a domain. Where links
    /// are point-to-point a group uses a share of them: of all that a device has, or, where links
    /// differ, of the widest, as the library's file says.
    fn inside_rate(&self, members: u32) -> BytesPerSecond {
        let share =
            self.device.group_share.as_ref().map_or(1.0, |curve| curve.at(f64::from(members)));
        let links = &self.node.scale_up.links;
        let widest = links.iter().map(|class| class.bandwidth.value).reduce(BytesPerSecond::max);
        widest.unwrap_or(self.node.scale_up.bandwidth.value) * share
    }

    /// Specified rate of the links between the two devices of a pair, where links differ; what of
    /// it is reached is the library's.
    fn pair_rate(&self, place: &GroupPlace) -> Option<BytesPerSecond> {
        let wanted = place.pair?;
        if let Some(routes) = &self.routes {
            return routes.specified(wanted);
        }
        let class = self
            .node
            .scale_up
            .links
            .iter()
            .find(|class| class.pairs.iter().any(|[x, y]| (*x.min(y), *x.max(y)) == wanted))?;
        Some(class.bandwidth.value)
    }

    /// Takes back what is prescribed where the library has no such branch for the group: a tree
    /// needs several domains, reduction in the switch has one protocol. The protocol goes first.
    fn drop_impossible(&self, request: &mut Request) {
        let exists = |request: &Request| {
            collective::tuner::choose(&self.library, self.transport.as_ref(), request).is_some()
        };
        let wanted = request.protocol;
        if exists(request) {
            return;
        }
        request.protocol = None;
        if !exists(request) {
            request.algorithm = None;
            request.protocol = wanted;
        }
    }

    /// Traffic between rails has to change rails inside a domain: there is no spine.
    fn rails_only(&self) -> bool {
        self.fabric.is_some_and(|fabric| !fabric.topology.is.joins_rails)
    }
}

fn operation(collective: Collective) -> Operation {
    match collective {
        Collective::AllReduce => Operation::AllReduce,
        Collective::AllGather => Operation::AllGather,
        Collective::ReduceScatter => Operation::ReduceScatter,
        Collective::AllToAll => Operation::AllToAll,
        Collective::Broadcast => Operation::Broadcast,
        Collective::SendRecv => Operation::SendReceive,
    }
}

impl CollectiveTimes for Fitted<'_> {
    fn time(&self, call: &CollectiveCall, place: &GroupPlace) -> Result<CollectiveTime> {
        let operation = operation(call.collective);
        let links = Links {
            scale_up: self.node.scale_up.kind,
            scale_up_bandwidth: self
                .pair_rate(place)
                .unwrap_or_else(|| self.inside_rate(place.shape.max_per_node)),
            nic_bandwidth: self
                .fabric
                .map_or(BytesPerSecond::ZERO, |fabric| card_rate(self.node, fabric, place)),
        };
        let crosses = place.shape.nodes > 1;
        let mut request = Request::new(operation, Bytes(call.bytes as f64), place.shape, links);
        request.fanout = call.fanout;
        request.path = place.path;
        request.no_in_switch = self.choices.no_in_switch || !self.node.scale_up.in_switch_reduction;
        match operation {
            Operation::AllToAll => {
                request.algorithm = self.choices.all_to_all;
                if request.algorithm.is_none() && crosses && self.rails_only() {
                    request.algorithm = Some(Algorithm::TwoHop);
                }
            }
            Operation::SendReceive => {
                let engine = self.choices.transfer_engine;
                let rate = place
                    .pair
                    .zip(self.routes.as_ref())
                    .and_then(|(pair, routes)| routes.rate(pair, Bytes(call.bytes as f64), engine));
                request.routed = rate.map(|rate| Bytes(call.bytes as f64) / rate);
            }
            Operation::AllReduce => {
                request.algorithm = self.choices.all_reduce;
                request.protocol = self.choices.protocol;
            }
            Operation::AllGather | Operation::ReduceScatter => {
                request.algorithm = self.choices.gather_scatter;
                request.protocol = self.choices.protocol;
            }
            Operation::Broadcast | Operation::Reduce => request.protocol = self.choices.protocol,
        }
        self.drop_impossible(&mut request);
        let prediction = collective::predict(&self.library, self.transport.as_ref(), &request)?;
        let mut time = prediction.time;
        let by_engine =
            request.routed.is_some() && self.choices.transfer_engine == TransferEngine::Copy;
        if operation == Operation::SendReceive && crosses && !place.aligned && self.rails_only() {
            time += Bytes(call.bytes as f64) / self.inside_rate(self.node.scale_up.domain);
        }
        Ok(CollectiveTime {
            time: if place.shape.ranks < 2 { Seconds::ZERO } else { time },
            algorithm: Some(prediction.algorithm),
            protocol: Some(prediction.protocol),
            scale_up_bytes: prediction.scale_up_bytes,
            scale_out_bytes: prediction.scale_out_bytes,
            compute_units: if by_engine { 0.0 } else { prediction.compute_units },
            memory_bytes: prediction.memory_bytes,
            extrapolated: prediction.extrapolated,
        })
    }
}
