//! The network's part of an outcome: what calls take, and what links carry.

mod info;
mod sharing;

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::network::{
    CollectiveTime, CollectiveTimes, Crowding, Fitted, GroupPlace, Levels, Sites, Traffic, WHOLE,
};
use crate::program::{Action, Collective, Program};
use crate::scenario::Setup;
use crate::units::{BytesPerSecond, Nanos, Seconds};

pub use self::info::network_info;
use self::sharing::Sharing;

/// Bytes of the smallest measured message.
const SMALLEST: u64 = 512;

/// The calls of a program with their places and times.
#[derive(Clone, Debug)]
pub struct Meetings {
    /// By family, call and class of group.
    pub times: Vec<Vec<Vec<Nanos>>>,
    /// Class by family and group.
    pub classes: Vec<Vec<u16>>,
    /// Class to place, by family.
    places: Vec<Vec<GroupPlace>>,
    /// As `times`, in full.
    predicted: Vec<BTreeMap<usize, Vec<CollectiveTime>>>,
    /// Extra time of each call on shared links, by family, call and class.
    contended: Vec<BTreeMap<usize, Vec<Seconds>>>,
    /// What the groups of other families put on the links of a group, by family and class; empty
    /// where links are private.
    pub(super) crowding: Vec<Vec<Crowding>>,
    /// Paths of the groups by family, where links are shared.
    traffic: Vec<Traffic>,
    /// What a device can send over its cards at most.
    pub(super) device_rate: BytesPerSecond,
    /// Keys that prescribe what no call of the step uses, with why.
    pub unused: Vec<String>,
    /// Reasons why calls lie outside of what was measured, with the calls.
    pub extrapolated: BTreeMap<&'static str, Vec<String>>,
}

impl Meetings {
    /// Splits the classes of a family by what crowds the links of their groups.
    ///
    /// # Errors
    /// There are too many.
    fn tell_apart(&mut self, family: usize, crowding: Vec<Crowding>) -> Result<()> {
        let mut known: BTreeMap<(u16, Crowding), u16> = BTreeMap::new();
        let mut order: Vec<(usize, Crowding)> = Vec::new();
        for (class, crowding) in self.classes[family].iter_mut().zip(crowding) {
            let next = number_of_class(order.len())?;
            let old = *class;
            *class = *known.entry((old, crowding)).or_insert_with_key(|(_, crowding)| {
                order.push((usize::from(old), crowding.clone()));
                next
            });
        }
        for times in self.times[family].iter_mut().filter(|times| !times.is_empty()) {
            *times = order.iter().map(|(old, _)| times[*old]).collect();
        }
        for times in self.predicted[family].values_mut() {
            *times = order.iter().map(|(old, _)| times[*old].clone()).collect();
        }
        for extra in self.contended[family].values_mut() {
            *extra = order.iter().map(|(old, _)| extra[*old]).collect();
        }
        let places = &self.places[family];
        self.places[family] = order.iter().map(|(old, _)| places[*old].clone()).collect();
        self.crowding.push(order.into_iter().map(|(_, crowding)| crowding).collect());
        Ok(())
    }

    /// A value per call and class of group, by family and call; empty where a family makes no such
    /// call.
    pub(super) fn each<T>(
        &self,
        value: impl Fn(usize, &CollectiveTime, &GroupPlace) -> T,
    ) -> Vec<Vec<Vec<T>>> {
        self.predicted
            .iter()
            .zip(&self.places)
            .zip(&self.times)
            .map(|((predicted, places), times)| {
                let of = |call: usize| {
                    predicted.get(&call).map_or_else(Vec::new, |times| {
                        times
                            .iter()
                            .zip(places)
                            .map(|(time, place)| value(call, time, place))
                            .collect()
                    })
                };
                (0..times.len()).map(of).collect()
            })
            .collect()
    }
}

/// The number of a family's next class of groups.
fn number_of_class(classes: usize) -> Result<u16> {
    u16::try_from(classes).map_err(|_| {
        Error::Unsupported(
            "more than 65,536 groups of a family are placed in different ways\n  help: spread \
             packets (network.routing), or place ranks in order"
                .into(),
        )
    })
}

