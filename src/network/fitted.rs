//! Collectives of a step by the library's algorithms and protocols, with fitted constants.
//!
//! The interface between a step's calls and [`super::collective`]: which library runs on the
//! accelerator, which transport on the fabric, which rates a member of a group has, and what the
//! arrangement of the switches does to traffic that leaves a rail.

use super::collective::{
    self, Algorithm, LibraryModel, Links, Operation, Protocol, Request, TransportModel,
};
use super::{CollectiveTime, CollectiveTimes, GroupPlace};
use crate::error::Result;
use crate::hardware::{CollectiveLibrary, DeviceLinks, Fabric, Node, Topology, Transport};
use crate::program::{Collective, CollectiveCall};
use crate::units::{Bytes, BytesPerSecond, Seconds};

/// What the user prescribes instead of leaving it to the library.
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
        }
    }

    /// Card rate of one member: the node's cards shared out over its devices, since the sister
    /// groups of a family communicate at the same time.
    fn card_rate(&self, place: &GroupPlace) -> BytesPerSecond {
        let Some(fabric) = self.fabric else { return BytesPerSecond::ZERO };
        let card = self.node.nic.bandwidth.value.min(fabric.link_bandwidth.value);
        let per_device = card * (f64::from(self.node.nic.count) / f64::from(self.node.devices));
        let taper = if place.one_leaf || place.share < 1000 {
            1.0
        } else {
            fabric.oversubscription.value.0.max(1.0)
        };
        per_device * (f64::from(place.share) / 1000.0 / taper)
    }

    /// Scale-up rate of a member of a group with so many members in a domain.
    fn inside_rate(&self, members: u32) -> BytesPerSecond {
        let share =
            self.device.group_share.as_ref().map_or(1.0, |curve| curve.at(f64::from(members)));
        self.node.scale_up.bandwidth.value * share
    }

    /// Rate of the links between the two devices of a pair, where links differ.
    fn pair_rate(&self, place: &GroupPlace) -> Option<BytesPerSecond> {
        let wanted = place.pair?;
        let class = self
            .node
            .scale_up
            .links
            .iter()
            .find(|class| class.pairs.iter().any(|[x, y]| (*x.min(y), *x.max(y)) == wanted))?;
        Some(class.measured.as_ref().unwrap_or(&class.bandwidth).value)
    }

    /// Traffic between rails has to change rails inside a domain: there is no spine.
    fn rails_only(&self) -> bool {
        self.fabric.is_some_and(|fabric| fabric.topology == Topology::RailOnly)
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
            nic_bandwidth: self.card_rate(place),
        };
        let crosses = place.shape.nodes > 1;
        let mut request = Request::new(operation, Bytes(call.bytes as f64), place.shape, links);
        request.fanout = call.fanout;
        request.no_in_switch = self.choices.no_in_switch || !self.node.scale_up.in_switch_reduction;
        match operation {
            Operation::AllToAll => {
                request.algorithm = self.choices.all_to_all;
                if request.algorithm.is_none() && crosses && self.rails_only() {
                    request.algorithm = Some(Algorithm::TwoHop);
                }
            }
            Operation::SendReceive => {}
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
        let prediction = collective::predict(&self.library, self.transport.as_ref(), &request)?;
        let mut time = prediction.time;
        if operation == Operation::SendReceive && crosses && !place.aligned && self.rails_only() {
            time = time + Bytes(call.bytes as f64) / self.inside_rate(self.node.scale_up.domain);
        }
        Ok(CollectiveTime {
            time: if place.shape.ranks < 2 { Seconds::ZERO } else { time },
            algorithm: Some(prediction.algorithm),
            protocol: Some(prediction.protocol),
            scale_up_bytes: prediction.scale_up_bytes,
            scale_out_bytes: prediction.scale_out_bytes,
            compute_units: prediction.compute_units,
            memory_bytes: prediction.memory_bytes,
            extrapolated: prediction.extrapolated,
        })
    }
}
