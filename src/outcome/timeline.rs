//! The timeline of a simulated step: each rank asked for as if a profiler had recorded it, and
//! written at once, so that memory holds one rank at a time however many there are.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::program::{
    Action, AttentionPass, Collective, CollectiveCall, HostWork, Kernel, LaneKind, Op, OpId, Phase,
    Precision, Program, TemplateId, Work,
};
use crate::replay::Sweep;
use crate::scenario::Setup;
use crate::timeline::{Arg, End, Sink, Value};
use crate::trace::header::{
    Clock, Device, Identity, ProcessGroup, RankHeader, RankSource, SourceInfo, StepWindow,
};
use crate::trace::model::{Collective as Recorded, Event, Kind, RankTrace};
use crate::trace::timeline::{Arrows, Counter, Details, Selection, Writer};

use super::GIB;
use super::memory::rank_memory;
use super::replayed::{host_shown, shown};

/// Host thread of the step and its passes, and of the calls.
const PASSES: i64 = 0;
const CALLS: i64 = 1;
/// Marks an event that is no operation.
const NO_OP: u32 = u32::MAX;
/// Members of a group are listed up to this many.
const MOST_MEMBERS: usize = 1024;

/// The first rank of every template: one of each kind.
#[must_use]
pub fn first_ranks(program: &Program) -> Vec<u32> {
    let mut first: BTreeMap<TemplateId, u32> = BTreeMap::new();
    for (rank, template) in program.template_of_rank.iter().enumerate() {
        first.entry(*template).or_insert(rank as u32);
    }
    let mut ranks: Vec<u32> = first.into_values().collect();
    ranks.sort_unstable();
    ranks
}

/// Writes the step of the ranks that `selection` names, one of each kind where it names none, and
/// says which those were.
///
/// # Errors
/// A rank does not exist, or the output cannot be written.
pub fn write_timeline(
    setup: &Setup<'_>,
    sweep: &Sweep<'_>,
    selection: &Selection,
    sink: &mut dyn Sink,
) -> Result<Vec<u32>> {
    let program = sweep.program();
    let all: Vec<u32> = (0..program.world_size() as u32).collect();
    selection.check_ranks(&all)?;
    let ranks: Vec<u32> = if selection.ranks.is_empty() {
        first_ranks(program)
    } else {
        all.into_iter().filter(|rank| selection.has_rank(*rank)).collect()
    };
    let selection =
        Selection { ranks: ranks.iter().map(|rank| *rank..=*rank).collect(), ..selection.clone() };
    let groups = Groups::of(program, &ranks);
    let headers: Vec<RankHeader> =
        (0..ranks.len()).map(|i| header(setup, program, &groups, i)).collect();
    let failed = |e| Error::io("write", "the timeline", e);
    let listed: Vec<&RankHeader> = headers.iter().collect();
    let mut writer = Writer::begin(sink, &selection, &listed, 0).map_err(failed)?;
    for (position, header) in headers.iter().enumerate() {
        let (rank, simulated) = simulated_rank(setup, header, program, sweep, &groups, position);
        let arrows = groups.arrows(program, &simulated, position);
        writer.rank(&rank, &arrows, Some(&simulated)).map_err(failed)?;
    }
    writer.finish().map_err(failed)?;
    Ok(ranks)
}

/// Which groups the shown ranks are in.
struct Groups {
    ranks: Vec<u32>,
    /// By shown rank and family: its group.
    group: Vec<Vec<Option<u32>>>,
    /// By family and group: the shown members, in communicator order.
    shown: BTreeMap<(usize, u32), Vec<u32>>,
    /// By family: number of its first meeting among all.
    first: Vec<u64>,
    /// By family: meetings of a group.
    meetings: Vec<u64>,
    /// By family: a name that no other family has.
    names: Vec<String>,
}

