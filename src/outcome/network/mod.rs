//! The network's part of an outcome: what calls take, and what links carry.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::hardware::Topology;
use crate::network::variability::Variability;
use crate::network::{
    CollectiveTime, CollectiveTimes, Fitted, GroupPlace, Levels, Pattern, Sites, Wires,
};
use crate::program::{Action, Collective, Program};
use crate::scenario::{LinkVariability, Routing, Setup};
use crate::units::{Nanos, Seconds};

use super::result::{CallInfo, LinkInfo, NetworkInfo, TierInfo};

/// Links listed as the busiest.
const WORST: usize = 10;

/// Bytes of the smallest measured message.
const SMALLEST: u64 = 512;

/// Links whose use differs by less, relative, are one line.
const ALIKE: f64 = 1e-3;

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
    /// Keys that prescribe what no call of the step uses, with why.
    pub unused: Vec<String>,
    /// Reasons why calls lie outside of what was measured, with the calls.
    pub extrapolated: BTreeMap<&'static str, Vec<String>>,
}

impl Meetings {
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
        None => Box::new(Levels::new(setup.node, network.fabric.as_ref())),
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
        sites.rails = matches!(fabric.topology, Topology::RailOptimisedClos | Topology::RailOnly);
        if ratio > 1.0 && fabric.topology != Topology::RailOnly {
            let down = fabric.switch.ports.value.0 * ratio / (1.0 + ratio);
            let per_node = if sites.rails { 1.0 } else { f64::from(node.nic.count.max(1)) };
            sites.nodes_per_leaf = ((down / per_node) as u32).max(1);
        }
    }
    sites
}

fn variability(setup: &Setup<'_>) -> Variability {
    match setup.scenario.network.variability {
        LinkVariability::None => Variability::None,
        LinkVariability::Healthy => Variability::healthy(),
        LinkVariability::SharedCluster => Variability::shared_cluster(),
        LinkVariability::Bimodal => Variability::bimodal(),
    }
}

/// The fabric as a graph.
///
/// # Errors
/// It cannot hold the nodes.
fn wires(setup: &Setup<'_>) -> Result<Option<Wires>> {
    let nodes = setup.scenario.cluster.nodes;
    let spans = setup.devices > setup.node.scale_up.domain;
    match &setup.network.fabric {
        Some(fabric) if spans => Wires::new(
            fabric,
            setup.node,
            nodes,
            setup.scenario.network.routing == Routing::Hashed,
            &variability(setup),
            setup.scenario.seed,
        )
        .map(Some),
        _ => Ok(None),
    }
}

/// Whether groups can slow each other down on the fabric at all; see [`crate::network::Wires`].
fn shares_links(setup: &Setup<'_>) -> bool {
    let table = &setup.scenario.network;
    let tapered = setup.network.fabric.as_ref().is_some_and(|f| f.oversubscription.value.0 > 1.0);
    tapered || table.routing == Routing::Hashed || table.variability != LinkVariability::None
}

