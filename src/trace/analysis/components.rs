//! The time of each step on each rank, by component, so that two recordings can be compared part by
//! part: computation, exposed communication by operation, waiting for other ranks, memory, idle.
//!
//! A collective that was found on all recorded members transfers for as long as its shortest member
//! took; what it lasted longer on the others was waiting for the ranks that came late.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::intervals::Intervals;
use crate::error::Result;
use crate::trace::align::match_collectives;
use crate::trace::collectives::operation;
use crate::trace::launches::Launches;
use crate::trace::model::RankTrace;
use crate::trace::steps::{is_operations, job};

/// Component of kernels that do not communicate.
pub const COMPUTE: &str = "compute";
/// Component of time in a collective before its last member came.
pub const WAITING: &str = "waiting_for_ranks";
/// Component of copies and fills that nothing hides.
pub const MEMORY: &str = "exposed_memory";
/// What components of exposed communication begin with; the operation follows.
pub const EXPOSED: &str = "exposed_";
/// Component of the time by which a step is longer than the span of a rank.
pub const SHORTER: &str = "waiting_outside_of_span";
/// Name of the only step of a recording without steps.
pub const WHOLE: &str = "ALL";

/// A step on all ranks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepComponents {
    /// Its name as recorded.
    pub step: String,
    /// Longest span of a rank, as in a replay: from the first start to the last end of the device
    /// work that was launched in the step.
    pub step_ns: i64,
    /// Longest window of a rank: from the start of the step to its end as the profiled program
    /// marked it.
    pub window_ns: Option<i64>,
    /// By rank.
    pub ranks: BTreeMap<u32, RankComponents>,
}

/// A step on a rank.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RankComponents {
    /// From the first start to the last end of device work; the components add up to it.
    pub span_ns: i64,
    /// Components, ns.
    pub components: BTreeMap<String, i64>,
    /// Device time by name, hidden or not, ns; of collectives the transfer alone.
    pub kernels: BTreeMap<String, i64>,
}

/// What an event is.
enum What {
    Compute,
    /// The operation, and how long it transferred.
    Communication(String, i64),
    Memory,
}

/// A device event.
struct Work<'a> {
    start: i64,
    end: i64,
    name: &'a str,
    what: What,
    /// When the host called for it, where recorded.
    called: Option<i64>,
}

