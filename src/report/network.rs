//! The network's part of a result, for people.

use std::fmt::Write as _;

use crate::outcome::NetworkInfo;
use crate::units::{Seconds, human_time, si, significant};

/// Calls and links of a result as text of at most 100 columns; empty where they were not asked for.
#[must_use]
pub fn network_text(network: &NetworkInfo) -> String {
    let mut t = String::new();
    if let Some(calls) = &network.calls {
        let of = |name: &Option<String>, what: &str| {
            name.as_ref().map_or(String::new(), |name| format!("; {what} {name}"))
        };
        let _ = writeln!(
            t,
            "\nCommunication by call (timed by {}{}{})",
            network.model,
            of(&network.library, "library"),
            of(&network.transport, "transport")
        );
        let _ = writeln!(
            t,
            "  {:26} {:14} {:>9} {:>11} {:>6} {:>10}  branch",
            "who and what", "pattern", "size", "ranks", "times", "each"
        );
        for call in calls {
            let branch = match (&call.algorithm, &call.protocol) {
                (Some(algorithm), Some(protocol)) => format!("{algorithm} {protocol}"),
                _ => String::new(),
            };
            let who = if call.family == call.call {
                call.call.clone()
            } else {
                format!("{}: {}", call.family, call.call)
            };
            let short: String = if who.chars().count() > 26 {
                who.chars().take(25).chain(['…']).collect()
            } else {
                who
            };
            let ranks = if call.domains > 1 {
                format!("{} on {}", call.ranks, call.domains)
            } else {
                call.ranks.to_string()
            };
            let _ = writeln!(
                t,
                "  {short:26} {:14} {:>9} {ranks:>11} {:>6} {:>10}  {branch}",
                call.collective.to_string(),
                si(call.bytes as f64, "B"),
                call.per_step,
                human_time(Seconds(call.seconds)),
            );
            if call.share_of_rate < 1.0 {
                let _ = writeln!(
                    t,
                    "  {:26} {} % of its cards' rate on shared links, {} of it for that",
                    "",
                    significant(call.share_of_rate * 100.0, 3),
                    human_time(Seconds(call.contention_seconds))
                );
            }
        }
    }
    if let Some(tiers) = &network.tiers {
        let _ = writeln!(t, "\nLinks between nodes, share of what they could carry in the step");
        for tier in tiers {
            let _ = writeln!(
                t,
                "  {:34} {:>7} links   mean {:>5.1} %   busiest {:>5.1} %",
                tier.tier,
                tier.links,
                tier.mean_utilisation * 100.0,
                tier.max_utilisation * 100.0
            );
        }
    }
    if let Some(links) = network.worst_links.as_ref().filter(|links| !links.is_empty()) {
        let _ = writeln!(t, "  the busiest:");
        for link in links {
            let _ = writeln!(
                t,
                "    {:60} {:>9} {:>6.1} %",
                link.link,
                si(link.bytes, "B"),
                link.utilisation * 100.0
            );
        }
    }
    t
}