impl Groups {
    fn of(program: &Program, ranks: &[u32]) -> Self {
        let position: BTreeMap<u32, usize> =
            ranks.iter().enumerate().map(|(i, rank)| (*rank, i)).collect();
        let mut meetings = vec![0_u64; program.families.len()];
        for template in &program.templates {
            let mut counts = vec![0_u64; program.families.len()];
            for op in &template.ops {
                if let Action::Meet { family, .. } = op.action {
                    counts[family.index()] += 1;
                }
            }
            for (most, count) in meetings.iter_mut().zip(counts) {
                *most = (*most).max(count);
            }
        }
        let mut this = Self {
            ranks: ranks.to_vec(),
            group: vec![vec![None; program.families.len()]; ranks.len()],
            shown: BTreeMap::new(),
            first: Vec::new(),
            meetings,
            names: Vec::new(),
        };
        let mut next = 0;
        for (f, family) in program.families.iter().enumerate() {
            this.first.push(next);
            next += this.meetings[f] * family.groups.len() as u64;
            let twice = program.families.iter().filter(|other| other.name == family.name).count();
            let name = family.name.clone();
            this.names.push(if twice > 1 { format!("{name} {f}") } else { name });
            for (g, group) in family.groups.iter().enumerate() {
                for rank in group {
                    if let Some(position) = position.get(rank) {
                        this.group[*position][f] = Some(g as u32);
                        this.shown.entry((f, g as u32)).or_default().push(*rank);
                    }
                }
            }
        }
        this
    }

    /// Arrows of the meetings in which another shown rank takes part.
    fn arrows(&self, program: &Program, simulated: &Simulated<'_>, position: usize) -> Arrows {
        let mut arrows = Arrows::new();
        let mut counts = vec![0_u64; program.families.len()];
        // Meetings count in the order of the program, events stand in the order of time.
        let mut events: Vec<(u32, usize)> = simulated
            .ops
            .iter()
            .enumerate()
            .filter(|(_, op)| **op != NO_OP)
            .map(|(event, op)| (*op, event))
            .collect();
        events.sort_unstable();
        for (op, event) in events {
            let op = &simulated.program.templates[simulated.template].ops[op as usize];
            let Action::Meet { family, .. } = op.action else { continue };
            let f = family.index();
            let nth = counts[f];
            counts[f] += 1;
            let Some(group) = self.group[position][f] else { continue };
            let members = &self.shown[&(f, group)];
            let place = members.iter().position(|rank| *rank == self.ranks[position]);
            let end = match place {
                Some(_) if members.len() < 2 => continue,
                Some(0) => End::Start,
                Some(place) if place + 1 == members.len() => End::Finish,
                _ => End::Step,
            };
            let number = self.first[f] + u64::from(group) * self.meetings[f] + nth;
            arrows.insert(event, (number, end));
        }
        arrows
    }
}

fn header(setup: &Setup<'_>, program: &Program, groups: &Groups, position: usize) -> RankHeader {
    let mut listed = Vec::new();
    for (f, group) in groups.group[position].iter().enumerate() {
        let Some(group) = group else { continue };
        let members = program.families[f].groups.get(*group as usize);
        let few = members.len() <= MOST_MEMBERS;
        listed.push(ProcessGroup {
            name: groups.names[f].clone(),
            description: String::new(),
            ranks: if few { members.to_vec() } else { Vec::new() },
            size: members.len() as i32,
        });
    }
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    RankHeader {
        trace: setup.scenario.name.clone(),
        rank: groups.ranks[position],
        rank_source: RankSource::Recorded,
        world_size: Some(program.world_size() as u32),
        source: SourceInfo {
            format: "trainyard-simulation".into(),
            file: setup.scenario.name.clone(),
        },
        identity: Identity {
            devices: vec![Device {
                id: 0,
                name: format!("{}, simulated", setup.accelerator.title),
                memory_bytes: Some(setup.accelerator.memory.capacity.value.0 as u64),
                ..Device::default()
            }],
            ..Identity::default()
        },
        clock: Clock { resolution_ns: 1, ..Clock::default() },
        groups: listed,
        ..RankHeader::default()
    }
}

