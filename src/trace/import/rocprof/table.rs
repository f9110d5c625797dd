//! rocprofv3 tables: one CSV per kind of event (`*_kernel_trace.csv`, `*_hip_api_trace.csv`,
//! `*_memory_copy_trace.csv`, `*_marker_api_trace.csv`, ...). Tables of one process lie together
//! and share the front of their names; they are joined again.

use std::io::Read;

use csv::ByteRecord;

use super::super::collect::{Collector, identifier, small};
use super::{TABLES, blocks, call, copied};
use crate::trace::collectives;
use crate::trace::decimal::integer;
use crate::trace::model::{Geometry, Kind, RankTrace};

/// Tables of one run begin within this time of each other.
const ONE_RUN_NS: i64 = 3_600_000_000_000;

/// Reads one table.
///
/// # Errors
/// It lacks a column or holds no row that can be used; the text completes "FILE: ...".
pub fn read(reader: impl Read, file: &str) -> Result<RankTrace, String> {
    let mut rank = Collector::new(TABLES, file);
    let mut table = csv::ReaderBuilder::new().flexible(true).from_reader(reader);
    let header = table.byte_headers().map_err(|e| format!("is no table: {e}"))?.clone();
    let column = |name: &str| header.iter().position(|h| h == name.as_bytes());
    let (Some(start), Some(end)) = (column("Start_Timestamp"), column("End_Timestamp")) else {
        return Err("line 1: is a table without Start_Timestamp and End_Timestamp".into());
    };
    let name = ["Kernel_Name", "Function", "Direction"].into_iter().find_map(column);
    let Some(name) = name else {
        return Err("line 1: is a table without Kernel_Name, Function or Direction".into());
    };
    let kinds = column("Kind").or_else(|| column("Domain"));
    let lanes = [column("Stream_Id"), column("Queue_Id"), column("Thread_Id")];
    let agent = column("Agent_Id").or_else(|| column("Destination_Agent_Id"));
    let (correlation, bytes) = (column("Correlation_Id"), column("Size"));
    let axes = ["X", "Y", "Z"].map(|axis| {
        (column(&format!("Workgroup_Size_{axis}")), column(&format!("Grid_Size_{axis}")))
    });
    let shared = column("Group_Segment_Size").or_else(|| column("LDS_Block_Size"));
    let mut row = ByteRecord::new();
    loop {
        let at = table.position().byte();
        match table.read_byte_record(&mut row) {
            Ok(true) => {}
            Ok(false) => break,
            Err(e) => {
                rank.truncated(at, 0, &e.to_string());
                break;
            }
        }
        let cell = |column: Option<usize>| column.and_then(|c| row.get(c)).unwrap_or_default();
        // Newer versions write `Agent 1`.
        let number = |column: Option<usize>| {
            let text = cell(column);
            integer(text.rsplit(|b| *b == b' ').next().unwrap_or(text))
        };
        let text = String::from_utf8_lossy(cell(Some(name))).into_owned();
        let kind = match cell(kinds) {
            b"KERNEL_DISPATCH" => Kind::Kernel,
            b"MEMORY_COPY" => Kind::Memcpy,
            domain if domain.starts_with(b"MARKER") => Kind::Annotation,
            domain if domain.starts_with(b"HIP") || domain.starts_with(b"HSA") => call(&text),
            domain if domain.starts_with(b"RCCL") => Kind::Runtime,
            _ => {
                rank.left_out("kinds of records that are not known", 1);
                continue;
            }
        };
        let (begin, finish) = (integer(cell(Some(start))), integer(cell(Some(end))));
        let Some(event) = rank.event(kind, &text, begin, finish, at) else { continue };
        event.correlation = identifier(number(correlation));
        if !kind.is_device() {
            event.lane = identifier(number(lanes[2]));
            continue;
        }
        event.device = small(number(agent)).unwrap_or(-1);
        event.lane = number(lanes[0]).or_else(|| number(lanes[1])).unwrap_or(-1);
        if kind == Kind::Kernel {
            let axis = |i: usize| {
                let block = number(axes[i].0).unwrap_or(0);
                (blocks(number(axes[i].1).unwrap_or(0), block), u32::try_from(block).unwrap_or(0))
            };
            let detail = rank.trace.add_geometry(Geometry {
                grid: [axis(0).0, axis(1).0, axis(2).0],
                block: [axis(0).1, axis(1).1, axis(2).1],
                shared_bytes: identifier(number(shared)),
                registers: -1,
            });
            if let Some(event) = rank.trace.events.last_mut() {
                event.detail = detail;
            }
        } else {
            copied(&mut rank, number(bytes));
        }
    }
    rank.finish()
}

/// Whether two tables are of one process: the same front of the name, and begun within an hour.
#[must_use]
pub fn belong_together(a: &RankTrace, b: &RankTrace) -> bool {
    let apart = a.header.clock.base_unix_ns.saturating_sub(b.header.clock.base_unix_ns);
    front(&a.header.source.file) == front(&b.header.source.file)
        && apart.saturating_abs() < ONE_RUN_NS
}

/// `1234_kernel_trace.csv` belongs to process `1234`.
fn front(file: &str) -> &str {
    const KINDS: [&str; 11] = [
        "kernel",
        "hip_api",
        "hip_runtime",
        "hip_compile",
        "hip_compiler",
        "hsa_api",
        "hsa",
        "marker_api",
        "memory_copy",
        "memory_allocation",
        "rccl_api",
    ];
    let stem = super::super::source::stem(file);
    let stem = stem.strip_suffix("_trace").unwrap_or(stem);
    KINDS.iter().find_map(|kind| stem.strip_suffix(kind)).unwrap_or(stem)
}

/// Joins two tables of one process.
#[must_use]
pub fn join(mut first: RankTrace, second: &RankTrace) -> RankTrace {
    first.absorb(second);
    collectives::resolve(&mut first);
    first.settle();
    first
}
