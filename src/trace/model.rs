//! What is retained of a recorded rank: typed events and the small tables they point into.
//!
//! An [`Event`] is 64 bytes; text, launch geometry, operator shapes, copies, synchronisations and
//! collectives are interned or stored once beside it. Everything that a replay needs survives: the
//! launch call and its correlation with device work (one call may launch many kernels), streams,
//! synchronisation records, collective metadata, and the flows between forward and backward.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::header::RankHeader;
use super::names::{NameId, Names};

/// Marks an absent side-table index.
pub(crate) const NO_INDEX: u32 = u32::MAX;
/// Latest start that is believed, ns: the year 2096. Differences of two starts stay in range.
pub(crate) const LATEST_NS: i64 = 4_000_000_000_000_000_000;
/// Longest event that is believed, ns: 11 days.
pub(crate) const LONGEST_EVENT_NS: i64 = 1_000_000_000_000_000;
/// Longest recording that is believed, ns: 115 days.
pub(crate) const LONGEST_RECORDING_NS: i64 = 10_000_000_000_000_000;
/// Marks an absent identifier.
pub(crate) const NO_ID: i64 = -1;

/// What an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A kernel on a device stream; [`Event::communicates`] tells communication from compute.
    Kernel,
    /// A copy on a device stream.
    Memcpy,
    /// A fill on a device stream.
    Memset,
    /// A call of the CUDA or HIP runtime on a host thread.
    Runtime,
    /// A call of the CUDA driver on a host thread.
    Driver,
    /// A framework operator on a host thread.
    Op,
    /// A range that the user or the framework named on a host thread.
    Annotation,
    /// A synchronisation record: which event or stream was waited for.
    Sync,
    /// One end of an arrow from a forward operator to its backward operator.
    Flow,
    /// Time the profiler took for itself.
    Overhead,
}

impl Kind {
    /// Every kind, in the order of the type.
    pub const ALL: [Self; 10] = [
        Self::Kernel,
        Self::Memcpy,
        Self::Memset,
        Self::Runtime,
        Self::Driver,
        Self::Op,
        Self::Annotation,
        Self::Sync,
        Self::Flow,
        Self::Overhead,
    ];

    /// The name in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Memcpy => "memcpy",
            Self::Memset => "memset",
            Self::Runtime => "runtime",
            Self::Driver => "driver",
            Self::Op => "op",
            Self::Annotation => "annotation",
            Self::Sync => "sync",
            Self::Flow => "flow",
            Self::Overhead => "overhead",
        }
    }

    /// The kind of a name in files.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it is work on a device stream.
    #[must_use]
    pub const fn is_device(self) -> bool {
        matches!(self, Self::Kernel | Self::Memcpy | Self::Memset)
    }

    /// Whether it is a copy or a fill.
    #[must_use]
    pub const fn is_memory(self) -> bool {
        matches!(self, Self::Memcpy | Self::Memset)
    }

    /// Whether it is a call that can launch device work.
    #[must_use]
    pub const fn is_call(self) -> bool {
        matches!(self, Self::Runtime | Self::Driver)
    }
}

/// One recorded event. Times are nanoseconds on the rank's own clock, relative to
/// [`super::header::Clock::base_unix_ns`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Start, ns.
    pub start_ns: i64,
    /// Duration, ns; never negative.
    pub dur_ns: i64,
    /// The stream of device work and of synchronisation records, the host thread of the rest.
    pub lane: i64,
    pub(crate) correlation: i64,
    pub(crate) external: i64,
    /// Its name in [`RankTrace::names`].
    pub name: NameId,
    /// Device ordinal of device work and synchronisation records; -1 on the host.
    pub device: i32,
    pub(crate) detail: u32,
    pub(crate) collective: u32,
    /// What it is.
    pub kind: Kind,
    /// Whether a kernel communicates with other ranks.
    pub communicates: bool,
}

impl Event {
    /// An event with no details.
    #[must_use]
    pub const fn new(kind: Kind, name: NameId, start_ns: i64, dur_ns: i64) -> Self {
        Self {
            start_ns,
            dur_ns,
            lane: 0,
            correlation: NO_ID,
            external: NO_ID,
            name,
            device: -1,
            detail: NO_INDEX,
            collective: NO_INDEX,
            kind,
            communicates: false,
        }
    }

    /// End, ns.
    #[must_use]
    pub const fn end_ns(&self) -> i64 {
        self.start_ns.saturating_add(self.dur_ns)
    }

    /// What links device work to the call that launched it. All kernels of a graph share one.
    #[must_use]
    pub fn correlation(&self) -> Option<i64> {
        (self.correlation != NO_ID).then_some(self.correlation)
    }

    /// What links an operator to the calls and kernels made inside it.
    #[must_use]
    pub fn external_id(&self) -> Option<i64> {
        (self.external != NO_ID).then_some(self.external)
    }
}