/// What the operations of a simulated rank are.
struct Simulated<'a> {
    program: &'a Program,
    template: usize,
    /// Operation of each event.
    ops: Vec<u32>,
    /// By event: what a collective waited for its peers, ns.
    waited: BTreeMap<usize, i64>,
    /// Bytes allocated from each time on, ns.
    memory: Vec<(i64, f64)>,
}

/// A rank as a profiler would have recorded it.
fn simulated_rank<'a>(
    setup: &Setup<'_>,
    header: &RankHeader,
    program: &'a Program,
    sweep: &Sweep<'_>,
    groups: &Groups,
    position: usize,
) -> (RankTrace, Simulated<'a>) {
    let number = header.rank;
    let t = program.template_of_rank[number as usize].index();
    let template = &program.templates[t];
    let mut rank = RankTrace::default();
    rank.header.clone_from(header);
    rank.header.windows =
        vec![StepWindow { name: "0".into(), start_ns: 0, dur_ns: sweep.step().0 }];
    let mut events: Vec<(Event, u32, i64)> = Vec::with_capacity(2 * template.ops.len());
    let step = rank.names.intern("ProfilerStep#0");
    let mut whole = Event::new(Kind::Annotation, step, 0, sweep.step().0);
    whole.lane = PASSES;
    events.push((whole, NO_OP, 0));
    let mut collectives: BTreeMap<(usize, usize), u32> = BTreeMap::new();
    let mut pass: Option<(Phase, u32, i64, i64)> = None;
    for (i, op) in template.ops.iter().enumerate() {
        let id = OpId(i as u32);
        let on_host = |rank: &mut RankTrace, kind: Kind, name: &str, start: i64, end: i64| {
            let mut event = Event::new(kind, rank.names.intern(name), start, end - start);
            event.lane = CALLS;
            event
        };
        let (name, collective) = match op.action {
            Action::HostWork(_) | Action::HostWait => {
                let (kind, name) = host_name(op.action);
                let (start, end) = host_shown(program, sweep, number, id);
                events.push((on_host(&mut rank, kind, name, start, end), id.0, 0));
                continue;
            }
            Action::Kernel(kernel) => (program.kernels[kernel.index()].name.as_str(), None),
            Action::Meet { family, call } => {
                let key = (family.index(), call.index());
                let known = collectives.get(&key).copied();
                let collective = known.unwrap_or_else(|| {
                    let call = &program.calls[call.index()];
                    recorded_call(&mut rank, program, groups, position, family.index(), call)
                });
                collectives.insert(key, collective);
                (program.calls[call.index()].name.as_str(), Some(collective))
            }
        };
        let issued = sweep.issued(number, id).0;
        let mut call =
            on_host(&mut rank, Kind::Runtime, "launch", issued - sweep.issue_time().0, issued);
        call.correlation = i64::from(id.0) + 1;
        events.push((call, NO_OP, 0));
        // A transfer between two does not hold the device before the other side is there.
        let (start, end) = match op.action {
            Action::Meet { call, .. }
                if program.calls[call.index()].collective != Collective::SendRecv =>
            {
                shown(program, sweep, number, id)
            }
            _ => {
                let (start, end) = sweep.times(number, id);
                (start.0, end.0)
            }
        };
        let mut event = Event::new(Kind::Kernel, rank.names.intern(name), start, end - start);
        event.lane = op.lane.index() as i64;
        event.device = 0;
        event.correlation = i64::from(id.0) + 1;
        if let Some(collective) = collective {
            event.collective = collective;
            event.communicates = true;
        }
        events.push((event, id.0, sweep.times(number, id).0.0 - start));
        if template.lanes[op.lane.index()].1 == LaneKind::Compute {
            // Forward work is repeated within the backward pass that needs it.
            let phase = if op.phase == Phase::Recompute { Phase::Backward } else { op.phase };
            pass = match pass {
                Some((known, batch, from, _)) if (known, batch) == (phase, op.micro_batch) => {
                    Some((phase, batch, from, end))
                }
                before => {
                    before.into_iter().for_each(|p| events.push((passed(&mut rank, p), NO_OP, 0)));
                    Some((phase, op.micro_batch, start, end))
                }
            };
        }
    }
    pass.into_iter().for_each(|p| events.push((passed(&mut rank, p), NO_OP, 0)));
    events.sort_by_key(|(event, _, _)| event.start_ns);
    let waits = events.iter().enumerate().filter(|(_, (_, _, waited))| *waited > 0);
    let simulated = Simulated {
        program,
        template: t,
        waited: waits.map(|(event, (_, _, waited))| (event, *waited)).collect(),
        ops: events.iter().map(|(_, op, _)| *op).collect(),
        memory: rank_memory(setup, sweep, number),
    };
    rank.events = events.into_iter().map(|(event, _, _)| event).collect();
    (rank, simulated)
}

