//! From recorded ranks to a [`Program`]: what ran, in which order, and what waited for what.
//!
//! Every recorded rank becomes a template. Its device streams are lanes; its host threads are one
//! host lane on which the time between two launches is host work. A kernel may start when the
//! kernel before it on its stream is done, when the host has launched it, and when the work of
//! other streams that it waited for is done:
//!
//! * **Launch**: the runtime call with the kernel's correlation. A graph has one launch and many
//!   kernels.
//! * **Waits between streams**: a synchronisation record says which event of which stream was
//!   waited for. Without one, a kernel that was launched after a stream-wait call, and started
//!   later than its stream and its launch explain, depends on the latest work of other streams
//!   that ended in between; such edges are counted as inferred.
//! * **A full device**: a kernel that started within microseconds of the end of another stream's
//!   work, and long after it could have, found no free compute units before; also inferred.
//! * **Host waits**: a blocking call that ended after device work it had to wait for becomes a
//!   host wait on that work; only what it took beyond that is host time.
//! * **Collectives** that were found on all recorded members of their group become meetings. Their
//!   duration is the shortest that any member recorded, which is the transfer; the rest was waiting
//!   and is derived again. On a rank that stands alone the two cannot be told apart, and the kernel
//!   keeps its recorded duration.
//!
//! Two constants are measured on the trace itself: the shortest launch (from call to kernel), and
//! the dispatch gap, the typical distance of two kernels of a stream of which the second had been
//! launched long before.
//!
//! Gaps that none of this explains are not copied. A replay that ends early shows how much they
//! were.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::program::{
    Action, Collective, CollectiveCall, Dimension, Family, FamilyId, Groups, HostWork, Kernel,
    KernelClass, KernelId, LaneId, LaneKind, Op, OpId, Phase, Program, TemplateBuilder, TemplateId,
    Work,
};
use crate::units::Nanos;

use super::align::{common_ns, match_collectives};
use super::collectives::CommOp;
use super::launches::{Launches, is_blocking_call};
use super::model::{Event, Kind, LONGEST_RECORDING_NS, RankTrace, SyncDetail};

/// Device events that are looked through for what a wait was for. Work further back has ended.
const LOOK_BACK: usize = 4096;
/// No launch takes longer than this on an idle device; where all do, host and device clocks differ.
const LONGEST_LAUNCH_NS: i64 = 100_000;
/// A blocked call returns within this time of the end of the work it waited for.
const RETURN_NS: i64 = 100_000;
/// An asynchronous copy that took the host this long waited for the device.
const BLOCKED_COPY_NS: i64 = 50_000;
/// A kernel that starts this much later than its stream and launch explain waited for something.
const BUSY_NS: i64 = 20_000;
/// A kernel that starts within this time of the end of other work (before it, as the last blocks
/// drain, or after it) was waiting for it.
const AT_ONCE_NS: i64 = 10_000;
/// Device streams that a template can have; lanes are numbered in a byte.
const MAX_STREAMS: usize = 200;

/// A program made of recorded ranks, and what links it to them.
#[derive(Clone, Debug)]
pub struct RecordedProgram {
    /// The program; rank `i` is the `i`-th recorded rank and has template `i`.
    pub program: Program,
    /// Shortest time from a launch call to its kernel, over all ranks.
    pub launch_latency: Nanos,
    /// Typical distance of kernels of a stream where the later one was already launched.
    pub dispatch_gap: Nanos,
    /// For every template: which operation is which recorded device event.
    pub events: Vec<Vec<(OpId, usize)>>,
    /// What was derived and what was not.
    pub notes: Notes,
}

