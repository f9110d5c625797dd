//! rocprof: version 1 (JSON), version 3 (native JSON, and one CSV table per kind of event).

mod table;
mod v1;
mod v3;

pub use table::{belong_together, join, read as read_table};
pub use v1::read as read_v1;
pub use v3::read as read_v3;

use crate::trace::model::Kind;

use super::collect::Collector;

/// Name of the format of version 1.
pub const V1: &str = "rocprof-v1";
/// Name of the format of version 3, JSON.
pub const V3: &str = "rocprofv3-json";
/// Name of the format of version 3, tables.
pub const TABLES: &str = "rocprofv3-csv";

/// Kind of a call by its name.
fn call(name: &str) -> Kind {
    if name.starts_with("hsa_") { Kind::Driver } else { Kind::Runtime }
}

/// Blocks of a grid that is given in threads, as HIP does.
fn blocks(threads: i64, block: i64) -> u32 {
    let blocks =
        if block > 0 { threads.div_euclid(block) + i64::from(threads % block > 0) } else { 0 };
    u32::try_from(blocks).unwrap_or(0)
}

/// Attaches the size of a copy to the last event.
fn copied(rank: &mut Collector, bytes: Option<i64>) {
    if let Some(bytes) = bytes.filter(|bytes| *bytes >= 0) {
        let detail = rank.trace.add_copy(bytes);
        if let Some(event) = rank.trace.events.last_mut() {
            event.detail = detail;
        }
    }
}
