//! Timelines for people's viewers: slices on lanes, written as they come.
//!
//! A [`Sink`] takes one rank after another, of each rank one lane after another, and of each lane
//! its slices by start; it holds the slices that are open and the distinct names of the rank, and
//! nothing else. Two formats: [`Perfetto`] (protobuf, for ui.perfetto.dev and `trace_processor`)
//! and [`Chrome`] (JSON in the vocabulary of the PyTorch profiler, which `trainyard trace import`
//! reads back to the nanosecond).
//!
//! This module knows neither traces nor programs.

mod chrome;
mod perfetto;
mod proto;

pub use chrome::{Chrome, RANKS_KEY};
pub use perfetto::Perfetto;
pub use proto::{
    CounterDescriptor, DebugAnnotation, EventName, InternedData, InternedText, ProcessDescriptor,
    ThreadDescriptor, Trace, TracePacket, TrackDescriptor, TrackEvent, event_type,
};

use std::io;

/// Format of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Perfetto protobuf.
    Perfetto,
    /// Chrome JSON, as the PyTorch profiler writes it.
    Chrome,
}

impl Format {
    /// The format that a file's name ends in, packed with gzip or not.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let name = name.strip_suffix(".gz").unwrap_or(name);
        let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        if ends(&[".pftrace", ".perfetto-trace", ".perfetto", ".pb"]) {
            Some(Self::Perfetto)
        } else if ends(&[".json"]) {
            Some(Self::Chrome)
        } else {
            None
        }
    }
}

/// A rank: the process of its lanes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Process {
    /// Global rank; distinct within a timeline.
    pub rank: u32,
    /// Name for people.
    pub name: String,
    /// What the PyTorch profiler says about a rank: top-level keys and values of its file.
    pub about: serde_json::Map<String, serde_json::Value>,
}

/// A lane of a rank: a host thread or a device stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane<'a> {
    /// Number as recorded; distinct within the rank.
    pub id: i64,
    /// Name for people.
    pub name: &'a str,
    /// Place among the lanes of the rank, from the top.
    pub order: u32,
}

/// The value of an argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A whole number.
    Whole(i64),
    /// Any number.
    Number(f64),
    /// Text.
    Text(&'a str),
    /// JSON as it stands, such as a list of sizes; must be valid.
    Json(&'a str),
}

/// Something to know about a slice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arg<'a> {
    /// What.
    pub key: &'static str,
    /// Its value.
    pub value: Value<'a>,
}

/// Which end of an arrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It begins here.
    Start,
    /// It passes here.
    Step,
    /// It ends here.
    Finish,
}

/// An arrow that begins, passes or ends at a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Equal at all of its ends, and nowhere else in the timeline.
    pub id: u64,
    /// Its identifier in Chrome JSON, distinct within the category.
    pub chrome_id: u64,
    /// What it stands for: `ac2g` (launch), `meeting`, `fwdbwd`.
    pub category: &'static str,
    /// Which end.
    pub end: End,
}

/// A slice of a lane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slice<'a> {
    /// Name.
    pub name: &'a str,
    /// Category in the vocabulary of the PyTorch profiler.
    pub category: &'static str,
    /// A finer category, such as the class of a kernel.
    pub class: Option<&'a str>,
    /// Start, ns on the timeline's clock.
    pub start_ns: i64,
    /// End, ns.
    pub end_ns: i64,
    /// What is known of it.
    pub args: &'a [Arg<'a>],
    /// Arrows.
    pub flows: &'a [Flow],
}

/// Takes a timeline, rank by rank, lane by lane, each lane's slices by start and, for the same
/// start, the longer first.
pub trait Sink {
    /// All ranks that will come, and the instant of time zero, ns since 1970.
    ///
    /// # Errors
    /// The output cannot be written; so for all others.
    fn begin(&mut self, processes: &[Process], base_unix_ns: i64) -> io::Result<()>;
    /// What follows belongs to this rank.
    ///
    /// # Errors
    /// As [`Self::begin`].
    fn process(&mut self, process: &Process) -> io::Result<()>;
    /// What follows belongs to this lane of the rank.
    ///
    /// # Errors
    /// As [`Self::begin`].
    fn lane(&mut self, lane: &Lane<'_>) -> io::Result<()>;
    /// A slice of the lane.
    ///
    /// # Errors
    /// As [`Self::begin`].
    fn slice(&mut self, slice: &Slice<'_>) -> io::Result<()>;
    /// An end of an arrow that no slice starts with.
    ///
    /// # Errors
    /// As [`Self::begin`].
    fn arrow(&mut self, at_ns: i64, flow: &Flow) -> io::Result<()>;
    /// A number of the rank over time: from each time on it has the value.
    ///
    /// # Errors
    /// As [`Self::begin`].
    fn counter(&mut self, name: &str, unit: &str, values: &[(i64, f64)]) -> io::Result<()>;
    /// The end.
    ///
    /// # Errors
    /// As [`Self::begin`].
    fn finish(&mut self) -> io::Result<()>;
}