/// A pass of a micro-batch over the compute lane.
fn passed(rank: &mut RankTrace, (phase, batch, start, end): (Phase, u32, i64, i64)) -> Event {
    let name = match batch {
        Op::NO_MICRO_BATCH => phase_name(phase).to_owned(),
        batch => format!("{} {batch}", phase_name(phase)),
    };
    let mut event = Event::new(Kind::Annotation, rank.names.intern(&name), start, end - start);
    event.lane = PASSES;
    event
}

fn host_name(action: Action) -> (Kind, &'static str) {
    match action {
        Action::HostWork(HostWork::Step) => (Kind::Op, "data loading and step set-up"),
        Action::HostWork(HostWork::MicroBatch) => (Kind::Op, "micro-batch set-up"),
        Action::HostWork(HostWork::Recorded(_)) => (Kind::Op, "host work"),
        _ => (Kind::Runtime, "wait for the device (Synchronize)"),
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Forward => "forward",
        Phase::Recompute => "recompute",
        Phase::Backward => "backward",
        Phase::Optimizer => "optimizer",
        Phase::Other => "other",
    }
}

fn precision_name(precision: Precision) -> &'static str {
    match precision {
        Precision::Fp32 => "fp32",
        Precision::Bf16 => "bf16",
        Precision::Fp16 => "fp16",
        Precision::Fp8 => "fp8",
        Precision::Fp4 => "fp4",
    }
}

/// A call as the profiler describes it: elements of one byte that this rank puts in and gets out.
fn recorded_call(
    rank: &mut RankTrace,
    program: &Program,
    groups: &Groups,
    position: usize,
    family: usize,
    call: &CollectiveCall,
) -> u32 {
    let group = groups.group[position][family].unwrap_or_default();
    let members = program.families[family].groups.get(group as usize);
    let n = members.len().max(1) as u64;
    let number = groups.ranks[position];
    let other = members.iter().find(|member| **member != number);
    let sends = members.first() == Some(&number);
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let (op, sent, received, peer) = match call.collective {
        Collective::AllReduce => ("all_reduce", call.bytes, call.bytes, None),
        Collective::AllGather => ("all_gather", call.bytes / n, call.bytes, None),
        Collective::ReduceScatter => ("reduce_scatter", call.bytes, call.bytes / n, None),
        Collective::AllToAll => ("all_to_all", call.bytes, call.bytes, None),
        Collective::Broadcast => ("broadcast", call.bytes, call.bytes, None),
        Collective::SendRecv if sends => ("send", call.bytes, 0, other),
        Collective::SendRecv => ("recv", 0, call.bytes, other),
    };
    let recorded = Recorded {
        op: rank.names.intern(op),
        group: rank.names.intern(&groups.names[family]),
        dtype: rank.names.intern("Byte"),
        in_elements: bytes(sent),
        out_elements: bytes(received),
        group_size: members.len() as i32,
        peer: peer.map_or(-1, |peer| *peer as i32),
        ..Recorded::default()
    };
    rank.add_collective(recorded)
}

