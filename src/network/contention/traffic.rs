//! Who of a group sends to whom across domains.
//!
//! Between domains a group is a ring per rail (the `i`-th members of its domains), a pair is one
//! flow, and an exchange sends from every member to every other.

use std::collections::BTreeMap;

use crate::network::Sites;

/// Most destinations of one member of an exchange that are routed one by one; of more, every n-th.
const EXCHANGE_SAMPLE: usize = 32;

/// How a group's traffic between domains is arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// Neighbours in a ring of domains, on every rail.
    Ring,
    /// Every member to every other.
    Exchange,
    /// First member to second.
    Pair,
}

/// Flows of a group between domains: sending and receiving device, and the part of the sender's
/// rate.
pub(in crate::network) fn flows(
    sites: &Sites,
    group: &[u32],
    pattern: Pattern,
) -> Vec<(u32, u32, f64)> {
    // Rings go through domains in the order of their first ranks, as libraries build them: they do
    // not know which nodes share a leaf.
    let mut number: BTreeMap<u32, usize> = BTreeMap::new();
    let mut domains: Vec<Vec<u32>> = Vec::new();
    for rank in group {
        let device = sites.device(*rank);
        let at = *number.entry(device / sites.domain).or_insert_with(|| {
            domains.push(Vec::new());
            domains.len() - 1
        });
        domains[at].push(device);
    }
    let mut flows: Vec<(u32, u32, f64)> = Vec::new();
    if domains.len() < 2 {
        return flows;
    }
    match pattern {
        Pattern::Pair => flows.push((sites.device(group[0]), sites.device(group[1]), 1.0)),
        Pattern::Ring => {
            let rails = domains.iter().map(Vec::len).min().unwrap_or(0);
            for (d, here) in domains.iter().enumerate() {
                let next = &domains[(d + 1) % domains.len()];
                flows.extend((0..rails).map(|i| (here[i], next[i], 1.0)));
            }
        }
        Pattern::Exchange => {
            for (d, here) in domains.iter().enumerate() {
                let others: Vec<u32> = domains
                    .iter()
                    .enumerate()
                    .filter(|(other, _)| *other != d)
                    .flat_map(|(_, members)| members.iter().copied())
                    .collect();
                let stride = others.len().div_ceil(EXCHANGE_SAMPLE).max(1);
                for (i, from) in here.iter().enumerate() {
                    let picked: Vec<u32> =
                        others.iter().copied().skip(i % stride).step_by(stride).collect();
                    let weight = 1.0 / picked.len().max(1) as f64;
                    flows.extend(picked.into_iter().map(|to| (*from, to, weight)));
                }
            }
        }
    }
    flows
}