/// How the edges of a recorded program came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Notes {
    /// Device events with a launch call.
    pub launched: u64,
    /// Device events without one: they follow their stream alone.
    pub orphans: u64,
    /// Waits between streams that a record names.
    pub recorded_waits: u64,
    /// Waits between streams that were inferred.
    pub inferred_waits: u64,
    /// Kernels that started the moment work of another stream ended, long after they could have:
    /// the device was full.
    pub inferred_busy: u64,
    /// Host waits on device work.
    pub host_waits: u64,
    /// Time in blocking calls that ended with no recorded device work; not replayed, ns.
    pub blocked_unexplained_ns: i64,
    /// Collectives replayed as meetings.
    pub meetings: u64,
    /// Communication kernels replayed with their recorded duration, waiting included.
    pub unmatched_collectives: u64,
    /// Time by which kernels of one stream overlapped and were cut, ns.
    pub clipped_ns: i64,
}

/// Device and stream.
type Stream = (i32, i64);

/// Builds the program of ranks that ran together.
///
/// # Errors
/// There is no device work, or a rank has more streams than lanes exist.
pub fn recorded_program(ranks: &[RankTrace]) -> Result<RecordedProgram> {
    if !ranks.iter().any(|rank| rank.events.iter().any(|e| e.kind.is_device())) {
        return Err(Error::Missing("the trace has no device work to replay".into()));
    }
    let mut program = Program::default();
    let mut notes = Notes::default();

    // Meetings: one family per set of members and operation, so that the order within a family is
    // the order in which each member recorded them.
    let matching = match_collectives(ranks);
    let mut meeting_of: BTreeMap<(usize, usize), (FamilyId, crate::program::CallId)> =
        BTreeMap::new();
    let mut families: BTreeMap<(Vec<usize>, CommOp, String), FamilyId> = BTreeMap::new();
    for matched in &matching.matched {
        if !matched.op.ends_together() {
            continue;
        }
        let members: Vec<usize> = matched.members.iter().map(|(rank, _)| *rank).collect();
        // Two process groups may have the same members; they run on streams of their own.
        let (rank, event) = matched.members[0];
        let group = ranks[rank].collective(&ranks[rank].events[event]);
        let group = group.map_or(String::new(), |c| ranks[rank].names.get(c.group).to_owned());
        let key = (members.clone(), matched.op, group);
        let family = *families.entry(key).or_insert_with(|| {
            let id = FamilyId(program.families.len() as u32);
            program.families.push(Family {
                name: format!("{} of {} ranks", matched.op.name(), members.len()),
                dimension: Dimension::Data,
                groups: Groups::new([members.iter().map(|r| *r as u32).collect()]),
            });
            id
        });
        let shortest = matched
            .members
            .iter()
            .map(|(rank, event)| ranks[*rank].events[*event].dur_ns)
            .min()
            .unwrap_or(0);
        let call = crate::program::CallId(program.calls.len() as u32);
        program.calls.push(CollectiveCall {
            name: matched.op.name().to_owned(),
            collective: pattern(matched.op),
            bytes: 0,
            messages: 1,
            fanout: None,
            recorded: Some(Nanos(shortest)),
        });
        for (rank, event) in &matched.members {
            meeting_of.insert((*rank, *event), (family, call));
        }
        notes.meetings += 1;
    }

    let launches: Vec<Launches> = ranks.iter().map(Launches::of).collect();
    let launch_latency = shortest_launch(ranks, &launches);
    let dispatch_gap = dispatch_gap(ranks, &launches, launch_latency);
    let mut kernels = KernelTable::default();
    let mut events = Vec::with_capacity(ranks.len());
    // Ranks start at different times; the difference is an initial condition, not a gap.
    let ahead: Vec<i64> =
        ranks.iter().zip(&launches).map(|(rank, l)| device_clock_ahead(rank, l)).collect();
    let begins: Vec<Option<i64>> = ranks
        .iter()
        .enumerate()
        .map(|(i, rank)| host_begin(rank, &launches[i], ahead[i]).map(|at| common_ns(rank, at)))
        .collect();
    let origin = begins.iter().flatten().copied().min().unwrap_or(0);
    for (index, rank) in ranks.iter().enumerate() {
        let offset = begins[index].map_or(0, |begin| begin.saturating_sub(origin));
        if offset > LONGEST_RECORDING_NS {
            return Err(Error::Unsupported(format!(
                "rank {} was recorded days apart from the others",
                rank.header.rank
            )));
        }
        let mut builder = RankBuilder {
            rank,
            launches: &launches[index],
            launch_latency: launch_latency.0,
            dispatch_gap: dispatch_gap.0,
            ahead: ahead[index],
            notes: &mut notes,
            kernels: &mut kernels,
        };
        let meeting = |event: usize| meeting_of.get(&(index, event)).copied();
        let (template, map) = builder.build(offset, &meeting)?;
        program.templates.push(template);
        program.template_of_rank.push(TemplateId(index as u32));
        events.push(map);
    }
    program.kernels = kernels.kernels;
    program.check()?;
    Ok(RecordedProgram { program, launch_latency, dispatch_gap, events, notes })
}

