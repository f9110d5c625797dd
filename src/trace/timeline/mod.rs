//! Recorded ranks as a timeline: host threads and device streams as lanes, launches and collectives
//! as arrows, what is known of each event as its arguments.

mod about;
mod selection;

pub use selection::{Selection, ranks_of};

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;

use serde_json::Value as Json;

use self::about::process;
use self::selection::{check_steps, nothing_left, steps};
use super::align::{common_ns, match_collectives};
use super::collectives::{self, operation};
use super::header::{RankHeader, StepWindow};
use super::launches::{Launches, window_at};
use super::model::{Event, Kind, RankTrace};
use crate::error::{Error, Result};
use crate::timeline::{Arg, End, Flow, Lane, Process, Sink, Slice, Value};

/// Device streams are numbered from here in Chrome JSON, behind the host's threads. What a stream
/// is really called stands in its events.
const FIRST_STREAM: i64 = 1 << 40;

/// What is known of a rank's events beyond the recording: classes, shapes, names of lanes.
pub trait Details {
    /// Name of a lane; `device` is below zero for host threads.
    fn lane(&self, device: i32, lane: i64) -> Option<&str>;
    /// Class of device work.
    fn class(&self, event: usize) -> Option<&str>;
    /// Further arguments.
    fn args<'a>(&'a self, event: usize, args: &mut Vec<Arg<'a>>);
    /// Numbers of the rank over time: name, unit, and the value from each time (ns) on.
    fn counters(&self) -> Vec<Counter> {
        Vec::new()
    }
}

/// A number of a rank over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Counter {
    /// Name.
    pub name: &'static str,
    /// Unit.
    pub unit: &'static str,
    /// The value from each time on, ns.
    pub values: Vec<(i64, f64)>,
}

/// Arrows between the members of collectives: by event of a rank, the meeting's number and the end.
pub type Arrows = BTreeMap<usize, (u64, End)>;

/// Writes ranks one by one.
pub struct Writer<'a> {
    sink: &'a mut dyn Sink,
    selection: &'a Selection,
    /// Time zero, ns since 1970.
    origin: i64,
    position: u64,
    /// Events that the selection left.
    shown: u64,
}

impl<'a> Writer<'a> {
    /// Begins a timeline of these ranks, of which the wanted ones must be passed to
    /// [`Self::rank`] in the same order. `origin` is time zero, ns since 1970.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn begin(
        sink: &'a mut dyn Sink,
        selection: &'a Selection,
        headers: &[&RankHeader],
        origin: i64,
    ) -> io::Result<Self> {
        let wanted = headers.iter().filter(|header| selection.has_rank(header.rank));
        let processes: Vec<Process> = wanted.map(|header| process(header)).collect();
        sink.begin(&processes, origin)?;
        Ok(Self { sink, selection, origin, position: 0, shown: 0 })
    }

    /// Writes a rank.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn rank(
        &mut self,
        rank: &RankTrace,
        arrows: &Arrows,
        details: Option<&dyn Details>,
    ) -> io::Result<()> {
        self.sink.process(&process(&rank.header))?;
        let launches = Launches::of(rank);
        let view = View {
            rank,
            launches: &launches,
            arrows,
            details,
            shift: common_ns(rank, 0).saturating_sub(self.origin),
            position: self.position,
            steps: steps(&rank.header.windows, self.selection),
            time: self.selection.time,
        };
        self.position += 1;
        self.shown += view.write(self.sink)?;
        Ok(())
    }

    /// Ends the timeline.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn finish(self) -> io::Result<()> {
        self.sink.finish()
    }
}

