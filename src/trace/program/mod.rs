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
//! * **No launch record**: a kernel that starts long after its stream was free is taken to wait for
//!   the work that ended last before it; also inferred.
//! * **A full device**: a kernel that started within microseconds of the end of another stream's
//!   work, and long after it could have, found no free compute units before; also inferred.
//! * **Host waits**: a blocking call that ended after device work it had to wait for becomes a
//!   host wait on that work; only what it took beyond that is host time.
//! * **Sends and receives** of two recorded ranks meet where both say with whom, agree on how many
//!   there were, and overlapped in time.
//! * **Work that overlapped on one stream** (copy engines and communication planes that a profiler
//!   shows as one) gets lanes of its own.
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

mod builder;
mod clocks;
mod meetings;
mod waits;

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::program::{Kernel, KernelClass, KernelId, OpId, Program, TemplateId, Work};
use crate::units::Nanos;

use super::align::common_ns;
use super::collectives::CommOp;
use super::launches::Launches;
use super::model::{LONGEST_RECORDING_NS, RankTrace};
use super::shapes::shapes;

use builder::RankBuilder;
use clocks::{device_clock_ahead, dispatch_gap, host_begin, shortest_launch};
use meetings::Meetings;

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
    /// Where each kernel of the program comes from, and what is known of it.
    pub origins: Vec<Origin>,
    /// What each call of the program moved.
    pub moved: Vec<Moved>,
    /// What waited for what, beyond the order of streams and of the host.
    pub edges: Vec<Edge>,
    /// What was derived and what was not.
    pub notes: Notes,
}

/// Where a kernel of a recorded program comes from, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// Position of the recorded rank.
    pub rank: usize,
    /// Whether it is a copy or a fill.
    pub copies: bool,
    /// What it computed, from the shapes of its operator.
    pub work: Option<Work>,
    /// What it moved between ranks: a communication kernel that met nobody.
    pub moved: Option<Moved>,
}

/// What a communication operation moved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moved {
    /// Operation.
    pub op: CommOp,
    /// Process group as recorded; empty where unknown.
    pub group: String,
    /// Message size as the NCCL tests count it, where recorded.
    pub bytes: Option<i64>,
    /// Ranks of the group, recorded or not, where known.
    pub ranks: Option<u32>,
}

/// Why an operation of a recorded program waits for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A synchronisation record names it.
    RecordedWait,
    /// The stream waited for some event, and this work ended last before it went on.
    InferredWait,
    /// The device was full until this work ended.
    FullDevice,
    /// A blocking call of the host returned when this work ended.
    HostWait,
    /// Ranks meet in a collective or a transfer.
    Meeting,
}

impl Cause {
    /// The name in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RecordedWait => "recorded_wait",
            Self::InferredWait => "inferred_wait",
            Self::FullDevice => "full_device",
            Self::HostWait => "host_wait",
            Self::Meeting => "meeting",
        }
    }

    /// Whether no record says so.
    #[must_use]
    pub const fn inferred(self) -> bool {
        !matches!(self, Self::RecordedWait)
    }
}

/// One wait: of an event for another, by position of the rank and of the event in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// Why.
    pub cause: Cause,
    /// What was waited for.
    pub from: (usize, usize),
    /// What waited.
    pub to: (usize, usize),
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
    /// Sends and receives replayed as meetings of two ranks.
    pub transfers: u64,
    /// Communication kernels replayed with their recorded duration, waiting included.
    pub unmatched_collectives: u64,
    /// Device events that overlapped others of their stream and got a lane of their own.
    pub beside_stream: u64,
    /// Time by which kernels of one stream overlapped and were cut, ns.
    pub clipped_ns: i64,
}

/// Changes to device events before a program is made of them, by position of the rank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// Events that are left out, with their launch calls.
    pub omitted: BTreeSet<(usize, usize)>,
    /// Events that take another time, ns.
    pub durations: BTreeMap<(usize, usize), i64>,
}

/// Device and stream.
type Stream = (i32, i64);

/// Builds the program of ranks that ran together.
///
/// # Errors
/// There is no device work, or a rank has more streams than lanes exist.
pub fn recorded_program(ranks: &[RankTrace]) -> Result<RecordedProgram> {
    edited_program(ranks, &Edits::default())
}

/// Builds the program of ranks that ran together, with some events left out or changed. What
/// waited for an event that is left out waits for what that waited for.
///
/// # Errors
/// As for [`recorded_program`].
pub fn edited_program(ranks: &[RankTrace], edits: &Edits) -> Result<RecordedProgram> {
    if !ranks.iter().any(|rank| rank.events.iter().any(|e| e.kind.is_device())) {
        return Err(Error::Missing("the trace has no device work to replay".into()));
    }
    let mut program = Program::default();
    let mut notes = Notes::default();
    let launches: Vec<Launches> = ranks.iter().map(Launches::of).collect();
    let meetings = Meetings::of(ranks, &launches, edits, &mut program, &mut notes);
    let launch_latency = shortest_launch(ranks, &launches);
    let dispatch_gap = dispatch_gap(ranks, &launches, launch_latency);
    let mut kernels = KernelTable::default();
    let mut events = Vec::with_capacity(ranks.len());
    let mut edges = meetings.edges();
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
            position: index,
            launches: &launches[index],
            shapes: shapes(rank, &launches[index]),
            launch_latency: launch_latency.0,
            dispatch_gap: dispatch_gap.0,
            ahead: ahead[index],
            edits,
            notes: &mut notes,
            kernels: &mut kernels,
            edges: &mut edges,
        };
        let (template, map) = builder.build(offset, &meetings)?;
        program.templates.push(template);
        program.template_of_rank.push(TemplateId(index as u32));
        events.push(map);
    }
    program.kernels = kernels.kernels;
    program.check()?;
    edges.sort_unstable();
    Ok(RecordedProgram {
        program,
        launch_latency,
        dispatch_gap,
        events,
        origins: kernels.origins,
        moved: meetings.moved,
        edges,
        notes,
    })
}

/// Distinct kernels by name, duration and origin.
#[derive(Default)]
struct KernelTable {
    kernels: Vec<Kernel>,
    origins: Vec<Origin>,
    index: BTreeMap<(String, i64, Origin), KernelId>,
}

impl KernelTable {
    fn id(&mut self, name: &str, ns: i64, class: KernelClass, origin: Origin) -> KernelId {
        let key = (name.to_owned(), ns, origin);
        if let Some(id) = self.index.get(&key) {
            return *id;
        }
        let id = KernelId(self.kernels.len() as u32);
        self.kernels.push(Kernel { name: name.to_owned(), class, work: Work::Recorded { ns } });
        self.origins.push(key.2.clone());
        self.index.insert(key, id);
        id
    }
}
