//! Trainyard's own trace format, version 1.
//!
//! A directory holds `trace.json` ([`TraceHeader`](super::header::TraceHeader)) and one CSV file
//! per rank, compressed where its name ends in `.zst`. Times are integer nanoseconds. The columns
//! are documented in `traces/README.md`; [`COLUMNS`] is their order in files we write, and a
//! reader goes by their names.

mod read;
mod write;

pub use read::{files, read};
pub use write::{Compression, write};

/// The columns, in the order in which they are written.
pub const COLUMNS: [&str; 35] = [
    "kind",
    "name",
    "start_ns",
    "dur_ns",
    "device",
    "lane",
    "correlation",
    "external_id",
    "bytes",
    "grid_x",
    "grid_y",
    "grid_z",
    "block_x",
    "block_y",
    "block_z",
    "shared_bytes",
    "registers",
    "sequence",
    "forward_thread",
    "dims",
    "types",
    "wait_stream",
    "wait_event",
    "wait_correlation",
    "flow",
    "collective",
    "group",
    "dtype",
    "in_elements",
    "out_elements",
    "group_size",
    "peer",
    "collective_sequence",
    "in_splits",
    "out_splits",
];
