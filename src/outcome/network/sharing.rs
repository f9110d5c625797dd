//! Who shares links between nodes, and what everybody gets of them.
//!
//! The groups of a family communicate at the same time and share links by max-min fairness; that is
//! part of what their calls take. What families take from each other depends on when they
//! communicate, so only what each would put on the links of the others is worked out here; a replay
//! finds how long they meet.
//!
//! Groups whose members synchronise inside a domain all the time (the eight groups of data
//! parallelism, or pairs of pipeline stages, of the ranks of a tensor group) move in step: the
//! slowest of them decides, so they are given its share. That is what keeps a job lumped whose flows
//! are hashed one by one.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::network::collective::PathLatency;
use crate::network::variability::Variability;
use crate::network::{Crowd, Crowding, Pattern, Sites, Traffic, WHOLE, Wires, in_steps};
use crate::program::{Collective, Program};
use crate::scenario::{LinkVariability, Routing, Setup};
use crate::units::BytesPerSecond;

use super::{Meetings, counts};

fn variability(setup: &Setup<'_>) -> Variability {
    match setup.scenario.network.variability {
        LinkVariability::None => Variability::None,
        LinkVariability::Healthy => Variability::healthy(),
        LinkVariability::SharedCluster => Variability::shared_cluster(),
        LinkVariability::Bimodal => Variability::bimodal(),
    }
}

/// The fabric as a graph; none where no group can leave its domain.
///
/// # Errors
/// It cannot hold the nodes.
pub(super) fn wires(setup: &Setup<'_>) -> Result<Option<Wires>> {
    let Some(fabric) = &setup.network.fabric else { return Ok(None) };
    if setup.devices <= setup.node.scale_up.domain {
        return Ok(None);
    }
    let hashed = setup.scenario.network.routing == Routing::Hashed;
    let varied = (&variability(setup), setup.scenario.seed);
    match &setup.network.topology {
        Some(graph) => {
            let graph = graph.as_ref().clone();
            Ok(Some(Wires::on(graph, fabric, setup.node, hashed, varied)))
        }
        None => {
            let nodes = setup.scenario.cluster.nodes;
            Wires::new(fabric, setup.node, nodes, hashed, varied).map(Some)
        }
    }
}

/// Whether groups can slow each other down on the fabric at all; see [`Wires`].
fn shares_links(setup: &Setup<'_>) -> bool {
    let table = &setup.scenario.network;
    let tapered = setup
        .network
        .fabric
        .as_ref()
        .is_some_and(|fabric| fabric.oversubscription.value.0 > 1.0 || fabric.topology.is.line);
    tapered
        || setup.network.topology.is_some()
        || table.routing == Routing::Hashed
        || table.variability != LinkVariability::None
}

/// How the groups of a family send.
pub(super) fn pattern(program: &Program, calls: &[usize]) -> Pattern {
    let of = |wanted| calls.iter().any(|call| program.calls[*call].collective == wanted);
    if of(Collective::AllToAll) {
        Pattern::Exchange
    } else if of(Collective::SendRecv) {
        Pattern::Pair
    } else {
        Pattern::Ring
    }
}

/// What the groups of every family get of the links between nodes when all of them communicate.
pub(super) struct Sharing {
    /// Share of its rate, and what its paths add to latency, by family and group; empty where links
    /// are private.
    pub got: Vec<Vec<(u32, PathLatency)>>,
    /// What a device can send at most.
    pub device_rate: BytesPerSecond,
    wires: Option<Wires>,
    /// Set of groups that move in step, by family and group.
    in_step: Vec<Vec<u32>>,
    /// Paths, by family; empty where links are private.
    traffic: Vec<Traffic>,
}

impl Sharing {
    /// Routes and solves where links are shared.
    ///
    /// # Errors
    /// The fabric cannot hold the nodes.
    pub(super) fn new(
        setup: &Setup<'_>,
        program: &Program,
        calls: &[Vec<usize>],
        sites: &Sites,
    ) -> Result<Self> {
        let wires = if shares_links(setup) { wires(setup)? } else { None };
        let families = program.families.len();
        let mut sharing = Self {
            got: vec![Vec::new(); families],
            device_rate: device_rate(setup, wires.as_ref()),
            wires,
            in_step: Vec::new(),
            traffic: Vec::new(),
        };
        let matrix = setup.network.matrix.as_deref();
        if sharing.wires.is_none() && matrix.is_none() {
            return Ok(sharing);
        }
        sharing.in_step = groups_in_step(program, calls, sites);
        let mut router = sharing.wires.as_ref().map(Wires::router);
        for (f, (family, calls)) in program.families.iter().zip(calls).enumerate() {
            if calls.is_empty() {
                sharing.traffic.push(Traffic::default());
                continue;
            }
            let pattern = pattern(program, calls);
            let mut got = vec![(WHOLE, PathLatency::default()); family.groups.len()];
            if let (Some(wires), Some(router)) = (&sharing.wires, &mut router) {
                let traffic = wires.traffic(router, sites, family.groups.iter(), pattern)?;
                got = wires.shares(&traffic)?.into_iter().zip(traffic.paths.clone()).collect();
                sharing.traffic.push(traffic);
            }
            if let Some(matrix) = matrix {
                for (group, (share, _)) in family.groups.iter().zip(&mut got) {
                    if let Some(rate) = matrix.slowest(sites, group, pattern) {
                        *share = (*share).min(in_steps(rate.get() / reached(setup).get()));
                    }
                }
            }
            // The slowest of those that move in step decides.
            let mut slowest: BTreeMap<u32, (u32, PathLatency)> = BTreeMap::new();
            for (set, (share, path)) in sharing.in_step[f].iter().zip(&got) {
                let worst = slowest.entry(*set).or_insert((*share, *path));
                worst.0 = worst.0.min(*share);
                worst.1.mean = worst.1.mean.max(path.mean);
                worst.1.longest = worst.1.longest.max(path.longest);
            }
            sharing.got[f] = sharing.in_step[f].iter().map(|set| slowest[set]).collect();
        }
        drop(router);
        Ok(sharing)
    }