/// The model of the setup's network.
fn model<'a>(setup: &'a Setup<'_>) -> Box<dyn CollectiveTimes + 'a> {
    let network = &setup.network;
    match network.library {
        Some(library) => Box::new(Fitted::new(
            setup.node,
            network.fabric.as_ref(),
            library,
            network.transport,
            network.choices,
        )),
        None => Box::new(Levels::new(
            setup.node,
            network.fabric.as_ref(),
            network.choices.transfer_engine,
        )),
    }
}

/// Places of the setup's ranks.
#[must_use]
pub fn sites_of(setup: &Setup<'_>) -> Sites {
    let node = setup.node;
    let mut sites = Sites::block(
        setup.network.placement.clone(),
        node.scale_up.domain,
        !node.scale_up.links.is_empty(),
    );
    if let Some(fabric) = &setup.network.fabric {
        let ratio = fabric.oversubscription.value.0;
        sites.rails = fabric.topology.is.rails;
        if ratio > 1.0 && fabric.topology.is.joins_rails {
            let down = fabric.switch.ports.value.0 * ratio / (1.0 + ratio);
            let per_node = if sites.rails { 1.0 } else { f64::from(node.nic.count.max(1)) };
            sites.nodes_per_leaf = ((down / per_node) as u32).max(1);
        }
    }
    sites
}

/// Calls by family.
fn calls_of(program: &Program) -> Vec<Vec<usize>> {
    let mut calls: Vec<Vec<usize>> = vec![Vec::new(); program.families.len()];
    for op in program.templates.iter().flat_map(|template| &template.ops) {
        if let Action::Meet { family, call } = op.action
            && !calls[family.index()].contains(&call.index())
        {
            calls[family.index()].push(call.index());
        }
    }
    calls
}

/// Times every call of a program.
///
/// # Errors
/// A call is impossible on this network, or the fabric cannot hold the cluster.
pub fn time_meetings(setup: &Setup<'_>, program: &Program) -> Result<Meetings> {
    let sites = sites_of(setup);
    let network = model(setup);
    let calls = calls_of(program);
    let sharing = Sharing::new(setup, program, &calls, &sites)?;
    let slowdown = setup.stack.in_training.collectives.value.0;
    let mut meetings = Meetings {
        times: Vec::with_capacity(program.families.len()),
        classes: Vec::with_capacity(program.families.len()),
        places: Vec::with_capacity(program.families.len()),
        predicted: Vec::with_capacity(program.families.len()),
        contended: Vec::with_capacity(program.families.len()),
        crowding: Vec::new(),
        traffic: Vec::new(),
        device_rate: sharing.device_rate,
        unused: Vec::new(),
        extrapolated: BTreeMap::new(),
    };
    for ((f, family), calls) in program.families.iter().enumerate().zip(calls) {
        let mut known: BTreeMap<GroupPlace, u16> = BTreeMap::new();
        let mut order: Vec<GroupPlace> = Vec::new();
        let mut classes = Vec::with_capacity(family.groups.len());
        for (number, group) in family.groups.iter().enumerate() {
            let mut place = sites.place(group);
            if let Some((share, path)) = sharing.got[f].get(number) {
                (place.share, place.path) = (*share, *path);
                // The solved share says all there is to say of where the group lies.
                place.one_leaf = sharing.solved() || place.one_leaf;
            }
            let next = number_of_class(order.len())?;
            classes.push(*known.entry(place.clone()).or_insert_with(|| {
                order.push(place);
                next
            }));
        }
        let mut times = vec![Vec::new(); program.calls.len()];
        let mut predicted = BTreeMap::new();
        let mut contended = BTreeMap::new();
        for index in calls {
            let call = &program.calls[index];
            let mut all = Vec::with_capacity(order.len());
            let mut extra = Vec::with_capacity(order.len());
            for place in &order {
                let time = network.time(call, place)?;
                // A few bytes take the latency of the smallest message that was measured.
                let reasons = if call.bytes < SMALLEST { &[][..] } else { &time.extrapolated };
                for reason in reasons {
                    let names: &mut Vec<String> = meetings.extrapolated.entry(reason).or_default();
                    if !names.contains(&call.name) {
                        names.push(call.name.clone());
                    }
                }
                let turns = f64::from(call.messages.saturating_sub(1));
                let turn = setup.stack.broadcast_turn.as_ref().map_or(Seconds::ZERO, |f| f.value);
                times[index].push((time.time / slowdown + turn * turns).to_nanos());
                if place.share < WHOLE {
                    let alone =
                        network.time(call, &GroupPlace { share: WHOLE, ..place.clone() })?;
                    extra.push((time.time - alone.time) / slowdown);
                } else {
                    extra.push(Seconds::ZERO);
                }
                all.push(time);
            }
            predicted.insert(index, all);
            contended.insert(index, extra);
        }
        meetings.times.push(times);
        meetings.classes.push(classes);
        meetings.places.push(order);
        meetings.predicted.push(predicted);
        meetings.contended.push(contended);
    }
    sharing.crowd(program, &mut meetings)?;
    meetings.unused = unused(setup, program, &meetings);
    Ok(meetings)
}