/// The steps of ranks that ran together, in the order of the recording.
///
/// # Errors
/// A job recorded operation by operation has no steps.
pub fn step_components(ranks: &[RankTrace]) -> Result<Vec<StepComponents>> {
    if ranks.first().is_some_and(is_operations) {
        return operations(ranks);
    }
    let mut transfers: BTreeMap<(usize, usize), i64> = BTreeMap::new();
    for matched in match_collectives(ranks).meetings() {
        let durations = matched.members.iter().map(|(r, e)| ranks[*r].events[*e].dur_ns);
        let shortest = durations.min().unwrap_or(0);
        transfers.extend(matched.members.iter().map(|member| (*member, shortest)));
    }
    let mut steps: Vec<(String, BTreeMap<u32, RankComponents>)> = Vec::new();
    let stepped = ranks.iter().any(|rank| !rank.header.windows.is_empty());
    for (position, rank) in ranks.iter().enumerate() {
        let launches = Launches::of(rank);
        let mut lists: BTreeMap<i64, (&str, Vec<Work<'_>>)> = BTreeMap::new();
        for (index, event) in rank.events.iter().enumerate().filter(|(_, e)| e.kind.is_device()) {
            let step = launches.step(rank, index).map(|step| (step.start_ns, step.name.as_str()));
            let (at, name) = match step {
                Some(step) => step,
                None if stepped => continue,
                None => (0, WHOLE),
            };
            let what = if event.kind.is_memory() {
                What::Memory
            } else if event.communicates {
                let transfer = transfers.get(&(position, index)).copied();
                let op = operation(rank, event).name().to_owned();
                What::Communication(op, transfer.unwrap_or(event.dur_ns))
            } else {
                What::Compute
            };
            lists.entry(at).or_insert((name, Vec::new())).1.push(Work {
                start: event.start_ns,
                end: event.end_ns(),
                name: rank.name(event),
                what,
                called: launches.call(index).map(|call| rank.events[call].start_ns),
            });
        }
        for (name, list) in lists.into_values() {
            let found = components(&list);
            match steps.iter_mut().find(|(known, _)| known == name) {
                Some((_, ranks)) => {
                    ranks.insert(rank.header.rank, found);
                }
                None => steps.push((name.to_owned(), [(rank.header.rank, found)].into())),
            }
        }
    }
    Ok(steps.into_iter().map(|(step, found)| whole(step, None, found, ranks)).collect())
}

fn whole(
    step: String,
    step_ns: Option<i64>,
    found: BTreeMap<u32, RankComponents>,
    ranks: &[RankTrace],
) -> StepComponents {
    let longest = found.values().map(|rank| rank.span_ns).max().unwrap_or(0);
    let windows = ranks.iter().flat_map(|rank| &rank.header.windows);
    let window_ns = windows.filter(|w| w.name == step).map(|w| w.dur_ns).max();
    StepComponents { step, step_ns: step_ns.unwrap_or(longest), window_ns, ranks: found }
}

/// A job recorded operation by operation, whose steps know who waited for whom.
fn operations(ranks: &[RankTrace]) -> Result<Vec<StepComponents>> {
    let job = job(ranks)?;
    let steps = job.steps.iter().map(|step| {
        let found = step.ranks.iter().zip(&job.places).map(|(operations, place)| {
            let work: Vec<Work<'_>> = operations
                .iter()
                .map(|operation| Work {
                    start: operation.start_ns,
                    end: operation.end_ns,
                    name: &operation.name,
                    what: if operation.meets {
                        let op = operation.name.replace('-', "_");
                        What::Communication(op, operation.alone_ns)
                    } else {
                        What::Compute
                    },
                    called: None,
                })
                .collect();
            (place.0, components(&work))
        });
        whole(step.name.clone(), Some(step.measured_ns), found.collect(), ranks)
    });
    Ok(steps.collect())
}

fn components(work: &[Work<'_>]) -> RankComponents {
    let mut found = RankComponents::default();
    let first = work.iter().map(|work| work.start).min().unwrap_or(0);
    let last = work.iter().map(|work| work.end).max().unwrap_or(0);
    found.span_ns = last - first;
    let mut compute = Vec::new();
    let mut memory = Vec::new();
    let mut communication = Vec::new();
    let mut by_op: BTreeMap<&str, Vec<(i64, i64)>> = BTreeMap::new();
    for work in work {
        let span = (work.start, work.end);
        let own = match &work.what {
            What::Compute => {
                compute.push(span);
                work.end - work.start
            }
            What::Memory => {
                memory.push(span);
                work.end - work.start
            }
            What::Communication(op, transfer) => {
                let transfer = (*transfer).clamp(0, work.end - work.start);
                communication.push(span);
                by_op.entry(op).or_default().push((work.end - transfer, work.end));
                transfer
            }
        };
        *found.kernels.entry(work.name.to_owned()).or_default() += own;
    }
    // What was counted before hides what comes after it.
    let mut covered = Intervals::default();
    let mut cover = |name: String, spans: Vec<(i64, i64)>| {
        let next = covered.union(&Intervals::union_of(spans));
        let more = next.length() - covered.length();
        if more > 0 {
            found.components.insert(name, more);
        }
        covered = next;
    };
    cover(COMPUTE.to_owned(), compute);
    for (op, spans) in by_op {
        cover(format!("{EXPOSED}{op}"), spans);
    }
    cover(WAITING.to_owned(), communication);
    cover(MEMORY.to_owned(), memory);
    let mut order: Vec<&Work<'_>> = work.iter().collect();
    order.sort_by_key(|work| work.start);
    for (from, to) in covered.gaps(first, last) {
        let next = order.get(order.partition_point(|work| work.start < to));
        let mut idle = |name: &str, ns: i64| {
            if ns > 0 {
                *found.components.entry(name.to_owned()).or_default() += ns;
            }
        };
        // Judged by the event that ends the idle time: until its call the host was late, then the
        // launch was under way; what had been called before waited on the device.
        match next.and_then(|work| work.called) {
            Some(called) if called > from => {
                let called = called.min(to);
                idle("idle_host", called - from);
                idle("idle_launch", to - called);
            }
            _ => idle("idle_device", to - from),
        }
    }
    found
}

/// The rank that waits least for others, in collectives or because its span is shorter than the
/// step: the one that sets the pace. The lowest number decides between equals.
#[must_use]
pub fn pacing_rank(steps: &[StepComponents]) -> Option<u32> {
    let ranks: BTreeSet<u32> = steps.iter().flat_map(|step| step.ranks.keys().copied()).collect();
    let waiting = |rank: u32| -> i64 {
        let of_step = |step: &StepComponents| {
            let found = step.ranks.get(&rank)?;
            let waited = found.components.get(WAITING).copied().unwrap_or(0);
            Some(waited + step.step_ns - found.span_ns)
        };
        steps.iter().filter_map(of_step).sum()
    };
    ranks.into_iter().min_by_key(|rank| (waiting(*rank), *rank))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(start: i64, end: i64, what: What, called: Option<i64>) -> Work<'static> {
        Work { start, end, name: "k", what, called }
    }

    #[test]
    fn components_add_up_to_the_span() {
        let found = components(&[
            work(0, 10, What::Compute, Some(-5)),
            work(5, 20, What::Communication("all_reduce".into(), 6), Some(0)),
            work(30, 40, What::Compute, Some(24)),
            work(38, 44, What::Memory, Some(30)),
        ]);
        let ns = |name: &str| found.components.get(name).copied().unwrap_or(0);
        assert_eq!(found.span_ns, 44);
        assert_eq!((ns(COMPUTE), ns("exposed_all_reduce"), ns(WAITING)), (20, 6, 4));
        assert_eq!((ns(MEMORY), ns("idle_host"), ns("idle_launch")), (4, 4, 6));
        assert_eq!(found.components.values().sum::<i64>(), found.span_ns);
    }
}
