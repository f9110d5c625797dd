//! The critical path across ranks: what the end of the recording was waiting for, all the way back.
//!
//! The walk starts at the last device event of all ranks and goes back in time. A device event
//! began when the last of three things had happened: the event in front of it on its stream had
//! ended, its call had been made, or work on another stream that it waits for had ended. A matched
//! collective began when its last member arrived, and the walk goes on at that rank. On the host
//! the walk goes back to the last call that really waited for the device. Recordings rarely say
//! which event a stream waited for, so waits across streams are inferred: where a kernel starts
//! later than its stream and its call explain, it waited for the work that ended last before it.
//!
//! The steps of the path join without gaps: their lengths add up to the span.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Together;
use crate::trace::launches::is_blocking_call;
use crate::trace::model::{Kind, RankTrace};
use crate::trace::names::NameId;

/// What a stretch of the critical path consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathPart {
    /// A kernel that does not communicate.
    Compute,
    /// A collective after its last member arrived, or a transfer.
    Communication,
    /// A copy or fill.
    Memory,
    /// From a call to the start on the device.
    Launch,
    /// Host code between the last wait for the device and a call.
    Host,
    /// Between dependent device events.
    Gap,
}

impl PathPart {
    /// Every part, in the order of the type.
    pub const ALL: [Self; 6] =
        [Self::Compute, Self::Communication, Self::Memory, Self::Launch, Self::Host, Self::Gap];

    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Communication => "communication",
            Self::Memory => "memory",
            Self::Launch => "launch",
            Self::Host => "host",
            Self::Gap => "gap",
        }
    }
}

/// A stretch of the critical path; ns since the earliest rank began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathStep {
    /// Position of the rank in the trace.
    pub rank: usize,
    /// What it consists of.
    pub part: PathPart,
    /// Start.
    pub start_ns: i64,
    /// End.
    pub end_ns: i64,
    /// The event, where it is one.
    pub event: Option<usize>,
}

/// The critical path of a trace; ns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CriticalPath {
    /// From the first start to the last end of device work over all ranks.
    pub span_ns: i64,
    /// Length per part; the lengths add up to the span.
    pub parts: BTreeMap<PathPart, i64>,
    /// Length per rank.
    pub ranks: BTreeMap<u32, i64>,
    /// How often the path goes from one rank to another.
    pub hops: u64,
    /// Waits across streams that were inferred.
    pub inferred_waits: u64,
    /// What the path consists of by name, longest first: device events, launch calls, and the
    /// outermost operators and ranges of the host.
    pub top: Vec<PathEntry>,
    /// The path itself, from its beginning.
    #[serde(skip)]
    pub steps: Vec<PathStep>,
}

/// Everything of one name on the path; ns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathEntry {
    /// What it is.
    pub part: PathPart,
    /// Name of the device event, call, operator or range.
    pub name: String,
    /// Stretches.
    pub count: u64,
    /// Sum of their lengths.
    pub total_ns: i64,
}

/// How many names are listed.
const TOP: usize = 25;
/// A start later than this many usual launch delays is not explained by the launch.
const LATE: i64 = 2;
/// The usual launch delay is looked for up to here, ns: longer ones are time in a queue.
const LONGEST_USUAL_DELAY: i64 = 20_000;
/// A queued kernel that starts later than this after its stream is free waits for something else,
/// ns. Back-to-back kernels are one or two microseconds apart.
const LONGEST_KERNEL_GAP: i64 = 5_000;

pub(super) fn critical_path(together: &Together<'_>) -> Option<CriticalPath> {
    let (first, last) = together.span()?;
    let mut walk = Walk::new(together, first);
    let (rank, index) = walk.last_event()?;
    walk.run(rank, index, last);
    let Walk { mut steps, inferred, .. } = walk;
    steps.reverse();
    let mut path =
        CriticalPath { span_ns: last - first, inferred_waits: inferred, ..CriticalPath::default() };
    for part in PathPart::ALL {
        path.parts.insert(part, 0);
    }
    let mut names: BTreeMap<(PathPart, &str), (u64, i64)> = BTreeMap::new();
    let mut previous = None;
    let mut hosts: Vec<Option<HostWork>> = vec![None; together.ranks.len()];
    for step in &steps {
        let length = step.end_ns - step.start_ns;
        if step.part == PathPart::Host {
            let work =
                hosts[step.rank].get_or_insert_with(|| HostWork::of(&together.ranks[step.rank]));
            let shift = together.at(step.rank, 0);
            for (name, ns) in work.between(step.start_ns - shift, step.end_ns - shift) {
                let name = match name {
                    Some(name) => together.ranks[step.rank].names.get(name),
                    None => BETWEEN_OPERATORS,
                };
                let entry = names.entry((PathPart::Host, name)).or_default();
                entry.0 += 1;
                entry.1 += ns;
            }
        }
        *path.parts.entry(step.part).or_default() += length;
        *path.ranks.entry(together.ranks[step.rank].header.rank).or_default() += length;
        path.hops += u64::from(previous.is_some_and(|rank| rank != step.rank));
        previous = Some(step.rank);
        if let Some(index) = step.event {
            let trace = &together.ranks[step.rank];
            let entry = names.entry((step.part, trace.name(&trace.events[index]))).or_default();
            entry.0 += 1;
            entry.1 += length;
        }
    }
    path.top = names
        .into_iter()
        .map(|((part, name), (count, total_ns))| PathEntry {
            part,
            name: name.to_owned(),
            count,
            total_ns,
        })
        .collect();
    path.top.sort_by(|a, b| b.total_ns.cmp(&a.total_ns).then_with(|| a.name.cmp(&b.name)));
    path.top.truncate(TOP);
    path.steps = steps;
    Some(path)
}

