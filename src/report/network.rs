//! The network's part of a result, for people.

use std::fmt::Write as _;

use crate::outcome::{CallInfo, NetworkInfo};
use crate::units::{Seconds, human_time, si};

/// Part of a call that sharing has to cost to be told.
const TOLD: f64 = 0.005;

/// Busiest links shown.
const LINKS: usize = 5;

/// Calls and links of a result as text of at most 100 columns; empty where they were not asked for.
#[must_use]
pub fn network_text(network: &NetworkInfo) -> String {
    let mut t = String::new();
    if let Some(calls) = &network.calls {
        calls_text(&mut t, network, calls);
    }
    if let Some(tiers) = &network.tiers {
        let _ = writeln!(t, "\nLinks between nodes, share of what they could carry in the step");
        for tier in tiers {
            let _ = writeln!(
                t,
                "  {:34} {:>8} links   mean {:>5.1} %   busiest {:>5.1} %",
                tier.tier,
                tier.links,
                tier.mean_utilisation * 100.0,
                tier.max_utilisation * 100.0
            );
        }
    }
    if let Some(links) = network.worst_links.as_ref().filter(|links| !links.is_empty()) {
        let _ = writeln!(t, "  the busiest:");
        for link in links.iter().take(LINKS) {
            let alike = match link.alike {
                0 => String::new(),
                more => format!(" and {more} like it"),
            };
            let _ = writeln!(
                t,
                "    {:60} {:>9} {:>6.1} %",
                format!("{}{alike}", link.link),
                si(link.bytes, "B"),
                link.utilisation * 100.0
            );
        }
    }
    t
}

/// Calls that say the same.
struct Row<'a> {
    call: &'a CallInfo,
    /// Families that make the call alike.
    families: usize,
}

/// Families that differ in the pipeline stages they join are one.
fn family(call: &CallInfo) -> &str {
    let pair = call.family.strip_prefix("pipeline ");
    if pair.is_some_and(|rest| rest.contains('>')) { "pipeline" } else { &call.family }
}

/// Whether two calls differ in nothing but the stages they join.
fn same(a: &CallInfo, b: &CallInfo) -> bool {
    family(a) == family(b)
        && (a.call == b.call && a.collective == b.collective && a.bytes == b.bytes)
        && (a.ranks, a.domains, a.per_step) == (b.ranks, b.domains, b.per_step)
        && (&a.algorithm, &a.protocol) == (&b.algorithm, &b.protocol)
        && a.seconds == b.seconds
        && a.share_of_rate == b.share_of_rate
}

fn calls_text(t: &mut String, network: &NetworkInfo, calls: &[CallInfo]) {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for call in calls {
        match rows.iter_mut().find(|row| same(row.call, call)) {
            Some(row) => row.families += 1,
            None => rows.push(Row { call, families: 1 }),
        }
    }
    let how = match (&network.library, &network.transport) {
        (Some(library), Some(transport)) => format!("{library} over {transport}"),
        (Some(library), None) => library.clone(),
        (None, _) => "latency and bandwidth per level".to_owned(),
    };
    let _ = writeln!(t, "\nCommunication by call, in the slowest group ({how})");
    let _ = writeln!(
        t,
        "    {:17} {:14} {:>7} {:>6} {:>7} {:>7}  branch",
        "", "", "size", "times", "each", "all"
    );
    let mut heading = None;
    for Row { call, families } in rows {
        let group = (family(call), call.ranks, call.domains);
        if heading != Some(group) {
            heading = Some(group);
            let domains = match (call.ranks, call.domains) {
                (1, _) => "1 rank".to_owned(),
                (ranks, 1) => format!("{ranks} ranks in one scale-up domain"),
                (ranks, domains) => format!("{ranks} ranks in {domains} scale-up domains"),
            };
            let _ = writeln!(t, "  {}: {domains}", group.0);
        }
        let branch = match (&call.algorithm, &call.protocol) {
            (Some(algorithm), Some(protocol)) => format!("{algorithm} {protocol}"),
            _ => String::new(),
        };
        let name = match families {
            1 => call.call.clone(),
            pairs => format!("between {pairs} pairs"),
        };
        let line = format!(
            "    {:17} {:14} {:>7} {:>6} {:>7} {:>7}  {branch}",
            clipped(&name, 17),
            call.collective.to_string().replace('_', "-"),
            si(call.bytes as f64, "B"),
            call.per_step,
            human_time(Seconds(call.seconds)),
            human_time(Seconds(call.seconds * call.per_step as f64)),
        );
        let _ = writeln!(t, "{}", line.trim_end());
        // Where latency is all, a share of the rate is nothing to tell of.
        if call.contention_seconds > TOLD * call.seconds {
            let _ = writeln!(
                t,
                "      gets {:.1} % of its cards' rate on shared links, which costs {} of each",
                call.share_of_rate * 100.0,
                human_time(Seconds(call.contention_seconds))
            );
        }
    }
}

fn clipped(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width - 1).chain(['\u{2026}']).collect()
}
