//! Recordings of operations (forward and backward passes, sends, receives, collectives of whole
//! micro-batches) as programs, one per step.
//!
//! On a rank an operation depends on those that had ended when it began; operations that overlap
//! do not wait for each other. A send meets the receive of the neighbouring stage, a collective
//! meets on the ranks that share it. What a meeting takes once its last member is there is its
//! duration: the rest was waiting and is derived again. Between an operation and what it waited for
//! the host needs time: the median over all ranks and steps for each pair of names, modelled as
//! host work. No single gap is copied.

mod edit;
mod program;

use std::collections::{BTreeMap, BTreeSet};

pub(crate) use program::UNRECORDED_TRANSFER;

use crate::error::{Error, Result};
use crate::program::{Dimension, Family, FamilyId, Groups, LaneId};

pub use program::lanes;

use super::align::median;
use super::import::{operations, primus};
use super::model::RankTrace;

/// Operations that begin or end this close to each other did so at once.
const AT_ONCE_NS: i64 = 50_000;

/// Operations that are looked through for what one waited for.
const LOOK_BACK: usize = 64;

/// Ranks of a job that are looked for at most.
const MOST_RANKS: usize = 1 << 20;

/// Whether a rank was recorded operation by operation.
#[must_use]
pub fn is_operations(rank: &RankTrace) -> bool {
    [operations::FORMAT, primus::FORMAT].contains(&rank.header.source.format.as_str())
}

/// With whom an operation meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum With {
    /// Nobody.
    Alone,
    /// The next stage: sends activations.
    NextSend,
    /// The stage before: receives activations.
    PreviousReceive,
    /// The stage before: sends gradients.
    PreviousSend,
    /// The next stage: receives gradients.
    NextReceive,
    /// The same stage of other replicas.
    Replicas,
    /// Other stages of the same replica that have the operation, too.
    Stages,
    /// Everybody.
    World,
}

impl With {
    fn of(name: &str) -> Self {
        match name {
            "forward-send" => Self::NextSend,
            "forward-recv" => Self::PreviousReceive,
            "backward-send" => Self::PreviousSend,
            "backward-recv" => Self::NextReceive,
            "embedding-grads-all-reduce" => Self::Stages,
            // Clipping begins with the norm over all ranks.
            "optimizer-clip-main-grad" => Self::World,
            "params-all-gather" | "grads-reduce-scatter" | "grads-all-reduce" => Self::Replicas,
            _ => Self::Alone,
        }
    }

    const fn lane(self) -> LaneId {
        match self {
            Self::Alone | Self::World => LaneId(1),
            Self::NextSend => LaneId(2),
            Self::PreviousReceive => LaneId(3),
            Self::PreviousSend => LaneId(4),
            Self::NextReceive => LaneId(5),
            Self::Replicas | Self::Stages => LaneId(6),
        }
    }
}

/// One operation of a rank in a step.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Its name as recorded.
    pub name: String,
    /// Its number among those of the name in the step.
    pub nth: usize,
    /// What it takes once everybody it needs is there.
    pub alone_ns: i64,
    /// Whether others take part.
    pub meets: bool,
    with: With,
    /// Recorded start, from the step's.
    pub start_ns: i64,
    /// Recorded end, from the step's.
    pub end_ns: i64,
    /// Operations of the rank that had ended, and that nothing else in between waited for.
    after: Vec<usize>,
    /// Meeting it takes part in.
    meeting: Option<usize>,
}

/// Ranks that meet.
#[derive(Clone, Debug)]
struct Meeting {
    name: String,
    family: FamilyId,
    members: Vec<(usize, usize)>,
}

/// One step of all ranks.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its name as recorded.
    pub name: String,
    /// From the first start to the last end.
    pub measured_ns: i64,
    /// Operations by rank.
    pub ranks: Vec<Vec<Operation>>,
    meetings: Vec<Meeting>,
    families: Vec<Family>,
}

/// A recorded job.
#[derive(Clone, Debug)]
pub struct Job {
    /// Rank number, stage and replica by position.
    pub places: Vec<(u32, usize, usize)>,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// Host time in front of an operation, by the name of what it waited for and its own.
    delays: BTreeMap<(String, String), i64>,
}

