//! Chakra execution traces: nodes with durations and dependencies, and hardly ever with starts.
//!
//! Where starts are not recorded, they are derived: a node starts when the nodes it depends on
//! have ended and its lane (host, device compute, device communication) is free, in file order.
//! The header says so under what was left out.

mod json;
mod protobuf;

pub use json::read as read_json;
pub use protobuf::read as read_protobuf;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::trace::header::RankSource;
use crate::trace::model::{Collective, Kind, RankTrace};

use super::collect::{Collector, identifier};

/// Name of the format.
pub const FORMAT: &str = "chakra";

/// What a node is, as the format numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Memory,
    Compute,
    Send,
    Receive,
    Collective,
}

impl Class {
    fn of(number: i64) -> Option<Self> {
        Some(match number {
            2 | 3 => Self::Memory,
            4 => Self::Compute,
            5 => Self::Send,
            6 => Self::Receive,
            7 => Self::Collective,
            _ => return None,
        })
    }
}

/// A node of either encoding.
#[derive(Debug)]
struct Node {
    id: u64,
    name: String,
    class: Class,
    on_host: bool,
    start_us: i64,
    duration_us: i64,
    deps: Vec<u64>,
    collective: Option<&'static str>,
    bytes: i64,
    peer: i32,
    at: u64,
}

/// The names of the format's collective types.
const COLLECTIVES: [&str; 9] = [
    "allreduce",
    "reduce",
    "allgather",
    "gather",
    "scatter",
    "broadcast",
    "alltoall",
    "reduce_scatter",
    "barrier",
];

fn collective_name(number: i64) -> Option<&'static str> {
    usize::try_from(number).ok().and_then(|i| COLLECTIVES.get(i)).copied()
}

const HOST: usize = 0;
const COMPUTE: usize = 1;
const COMMUNICATION: usize = 2;
/// Streams of device work in a trace that does not number them.
const STREAM: [i64; 3] = [0, 7, 20];

/// Places nodes in time and makes a rank of them.
fn settle(mut rank: Collector, nodes: Vec<Node>) -> Result<RankTrace, String> {
    if let Some(number) = rank_in_name(&rank.trace.header.source.file) {
        rank.trace.header.rank = number;
        rank.trace.header.rank_source = RankSource::FileName;
    }
    let derived = nodes.iter().all(|node| node.start_us == 0);
    let starts = if derived { starts(&mut rank, &nodes) } else { BTreeMap::new() };
    if derived {
        let what = "starts: not recorded, derived from durations and dependencies";
        rank.left_out(what, nodes.len() as u64);
        rank.trace.header.losses.events_read -= nodes.len() as u64;
    }
    rank.trace.header.clock.resolution_ns = 1000;
    for (index, node) in nodes.iter().enumerate() {
        let start = match starts.get(&index) {
            Some(start) => Some(*start),
            None if derived => continue,
            None => node.start_us.checked_mul(1000),
        };
        let duration = node.duration_us.checked_mul(1000);
        let end = start.zip(duration).and_then(|(start, dur)| start.checked_add(dur));
        let kind = match node.class {
            _ if node.on_host => Kind::Op,
            Class::Memory => Kind::Memcpy,
            _ => Kind::Kernel,
        };
        let Some(event) = rank.event(kind, &node.name, start, end, node.at) else { continue };
        if kind.is_device() {
            event.device = 0;
            event.lane = STREAM[lane(node)];
        } else {
            event.lane = 0;
        }
        event.external = identifier(i64::try_from(node.id).ok());
        if kind == Kind::Kernel && node.class != Class::Compute {
            let op = match (node.class, node.collective) {
                (Class::Send, _) => "send",
                (Class::Receive, _) => "recv",
                (_, Some(name)) => name,
                // What the name says, as for every other recording.
                _ => continue,
            };
            let collective = Collective {
                op: rank.label(op),
                dtype: rank.label(if node.bytes >= 0 { "Byte" } else { "" }),
                in_elements: node.bytes,
                peer: node.peer,
                ..Collective::default()
            };
            rank.collective(collective);
        }
    }
    rank.finish()
}

fn lane(node: &Node) -> usize {
    match node.class {
        _ if node.on_host => HOST,
        Class::Compute | Class::Memory => COMPUTE,
        _ => COMMUNICATION,
    }
}

/// Earliest starts, ns, by position. Converted traces hold cycles (an operator that waits for its
/// parent, which waits for its result): there the first node in file order goes ahead, and is
/// counted.
fn starts(rank: &mut Collector, nodes: &[Node]) -> BTreeMap<usize, i64> {
    let mut position = BTreeMap::new();
    for (index, node) in nodes.iter().enumerate() {
        position.entry(node.id).or_insert(index);
    }
    let mut waiting = vec![0_u32; nodes.len()];
    let mut followers: Vec<Vec<u32>> = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        let mut deps: Vec<usize> =
            node.deps.iter().filter_map(|id| position.get(id)).copied().collect();
        deps.sort_unstable();
        deps.dedup();
        for dep in deps.into_iter().filter(|dep| *dep != index) {
            followers[dep].push(index as u32);
            waiting[index] += 1;
        }
    }
    let mut ready: BinaryHeap<Reverse<usize>> =
        (0..nodes.len()).filter(|i| waiting[*i] == 0).map(Reverse).collect();
    let mut earliest = vec![0_i64; nodes.len()];
    let mut free = [0_i64; 3];
    let mut starts = BTreeMap::new();
    let mut placed = vec![false; nodes.len()];
    let mut oldest = 0;
    let mut broken = 0;
    loop {
        let index = match ready.pop() {
            Some(Reverse(index)) => index,
            None => {
                while oldest < nodes.len() && placed[oldest] {
                    oldest += 1;
                }
                if oldest == nodes.len() {
                    break;
                }
                broken += 1;
                oldest
            }
        };
        if std::mem::replace(&mut placed[index], true) {
            continue;
        }
        let node = &nodes[index];
        let lane = &mut free[lane(node)];
        let start = earliest[index].max(*lane);
        let end = start.saturating_add(node.duration_us.saturating_mul(1000));
        *lane = end;
        starts.insert(index, start);
        for &next in &followers[index] {
            let next = next as usize;
            earliest[next] = earliest[next].max(end);
            waiting[next] -= 1;
            if waiting[next] == 0 && !placed[next] {
                ready.push(Reverse(next));
            }
        }
    }
    if broken > 0 {
        let what = "nodes that go ahead of what they wait for, because it waits for them";
        rank.left_out(what, broken);
        rank.trace.header.losses.events_read -= broken;
    }
    starts
}

/// `chakra.3.et` is rank 3.
fn rank_in_name(file: &str) -> Option<u32> {
    let stem = super::source::stem(file);
    let number = stem.rsplit(['.', '_']).next()?;
    number.parse().ok().filter(|_| number.len() <= 6 && stem.len() > number.len())
}