impl Details for Simulated<'_> {
    fn lane(&self, device: i32, lane: i64) -> Option<&str> {
        match (device, lane) {
            (..0, PASSES) => Some("step"),
            (..0, _) => Some("host"),
            _ => {
                let lanes = &self.program.templates[self.template].lanes;
                Some(lanes.get(usize::try_from(lane).ok()?)?.0.as_str())
            }
        }
    }

    fn class(&self, event: usize) -> Option<&str> {
        match self.op(event)?.action {
            Action::Kernel(kernel) => Some(self.program.kernels[kernel.index()].class.name()),
            _ => None,
        }
    }

    fn args<'a>(&'a self, event: usize, args: &mut Vec<Arg<'a>>) {
        let Some(op) = self.op(event) else { return };
        let mut put = |key: &'static str, value: Value<'a>| args.push(Arg { key, value });
        put("phase", Value::Text(phase_name(op.phase)));
        if op.micro_batch != Op::NO_MICRO_BATCH {
            put("micro_batch", Value::Whole(op.micro_batch.into()));
        }
        match op.action {
            Action::Kernel(kernel) => work(&self.program.kernels[kernel.index()], &mut put),
            Action::Meet { family, call } => {
                put("family", Value::Text(&self.program.families[family.index()].name));
                let call = &self.program.calls[call.index()];
                put("message_bytes", whole(call.bytes));
                if call.messages > 1 {
                    put("messages", Value::Whole(call.messages.into()));
                }
                if let Some(waited) = self.waited.get(&event) {
                    put("waited_ns", Value::Whole(*waited));
                }
            }
            _ => {}
        }
    }

    fn counters(&self) -> Vec<Counter> {
        let values = self.memory.iter().map(|(at, bytes)| (*at, bytes / GIB)).collect();
        vec![Counter { name: "memory allocated", unit: "GiB", values }]
    }
}

impl Simulated<'_> {
    fn op(&self, event: usize) -> Option<&Op> {
        self.program.templates[self.template].ops.get(*self.ops.get(event)? as usize)
    }
}

fn whole<'a>(number: u64) -> Value<'a> {
    Value::Whole(i64::try_from(number).unwrap_or(i64::MAX))
}

/// Shape of a kernel.
fn work<'a>(kernel: &'a Kernel, put: &mut dyn FnMut(&'static str, Value<'a>)) {
    let mut sizes = |sizes: &[(&'static str, u64)]| {
        for (key, size) in sizes {
            put(key, whole(*size));
        }
    };
    match &kernel.work {
        Work::Gemm { m, n, k, batch, precision, .. } => {
            sizes(&[("m", *m), ("n", *n), ("k", *k), ("batch", *batch)]);
            put("precision", Value::Text(precision_name(*precision)));
        }
        Work::Attention {
            pass,
            batch,
            heads,
            queries,
            keys,
            head_dim,
            value_dim,
            precision,
            ..
        } => {
            sizes(&[("batch", *batch), ("heads", *heads), ("queries", *queries), ("keys", *keys)]);
            sizes(&[("head_dim", *head_dim), ("value_dim", *value_dim)]);
            put("precision", Value::Text(precision_name(*precision)));
            let backward = *pass == AttentionPass::Backward;
            put("pass", Value::Text(if backward { "backward" } else { "forward" }));
        }
        Work::Stream { bytes, .. } => sizes(&[("bytes", *bytes)]),
        Work::Recorded { .. } => {}
    }
    if kernel.flops() > 0.0 {
        put("flops", Value::Number(kernel.flops()));
    }
}
