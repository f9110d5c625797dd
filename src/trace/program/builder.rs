//! One recorded rank as a template.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::program::{
    Action, HostWork, KernelClass, LaneId, LaneKind, Op, OpId, Phase, Template, TemplateBuilder,
    Work,
};
use crate::trace::launches::{Launches, is_blocking_call};
use crate::trace::model::{Event, Kind, RankTrace};
use crate::trace::shapes::Shape;
use crate::units::Nanos;

use super::clocks::host_begin;
use super::meetings::{Meetings, moved};
use super::waits::{LaunchThreads, RecordedWaits};
use super::{Cause, Edge, Edits, KernelTable, Notes, Origin, Stream};

/// Device events that are looked through for what a wait was for. Work further back has ended.
const LOOK_BACK: usize = 4096;
/// A blocked call returns within this time of the end of the work it waited for.
const RETURN_NS: i64 = 100_000;
/// An asynchronous copy that took the host this long waited for the device.
const BLOCKED_COPY_NS: i64 = 50_000;
/// A kernel that starts this much later than its stream and launch explain waited for something.
const BUSY_NS: i64 = 20_000;
/// A kernel that starts within this time of the end of other work (before it, as the last blocks
/// drain, or after it) was waiting for it.
const AT_ONCE_NS: i64 = 10_000;
/// What the names of formats of the Ascend profiler begin with.
const ASCEND: &str = "ascend";
/// Device streams that a template can have; lanes are numbered in a byte.
const MAX_STREAMS: usize = 200;
/// Work that begins this long before the end of what is in front of it on its stream ran beside it;
/// kernels that merely overlap while one drains and the next begins do so for less.
const BESIDE_NS: i64 = 20_000;
/// Lanes that the work of one stream can be spread over.
const MAX_BESIDE: usize = 16;

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

/// Which lane a device event is on, what was in front of it there, and how long it takes.
struct Placed {
    /// Number among the lanes of its stream.
    beside: usize,
    /// On another lane than its stream's first: the work of the stream that ended last before it.
    behind: Option<usize>,
    ns: i64,
}

/// Builds the template of a rank.
pub(super) struct RankBuilder<'a> {
    pub(super) rank: &'a RankTrace,
    /// Position of the rank among those recorded.
    pub(super) position: usize,
    pub(super) launches: &'a Launches,
    /// Shape of each event, where known.
    pub(super) shapes: Vec<Option<Shape>>,
    pub(super) launch_latency: i64,
    pub(super) dispatch_gap: i64,
    /// Added to host times to put them on the device's clock.
    pub(super) ahead: i64,
    pub(super) edits: &'a Edits,
    pub(super) notes: &'a mut Notes,
    pub(super) kernels: &'a mut KernelTable,
    pub(super) edges: &'a mut Vec<Edge>,
}