/// How the groups of a family send.
fn pattern(program: &Program, calls: &[usize]) -> Pattern {
    let of = |wanted| calls.iter().any(|call| program.calls[*call].collective == wanted);
    if of(Collective::AllToAll) {
        Pattern::Exchange
    } else if of(Collective::SendRecv) {
        Pattern::Pair
    } else {
        Pattern::Ring
    }
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
    let wires = if shares_links(setup) { wires(setup)? } else { None };
    let mut router = wires.as_ref().map(Wires::router);
    let slowdown = setup.stack.in_training.collectives.value.0;
    let mut meetings = Meetings {
        times: Vec::with_capacity(program.families.len()),
        classes: Vec::with_capacity(program.families.len()),
        places: Vec::with_capacity(program.families.len()),
        predicted: Vec::with_capacity(program.families.len()),
        contended: Vec::with_capacity(program.families.len()),
        unused: Vec::new(),
        extrapolated: BTreeMap::new(),
    };
    for (family, calls) in program.families.iter().zip(calls_of(program)) {
        let shares = match (&wires, &mut router) {
            (Some(wires), Some(router)) if !calls.is_empty() => {
                wires.shares(router, &sites, family.groups.iter(), pattern(program, &calls))?
            }
            _ => Vec::new(),
        };
        let mut known: BTreeMap<GroupPlace, u16> = BTreeMap::new();
        let mut order: Vec<GroupPlace> = Vec::new();
        let mut classes = Vec::with_capacity(family.groups.len());
        for (number, group) in family.groups.iter().enumerate() {
            let mut place = sites.place(group);
            if let Some(share) = shares.get(number) {
                place.share = *share;
                // The solved share says all there is to say of where the group lies.
                place.one_leaf = true;
            }
            let next = order.len() as u16;
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
                if place.share < 1000 {
                    let alone = network.time(call, &GroupPlace { share: 1000, ..place.clone() })?;
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

/// What `network` in a result says; `details` adds calls and links.
///
/// # Errors
/// The fabric cannot hold the cluster.
pub fn network_info(
    setup: &Setup<'_>,
    program: &Program,
    meetings: &Meetings,
    step: Seconds,
    details: bool,
) -> Result<NetworkInfo> {
    let counts = counts(program);
    let world = program.world_size() as f64;
    let mut contention = 0.0;
    let mut calls = Vec::new();
    for (f, family) in program.families.iter().enumerate() {
        for (call, count) in &counts[f] {
            let extra = &meetings.contended[f][call];
            let times = &meetings.times[f][*call];
            let mut worst: Option<(Nanos, usize, u64)> = None;
            for (g, group) in family.groups.iter().enumerate() {
                let class = usize::from(meetings.classes[f][g]);
                contention += extra[class].0 * count[g] as f64 * group.len() as f64 / world;
                let candidate = (times[class], class, count[g]);
                if count[g] > 0 && worst.is_none_or(|w| candidate.0 > w.0) {
                    worst = Some(candidate);
                }
            }
            let (Some((time, class, times_made)), true) = (worst, details) else { continue };
            let place = &meetings.places[f][class];
            let predicted = &meetings.predicted[f][call][class];
            let made = &program.calls[*call];
            calls.push(CallInfo {
                family: family.name.clone(),
                call: made.name.clone(),
                collective: made.collective,
                bytes: made.bytes,
                ranks: place.shape.ranks,
                domains: place.shape.nodes,
                per_step: times_made,
                seconds: time.seconds().0,
                algorithm: predicted.algorithm.map(|a| a.as_str().to_owned()),
                protocol: predicted.protocol.map(|p| p.as_str().to_owned()),
                scale_up_bytes: predicted.scale_up_bytes.0,
                scale_out_bytes: predicted.scale_out_bytes.0,
                share_of_rate: f64::from(place.share) / 1000.0,
                contention_seconds: extra[class].0,
            });
        }
    }
    let (mut tiers, mut worst) = (None, None);
    if details && let Some(wires) = wires(setup)? {
        let sites = sites_of(setup);
        let mut loads = Vec::new();
        let mut router = wires.router();
        for (f, family) in program.families.iter().enumerate() {
            let called: Vec<usize> = counts[f].keys().copied().collect();
            if called.is_empty() {
                continue;
            }
            let bytes = |g: usize| -> f64 {
                let class = usize::from(meetings.classes[f][g]);
                let place = &meetings.places[f][class];
                let each = |(call, count): (&usize, &Vec<u64>)| {
                    meetings.predicted[f][call][class].scale_out_bytes.0 * count[g] as f64
                };
                // What leaves a domain leaves it over the cards of the group's members there.
                counts[f].iter().map(each).sum::<f64>() / f64::from(place.shape.min_per_node.max(1))
            };
            let pattern = pattern(program, &called);
            wires.load(&mut router, &mut loads, &sites, family.groups.iter(), pattern, bytes)?;
        }
        let mut links = wires.describe(&loads);
        let utilisation = |bytes: f64, capacity: f64| bytes / (capacity * step.0);
        let mut by_tier: BTreeMap<String, (f64, f64, u64)> = BTreeMap::new();
        for link in &links {
            let used = utilisation(link.bytes, link.capacity);
            let tier = by_tier.entry(link.tier.clone()).or_default();
            *tier = (tier.0 + used, tier.1.max(used), tier.2 + 1);
        }
        tiers = Some(
            by_tier
                .into_iter()
                .map(|(tier, (sum, max, links))| TierInfo {
                    tier,
                    links,
                    mean_utilisation: sum / links as f64,
                    max_utilisation: max,
                })
                .collect(),
        );
        links.retain(|link| link.bytes > 0.0);
        links.sort_by(|a, b| {
            let used = |l: &crate::network::LinkLoad| utilisation(l.bytes, l.capacity);
            used(b).total_cmp(&used(a)).then_with(|| a.name.cmp(&b.name))
        });
        // Links that carry the same are one line.
        let mut lines: Vec<LinkInfo> = Vec::new();
        for link in links {
            let used = utilisation(link.bytes, link.capacity);
            let full = lines.len() == WORST;
            match lines.last_mut().filter(|line| used >= line.utilisation * (1.0 - ALIKE)) {
                Some(line) => line.alike += 1,
                None if full => break,
                None => lines.push(LinkInfo {
                    link: link.name,
                    bytes: link.bytes,
                    utilisation: used,
                    alike: 0,
                }),
            }
        }
        worst = Some(lines);
    }
    Ok(NetworkInfo {
        model: if setup.network.library.is_some() { "algorithms" } else { "levels" }.to_owned(),
        library: setup.network.library.map(|(library, _)| library.name.clone()),
        transport: setup.network.transport.map(|transport| transport.name.clone()),
        contention_seconds: contention,
        calls: details.then_some(calls),
        tiers,
        worst_links: worst,
    })
}