fn pattern(op: CommOp) -> Collective {
    match op {
        CommOp::AllGather | CommOp::Gather => Collective::AllGather,
        CommOp::ReduceScatter | CommOp::Scatter => Collective::ReduceScatter,
        CommOp::AllToAll => Collective::AllToAll,
        CommOp::Broadcast => Collective::Broadcast,
        CommOp::SendRecv => Collective::SendRecv,
        _ => Collective::AllReduce,
    }
}

/// Where a rank's program begins, on its device clock: its first launch, blocking call or device
/// event, whichever is earliest.
fn host_begin(rank: &RankTrace, launches: &Launches, ahead: i64) -> Option<i64> {
    let times = rank.events.iter().enumerate().filter_map(|(i, event)| {
        if event.kind.is_device() {
            let launch = launches.call(i).map(|call| rank.events[call].start_ns + ahead);
            return Some(launch.map_or(event.start_ns, |at| at.min(event.start_ns)));
        }
        let blocks = event.kind.is_call() && is_blocking_call(rank.name(event));
        blocks.then_some(event.start_ns + ahead)
    });
    times.min()
}

/// Shortest time from a launch call's start to its kernel's start.
fn shortest_launch(ranks: &[RankTrace], launches: &[Launches]) -> Nanos {
    let shortest = ranks
        .iter()
        .zip(launches)
        .filter_map(|(r, l)| Some(shortest_launch_of(r, l)? - device_clock_ahead(r, l)))
        .min();
    Nanos(shortest.unwrap_or(0).clamp(0, LONGEST_LAUNCH_NS))
}

/// Shortest time from a launch call's start to its kernel's start on one rank, as recorded.
fn shortest_launch_of(rank: &RankTrace, launches: &Launches) -> Option<i64> {
    let device = rank.events.iter().enumerate().filter(|(_, e)| e.kind.is_device());
    device
        .filter_map(|(i, event)| Some(event.start_ns - rank.events[launches.call(i)?].start_ns))
        .min()
}

/// By how much a rank's device clock is ahead of its host clock: what the shortest launch takes
/// beyond any believable time, or, where kernels start before their launch, by how much at most.
fn device_clock_ahead(rank: &RankTrace, launches: &Launches) -> i64 {
    match shortest_launch_of(rank, launches) {
        Some(shortest) if shortest > LONGEST_LAUNCH_NS => shortest - LONGEST_LAUNCH_NS,
        Some(shortest) if shortest < 0 => shortest,
        _ => 0,
    }
}

/// Pairs of kernels that a typical dispatch gap needs at least.
const ENOUGH_PAIRS: usize = 16;

