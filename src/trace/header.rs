//! The header of a recorded rank: an allow-list, and nothing else.
//!
//! Public traces have been seen to carry access tokens and whole environments in their metadata.
//! Whatever is not a field of these types does not survive an import.

use serde::{Deserialize, Serialize};

/// Name of the format in its header.
pub const SCHEMA: &str = "trainyard-trace";
/// Version of the format that this build reads and writes.
pub const SCHEMA_VERSION: u32 = 1;
/// File name of the header in a trace directory.
pub const HEADER_FILE: &str = "trace.json";

/// The header file of a trace directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceHeader {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Always [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Program and version that wrote it.
    pub written_by: String,
    /// One entry per rank, ordered by trace and rank.
    pub ranks: Vec<RankEntry>,
}

/// One rank in the header file: who it is, and where its events are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankEntry {
    /// Where its events are.
    pub events: EventFile,
    /// Who and what was recorded.
    pub about: RankHeader,
}

/// The event table of a rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventFile {
    /// File name in the trace directory; compressed where it ends in `.zst`.
    pub file: String,
    /// Rows, without the row of column names.
    pub rows: u64,
    /// BLAKE3 hash of the uncompressed CSV bytes, hexadecimal. Without it nothing is verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
}

/// Who and what was recorded, on which clock, and what was lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankHeader {
    /// The trace that the rank belongs to; ranks of one trace ran together.
    pub trace: String,
    /// Global rank.
    pub rank: u32,
    /// How the rank is known.
    pub rank_source: RankSource,
    /// Ranks of the job, recorded or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub world_size: Option<u32>,
    /// What it was read from.
    pub source: SourceInfo,
    /// The hardware and software that ran.
    #[serde(default)]
    pub identity: Identity,
    /// What its times mean.
    pub clock: Clock,
    /// Step windows, by start.
    #[serde(default)]
    pub windows: Vec<StepWindow>,
    /// Step times measured without a profiler, ns; empty where unknown.
    #[serde(default)]
    pub reference_step_ns: Vec<i64>,
    /// Process groups, by name.
    #[serde(default)]
    pub groups: Vec<ProcessGroup>,
    /// What was lost or left out.
    #[serde(default)]
    pub losses: Losses,
}

/// How a rank number is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RankSource {
    /// The recording says so.
    Recorded,
    /// Taken from the file name.
    FileName,
    /// Nothing said so.
    #[default]
    Assumed,
}

/// What a rank was read from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceInfo {
    /// Format: `pytorch-kineto`, ...
    pub format: String,
    /// File name without folders.
    pub file: String,
}

/// The hardware and software that ran.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Accelerators that the process could see.
    #[serde(default)]
    pub devices: Vec<Device>,
    /// Versions of the software, by name: `cuda_runtime`, `cuda_driver`, `cupti`, `hip_runtime`,
    /// `hip_driver`, `roctracer`, `nccl`.
    #[serde(default)]
    pub software: Vec<Version>,
    /// Communication backend, such as `nccl`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

/// An accelerator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Ordinal.
    pub id: i64,
    /// Marketing name as the driver gives it.
    pub name: String,
    /// Memory, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Compute capability or gfx generation, such as `9.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute: Option<String>,
    /// Streaming multiprocessors or compute units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiprocessors: Option<u32>,
}

/// A named version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Version {
    /// What.
    pub name: String,
    /// Its version as recorded.
    pub version: String,
}

/// What the times of a rank mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// The instant of time zero, ns since 1970 as the recording machine's clock had it.
    pub base_unix_ns: i64,
    /// Smallest step seen in device times, ns: 1000 where the source wrote whole microseconds.
    pub resolution_ns: i64,
    /// Add to a time of this rank to put it on the common clock of its trace, ns.
    pub offset_ns: i64,
    /// Collectives that the offset was estimated from; none where the rank stands alone.
    #[serde(default)]
    pub aligned_on: u32,
    /// Median distance of matched collective ends after alignment, ns.
    #[serde(default)]
    pub residual_ns: i64,
}

/// A step as the profiled program marked it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepWindow {
    /// Step number as text.
    pub name: String,
    /// Start, ns.
    pub start_ns: i64,
    /// Duration, ns.
    pub dur_ns: i64,
}

/// A process group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessGroup {
    /// Name that collectives refer to.
    pub name: String,
    /// What it is for, where the program said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Members; empty where only the size is known.
    #[serde(default)]
    pub ranks: Vec<u32>,
    /// Number of members; -1 where unknown.
    pub size: i32,
}

/// What was lost or left out, so that nobody takes silence for completeness.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Losses {
    /// Records that the profiler itself says it dropped; unknown where it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped_by_profiler: Option<u64>,
    /// Events read from the source, used or not.
    #[serde(default)]
    pub events_read: u64,
    /// Events that could not be used, with the reason.
    #[serde(default)]
    pub unusable: Vec<Loss>,
    /// Events left out on purpose, with the reason.
    #[serde(default)]
    pub left_out: Vec<Loss>,
    /// Where the source ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub truncated: Option<Truncation>,
    /// Names in which something that looks like a secret was replaced.
    #[serde(default)]
    pub redacted_names: u64,
}

impl Losses {
    /// Where the source ended early, in words that complete "RANK: ...".
    #[must_use]
    pub fn cut(&self) -> Option<String> {
        let truncated = self.truncated.as_ref()?;
        let cause = match truncated.cause.as_str() {
            "" => String::new(),
            cause => format!(" ({cause})"),
        };
        Some(format!(
            "ends early at byte {}{cause}; {} bytes of an incomplete event are lost",
            truncated.at_byte, truncated.bytes_lost
        ))
    }

    /// What else was lost, in words that complete "RANK: ...".
    #[must_use]
    pub fn others(&self) -> Vec<String> {
        let dropped = self.dropped_by_profiler.filter(|dropped| *dropped > 0);
        let dropped = dropped.map(|dropped| format!("the profiler dropped {dropped} records"));
        let unusable = self.unusable.iter().map(|loss| {
            let at: Vec<String> = loss.first_at.iter().map(u64::to_string).collect();
            let at =
                if at.is_empty() { String::new() } else { format!(" (bytes {})", at.join(", ")) };
            format!("unusable: {} {}{at}", loss.events, loss.what)
        });
        dropped.into_iter().chain(unusable).collect()
    }

    /// How many events could not be used.
    #[must_use]
    pub fn unusable_count(&self) -> u64 {
        self.unusable.iter().map(|loss| loss.events).sum()
    }
}

/// A number of events and why they are not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// What and why.
    pub what: String,
    /// How many.
    pub events: u64,
    /// Byte offsets in the (decompressed) source of the first few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first_at: Vec<u64>,
}

/// Where a source ended early.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truncation {
    /// Byte offset of the end in the (decompressed) source.
    pub at_byte: u64,
    /// Bytes of an incomplete event in front of it.
    pub bytes_lost: u64,
    /// Why, where more is known than that the text stops.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
}