/// Host time of the path in which no operator or range was recorded.
const BETWEEN_OPERATORS: &str = "(host code outside operators and ranges)";

/// What the host of a rank was doing: the outermost operators and ranges of its threads.
#[derive(Clone)]
struct HostWork {
    /// Start, end and name, by start; none begins before the one in front of it has ended.
    pieces: Vec<(i64, i64, NameId)>,
}

impl HostWork {
    /// Operators and ranges in which no other is open on the same thread (steps aside, which hold
    /// everything). Where threads overlap, what began first is kept: the other thread's work ran
    /// inside it or beside it.
    fn of(trace: &RankTrace) -> Self {
        let mut pieces: Vec<(i64, i64, NameId)> = Vec::new();
        for event in &trace.events {
            let is_step = trace.name(event).starts_with("ProfilerStep#");
            if !matches!(event.kind, Kind::Op | Kind::Annotation) || is_step {
                continue;
            }
            let done = pieces.last().map_or(i64::MIN, |piece| piece.1);
            if event.end_ns() > done && event.dur_ns > 0 {
                pieces.push((event.start_ns.max(done), event.end_ns(), event.name));
            }
        }
        Self { pieces }
    }

    /// What was going on inside `[start, end)`, and for how long; the lengths add up to it.
    fn between(&self, start: i64, end: i64) -> Vec<(Option<NameId>, i64)> {
        let mut found = Vec::new();
        let mut covered = 0;
        let first = self.pieces.partition_point(|piece| piece.1 <= start);
        for (from, to, name) in &self.pieces[first..] {
            if *from >= end {
                break;
            }
            let length = (*to).min(end) - (*from).max(start);
            covered += length;
            found.push((Some(*name), length));
        }
        if covered < end - start {
            found.push((None, end - start - covered));
        }
        found
    }
}

/// What the walk needs to know of one rank.
struct RankIndex {
    /// Device events by end, then position.
    by_end: Vec<(i64, usize)>,
    /// For device events, the one in front on the same stream.
    before: BTreeMap<usize, usize>,
    /// Calls that wait for the device, by end.
    blocking: Vec<(i64, usize)>,
    /// Usual time from a call to the start on the device.
    usual_delay: i64,
}

struct Walk<'t, 'a> {
    together: &'t Together<'a>,
    ranks: Vec<RankIndex>,
    /// Collective of a kernel, and its last member to arrive.
    last_arrival: BTreeMap<(usize, usize), (usize, usize)>,
    origin: i64,
    at: i64,
    steps: Vec<PathStep>,
    inferred: u64,
}

impl<'t, 'a> Walk<'t, 'a> {
    fn new(together: &'t Together<'a>, origin: i64) -> Self {
        let ranks = (0..together.ranks.len()).map(|rank| index(together, rank)).collect();
        let mut last_arrival = BTreeMap::new();
        for matched in together.matching.meetings() {
            let last = matched.members.iter().max_by_key(|(r, i)| (together.start(*r, *i), *r));
            let Some(&last) = last else { continue };
            for &member in &matched.members {
                last_arrival.insert(member, last);
            }
        }
        Self { together, ranks, last_arrival, origin, at: 0, steps: Vec::new(), inferred: 0 }
    }

    fn last_event(&self) -> Option<(usize, usize)> {
        let last_of = |(rank, index): (usize, &RankIndex)| {
            index.by_end.last().map(|(end, event)| (*end, std::cmp::Reverse(rank), *event))
        };
        let (_, rank, event) = self.ranks.iter().enumerate().filter_map(last_of).max()?;
        Some((rank.0, event))
    }

    /// Adds the stretch from `from` to where the walk is, and goes there.
    fn step(&mut self, rank: usize, part: PathPart, from: i64, event: Option<usize>) {
        let from = from.clamp(self.origin, self.at.max(self.origin));
        if from < self.at {
            self.steps.push(PathStep { rank, part, start_ns: from, end_ns: self.at, event });
            self.at = from;
        }
    }