/// Typical distance between kernels of a stream where the later had been launched, with time to
/// spare for the launch, before the earlier ended. Zero where there are too few such pairs.
fn dispatch_gap(ranks: &[RankTrace], launches: &[Launches], latency: Nanos) -> Nanos {
    let mut gaps = Vec::new();
    for (rank, launches) in ranks.iter().zip(launches) {
        let mut before: BTreeMap<Stream, i64> = BTreeMap::new();
        for (i, event) in rank.events.iter().enumerate() {
            if !event.kind.is_device() {
                continue;
            }
            let stream = (event.device, event.lane);
            if let (Some(end), Some(call)) =
                (before.insert(stream, event.end_ns()), launches.call(i))
                && rank.events[call].start_ns + 2 * latency.0 < end
                && event.start_ns >= end
            {
                gaps.push(event.start_ns - end);
            }
        }
    }
    if gaps.len() < ENOUGH_PAIRS {
        return Nanos::ZERO;
    }
    // The mean of the lower nine tenths: a median of whole microseconds, as old profilers wrote
    // them, would be off by up to one.
    gaps.sort_unstable();
    gaps.truncate(gaps.len() * 9 / 10);
    Nanos(gaps.iter().sum::<i64>() / gaps.len() as i64)
}

/// Distinct kernels by name and duration.
#[derive(Default)]
struct KernelTable {
    kernels: Vec<Kernel>,
    index: BTreeMap<(String, i64), KernelId>,
}

impl KernelTable {
    fn id(&mut self, name: &str, ns: i64, class: KernelClass) -> KernelId {
        if let Some(id) = self.index.get(&(name.to_owned(), ns)) {
            return *id;
        }
        let id = KernelId(self.kernels.len() as u32);
        self.kernels.push(Kernel { name: name.to_owned(), class, work: Work::Recorded { ns } });
        self.index.insert((name.to_owned(), ns), id);
        id
    }
}

/// A point on the host's or the device's list, in the order in which the host came to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    /// A stream-wait call.
    StreamWait,
    /// A synchronisation record.
    Record(usize),
    /// A device event with the call that launched it, or without.
    Device(usize, Option<usize>),
    /// A blocking call.
    Blocking(usize),
}

/// What recorded waits between streams were for.
struct RecordedWaits {
    /// Start of the call with a correlation.
    call_start: BTreeMap<i64, i64>,
    /// By stream: latest launch so far and device event, in device order.
    launched: BTreeMap<Stream, Vec<(i64, usize)>>,
}

impl RecordedWaits {
    fn of(rank: &RankTrace, launches: &Launches) -> Self {
        let mut this = Self { call_start: BTreeMap::new(), launched: BTreeMap::new() };
        for (i, event) in rank.events.iter().enumerate() {
            if let (true, Some(id)) = (event.kind.is_call(), event.correlation()) {
                this.call_start.entry(id).or_insert(event.start_ns);
            }
            if event.kind.is_device()
                && let Some(call) = launches.call(i)
            {
                let list = this.launched.entry((event.device, event.lane)).or_default();
                let before = list.last().map_or(i64::MIN, |(at, _)| *at);
                list.push((before.max(rank.events[call].start_ns), i));
            }
        }
        this
    }

    /// The latest work of the stream that a wait names, launched before its event was recorded.
    fn awaited(&self, device: i32, detail: &SyncDetail) -> Option<usize> {
        let recorded_at = self.call_start.get(&detail.wait_correlation)?;
        let list = self.launched.get(&(device, detail.wait_stream))?;
        let end = list.partition_point(|(at, _)| at < recorded_at);
        Some(list[end.checked_sub(1)?].1)
    }
}

/// Which host threads launch when.
struct LaunchThreads {
    /// Start of a launch and its thread, ascending.
    launches: Vec<(i64, i64)>,
}

impl LaunchThreads {
    fn of(rank: &RankTrace, launches: &Launches) -> Self {
        let mut list: Vec<(i64, i64)> = (0..rank.events.len())
            .filter(|i| rank.events[*i].kind.is_device())
            .filter_map(|i| launches.call(i))
            .map(|call| (rank.events[call].start_ns, rank.events[call].lane))
            .collect();
        list.sort_unstable();
        Self { launches: list }
    }

    /// Whether a thread other than a call's launches while the call lasts.
    fn others_launch_during(&self, call: &Event) -> bool {
        let from = self.launches.partition_point(|(at, _)| *at <= call.start_ns);
        self.launches[from..]
            .iter()
            .take_while(|(at, _)| *at < call.end_ns())
            .any(|(_, thread)| *thread != call.lane)
    }
}