/// Writes ranks that ran together.
///
/// # Errors
/// A rank or step that is asked for does not exist, nothing lies in what is asked for, or the output
/// cannot be written.
pub fn write(ranks: &[RankTrace], selection: &Selection, sink: &mut dyn Sink) -> Result<()> {
    let known: Vec<u32> = ranks.iter().map(|rank| rank.header.rank).collect();
    selection.check_ranks(&known)?;
    check_steps(ranks, selection)?;
    let origin = ranks.iter().map(|rank| common_ns(rank, 0)).min().unwrap_or(0);
    let wanted: Vec<bool> = known.iter().map(|rank| selection.has_rank(*rank)).collect();
    let arrows = meetings(ranks, &wanted);
    let failed = |e| Error::io("write", "the timeline", e);
    let headers: Vec<&RankHeader> = ranks.iter().map(|rank| &rank.header).collect();
    let mut writer = Writer::begin(sink, selection, &headers, origin).map_err(failed)?;
    for (position, rank) in ranks.iter().enumerate().filter(|(position, _)| wanted[*position]) {
        writer.rank(rank, &arrows[position], None).map_err(failed)?;
    }
    if writer.shown == 0 {
        return Err(nothing_left(ranks, selection, origin));
    }
    writer.finish().map_err(failed)
}

/// Arrows of the collectives that at least two of the wanted ranks took part in, by position.
fn meetings(ranks: &[RankTrace], wanted: &[bool]) -> Vec<Arrows> {
    let mut arrows = vec![Arrows::new(); ranks.len()];
    for (number, matched) in match_collectives(ranks).matched.iter().enumerate() {
        let mut members: Vec<(usize, usize)> =
            matched.members.iter().copied().filter(|(rank, _)| wanted[*rank]).collect();
        // The arrow leaves the rank that was waited for.
        members.sort_by_key(|(rank, event)| {
            (Reverse(common_ns(&ranks[*rank], ranks[*rank].events[*event].start_ns)), *rank)
        });
        let last = members.len().saturating_sub(1);
        for (place, (rank, event)) in members.iter().enumerate().filter(|_| last > 0) {
            let end = match place {
                0 => End::Start,
                place if place == last => End::Finish,
                _ => End::Step,
            };
            arrows[*rank].insert(*event, (number as u64, end));
        }
    }
    arrows
}

/// Host threads above device streams above synchronisation records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Host,
    Device,
    Sync,
}

struct View<'a> {
    rank: &'a RankTrace,
    launches: &'a Launches,
    arrows: &'a Arrows,
    details: Option<&'a dyn Details>,
    shift: i64,
    position: u64,
    steps: Option<&'a [StepWindow]>,
    time: Option<(i64, i64)>,
}

/// Kinds of arrows, told apart in the top bits of their numbers.
const LAUNCH: u64 = 1 << 62;
const MEETING: u64 = 2 << 62;
const AUTOGRAD: u64 = 3 << 62;