    fn run(&mut self, rank: usize, index: usize, last: i64) {
        self.at = last;
        let total: usize = self.together.ranks.iter().map(|rank| rank.events.len()).sum();
        let mut here = Some((rank, index));
        let mut end_rank = rank;
        // Every turn goes back in time or to an earlier event; the bound is for clocks that lie.
        for _ in 0..total.saturating_mul(2) + 16 {
            let Some((rank, index)) = here else { break };
            if self.at <= self.origin {
                break;
            }
            here = self.device(rank, index);
            end_rank = here.map_or(rank, |(rank, _)| rank);
        }
        // In front of the first thing that is known, the host was preparing.
        self.step(end_rank, PathPart::Host, self.origin, None);
    }

    /// Goes over a device event, and gives the one that the walk goes on at.
    fn device(&mut self, rank: usize, index: usize) -> Option<(usize, usize)> {
        let together = self.together;
        let event = together.event(rank, index);
        let start = together.start(rank, index);
        let part = match event.kind {
            Kind::Kernel if event.communicates => PathPart::Communication,
            Kind::Kernel => PathPart::Compute,
            _ => PathPart::Memory,
        };
        if let Some(&(other, other_index)) = self.last_arrival.get(&(rank, index)) {
            let arrival = together.start(other, other_index);
            if other != rank && arrival < self.at && arrival > start {
                self.step(rank, part, arrival, Some(index));
                return Some((other, other_index));
            }
        }
        self.step(rank, part, start, Some(index));
        self.before(rank, index)
    }

    /// What the start of a device event was waiting for.
    fn before(&mut self, rank: usize, index: usize) -> Option<(usize, usize)> {
        let together = self.together;
        let known = &self.ranks[rank];
        let start = together.start(rank, index);
        let stream = known.before.get(&index).copied();
        let stream_end = stream.map_or(i64::MIN, |event| together.end(rank, event).min(start));
        let call = together.launches[rank].call(index);
        let call_start = call.map_or(i64::MIN, |call| together.start(rank, call).min(start));
        let place = known.by_end.partition_point(|known| *known < (start, index));
        let latest = place.checked_sub(1).map(|place| known.by_end[place]);
        let explained = stream_end.max(call_start);
        let allowed =
            if stream_end >= call_start { LONGEST_KERNEL_GAP } else { LATE * known.usual_delay };
        if let Some((end, event)) = latest {
            // Work on another stream ended later than everything that is known to hold it back.
            let late = explained == i64::MIN || start - explained > allowed;
            if end > explained && late && Some(event) != stream {
                self.inferred += 1;
                self.step(rank, PathPart::Gap, end, None);
                return Some((rank, event));
            }
        }
        if let (Some(event), true) = (stream, stream_end >= call_start) {
            self.step(rank, PathPart::Gap, stream_end, None);
            return Some((rank, event));
        }
        match call {
            Some(call) => {
                self.step(rank, PathPart::Launch, call_start, Some(call));
                self.host(rank)
            }
            None => None,
        }
    }

    /// Goes back on the host to the last call that waited for the device.
    fn host(&mut self, rank: usize) -> Option<(usize, usize)> {
        let together = self.together;
        let mut place = self.ranks[rank].blocking.partition_point(|(end, _)| *end <= self.at);
        while place > 0 && self.at > self.origin {
            place -= 1;
            let known = &self.ranks[rank];
            let (call_end, call) = known.blocking[place];
            let call_start = together.start(rank, call);
            let until = known.by_end.partition_point(|(end, _)| *end <= call_end);
            let last = until.checked_sub(1).map(|last| known.by_end[last]);
            match last {
                Some((end, event)) if end > call_start && end <= self.at => {
                    self.step(rank, PathPart::Host, end, None);
                    return Some((rank, event));
                }
                // It returned at once: the device was idle already.
                _ => {}
            }
        }
        None
    }
}

fn index(together: &Together<'_>, rank: usize) -> RankIndex {
    let trace = &together.ranks[rank];
    let launches = &together.launches[rank];
    let mut by_end = Vec::new();
    let mut before = BTreeMap::new();
    let mut last_on: BTreeMap<(i32, i64), usize> = BTreeMap::new();
    let mut blocking = Vec::new();
    let mut delays = Vec::new();
    let blocks: Vec<bool> = trace.names.iter().map(is_blocking_call).collect();
    for (index, event) in trace.events.iter().enumerate() {
        if event.kind.is_device() {
            by_end.push((together.end(rank, index), index));
            if let Some(previous) = last_on.insert((event.device, event.lane), index) {
                before.insert(index, previous);
            }
            if let Some(call) = launches.call(index) {
                let delay = event.start_ns - trace.events[call].start_ns;
                if delay >= 0 {
                    delays.push(delay);
                }
            }
        } else if event.kind.is_call() && blocks[event.name.index()] {
            blocking.push((together.end(rank, index), index));
        }
    }
    by_end.sort_unstable();
    blocking.sort_unstable();
    delays.sort_unstable();
    // Most launches wait in a queue; the fast ones show what a launch itself takes.
    let usual_delay = delays.get(delays.len() / 10).copied().unwrap_or(0);
    let usual_delay = usual_delay.clamp(1000, LONGEST_USUAL_DELAY);
    RankIndex { by_end, before, blocking, usual_delay }
}
