//! What a result says of the network: calls, links, time lost.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::network::{Traffic, WHOLE};
use crate::outcome::result::{CallInfo, LinkInfo, NetworkInfo, TierInfo};
use crate::program::Program;
use crate::scenario::Setup;
use crate::units::{Nanos, Seconds};

use super::sharing::{pattern, wires};
use super::{Meetings, counts, sites_of};

/// Links listed as the busiest.
const WORST: usize = 10;

/// Links whose use differs by less, relative, are one line.
const ALIKE: f64 = 1e-3;

/// What `network` in a result says; `details` adds calls and links. `contended` is what calls took
/// longer because of calls of other families, over all ranks.
///
/// # Errors
/// The fabric cannot hold the cluster.
pub fn network_info(
    setup: &Setup<'_>,
    program: &Program,
    meetings: &Meetings,
    (step, contended): (Seconds, Nanos),
    details: bool,
) -> Result<NetworkInfo> {
    let counts = counts(program);
    let world = program.world_size() as f64;
    let mut contention = contended.seconds().0 / world;
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
                share_of_rate: f64::from(place.share) / f64::from(WHOLE),
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
            let routed: Traffic;
            let traffic = match meetings.traffic.get(f) {
                Some(traffic) => traffic,
                None => {
                    let (groups, pattern) = (family.groups.iter(), pattern(program, &called));
                    routed = wires.traffic(&mut router, &sites, groups, pattern)?;
                    &routed
                }
            };
            wires.load(traffic, &mut loads, bytes);
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