/// How a kernel was launched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Geometry {
    /// Blocks in x, y, z; zero where unknown.
    pub grid: [u32; 3],
    /// Threads per block in x, y, z; zero where unknown.
    pub block: [u32; 3],
    /// Shared memory, bytes per block; -1 where unknown.
    pub shared_bytes: i64,
    /// Registers per thread; -1 where unknown.
    pub registers: i32,
}

/// What is known of an operator beyond its name and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpDetail {
    /// Autograd sequence number, which a forward operator shares with its backward; -1 if none.
    pub sequence: i64,
    /// Thread that ran the forward operator, as the profiler numbers threads; -1 if none.
    pub forward_thread: i64,
    /// Input dimensions, such as `[[8,4096],[4096,4096]]`.
    pub dims: NameId,
    /// Input types, such as `[float,Scalar]`.
    pub types: NameId,
}

/// What a synchronisation record waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncDetail {
    /// Stream whose event was waited for; -1 if unknown.
    pub wait_stream: i64,
    /// Event that was waited for; -1 if unknown.
    pub wait_event: i64,
    /// Correlation of the call that recorded the event; -1 if unknown.
    pub wait_correlation: i64,
}

/// What a collective or point-to-point transfer says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Collective {
    /// Operation as recorded, such as `allreduce` or `_allgather_base`.
    pub op: NameId,
    /// Name of the process group, also a key of [`super::header::RankHeader::groups`].
    pub group: NameId,
    /// Element type as recorded, such as `BFloat16`.
    pub dtype: NameId,
    /// Elements this rank put in; -1 if unknown.
    pub in_elements: i64,
    /// Elements this rank got out; -1 if unknown.
    pub out_elements: i64,
    /// Ranks in the group; -1 if unknown.
    pub group_size: i32,
    /// Other side of a send or receive; -1 if none.
    pub peer: i32,
    /// Sequence number within the group; -1 if unknown.
    pub sequence: i64,
    /// Split sizes of an all-to-all as recorded, input and output; empty where even.
    pub splits: [NameId; 2],
}

impl Default for Collective {
    fn default() -> Self {
        Self {
            op: NameId::EMPTY,
            group: NameId::EMPTY,
            dtype: NameId::EMPTY,
            in_elements: NO_ID,
            out_elements: NO_ID,
            group_size: -1,
            peer: -1,
            sequence: NO_ID,
            splits: [NameId::EMPTY; 2],
        }
    }
}

/// One recorded rank.
#[derive(Clone, Debug, Default)]
pub struct RankTrace {
    /// Who and what was recorded, on which clock, and what was lost.
    pub header: RankHeader,
    /// Strings that events point to.
    pub names: Names,
    /// Events by start; events with the same start keep the order of the source.
    pub events: Vec<Event>,
    pub(crate) geometries: Vec<Geometry>,
    pub(crate) ops: Vec<OpDetail>,
    pub(crate) copies: Vec<i64>,
    pub(crate) syncs: Vec<SyncDetail>,
    pub(crate) collectives: Vec<Collective>,
    geometry_index: HashMap<Geometry, u32, FixedState>,
    collective_index: HashMap<Collective, u32, FixedState>,
}

impl RankTrace {
    /// The name of an event.
    #[must_use]
    pub fn name(&self, event: &Event) -> &str {
        self.names.get(event.name)
    }

    /// How a kernel was launched, where recorded.
    #[must_use]
    pub fn geometry(&self, event: &Event) -> Option<&Geometry> {
        (event.kind == Kind::Kernel).then(|| self.geometries.get(event.detail as usize)).flatten()
    }

    /// Shapes, types and autograd sequence of an operator, where recorded.
    #[must_use]
    pub fn op(&self, event: &Event) -> Option<&OpDetail> {
        matches!(event.kind, Kind::Op | Kind::Annotation)
            .then(|| self.ops.get(event.detail as usize))
            .flatten()
    }

    /// Bytes that a copy or fill moved, where recorded.
    #[must_use]
    pub fn bytes(&self, event: &Event) -> Option<i64> {
        event.kind.is_memory().then(|| self.copies.get(event.detail as usize).copied()).flatten()
    }

    /// What a synchronisation record waited for, where recorded.
    #[must_use]
    pub fn sync(&self, event: &Event) -> Option<&SyncDetail> {
        (event.kind == Kind::Sync).then(|| self.syncs.get(event.detail as usize)).flatten()
    }

    /// Whether a flow event is the start of its arrow.
    #[must_use]
    pub fn flow_starts(&self, event: &Event) -> bool {
        event.kind == Kind::Flow && event.detail == 0
    }

    /// Collective metadata of a communication kernel or operator, where recorded.
    #[must_use]
    pub fn collective(&self, event: &Event) -> Option<&Collective> {
        self.collectives.get(event.collective as usize)
    }