/// What `[network]` prescribes and no call uses.
fn unused(setup: &Setup<'_>, program: &Program, meetings: &Meetings) -> Vec<String> {
    use Collective::{AllGather, AllReduce, AllToAll, Broadcast, ReduceScatter};
    let choices = &setup.network.choices;
    // Calls of these patterns, as they were made.
    let made = |patterns: &'static [Collective]| {
        meetings
            .predicted
            .iter()
            .flatten()
            .filter(|(call, _)| patterns.contains(&program.calls[**call].collective))
            .flat_map(|(_, by_place)| by_place)
    };
    let mut unused = Vec::new();
    for (key, patterns, wanted) in [
        ("all_reduce", &[AllReduce][..], choices.all_reduce),
        ("gather_scatter", &[AllGather, ReduceScatter], choices.gather_scatter),
        ("all_to_all", &[AllToAll], choices.all_to_all),
    ] {
        if let Some(wanted) = wanted
            && !made(patterns).any(|time| time.algorithm == Some(wanted))
        {
            unused.push(format!(
                "network.{key} = {} has no effect: no group of this step can use it",
                wanted.as_str()
            ));
        }
    }
    if let Some(wanted) = choices.protocol
        && !made(&[AllReduce, AllGather, ReduceScatter, Broadcast])
            .any(|time| time.protocol == Some(wanted))
    {
        unused.push(format!(
            "network.protocol = {} has no effect: no call of this step can use it",
            wanted.as_str()
        ));
    }
    let inside = |places: &Vec<GroupPlace>, times: &BTreeMap<usize, Vec<CollectiveTime>>| {
        let sends = |call: &usize| program.calls[*call].collective == Collective::SendRecv;
        places.iter().any(|place| place.pair.is_some()) && times.keys().any(sends)
    };
    if setup.scenario.network.transfer_engine.is_some()
        && !meetings.places.iter().zip(&meetings.predicted).any(|(p, times)| inside(p, times))
    {
        unused.push(
            "network.transfer_engine has no effect: nothing is sent between devices of a node"
                .to_owned(),
        );
    }
    unused
}

/// How often each call of each family is made by the members of each group: by family, then call.
fn counts(program: &Program) -> Vec<BTreeMap<usize, Vec<u64>>> {
    // A template makes the same calls on every rank, so a group's count is that of any member.
    let mut by_template: Vec<BTreeMap<(usize, usize), u64>> =
        vec![BTreeMap::new(); program.templates.len()];
    for (template, counts) in program.templates.iter().zip(&mut by_template) {
        for op in &template.ops {
            if let Action::Meet { family, call } = op.action {
                *counts.entry((family.index(), call.index())).or_default() += 1;
            }
        }
    }
    program
        .families
        .iter()
        .enumerate()
        .map(|(f, family)| {
            let mut found: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
            let groups = family.groups.len();
            for (g, group) in family.groups.iter().enumerate() {
                let template = program.template_of_rank[group[0] as usize].index();
                for ((_, call), count) in by_template[template].range((f, 0)..=(f, usize::MAX)) {
                    found.entry(*call).or_insert_with(|| vec![0; groups])[g] = *count;
                }
            }
            found
        })
        .collect()
}