impl View<'_> {
    /// Writes what is wanted; says how many events that was.
    fn write(&self, sink: &mut dyn Sink) -> io::Result<u64> {
        let rank = self.rank;
        let mut shown = 0;
        let mut lanes: BTreeMap<(Part, i32, i64), Vec<u32>> = BTreeMap::new();
        let mut flows: BTreeMap<(i64, i64), Vec<u32>> = BTreeMap::new();
        let mut kernels_of_call: BTreeMap<usize, u32> = BTreeMap::new();
        for (index, event) in rank.events.iter().enumerate().filter(|(i, e)| self.shows(*i, e)) {
            shown += 1;
            let key = match event.kind {
                Kind::Flow => {
                    flows.entry((event.lane, event.start_ns)).or_default().push(index as u32);
                    continue;
                }
                Kind::Sync => (Part::Sync, event.device, event.lane),
                kind if kind.is_device() => (Part::Device, event.device, event.lane),
                _ => (Part::Host, -1, event.lane),
            };
            if key.0 == Part::Device
                && let Some(call) = self.launches.call(index)
            {
                *kernels_of_call.entry(call).or_default() += 1;
            }
            lanes.entry(key).or_default().push(index as u32);
        }
        let mut rates = Vec::new();
        self.windows(sink)?;
        for (order, ((part, device, lane), mut events)) in (1..).zip(lanes) {
            let name = self.lane_name(part, device, lane);
            let id = if part == Part::Host { lane } else { FIRST_STREAM + order };
            sink.lane(&Lane { id, name: &name, order: order as u32 })?;
            events.sort_unstable_by_key(|index| {
                let event = &rank.events[*index as usize];
                (event.start_ns, Reverse(event.end_ns()), *index)
            });
            for index in events {
                let index = index as usize;
                let starts = (part == Part::Host)
                    .then(|| flows.remove(&(lane, rank.events[index].start_ns)))
                    .flatten();
                self.slice(sink, index, starts.unwrap_or_default(), &kernels_of_call)?;
                rates.extend(self.rate(index));
            }
            // Arrows that begin between slices.
            let loose: Vec<(i64, i64)> = if part == Part::Host {
                flows.range((lane, i64::MIN)..=(lane, i64::MAX)).map(|(key, _)| *key).collect()
            } else {
                Vec::new()
            };
            for key in loose {
                for index in flows.remove(&key).unwrap_or_default() {
                    sink.arrow(key.1.saturating_add(self.shift), &self.autograd(index as usize))?;
                }
            }
        }
        if !rates.is_empty() {
            sink.counter("communication rate", "GB/s", &sums(rates))?;
        }
        for mut counter in self.details.map(Details::counters).unwrap_or_default() {
            counter.values.iter_mut().for_each(|(at, _)| *at = at.saturating_add(self.shift));
            if let Some((from, to)) = self.time {
                counter.values.retain(|(at, _)| (from..to).contains(at));
            }
            sink.counter(counter.name, counter.unit, &counter.values)?;
        }
        Ok(shown)
    }

    /// Whether an event is wanted.
    fn shows(&self, index: usize, event: &Event) -> bool {
        if let Some((from, to)) = self.time {
            let start = event.start_ns.saturating_add(self.shift);
            let end = event.end_ns().saturating_add(self.shift);
            if start >= to || end < from || (end == from && start < from) {
                return false;
            }
        }
        let Some(steps) = self.steps else { return true };
        if event.kind.is_device() && self.launches.call(index).is_some() {
            return self
                .launches
                .step(self.rank, index)
                .is_some_and(|step| steps.iter().any(|wanted| wanted.start_ns == step.start_ns));
        }
        window_at(steps, event.start_ns).is_some()
    }

    fn lane_name(&self, part: Part, device: i32, lane: i64) -> String {
        let known = self.details.and_then(|details| details.lane(device, lane));
        match (part, known) {
            (_, Some(name)) => name.to_owned(),
            (Part::Host, None) => format!("thread {lane}"),
            (Part::Device, None) if device < 0 => format!("stream {lane}"),
            (Part::Device, None) => format!("device {device} stream {lane}"),
            (Part::Sync, None) if lane < 0 => format!("device {device} synchronisation"),
            (Part::Sync, None) => format!("device {device} stream {lane} synchronisation"),
        }
    }

    /// Step windows that are no recorded ranges, on a lane of their own.
    fn windows(&self, sink: &mut dyn Sink) -> io::Result<()> {
        let mut any = false;
        for window in self.steps.unwrap_or(&self.rank.header.windows) {
            let name = format!("ProfilerStep#{}", window.name);
            let recorded = self.rank.names.find(name.as_bytes());
            let start_ns = window.start_ns.saturating_add(self.shift);
            let end_ns = start_ns.saturating_add(window.dur_ns);
            let outside = self.time.is_some_and(|(from, to)| start_ns >= to || end_ns <= from);
            if recorded.is_none() && !outside {
                if !std::mem::replace(&mut any, true) {
                    sink.lane(&Lane { id: FIRST_STREAM, name: "steps", order: 0 })?;
                }
                let (category, class) = ("user_annotation", None);
                sink.slice(&Slice {
                    name: &name,
                    category,
                    class,
                    start_ns,
                    end_ns,
                    args: &[],
                    flows: &[],
                })?;
            }
        }
        Ok(())
    }

    fn slice(
        &self,
        sink: &mut dyn Sink,
        index: usize,
        flows: Vec<u32>,
        kernels_of_call: &BTreeMap<usize, u32>,
    ) -> io::Result<()> {
        let event = &self.rank.events[index];
        let mut ends: Vec<Flow> = flows.into_iter().map(|i| self.autograd(i as usize)).collect();
        let launch = |call: usize, end: End| Flow {
            id: LAUNCH | self.position << 32 | call as u64,
            chrome_id: self.position << 32 | call as u64,
            category: "ac2g",
            end,
        };
        if kernels_of_call.contains_key(&index) {
            ends.push(launch(index, End::Start));
        }
        if let Some(call) =
            self.launches.call(index).filter(|call| kernels_of_call.contains_key(call))
            && self.shows(call, &self.rank.events[call])
        {
            ends.push(launch(call, End::Finish));
        }
        if let Some((number, end)) = self.arrows.get(&index).copied() {
            let (id, category) = (MEETING | number, "meeting");
            ends.push(Flow { id, chrome_id: number, category, end });
        }
        let mut texts = Texts::default();
        let (category, class) = self.category(event);
        let class = self.details.and_then(|details| details.class(index)).or(class);
        texts.fill(self.rank, event);
        let mut args = Vec::with_capacity(16);
        self.args(event, &texts, &mut args);
        if let Some(details) = self.details {
            details.args(index, &mut args);
        }
        let start_ns = event.start_ns.saturating_add(self.shift);
        sink.slice(&Slice {
            name: self.rank.name(event),
            category,
            class,
            start_ns,
            end_ns: start_ns.saturating_add(event.dur_ns),
            args: &args,
            flows: &ends,
        })
    }

    fn autograd(&self, index: usize) -> Flow {
        let event = &self.rank.events[index];
        let correlation = event.correlation().unwrap_or(0) as u64 & 0xff_ffff_ffff;
        Flow {
            id: AUTOGRAD | self.position << 40 | correlation,
            // The first rank keeps its numbers; they are distinct from those of the others.
            chrome_id: self.position << 40 | correlation,
            category: "fwdbwd",
            end: if self.rank.flow_starts(event) { End::Start } else { End::Finish },
        }
    }

    /// Category as the PyTorch profiler calls it, and a finer one.
    fn category(&self, event: &Event) -> (&'static str, Option<&'static str>) {
        match event.kind {
            Kind::Kernel if event.communicates => {
                ("kernel", Some(operation(self.rank, event).name()))
            }
            Kind::Kernel => ("kernel", Some("compute")),
            Kind::Memcpy => ("gpu_memcpy", None),
            Kind::Memset => ("gpu_memset", None),
            Kind::Runtime => ("cuda_runtime", None),
            Kind::Driver => ("cuda_driver", None),
            Kind::Op => ("cpu_op", None),
            Kind::Annotation => ("user_annotation", None),
            Kind::Sync => ("cuda_sync", None),
            Kind::Overhead => ("overhead", None),
            Kind::Flow => ("fwdbwd", None),
        }
    }

    /// Algorithm bandwidth of a transfer while it lasts, GB/s.
    fn rate(&self, index: usize) -> Option<(i64, i64, f64)> {
        let event = &self.rank.events[index];
        if !event.communicates || event.dur_ns == 0 {
            return None;
        }
        let (sent, received) = collectives::bytes(self.rank, event);
        let size = self.rank.collective(event).map_or(-1, |c| c.group_size);
        let n = u32::try_from(size).unwrap_or(1).max(1);
        let bytes = operation(self.rank, event).message_bytes(sent, received, n)?;
        let start = event.start_ns.saturating_add(self.shift);
        Some((start, start.saturating_add(event.dur_ns), bytes as f64 / event.dur_ns as f64))
    }

    fn args<'a>(&'a self, event: &Event, texts: &'a Texts, args: &mut Vec<Arg<'a>>) {
        let rank = self.rank;
        let mut whole = |key: &'static str, value: i64| {
            if value >= 0 {
                args.push(Arg { key, value: Value::Whole(value) });
            }
        };
        if let Some(id) = event.external_id() {
            whole("External id", id);
        }
        if let Some(id) = event.correlation() {
            whole("correlation", id);
        }
        if event.kind.is_device() || event.kind == Kind::Sync {
            whole("device", event.device.into());
        }
        if let Some(bytes) = rank.bytes(event) {
            whole("bytes", bytes);
        }
        if let Some(geometry) = rank.geometry(event) {
            whole("registers per thread", geometry.registers.into());
            whole("shared memory", geometry.shared_bytes);
        }
        if let Some(detail) = rank.op(event) {
            whole("Sequence number", detail.sequence);
            whole("Fwd thread id", detail.forward_thread);
        }
        if let Some(detail) = rank.sync(event) {
            whole("wait_on_stream", detail.wait_stream);
            whole("wait_on_cuda_event_id", detail.wait_event);
            whole("wait_on_cuda_event_record_corr_id", detail.wait_correlation);
        }
        if let Some(collective) = rank.collective(event) {
            whole("In msg nelems", collective.in_elements);
            whole("Out msg nelems", collective.out_elements);
            whole("Group size", collective.group_size.into());
            whole("Dst Rank", collective.peer.into());
            whole("Seq", collective.sequence);
            for (key, name) in [
                ("Collective name", collective.op),
                ("Process Group Name", collective.group),
                ("dtype", collective.dtype),
                ("In split size", collective.splits[0]),
                ("Out split size", collective.splits[1]),
            ] {
                let text = rank.names.get(name);
                if !text.is_empty() {
                    args.push(Arg { key, value: Value::Text(text) });
                }
            }
        }
        if event.kind.is_device() || event.kind == Kind::Sync {
            // Below zero for the whole device.
            args.push(Arg { key: "stream", value: Value::Whole(event.lane) });
        }
        for (key, text) in [
            ("grid", &texts.grid),
            ("block", &texts.block),
            ("Input Dims", &texts.dims),
            ("Input type", &texts.types),
        ] {
            if !text.is_empty() {
                args.push(Arg { key, value: Value::Json(text) });
            }
        }
    }
}