/// Takes the steps of ranks that ran together.
///
/// # Errors
/// No step has an operation, or a rank of the job was not recorded.
pub fn job(ranks: &[RankTrace]) -> Result<Job> {
    let places = places(ranks)?;
    let mut names: Vec<&str> = Vec::new();
    for window in ranks.iter().flat_map(|rank| &rank.header.windows) {
        if !names.contains(&window.name.as_str()) {
            names.push(&window.name);
        }
    }
    let mut steps: Vec<Step> = Vec::new();
    for name in names {
        let per_rank: Vec<Vec<Operation>> = ranks.iter().map(|rank| of_step(rank, name)).collect();
        if per_rank.iter().any(|ops| !ops.is_empty()) {
            complete(name, &per_rank, &places)?;
            steps.push(step(name, per_rank, &places));
        }
    }
    if steps.is_empty() {
        return Err(Error::Missing("the recording has no steps with operations".into()));
    }
    let mut gaps: BTreeMap<(String, String), Vec<i64>> = BTreeMap::new();
    for step in &steps {
        // Where transfers were not recorded, a pass also waited for the neighbouring stage.
        let passes = if step.has_transfers() { BTreeMap::new() } else { step.passes(&places) };
        for (position, operations) in step.ranks.iter().enumerate() {
            let (_, stage, replica) = places[position];
            for operation in operations {
                let before = operation.after.iter().max_by_key(|i| operations[**i].end_ns);
                let (key, end) = before.map_or((String::new(), 0), |i| {
                    (operations[*i].name.clone(), operations[*i].end_ns)
                });
                let from = source(operation, stage).and_then(|(forward, from)| {
                    passes.get(&(forward, replica, from, operation.nth))
                });
                let ready = from.map_or(end, |produced| end.max(*produced));
                let gap = (operation.start_ns - ready).max(0);
                gaps.entry((key, operation.name.clone())).or_default().push(gap);
            }
        }
    }
    let delays = gaps.into_iter().map(|(key, mut gaps)| (key, median(&mut gaps))).collect();
    Ok(Job { places, steps, delays })
}

/// Refuses a step of which a rank lacks a part: what is left would be another job.
///
/// # Errors
/// Says which rank, step and operation.
fn complete(step: &str, per_rank: &[Vec<Operation>], places: &[(u32, usize, usize)]) -> Result<()> {
    let count = |operations: &[Operation], name: &str| {
        operations.iter().filter(|operation| operation.name == name).count()
    };
    for name in [FORWARD, BACKWARD] {
        let counts: Vec<usize> = per_rank.iter().map(|ops| count(ops, name)).collect();
        let most = counts.iter().copied().max().unwrap_or(0);
        if let Some(short) = counts.iter().position(|count| *count != most) {
            return Err(Error::Missing(format!(
                "rank {} has {} {name} of step {step}, and others {most}: its recording is incomplete\n  \
                 help: record all ranks over the same steps, or leave the step out",
                places[short].0, counts[short]
            )));
        }
    }
    let last = places.iter().map(|(_, stage, _)| *stage).max().unwrap_or(0);
    let ends = per_rank.iter().zip(places).filter(|(_, (_, stage, _))| *stage == last);
    for (operations, (rank, _, _)) in ends {
        if operations.iter().any(|operation| operation.with == With::NextSend) {
            return Err(Error::Missing(format!(
                "rank {rank} is on the last stage that was recorded and sends forward: later stages are \
                 missing\n  help: import all ranks of the job together"
            )));
        }
    }
    Ok(())
}