impl RankBuilder<'_> {
    /// The template, and which of its operations is which device event. The rank's host begins
    /// `offset` after the first.
    pub(super) fn build(
        &mut self,
        offset: i64,
        meetings: &Meetings,
    ) -> Result<(Template, Vec<(OpId, usize)>)> {
        let rank = self.rank;
        let parts = self.parts();
        let placed = self.place(&parts);
        // Lanes are numbered by stream, so that ranks with the same streams have the same lanes.
        let mut copies_only: BTreeMap<(Stream, usize), bool> = BTreeMap::new();
        for (index, at) in &placed {
            let event = &rank.events[*index];
            *copies_only.entry(((event.device, event.lane), at.beside)).or_insert(true) &=
                event.kind.is_memory();
        }
        if copies_only.len() > MAX_STREAMS {
            return Err(Error::Unsupported(format!(
                "rank {} has more than {MAX_STREAMS} device streams",
                rank.header.rank
            )));
        }
        let mut streams: BTreeMap<(Stream, usize), LaneId> = BTreeMap::new();
        let mut lanes = vec![("host".to_owned(), LaneKind::Host)];
        for ((stream, beside), copies) in copies_only {
            streams.insert((stream, beside), LaneId(lanes.len() as u8));
            let kind = if copies { LaneKind::Copy } else { LaneKind::Compute };
            let mut name = format!("device {} stream {}", stream.0, stream.1);
            if beside > 0 {
                name.push_str(&format!(" beside {beside}"));
            }
            lanes.push((name, kind));
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
        // What events that are left out waited for; the next of their lane waits for it instead.
        let mut passed_on: BTreeMap<LaneId, Vec<OpId>> = BTreeMap::new();
        let mut last_on: BTreeMap<LaneId, OpId> = BTreeMap::new();
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
                        self.edge(Cause::HostWait, awaited, call);
                    } else if is_blocking_call(rank.name(&blocked))
                        && blocked.dur_ns > BLOCKED_COPY_NS
                    {
                        // Waited for something that is not recorded: a gap, not host work.
                        host_at = host_at.max(blocked.end_ns() + self.ahead);
                        self.notes.blocked_unexplained_ns += blocked.dur_ns;
                    }
                }
                Point::Device(event, _) if parts.contains_key(&event) => {
                    if let Some(op) = op_of.get(&parts[&event]).copied() {
                        op_of.insert(event, op);
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
                            self.edge(Cause::RecordedWait, source, event);
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
                        // Without a launch record, nothing else says why it started so late.
                        if (may_wait || (late && call.is_none()))
                            && let Some(source) = self.ended_between(event, explained, 0, &op_of)
                        {
                            deps.push(op_of[&source]);
                            self.notes.inferred_waits += 1;
                            self.edge(Cause::InferredWait, source, event);
                        } else if late
                            && let Some(source) =
                                self.ended_between(event, explained, AT_ONCE_NS, &op_of)
                            && this.start_ns - rank.events[source].end_ns() < AT_ONCE_NS
                        {
                            deps.push(op_of[&source]);
                            self.notes.inferred_busy += 1;
                            self.edge(Cause::FullDevice, source, event);
                        }
                    }
                    let at = &placed[&event];
                    let lane = streams[&(stream, at.beside)];
                    // Work beside its stream, or after it, follows what of the stream had ended.
                    deps.extend(at.behind.and_then(|before| op_of.get(&before)));
                    deps.append(&mut passed_on.remove(&lane).unwrap_or_default());
                    if self.edits.omitted.contains(&(self.position, event)) {
                        if let Some(call) = call {
                            // The host does not make the call, either.
                            host_at = host_at.saturating_add(rank.events[call].dur_ns);
                        }
                        if let Some(op) = last_on.get(&lane).or(deps.last()) {
                            op_of.insert(event, *op);
                        }
                        passed_on.insert(lane, deps);
                        continue;
                    }
                    deps.sort_unstable();
                    deps.dedup();
                    let action = match meetings.of_event(self.position, event) {
                        Some((family, call)) => Action::Meet { family, call },
                        None => {
                            let origin = Origin {
                                rank: self.position,
                                copies: this.kind.is_memory(),
                                work: self.shapes[event]
                                    .map(|shape| shape.work)
                                    .or_else(|| copied(rank, &this)),
                                moved: this.communicates.then(|| moved(rank, &this, None)),
                            };
                            let class = if this.communicates {
                                self.notes.unmatched_collectives += 1;
                                KernelClass::Other
                            } else {
                                KernelClass::Gemm
                            };
                            let ns = self.edits.durations.get(&(self.position, event));
                            let ns = ns.copied().unwrap_or(at.ns);
                            let name = rank.name(&this);
                            Action::Kernel(self.kernels.id(name, ns, class, origin))
                        }
                    };
                    if let Some((start, _, Some(call))) = first.filter(|(_, e, _)| *e == event) {
                        let busy =
                            start - self.host_start(call) - self.launch_latency - self.dispatch_gap;
                        if busy > 0 {
                            let name = "work before the recording";
                            let origin = Origin {
                                rank: self.position,
                                copies: true,
                                work: None,
                                moved: None,
                            };
                            let kernel = self.kernels.id(name, busy, KernelClass::Other, origin);
                            let action = Action::Kernel(kernel);
                            let (phase, micro_batch) = (Phase::Other, Op::NO_MICRO_BATCH);
                            ops.push(Op { action, lane, phase, micro_batch }, &[]);
                        }
                    }
                    let op =
                        Op { action, lane, phase: Phase::Other, micro_batch: Op::NO_MICRO_BATCH };
                    let id = ops.push(op, &deps);
                    op_of.insert(event, id);
                    last_on.insert(lane, id);
                    map.push((id, event));
                }
            }
        }
        Ok((ops.finish(), map))
    }

    fn edge(&mut self, cause: Cause, from: usize, to: usize) {
        let here = |event| (self.position, event);
        self.edges.push(Edge { cause, from: here(from), to: here(to) });
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
        let mut ends: BTreeMap<Stream, i64> = BTreeMap::new();
        let calls = || rank.events.iter().filter(|event| event.kind.is_call());
        let first_launch = (0..rank.events.len())
            .filter_map(|i| Some(rank.events[self.launches.call(i)?].start_ns))
            .min()
            .unwrap_or(i64::MAX);
        let blocking: Vec<(i64, i64)> = calls()
            .filter(|call| is_blocking_call(rank.name(call)))
            .map(|call| (call.start_ns, call.end_ns()))
            .collect();
        for (i, event) in rank.events.iter().enumerate() {
            if event.kind.is_device() {
                let call = self.launches.call(i);
                let stream = (event.device, event.lane);
                let before = ends.entry(stream).or_insert(i64::MIN);
                let idle = event.start_ns.saturating_sub(*before) > BUSY_NS;
                *before = (*before).max(event.end_ns());
                let at = match call {
                    Some(call) => rank.events[call].start_ns,
                    // Launched by nobody knows whom, before it started; and before the host began
                    // to wait, if it did wait then.
                    None if idle && event.start_ns - self.ahead > first_launch => {
                        let start = event.start_ns - self.ahead;
                        let from = blocking.partition_point(|(begin, _)| *begin <= start);
                        let waits = blocking[from.saturating_sub(8)..from]
                            .iter()
                            .filter(|(_, end)| *end >= start);
                        waits.map(|(begin, _)| *begin).min().unwrap_or(start)
                    }
                    None => i64::MIN,
                };
                let floor = latest.entry(stream).or_insert(i64::MIN);
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

    /// Copies that a collective is made of, and the collective: Ascend lists the tasks of its copy
    /// engines, whose waits for each other nobody recorded, beside the collective that they are
    /// launched for and run inside of.
    fn parts(&self) -> BTreeMap<usize, usize> {
        if !self.rank.header.source.format.starts_with(ASCEND) {
            return BTreeMap::new();
        }
        let events = &self.rank.events;
        let device = || events.iter().enumerate().filter(|(_, event)| event.kind.is_device());
        let collectives: BTreeMap<i64, usize> = device()
            .filter(|(_, event)| event.communicates)
            .filter_map(|(i, event)| Some((event.correlation()?, i)))
            .collect();
        let whole = |event: &Event| {
            let whole = *collectives.get(&event.correlation()?)?;
            let (start, end) = (events[whole].start_ns, events[whole].end_ns());
            let inside = event.start_ns >= start - AT_ONCE_NS && event.end_ns() <= end + AT_ONCE_NS;
            (event.kind.is_memory() && inside).then_some(whole)
        };
        device().filter_map(|(i, event)| Some((i, whole(event)?))).collect()
    }

    /// Lane and duration of each device event. Durations are cut where the next of the same lane
    /// began before their end; work that overlaps for long moves to a lane of its own.
    fn place(&mut self, parts: &BTreeMap<usize, usize>) -> BTreeMap<usize, Placed> {
        let mut placed: BTreeMap<usize, Placed> = BTreeMap::new();
        // The last event of each lane of a stream.
        let mut lanes: BTreeMap<Stream, Vec<usize>> = BTreeMap::new();
        let events = &self.rank.events;
        for (i, event) in events.iter().enumerate() {
            if !event.kind.is_device() || parts.contains_key(&i) {
                continue;
            }
            let last = lanes.entry((event.device, event.lane)).or_default();
            let over = |lane: &usize| events[*lane].end_ns() - event.start_ns;
            let room = last.iter().position(|lane| over(lane) <= BESIDE_NS);
            let beside = match room {
                Some(beside) => beside,
                None if last.len() < MAX_BESIDE => last.len(),
                None => 0,
            };
            if beside > 0 {
                self.notes.beside_stream += 1;
            }
            let several = beside > 0 || last.len() > 1;
            let ended = last.iter().copied().filter(|other| over(other) <= 0);
            let behind = ended.max_by_key(|other| (events[*other].end_ns(), *other));
            match last.get_mut(beside) {
                Some(previous) => {
                    let over = events[*previous].end_ns() - event.start_ns;
                    if over > 0 {
                        self.notes.clipped_ns += over;
                        if let Some(previous) = placed.get_mut(previous) {
                            previous.ns -= over;
                        }
                    }
                    *previous = i;
                }
                None => last.push(i),
            }
            let behind = behind.filter(|_| several);
            placed.insert(i, Placed { beside, behind, ns: event.dur_ns });
        }
        placed
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

/// A copy on the device reads and writes its bytes; other copies are bound by the host's link.
fn copied(rank: &RankTrace, event: &Event) -> Option<Work> {
    let bytes = u64::try_from(rank.bytes(event)?).ok()?;
    let passes = match event.kind {
        Kind::Memcpy if rank.name(event).contains("DtoD") => 2,
        Kind::Memset => 1,
        _ => return None,
    };
    Some(Work::Stream { bytes: bytes.checked_mul(passes)?, launches: 1 })
}