    /// Whether shares are those of the fabric's graph, and have its taper in them.
    pub(super) fn solved(&self) -> bool {
        self.wires.is_some()
    }

    /// Works out which families crowd the links of which groups, and tells groups apart by it.
    ///
    /// # Errors
    /// There are too many kinds of groups.
    pub(super) fn crowd(self, program: &Program, meetings: &mut Meetings) -> Result<()> {
        let Some(wires) = &self.wires else { return Ok(()) };
        let counts = counts(program);
        let mut crowd = Crowd::new(program.families.len());
        for (f, traffic) in self.traffic.iter().enumerate() {
            crowd.add(wires, f, traffic, |group| {
                // What a member sends while its calls last, on average over them.
                let class = usize::from(meetings.classes[f][group]);
                let (mut bytes, mut time) = (0.0, 0.0);
                for (call, counts) in &counts[f] {
                    let count = counts[group] as f64;
                    bytes += meetings.predicted[f][call][class].scale_out_bytes.0 * count;
                    time += meetings.times[f][*call][class].seconds().0 * count;
                }
                let members = f64::from(meetings.places[f][class].shape.min_per_node.max(1));
                if time > 0.0 { bytes / members / time } else { 0.0 }
            });
        }
        for (f, traffic) in self.traffic.iter().enumerate() {
            let mut worst: BTreeMap<u32, Crowding> = BTreeMap::new();
            let groups = meetings.classes[f].len();
            for group in (0..groups).filter(|_| !counts[f].is_empty()) {
                let of = crowd.of(f, traffic, group);
                let set = worst.entry(self.in_step[f][group]).or_default();
                if (of.total(), &of) > (set.total(), &*set) {
                    *set = of;
                }
            }
            let by_group: Vec<Crowding> = (0..groups)
                .map(|g| worst.get(&self.in_step[f][g]).cloned().unwrap_or_default())
                .collect();
            meetings.tell_apart(f, by_group)?;
        }
        meetings.traffic = self.traffic;
        Ok(())
    }
}

/// What a device can send at most over its cards.
fn device_rate(setup: &Setup<'_>, wires: Option<&Wires>) -> BytesPerSecond {
    match (wires, &setup.network.fabric, &setup.network.topology) {
        (Some(wires), _, Some(_)) => wires.device_rate(),
        (_, Some(fabric), _) => {
            let card = setup.node.nic.bandwidth.value.min(fabric.link_bandwidth.value);
            card * (f64::from(setup.node.nic.count) / f64::from(setup.node.devices))
        }
        _ => BytesPerSecond(f64::INFINITY),
    }
}

/// What all cards of a node reach together without anything in the way: a measured rate has the
/// transport's losses in it, so its share is of this.
fn reached(setup: &Setup<'_>) -> BytesPerSecond {
    let Some(fabric) = &setup.network.fabric else { return BytesPerSecond(f64::INFINITY) };
    let card = setup.node.nic.bandwidth.value.min(fabric.link_bandwidth.value);
    let efficiency = match (setup.network.library, setup.network.transport) {
        (Some(_), Some(transport)) => transport.efficiency.value.0,
        _ => fabric.achieved.value.0,
    };
    card * (f64::from(setup.node.nic.count) * efficiency)
}

/// Sets of groups of each family whose members synchronise with each other inside a domain.
fn groups_in_step(program: &Program, calls: &[Vec<usize>], sites: &Sites) -> Vec<Vec<u32>> {
    // Families that stay inside domains, by the size of their groups: group by rank.
    let mut ties: Vec<(usize, usize, Vec<u32>)> = Vec::new();
    for (f, (family, calls)) in program.families.iter().zip(calls).enumerate() {
        let size = family.groups.iter().map(<[u32]>::len).min().unwrap_or(0);
        let inside = |group: &[u32]| {
            let domain = |rank: &u32| sites.device(*rank) / sites.domain;
            group.iter().all(|rank| domain(rank) == domain(&group[0]))
        };
        if calls.is_empty() || size < 2 || !family.groups.iter().all(inside) {
            continue;
        }
        let mut group_of = vec![u32::MAX; program.world_size()];
        for (number, group) in (0_u32..).zip(family.groups.iter()) {
            for rank in group {
                group_of[*rank as usize] = number;
            }
        }
        ties.push((size, f, group_of));
    }
    ties.sort_by_key(|(size, f, _)| (std::cmp::Reverse(*size), *f));
    let of_family = |f: usize| -> Vec<u32> {
        let groups = &program.families[f].groups;
        let tied = |group_of: &Vec<u32>| {
            groups.iter().flatten().all(|rank| group_of[*rank as usize] != u32::MAX)
        };
        let tie = ties.iter().find(|(_, other, group_of)| *other != f && tied(group_of));
        let Some((_, _, group_of)) = tie else { return (0..groups.len() as u32).collect() };
        let mut sets: BTreeMap<Vec<u32>, u32> = BTreeMap::new();
        groups
            .iter()
            .map(|group| {
                let key = group.iter().map(|rank| group_of[*rank as usize]).collect();
                let next = sets.len() as u32;
                *sets.entry(key).or_insert(next)
            })
            .collect()
    };
    (0..program.families.len()).map(of_family).collect()
}