/// Lists as JSON text.
#[derive(Default)]
struct Texts {
    grid: String,
    block: String,
    dims: String,
    types: String,
}

impl Texts {
    fn fill(&mut self, rank: &RankTrace, event: &Event) {
        let triple = |sizes: [u32; 3]| {
            let [x, y, z] = sizes;
            if sizes == [0; 3] { String::new() } else { format!("[{x}, {y}, {z}]") }
        };
        if let Some(geometry) = rank.geometry(event) {
            self.grid = triple(geometry.grid);
            self.block = triple(geometry.block);
        }
        if let Some(detail) = rank.op(event) {
            let dims = rank.names.get(detail.dims);
            // A list that was cut short is no JSON.
            if serde_json::from_str::<serde::de::IgnoredAny>(dims).is_ok() {
                dims.clone_into(&mut self.dims);
            }
            let types = rank.names.get(detail.types);
            if let Some(list) = types.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
                let list: Vec<&str> = list.split(',').collect();
                self.types = Json::from(list).to_string();
            }
        }
    }
}

/// Sums of rates that overlap, from each time on.
fn sums(rates: Vec<(i64, i64, f64)>) -> Vec<(i64, f64)> {
    let mut changes: Vec<(i64, f64)> =
        rates.into_iter().flat_map(|(start, end, rate)| [(start, rate), (end, -rate)]).collect();
    changes.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut values: Vec<(i64, f64)> = Vec::new();
    let (mut sum, mut open) = (0.0, 0_i64);
    for (at, change) in changes {
        sum += change;
        open += if change > 0.0 { 1 } else { -1 };
        // Nothing is left of rounding when nothing is left to transfer.
        let value = if open == 0 { 0.0 } else { sum };
        match values.last_mut() {
            Some((last, known)) if *last == at => *known = value,
            _ => values.push((at, value)),
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_that_overlap_add_up() {
        let sums = sums(vec![(0, 10, 2.0), (5, 20, 1.0), (20, 30, 4.0)]);
        assert_eq!(sums, [(0, 2.0), (5, 3.0), (10, 1.0), (20, 4.0), (30, 0.0)]);
    }
}