    /// Bytes held for events, tables and strings.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.events.capacity() * size_of::<Event>()
            + self.geometries.capacity() * size_of::<Geometry>() * 2
            + self.ops.capacity() * size_of::<OpDetail>()
            + self.copies.capacity() * size_of::<i64>()
            + self.syncs.capacity() * size_of::<SyncDetail>()
            + self.collectives.capacity() * size_of::<Collective>() * 2
            + self.names.heap_bytes()
    }

    pub(crate) fn add_geometry(&mut self, geometry: Geometry) -> u32 {
        let next = self.geometries.len() as u32;
        let index = *self.geometry_index.entry(geometry).or_insert(next);
        if index == next {
            self.geometries.push(geometry);
        }
        index
    }

    pub(crate) fn add_collective(&mut self, collective: Collective) -> u32 {
        let next = self.collectives.len() as u32;
        let index = *self.collective_index.entry(collective).or_insert(next);
        if index == next {
            self.collectives.push(collective);
        }
        index
    }

    pub(crate) fn add_op(&mut self, detail: OpDetail) -> u32 {
        self.ops.push(detail);
        (self.ops.len() - 1) as u32
    }

    pub(crate) fn add_copy(&mut self, bytes: i64) -> u32 {
        self.copies.push(bytes);
        (self.copies.len() - 1) as u32
    }

    pub(crate) fn add_sync(&mut self, detail: SyncDetail) -> u32 {
        self.syncs.push(detail);
        (self.syncs.len() - 1) as u32
    }

    /// Makes the earliest time of the rank zero.
    pub(crate) fn rebase(&mut self) {
        let windows = &mut self.header.windows;
        let first = self.events.iter().map(|event| event.start_ns);
        let Some(first) = first.chain(windows.iter().map(|window| window.start_ns)).min() else {
            return;
        };
        for event in &mut self.events {
            event.start_ns -= first;
        }
        for window in windows {
            window.start_ns -= first;
        }
        self.header.clock.base_unix_ns = self.header.clock.base_unix_ns.saturating_add(first);
    }

    /// Takes the events of another recording of the same process, on the same clock.
    pub(crate) fn absorb(&mut self, other: &Self) {
        let shift = other.header.clock.base_unix_ns.saturating_sub(self.header.clock.base_unix_ns);
        for event in &other.events {
            let mut event = *event;
            event.name = self.names.intern(other.name(&event));
            event.start_ns = event.start_ns.saturating_add(shift);
            event.detail = match event.kind {
                Kind::Flow => event.detail,
                Kind::Memcpy | Kind::Memset => {
                    other.bytes(&event).map_or(NO_INDEX, |bytes| self.add_copy(bytes))
                }
                Kind::Kernel => other
                    .geometries
                    .get(event.detail as usize)
                    .map_or(NO_INDEX, |geometry| self.add_geometry(*geometry)),
                Kind::Sync => other
                    .syncs
                    .get(event.detail as usize)
                    .map_or(NO_INDEX, |detail| self.add_sync(*detail)),
                // Tables that are joined record no operator shapes.
                _ => NO_INDEX,
            };
            event.collective = NO_INDEX;
            self.events.push(event);
        }
        let (mine, theirs) = (&mut self.header.losses, &other.header.losses);
        mine.events_read += theirs.events_read;
        mine.redacted_names += theirs.redacted_names;
        mine.unusable.extend(theirs.unusable.iter().cloned());
        mine.left_out.extend(theirs.left_out.iter().cloned());
        if mine.truncated.is_none() {
            mine.truncated.clone_from(&theirs.truncated);
        }
        self.rebase();
    }

    /// Puts events into their documented order and gives spare memory back.
    pub(crate) fn settle(&mut self) {
        // Spare memory goes first: sorting needs half as much again.
        self.events.shrink_to_fit();
        self.ops.shrink_to_fit();
        self.events.sort_by_key(|event| event.start_ns);
        self.geometry_index = HashMap::default();
        self.collective_index = HashMap::default();
    }
}

/// Recorded ranks, ordered by trace and rank. Ranks of one trace ran together.
#[derive(Clone, Debug, Default)]
pub struct TraceSet {
    /// The ranks.
    pub ranks: Vec<RankTrace>,
}

impl TraceSet {
    /// The ranks of each trace, in order.
    pub fn traces(&self) -> impl Iterator<Item = &[RankTrace]> {
        self.ranks.chunk_by(|a, b| a.header.trace == b.header.trace)
    }

    pub(crate) fn traces_mut(&mut self) -> impl Iterator<Item = &mut [RankTrace]> {
        self.ranks.chunk_by_mut(|a, b| a.header.trace == b.header.trace)
    }

    /// Bytes held.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.ranks.iter().map(RankTrace::heap_bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_stays_small() {
        assert!(size_of::<Event>() <= 64, "{}", size_of::<Event>());
    }

    #[test]
    fn kinds_have_distinct_names() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
        }
    }
}