struct RankBuilder<'a> {
    rank: &'a RankTrace,
    launches: &'a Launches,
    launch_latency: i64,
    dispatch_gap: i64,
    /// Added to host times to put them on the device's clock.
    ahead: i64,
    notes: &'a mut Notes,
    kernels: &'a mut KernelTable,
}

impl RankBuilder<'_> {
    fn build(
        &mut self,
        offset: i64,
        meeting: &dyn Fn(usize) -> Option<(FamilyId, crate::program::CallId)>,
    ) -> Result<(crate::program::Template, Vec<(OpId, usize)>)> {
        let rank = self.rank;
        let durations = self.clipped_durations();
        // Lanes are numbered by stream, so that ranks with the same streams have the same lanes.
        let mut copies_only: BTreeMap<Stream, bool> = BTreeMap::new();
        for event in rank.events.iter().filter(|e| e.kind.is_device()) {
            *copies_only.entry((event.device, event.lane)).or_insert(true) &=
                event.kind.is_memory();
        }
        if copies_only.len() > MAX_STREAMS {
            return Err(Error::Unsupported(format!(
                "rank {} has more than {MAX_STREAMS} device streams",
                rank.header.rank
            )));
        }
        let mut streams: BTreeMap<Stream, LaneId> = BTreeMap::new();
        let mut lanes = vec![("host".to_owned(), LaneKind::Host)];
        for (stream, copies) in copies_only {
            streams.insert(stream, LaneId(lanes.len() as u8));
            let kind = if copies { LaneKind::Copy } else { LaneKind::Compute };
            lanes.push((format!("device {} stream {}", stream.0, stream.1), kind));
        }
        let recorded = RecordedWaits::of(rank, self.launches);
        let threads = LaunchThreads::of(rank, self.launches);
        let points = self.points();
        let mut ops = TemplateBuilder::new(format!("rank {}", rank.header.rank), lanes);
        let mut op_of: BTreeMap<usize, OpId> = BTreeMap::new();
        let mut map = Vec::new();
        // Where the host's clock stands, as recorded; host work is the time since.
        let mut host_at = host_begin(rank, self.launches, self.ahead).unwrap_or(0);
        // Stream-wait calls so far, and how many there were at the latest work of each stream.
        let mut waits = 0_u64;
        let mut waits_at: BTreeMap<Stream, u64> = BTreeMap::new();
        let mut stream_end: BTreeMap<Stream, i64> = BTreeMap::new();
        let mut recorded_waits: BTreeMap<Stream, Vec<usize>> = BTreeMap::new();
        let host = |ops: &mut TemplateBuilder, action: Action, deps: &[OpId]| {
            let micro_batch = Op::NO_MICRO_BATCH;
            ops.push(Op { action, lane: LaneId(0), phase: Phase::Other, micro_batch }, deps)
        };
        let work = |ops: &mut TemplateBuilder, ns: i64| {
            if ns > 0 {
                host(ops, Action::HostWork(HostWork::Recorded(Nanos(ns))), &[]);
            }
        };
        work(&mut ops, offset);
        // The device may still have been at work that is not recorded when the first recorded work
        // was launched: an initial condition, not a gap.
        let first = points.iter().filter_map(|(_, point)| match point {
            Point::Device(event, call) => Some((rank.events[*event].start_ns, *event, *call)),
            _ => None,
        });
        let first = first.min();
        for (_, point) in points {
            match point {
                Point::StreamWait => waits += 1,
                Point::Record(event) => {
                    let this = rank.events[event];
                    // Records of host-side waits have no stream.
                    if let Some(detail) = rank.sync(&this)
                        && this.lane >= 0
                        && let Some(source) = recorded.awaited(this.device, detail)
                    {
                        recorded_waits.entry((this.device, this.lane)).or_default().push(source);
                    }
                }
                Point::Blocking(call) => {
                    let at = self.host_start(call);
                    work(&mut ops, at - host_at);
                    host_at = host_at.max(at);
                    let blocked = rank.events[call];
                    if threads.others_launch_during(&blocked) {
                        // Another thread goes on launching: the program's one host does not wait.
                        continue;
                    }
                    if let Some(awaited) = self.ended_during(call, &op_of) {
                        host(&mut ops, Action::HostWait, &[op_of[&awaited]]);
                        host_at = host_at.max(rank.events[awaited].end_ns());
                        self.notes.host_waits += 1;
                    } else if is_blocking_call(rank.name(&blocked))
                        && blocked.dur_ns > BLOCKED_COPY_NS
                    {
                        // Waited for something that is not recorded: a gap, not host work.
                        host_at = host_at.max(blocked.end_ns() + self.ahead);
                        self.notes.blocked_unexplained_ns += blocked.dur_ns;
                    }
                }
                Point::Device(event, call) => {
                    if let Some(call) = call {
                        let at = self.host_start(call);
                        work(&mut ops, at - host_at);
                        host_at = host_at.max(at);
                        self.notes.launched += 1;
                    } else {
                        self.notes.orphans += 1;
                    }
                    let this = rank.events[event];
                    let mut deps = Vec::new();
                    for source in
                        recorded_waits.remove(&(this.device, this.lane)).unwrap_or_default()
                    {
                        if let Some(op) = op_of.get(&source) {
                            deps.push(*op);
                            self.notes.recorded_waits += 1;
                        }
                    }
                    let stream = (this.device, this.lane);
                    let launched = call.map_or(i64::MIN, |call| self.host_start(call));
                    let explained = stream_end
                        .insert(stream, this.end_ns())
                        .unwrap_or(i64::MIN)
                        .max(launched.saturating_add(self.launch_latency));
                    let may_wait = waits_at.insert(stream, waits).unwrap_or(0) < waits;
                    if deps.is_empty() {
                        let late = this.start_ns.saturating_sub(explained) > BUSY_NS;
                        if may_wait
                            && let Some(source) = self.ended_between(event, explained, 0, &op_of)
                        {
                            deps.push(op_of[&source]);
                            self.notes.inferred_waits += 1;
                        } else if late
                            && let Some(source) =
                                self.ended_between(event, explained, AT_ONCE_NS, &op_of)
                            && this.start_ns - rank.events[source].end_ns() < AT_ONCE_NS
                        {
                            deps.push(op_of[&source]);
                            self.notes.inferred_busy += 1;
                        }
                    }
                    let action = match meeting(event) {
                        Some((family, call)) => Action::Meet { family, call },
                        None => {
                            let class = if this.communicates {
                                self.notes.unmatched_collectives += 1;
                                KernelClass::Other
                            } else {
                                KernelClass::Gemm
                            };
                            let name = rank.name(&this);
                            Action::Kernel(self.kernels.id(name, durations[&event], class))
                        }
                    };
                    let lane = streams[&(this.device, this.lane)];
                    if let Some((start, _, Some(call))) = first.filter(|(_, e, _)| *e == event) {
                        let busy =
                            start - self.host_start(call) - self.launch_latency - self.dispatch_gap;
                        if busy > 0 {
                            let name = "work before the recording";
                            let kernel = self.kernels.id(name, busy, KernelClass::Other);
                            let action = Action::Kernel(kernel);
                            let (phase, micro_batch) = (Phase::Other, Op::NO_MICRO_BATCH);
                            ops.push(Op { action, lane, phase, micro_batch }, &[]);
                        }
                    }
                    let op =
                        Op { action, lane, phase: Phase::Other, micro_batch: Op::NO_MICRO_BATCH };
                    let id = ops.push(op, &deps);
                    op_of.insert(event, id);
                    map.push((id, event));
                }
            }
        }
        Ok((ops.finish(), map))
    }

    /// Start of a host event on the device's clock.
    fn host_start(&self, event: usize) -> i64 {
        self.rank.events[event].start_ns + self.ahead
    }

    /// Everything the program is made of, in the order in which the host came to it.
    fn points(&self) -> Vec<((i64, i64, usize), Point)> {
        let rank = self.rank;
        let mut points: Vec<((i64, i64, usize), Point)> = Vec::new();
        // Device work of a stream keeps the order in which it ran; its place in the host's order
        // is its launch, but never before what ran earlier on the stream.
        let mut latest: BTreeMap<Stream, i64> = BTreeMap::new();
        for (i, event) in rank.events.iter().enumerate() {
            if event.kind.is_device() {
                let call = self.launches.call(i);
                let at = call.map_or(i64::MIN, |call| rank.events[call].start_ns);
                let floor = latest.entry((event.device, event.lane)).or_insert(i64::MIN);
                *floor = (*floor).max(at);
                points.push(((*floor, event.start_ns, i), Point::Device(i, call)));
            } else if event.kind == Kind::Sync {
                points.push(((event.start_ns, i64::MIN, i), Point::Record(i)));
            } else if event.kind.is_call() {
                let name = rank.name(event);
                if name.contains("StreamWaitEvent") {
                    points.push(((event.start_ns, i64::MIN, i), Point::StreamWait));
                } else if is_blocking_call(name) || name.contains("Memcpy") {
                    // An asynchronous copy to pageable memory blocks, too: after the launch of the
                    // copy itself, which has the same start.
                    points.push(((event.start_ns, i64::MAX, i), Point::Blocking(i)));
                }
            }
        }
        points.sort_unstable();
        points
    }

    /// Duration of each device event, cut where the next of the same stream began before its end.
    fn clipped_durations(&mut self) -> BTreeMap<usize, i64> {
        let mut durations = BTreeMap::new();
        let mut before: BTreeMap<Stream, usize> = BTreeMap::new();
        for (i, event) in self.rank.events.iter().enumerate() {
            if !event.kind.is_device() {
                continue;
            }
            if let Some(previous) = before.insert((event.device, event.lane), i) {
                let over = self.rank.events[previous].end_ns() - event.start_ns;
                if over > 0 {
                    self.notes.clipped_ns += over;
                    if let Some(duration) = durations.get_mut(&previous) {
                        *duration -= over;
                    }
                }
            }
            durations.insert(i, event.dur_ns);
        }
        durations
    }

    /// The latest-ending device work, already in the program, that ended while a call was blocked.
    fn ended_during(&self, call: usize, known: &BTreeMap<usize, OpId>) -> Option<usize> {
        let mut call = self.rank.events[call];
        call.start_ns += self.ahead;
        // An asynchronous copy blocks only where its host memory is not pinned, and then for long.
        if !is_blocking_call(self.rank.name(&call)) && call.dur_ns < BLOCKED_COPY_NS {
            return None;
        }
        // A blocked call returns soon after what it waited for.
        known
            .keys()
            .rev()
            .take(LOOK_BACK)
            .copied()
            .filter(|i| {
                let end = self.rank.events[*i].end_ns();
                end > call.start_ns && end <= call.end_ns() && call.end_ns() - end < RETURN_NS
            })
            .max_by_key(|i| (self.rank.events[*i].end_ns(), *i))
    }

    /// The latest-ending work of other streams that ended after `explained`, the time at which
    /// an event could have started, and before it did start.
    fn ended_between(
        &self,
        event: usize,
        explained: i64,
        slack: i64,
        known: &BTreeMap<usize, OpId>,
    ) -> Option<usize> {
        let this = self.rank.events[event];
        if this.start_ns <= explained {
            return None;
        }
        known
            .keys()
            .rev()
            .take(LOOK_BACK)
            .copied()
            .filter(|i| {
                let other = &self.rank.events[*i];
                let end = other.end_ns();
                (other.device, other.lane) != (this.device, this.lane)
                    && end > explained
                    && end <= this.start_ns + slack
            })
            .max_by_key(|i| (self.rank.events[*i].end_ns(), *i))
    }
}
