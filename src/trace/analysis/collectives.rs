//! Collectives by operation, group and size, with the bandwidth they reached.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Together;
use crate::trace::align::median;
use crate::trace::collectives::{CommOp, bytes, operation};

/// How the number of ranks in a group is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupSizeSource {
    /// The recording says so.
    Recorded,
    /// All ranks of the job, because the recording names no group.
    AssumedWorld,
    /// Not known.
    Unknown,
}

/// All collectives of one operation, group, type and size; ns and bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CollectiveStats {
    /// What it does.
    pub op: &'static str,
    /// Group as recorded; empty where not recorded.
    pub group: String,
    /// Ranks in the group; `None` where not known.
    pub group_size: Option<u32>,
    /// How the size of the group is known.
    pub group_size_source: GroupSizeSource,
    /// Element type as recorded; empty where not recorded.
    pub dtype: String,
    /// Bytes that bandwidth is quoted for, as the NCCL tests count them.
    pub message_bytes: Option<i64>,
    /// Collectives: matched ones count once, kernels without a match once each.
    pub count: u64,
    /// Kernels, over all ranks.
    pub kernels: u64,
    /// How many of the collectives were matched across ranks.
    pub matched: u64,
    /// Sum of recorded durations over all ranks.
    pub total_ns: i64,
    /// Part of it that ranks spent waiting for the last to arrive; zero where nothing is matched.
    pub waiting_ns: i64,
    /// Median time of the transfer: the shortest duration over the ranks of a match, and the whole
    /// recorded duration where nothing is matched.
    pub transfer_ns: i64,
    /// Whether the transfer may contain waiting, because ranks are missing.
    pub includes_waiting: bool,
    /// Message bytes over transfer time, bytes per second.
    pub algorithm_bandwidth: Option<f64>,
    /// Bus bandwidth as the NCCL tests define it, bytes per second. A lower bound where the
    /// transfer may contain waiting.
    pub bus_bandwidth: Option<f64>,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    op: CommOp,
    group: String,
    group_size: Option<u32>,
    source: GroupSizeSource,
    dtype: String,
    message_bytes: Option<i64>,
}

#[derive(Default)]
struct Sum {
    count: u64,
    kernels: u64,
    matched: u64,
    total_ns: i64,
    waiting_ns: i64,
    transfers: Vec<i64>,
    unmatched: Vec<i64>,
    resolution_ns: i64,
}

pub(super) fn collective_stats(together: &Together<'_>) -> Vec<CollectiveStats> {
    let mut sums: BTreeMap<Key, Sum> = BTreeMap::new();
    let mut seen: Vec<Vec<bool>> =
        together.ranks.iter().map(|rank| vec![false; rank.events.len()]).collect();
    for matched in &together.matching.matched {
        let durations = matched.members.iter().map(|(r, i)| together.event(*r, *i).dur_ns);
        let shortest = durations.clone().min().unwrap_or(0);
        let Some(&(rank, index)) = matched.members.first() else { continue };
        let sum = sums.entry(key(together, rank, index, Some(matched.op))).or_default();
        sum.count += 1;
        sum.matched += 1;
        sum.kernels += matched.members.len() as u64;
        sum.transfers.push(shortest);
        sum.resolution_ns = together.ranks[rank].header.clock.resolution_ns;
        for duration in durations {
            sum.total_ns = sum.total_ns.saturating_add(duration);
            sum.waiting_ns = sum.waiting_ns.saturating_add(duration - shortest);
        }
        for (rank, index) in &matched.members {
            seen[*rank][*index] = true;
        }
    }
    for (rank, trace) in together.ranks.iter().enumerate() {
        for (index, event) in trace.events.iter().enumerate() {
            if !event.communicates || seen[rank][index] {
                continue;
            }
            let sum = sums.entry(key(together, rank, index, None)).or_default();
            sum.count += 1;
            sum.kernels += 1;
            sum.total_ns = sum.total_ns.saturating_add(event.dur_ns);
            sum.unmatched.push(event.dur_ns);
            sum.resolution_ns = trace.header.clock.resolution_ns;
        }
    }
    let mut stats: Vec<CollectiveStats> =
        sums.into_iter().map(|(key, sum)| finish(key, sum)).collect();
    stats.sort_by_key(|stats| std::cmp::Reverse(stats.total_ns));
    stats
}

fn key(together: &Together<'_>, rank: usize, index: usize, op: Option<CommOp>) -> Key {
    let trace = &together.ranks[rank];
    let event = together.event(rank, index);
    let op = op.unwrap_or_else(|| operation(trace, event));
    let collective = trace.collective(event);
    let name = collective.map_or("", |c| trace.names.get(c.group));
    let group = trace.header.groups.iter().find(|group| group.name == name);
    let recorded = collective
        .map(|c| c.group_size)
        .filter(|size| *size > 0)
        .or_else(|| group.map(|group| group.size).filter(|size| *size > 0))
        .and_then(|size| u32::try_from(size).ok());
    let (group_size, source) = match (recorded, trace.header.world_size) {
        (Some(size), _) => (Some(size), GroupSizeSource::Recorded),
        // A point-to-point transfer has two ends whatever the size of the job.
        (None, Some(world)) if name.is_empty() && op != CommOp::SendRecv => {
            (Some(world), GroupSizeSource::AssumedWorld)
        }
        _ => (None, GroupSizeSource::Unknown),
    };
    let (in_bytes, out_bytes) = bytes(trace, event);
    let label = match group {
        Some(group) if !group.description.is_empty() && group.description != "undefined" => {
            format!("{name} ({})", group.description)
        }
        _ => name.to_owned(),
    };
    Key {
        op,
        group: label,
        group_size,
        source,
        dtype: collective.map_or("", |c| trace.names.get(c.dtype)).to_owned(),
        message_bytes: op.message_bytes(in_bytes, out_bytes, group_size.unwrap_or(1)).filter(
            |_| {
                // Without the size of the group the sum over its members is not known.
                group_size.is_some() || !matches!(op, CommOp::AllGather | CommOp::ReduceScatter)
            },
        ),
    }
}

fn finish(key: Key, mut sum: Sum) -> CollectiveStats {
    let includes_waiting = sum.transfers.is_empty();
    let list = if includes_waiting { &mut sum.unmatched } else { &mut sum.transfers };
    let transfer_ns = median(list);
    // A duration of one or two clock steps says nothing about a rate.
    let measurable = transfer_ns > 2 * sum.resolution_ns.max(1);
    let algorithm_bandwidth = key
        .message_bytes
        .filter(|_| measurable)
        .map(|bytes| bytes as f64 / (transfer_ns as f64 / 1e9));
    let bus_bandwidth = algorithm_bandwidth
        .zip(key.group_size)
        .map(|(rate, size)| rate * key.op.bus_factor(size))
        .filter(|_| !matches!(key.op, CommOp::Barrier | CommOp::Other));
    CollectiveStats {
        op: key.op.name(),
        group: key.group,
        group_size: key.group_size,
        group_size_source: key.source,
        dtype: key.dtype,
        message_bytes: key.message_bytes,
        count: sum.count,
        kernels: sum.kernels,
        matched: sum.matched,
        total_ns: sum.total_ns,
        waiting_ns: sum.waiting_ns,
        transfer_ns,
        includes_waiting,
        algorithm_bandwidth,
        bus_bandwidth,
    }
}