/// Rank, stage and replica, from the groups of the header; without them the ranks are the stages of
/// one pipeline, by their numbers.
///
/// # Errors
/// A rank of the job was not recorded: what is left would be another, shorter pipeline. Or a lone
/// rank does not say how many stages there are.
fn places(ranks: &[RankTrace]) -> Result<Vec<(u32, usize, usize)>> {
    let place = |rank: &RankTrace, name: &str| {
        let group = rank.header.groups.iter().find(|group| group.name == name)?;
        group.ranks.iter().position(|member| *member == rank.header.rank)
    };
    let recorded: BTreeSet<u32> = ranks.iter().map(|rank| rank.header.rank).collect();
    let grouped = ranks.iter().flat_map(|rank| &rank.header.groups);
    let members =
        grouped.filter(|group| [operations::PIPELINE, operations::DATA].contains(&&*group.name));
    let mut expected: BTreeSet<u32> =
        members.flat_map(|group| group.ranks.iter().copied()).collect();
    let without = ranks.iter().find(|rank| place(rank, operations::PIPELINE).is_none());
    let size = ranks.iter().find_map(|rank| rank.header.world_size);
    match (without, size) {
        (Some(rank), None) if ranks.len() == 1 => {
            return Err(Error::Missing(format!(
                "rank {} was recorded alone, and nothing says how many stages its pipeline has\n  \
                 help: import the ranks together, of Primus with the config.json beside them",
                rank.header.rank
            )));
        }
        // No stage in front of the last that is known may be missing.
        (Some(_), None) => expected.extend(0..=recorded.last().copied().unwrap_or(0)),
        _ => {}
    }
    if let Some(size) = size.filter(|size| *size as usize > recorded.len()) {
        expected.extend((0..size).take(MOST_RANKS));
    }
    let missing: Vec<u32> = expected.difference(&recorded).copied().collect();
    if !missing.is_empty() {
        let one = missing.len() == 1;
        let (numbers, more) = (&missing[..missing.len().min(16)], missing.len() > 16);
        let numbers: Vec<String> = numbers.iter().map(u32::to_string).collect();
        return Err(Error::Missing(format!(
            "{} {}{} of the job {} not recorded, and a pipeline without {} is another one\n  help: \
             import all {} ranks together",
            if one { "rank" } else { "ranks" },
            numbers.join(", "),
            if more { ", ..." } else { "" },
            if one { "was" } else { "were" },
            if one { "it" } else { "them" },
            expected.len(),
        )));
    }
    let places = ranks.iter().map(|rank| {
        let stage = place(rank, operations::PIPELINE).unwrap_or(rank.header.rank as usize);
        (rank.header.rank, stage, place(rank, operations::DATA).unwrap_or(0))
    });
    Ok(places.collect())
}

/// Forward passes, as recorded.
pub const FORWARD: &str = "forward-compute";
/// Backward passes, as recorded.
pub const BACKWARD: &str = "backward-compute";

/// The operations of a rank in a step, from the step's start.
fn of_step(rank: &RankTrace, name: &str) -> Vec<Operation> {
    let Some(window) = rank.header.windows.iter().find(|window| window.name == name) else {
        return Vec::new();
    };
    let end = window.start_ns + window.dur_ns;
    let mut operations: Vec<Operation> = Vec::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let inside = |start: i64| start >= window.start_ns && start <= end;
    for event in rank.events.iter().filter(|e| e.kind.is_device() && inside(e.start_ns)) {
        let name = rank.name(event);
        let nth = counts.entry(name).or_default();
        let with = With::of(name);
        operations.push(Operation {
            name: name.to_owned(),
            nth: *nth,
            alone_ns: event.dur_ns,
            meets: with != With::Alone,
            with,
            start_ns: event.start_ns - window.start_ns,
            end_ns: event.end_ns() - window.start_ns,
            after: Vec::new(),
            meeting: None,
        });
        *nth += 1;
    }
    for this in 1..operations.len() {
        let from = this.saturating_sub(LOOK_BACK);
        let mut after: Vec<usize> =
            (from..this).filter(|i| ended(&operations[*i], &operations[this])).collect();
        // What the latest of them waited for is implied by it.
        if let Some(last) = after.last().copied() {
            after.retain(|i| *i == last || !ended(&operations[*i], &operations[last]));
        }
        operations[this].after = after;
    }
    operations
}

/// Whether one operation had ended when another began.
fn ended(one: &Operation, other: &Operation) -> bool {
    let slack = AT_ONCE_NS.min((one.end_ns - one.start_ns) / 2);
    one.end_ns <= other.start_ns.saturating_add(slack)
}

fn step(name: &str, ranks: Vec<Vec<Operation>>, places: &[(u32, usize, usize)]) -> Step {
    let starts = ranks.iter().flatten().map(|operation| operation.start_ns);
    let ends = ranks.iter().flatten().map(|operation| operation.end_ns);
    let measured_ns = ends.max().unwrap_or(0) - starts.min().unwrap_or(0);
    let mut step = link(name, measured_ns, ranks, places);
    for meeting in &step.meetings {
        // From the moment the last was there until the first was done.
        let operation = |(position, index): &(usize, usize)| &step.ranks[*position][*index];
        let last = meeting.members.iter().map(|m| operation(m).start_ns).max().unwrap_or(0);
        let done = meeting.members.iter().map(|m| operation(m).end_ns).min().unwrap_or(0);
        for (position, index) in &meeting.members {
            step.ranks[*position][*index].alone_ns = (done - last).max(0);
        }
    }
    step
}

/// Links the operations of ranks that meet: pairs of stages, replicas of a stage, stages of a
/// replica, everybody.
fn link(
    name: &str,
    measured_ns: i64,
    mut ranks: Vec<Vec<Operation>>,
    places: &[(u32, usize, usize)],
) -> Step {
    type Key = (u8, usize, usize, String, usize);
    let mut found: BTreeMap<Key, Vec<(usize, usize)>> = BTreeMap::new();
    for (position, operations) in ranks.iter().enumerate() {
        let (_, stage, replica) = places[position];
        for (index, operation) in operations.iter().enumerate() {
            let name = operation.name.clone();
            let key = match operation.with {
                With::Alone => continue,
                With::NextSend => (0, replica, stage, String::new(), operation.nth),
                With::PreviousReceive if stage > 0 => {
                    (0, replica, stage - 1, String::new(), operation.nth)
                }
                With::PreviousReceive => continue,
                With::PreviousSend => (1, replica, stage, String::new(), operation.nth),
                With::NextReceive => (1, replica, stage + 1, String::new(), operation.nth),
                With::Replicas => (2, 0, stage, name, operation.nth),
                With::Stages => (3, replica, 0, name, operation.nth),
                With::World => (4, 0, 0, name, operation.nth),
            };
            found.entry(key).or_default().push((position, index));
        }
    }
    let mut families: Vec<Family> = Vec::new();
    let mut known: BTreeMap<(u8, String, Vec<usize>), FamilyId> = BTreeMap::new();
    let mut meetings = Vec::new();
    for ((kind, _, _, _, _), members) in found {
        if members.len() < 2 {
            continue;
        }
        let positions: Vec<usize> = members.iter().map(|(position, _)| *position).collect();
        let (position, index) = members[0];
        let name = ranks[position][index].name.clone();
        let key = (kind, if kind < 2 { String::new() } else { name.clone() }, positions.clone());
        let family = *known.entry(key).or_insert_with(|| {
            let id = FamilyId(families.len() as u32);
            let dimension = match kind {
                0 | 1 => Dimension::Pipeline,
                4 => Dimension::World,
                _ => Dimension::Data,
            };
            let members = positions.iter().map(|position| *position as u32).collect();
            let name = format!("{name} of {} ranks", positions.len());
            families.push(Family { name, dimension, groups: Groups::new([members]) });
            id
        });
        for (position, index) in &members {
            ranks[*position][*index].meeting = Some(meetings.len());
        }
        meetings.push(Meeting { name, family, members });
    }
    Step { name: name.to_owned(), measured_ns, ranks, meetings, families }
}

impl Step {
    /// Whether transfers between stages were recorded.
    #[must_use]
    pub fn has_transfers(&self) -> bool {
        let transfers = |op: &Operation| matches!(op.with, With::NextSend | With::PreviousSend);
        self.ranks.iter().flatten().any(transfers)
    }

    /// When each pass ended: direction, replica, stage, number.
    fn passes(&self, places: &[(u32, usize, usize)]) -> BTreeMap<(bool, usize, usize, usize), i64> {
        let mut passes = BTreeMap::new();
        for (position, operations) in self.ranks.iter().enumerate() {
            let (_, stage, replica) = places[position];
            for operation in operations {
                let forward = match operation.name.as_str() {
                    FORWARD => true,
                    BACKWARD => false,
                    _ => continue,
                };
                passes.insert((forward, replica, stage, operation.nth), operation.end_ns);
            }
        }
        passes
    }
}

/// Direction and stage that a pass gets its input from.
fn source(operation: &Operation, stage: usize) -> Option<(bool, usize)> {
    match operation.name.as_str() {
        FORWARD => Some((true, stage.checked_sub(1)?)),
        BACKWARD => Some((false, stage + 1)),
        _ => None,
    }
}
