//! Nsight Systems, exported to SQLite (`nsys export --type sqlite`; schemas 3.20 and 3.25 are
//! tested, and columns are looked up, so that others work as far as they have the same ones).
//!
//! Every process that used a device becomes a rank, in the order of device and process. Names are
//! numbers into `StringIds`; the high bits of `globalTid` are the process. Of NVTX, ranges that
//! have an end are kept; those that PyTorch wrote (`aten::mul, op_id = 7`) become operators.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use rusqlite::Connection;

use super::collect::{Collector, identifier, small};
use super::sqlite::{Fields, has_table, open, rows};
use crate::trace::header::{Device, Version};
use crate::trace::model::{Geometry, Kind, OpDetail, RankTrace, SyncDetail};
use crate::trace::names::NameId;
use crate::trace::redact;

/// Name of the format in headers.
pub const FORMAT: &str = "nsight-systems";

/// Everything of a `globalTid` but the thread.
const PROCESS: i64 = !0xff_ffff;
/// A wait of a stream for an event, among synchronisation records.
const STREAM_WAIT: i64 = 2;
/// Processes that are told apart; more are no training host.
const MOST_PROCESSES: usize = 4096;

/// Whether a database is an export of Nsight Systems.
#[must_use]
pub fn is_nsys(connection: &Connection) -> bool {
    has_table(connection, "StringIds")
        && (has_table(connection, "CUPTI_ACTIVITY_KIND_KERNEL")
            || has_table(connection, "CUPTI_ACTIVITY_KIND_RUNTIME")
            || has_table(connection, "META_DATA_EXPORT"))
}

/// Reads the ranks of an export.
///
/// # Errors
/// It is no such export or holds nothing that can be used; the text completes "FILE: ...".
pub fn read(path: Option<&Path>, reader: impl Read, file: &str) -> Result<Vec<RankTrace>, String> {
    read_from(&open(path, reader)?, file)
}

/// Reads the ranks of an open export.
///
/// # Errors
/// As [`read`].
pub fn read_from(connection: &Connection, file: &str) -> Result<Vec<RankTrace>, String> {
    let mut export =
        Export { strings: BTreeMap::new(), ranks: BTreeMap::new(), file, damage: Vec::new() };
    export.strings(connection);
    export.device_work(connection);
    if export.ranks.is_empty() {
        return Err("is an Nsight Systems export without work on a device".into());
    }
    export.calls(connection);
    export.synchronisation(connection);
    export.ranges(connection);
    let identity = identity(connection);
    let mut epoch = 0;
    let _ = rows(connection, "TARGET_INFO_SESSION_START_TIME", &["utcEpochNs"], |row| {
        epoch = row.int(0).unwrap_or(0);
    });
    let mut ranks: Vec<(i32, i64, Collector)> = export
        .ranks
        .into_iter()
        .map(|(process, rank)| {
            let devices = rank.trace.events.iter().filter(|e| e.kind.is_device());
            (devices.map(|event| event.device).min().unwrap_or(i32::MAX), process, rank)
        })
        .collect();
    ranks.sort_by_key(|(device, process, _)| (*device, *process));
    let mut traces = Vec::new();
    for (number, (_, _, mut rank)) in ranks.into_iter().enumerate() {
        let header = &mut rank.trace.header;
        header.rank = number as u32;
        header.identity = identity.clone();
        header.clock.base_unix_ns = epoch;
        for cause in &export.damage {
            rank.truncated(0, 0, cause);
        }
        traces.push(rank.finish()?);
    }
    Ok(traces)
}

fn identity(connection: &Connection) -> crate::trace::header::Identity {
    let mut identity = crate::trace::header::Identity::default();
    let columns = ["id", "name", "totalMemory", "smCount", "computeMajor", "computeMinor"];
    let _ = rows(connection, "TARGET_INFO_GPU", &columns, |row| {
        let (Some(id), Some(name)) = (row.int(0), row.text(1).and_then(redact::label)) else {
            return;
        };
        if identity.devices.len() < 64 {
            let version = row.int(4).zip(row.int(5));
            identity.devices.push(Device {
                id,
                name,
                memory_bytes: row.int(2).and_then(|bytes| u64::try_from(bytes).ok()),
                multiprocessors: row.int(3).and_then(|count| u32::try_from(count).ok()),
                compute: version.map(|(major, minor)| format!("{major}.{minor}")),
            });
        }
    });
    identity.devices.sort_by_key(|device| device.id);
    let _ = rows(connection, "META_DATA_EXPORT", &["name", "value"], |row| {
        let name = match row.text(0) {
            Some("EXPORT_PRODUCT_VERSION") => "nsight_systems",
            Some("EXPORT_SCHEMA_VERSION") => "nsight_systems_schema",
            _ => return,
        };
        if let Some(version) = row.text(1).and_then(redact::label).filter(|v| v.len() <= 32) {
            identity.software.push(Version { name: name.into(), version });
        }
    });
    identity
}

struct Export<'f> {
    strings: BTreeMap<i64, String>,
    ranks: BTreeMap<i64, Collector>,
    file: &'f str,
    damage: Vec<String>,
}

impl Export<'_> {
    /// Reads a table and remembers that it was damaged.
    fn table(
        &mut self,
        connection: &Connection,
        table: &str,
        columns: &[&str],
        mut take: impl FnMut(&mut Self, &Fields<'_, '_>, u64),
    ) {
        let mut row_number = 0;
        let read = rows(connection, table, columns, |row| {
            take(self, row, row_number);
            row_number += 1;
        });
        if let Err(cause) = read {
            self.damage.push(cause);
        }
    }

    fn strings(&mut self, connection: &Connection) {
        self.table(connection, "StringIds", &["id", "value"], |this, row, _| {
            if let (Some(id), Some(text)) = (row.int(0), row.text(1)) {
                this.strings.insert(id, text.to_owned());
            }
        });
    }

    fn text(&self, id: Option<i64>) -> String {
        id.and_then(|id| self.strings.get(&id)).cloned().unwrap_or_default()
    }

    fn device_work(&mut self, connection: &Connection) {
        const COMMON: [&str; 6] =
            ["start", "end", "deviceId", "streamId", "correlationId", "globalPid"];
        let kernels: Vec<&str> = COMMON
            .into_iter()
            .chain(["demangledName", "shortName", "registersPerThread"])
            .chain(["gridX", "gridY", "gridZ", "blockX", "blockY", "blockZ"])
            .chain(["staticSharedMemory", "dynamicSharedMemory"])
            .collect();
        self.table(connection, "CUPTI_ACTIVITY_KIND_KERNEL", &kernels, |this, row, at| {
            let name = this.text(row.int(6).or_else(|| row.int(7)));
            let Some(rank) = this.device_event(Kind::Kernel, &name, row, at) else { return };
            let size = |column| row.int(column).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
            let shared = row.int(15).unwrap_or(0).checked_add(row.int(16).unwrap_or(0));
            let detail = rank.trace.add_geometry(Geometry {
                grid: [size(9), size(10), size(11)],
                block: [size(12), size(13), size(14)],
                shared_bytes: identifier(shared),
                registers: small(row.int(8)).unwrap_or(-1),
            });
            if let Some(event) = rank.trace.events.last_mut() {
                event.detail = detail;
            }
        });
        let copies: Vec<&str> = COMMON.into_iter().chain(["bytes", "copyKind"]).collect();
        for (table, kind) in [
            ("CUPTI_ACTIVITY_KIND_MEMCPY", Kind::Memcpy),
            ("CUPTI_ACTIVITY_KIND_MEMSET", Kind::Memset),
        ] {
            self.table(connection, table, &copies, |this, row, at| {
                let name = match (kind, row.int(7)) {
                    (Kind::Memset, _) => "Memset (Device)",
                    (_, Some(1)) => "Memcpy HtoD",
                    (_, Some(2)) => "Memcpy DtoH",
                    (_, Some(8)) => "Memcpy DtoD",
                    (_, Some(10)) => "Memcpy PtoP",
                    _ => "Memcpy",
                };
                let Some(rank) = this.device_event(kind, name, row, at) else { return };
                if let Some(bytes) = row.int(6).filter(|bytes| *bytes >= 0) {
                    let detail = rank.trace.add_copy(bytes);
                    if let Some(event) = rank.trace.events.last_mut() {
                        event.detail = detail;
                    }
                }
            });
        }
    }

    /// A row of device work, in the rank of its process; the rank, if it could be used.
    fn device_event(
        &mut self,
        kind: Kind,
        name: &str,
        row: &Fields<'_, '_>,
        at: u64,
    ) -> Option<&mut Collector> {
        let process = row.int(5).unwrap_or(0) & PROCESS;
        if !self.ranks.contains_key(&process) && self.ranks.len() >= MOST_PROCESSES {
            return None;
        }
        let file = self.file;
        let rank = self.ranks.entry(process).or_insert_with(|| Collector::new(FORMAT, file));
        let event = rank.event(kind, name, row.int(0), row.int(1), at)?;
        event.device = small(row.int(2)).unwrap_or(-1);
        event.lane = row.int(3).unwrap_or(-1);
        event.correlation = identifier(row.int(4));
        Some(rank)
    }

    fn calls(&mut self, connection: &Connection) {
        let columns = ["start", "end", "globalTid", "correlationId", "nameId"];
        self.table(connection, "CUPTI_ACTIVITY_KIND_RUNTIME", &columns, |this, row, at| {
            let thread = row.int(2).unwrap_or(0);
            let name = this.text(row.int(4));
            // `cuLaunchKernel` is a call of the driver, `cudaLaunchKernel_v7000` of the runtime.
            let driver = name.strip_prefix("cu").is_some_and(|rest| !rest.starts_with("da"));
            let kind = if driver { Kind::Driver } else { Kind::Runtime };
            let name = name.split("_v").next().unwrap_or_default().to_owned();
            if let Some(rank) = this.ranks.get_mut(&(thread & PROCESS))
                && let Some(event) = rank.event(kind, &name, row.int(0), row.int(1), at)
            {
                event.lane = thread & !PROCESS;
                event.correlation = identifier(row.int(3));
            }
        });
    }

    fn synchronisation(&mut self, connection: &Connection) {
        // By process and number of the record: stream and correlation of the call that made it.
        let mut records: BTreeMap<(i64, i64), (i64, i64)> = BTreeMap::new();
        let columns = ["globalPid", "eventSyncId", "streamId", "correlationId"];
        self.table(connection, "CUPTI_ACTIVITY_KIND_CUDA_EVENT", &columns, |_, row, _| {
            if let (Some(process), Some(id)) = (row.int(0), row.int(1).filter(|id| *id > 0)) {
                let record = (identifier(row.int(2)), identifier(row.int(3)));
                records.insert((process & PROCESS, id), record);
            }
        });
        let columns = [
            "start",
            "end",
            "globalPid",
            "deviceId",
            "streamId",
            "correlationId",
            "syncType",
            "eventId",
            "eventSyncId",
        ];
        let table = "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION";
        self.table(connection, table, &columns, |this, row, at| {
            let process = row.int(2).unwrap_or(0) & PROCESS;
            let waits = row.int(6) == Some(STREAM_WAIT);
            let name = match row.int(6) {
                Some(1) => "Event Sync",
                Some(STREAM_WAIT) => "Stream Wait Event",
                Some(3) => "Stream Sync",
                Some(4) => "Context Sync",
                _ => "Sync",
            };
            let Some(rank) = this.ranks.get_mut(&process) else { return };
            let record = row.int(8).and_then(|id| records.get(&(process, id)));
            let record = record.copied().unwrap_or((-1, -1));
            let detail = SyncDetail {
                wait_stream: record.0,
                wait_event: identifier(row.int(7)),
                wait_correlation: record.1,
            };
            if let Some(event) = rank.event(Kind::Sync, name, row.int(0), row.int(1), at) {
                event.device = small(row.int(3)).unwrap_or(-1);
                // A host that waits has no stream that waits.
                event.lane = if waits { identifier(row.int(4)) } else { -1 };
                event.correlation = identifier(row.int(5));
                let index = rank.trace.add_sync(detail);
                if let Some(event) = rank.trace.events.last_mut() {
                    event.detail = index;
                }
            }
        });
    }

    fn ranges(&mut self, connection: &Connection) {
        let columns = ["start", "end", "globalTid", "text", "textId"];
        self.table(connection, "NVTX_EVENTS", &columns, |this, row, at| {
            let thread = row.int(2).unwrap_or(0);
            let stored = this.text(row.int(4));
            let text = row.text(3).unwrap_or(&stored);
            let Some(rank) = this.ranks.get_mut(&(thread & PROCESS)) else { return };
            if row.int(1).is_none() {
                rank.left_out("NVTX marks and ranges without an end", 1);
                return;
            }
            let range = Range::of(text);
            let kind = if range.operator { Kind::Op } else { Kind::Annotation };
            let dims = rank.label(&range.sizes.replace(' ', ""));
            let Some(event) = rank.event(kind, range.name, row.int(0), row.int(1), at) else {
                return;
            };
            event.lane = thread & !PROCESS;
            event.external = range.id;
            let (start, dur) = (event.start_ns, event.dur_ns);
            if range.sequence >= 0 || dims != NameId::EMPTY {
                let detail = rank.trace.add_op(OpDetail {
                    sequence: range.sequence,
                    forward_thread: -1,
                    dims,
                    types: NameId::EMPTY,
                });
                if let Some(event) = rank.trace.events.last_mut() {
                    event.detail = detail;
                }
            }
            if let Some(step) = step_number(range.name) {
                rank.step(step, start, dur);
            }
        });
    }
}

/// An NVTX range, as PyTorch writes it for an operator or as a program wrote it.
struct Range<'a> {
    name: &'a str,
    operator: bool,
    id: i64,
    sequence: i64,
    sizes: &'a str,
}

impl<'a> Range<'a> {
    fn of(text: &'a str) -> Self {
        let after = |key: &str| text.split_once(key).map(|(_, rest)| rest);
        let number = |key: &str| {
            let digits = after(key)?.split(|c: char| !c.is_ascii_digit()).next()?;
            digits.parse::<i64>().ok()
        };
        let id = number(", op_id = ").unwrap_or(-1);
        let end = [", seq = ", ", op_id = ", ", sizes = "].into_iter().filter_map(|k| text.find(k));
        let name = if id >= 0 { &text[..end.min().unwrap_or(text.len())] } else { text };
        let sizes = after(", sizes = ").unwrap_or_default().split(", input_op_ids").next();
        let sizes = sizes.unwrap_or_default();
        let plain = sizes.bytes().all(|b| b.is_ascii_digit() || b"[], ".contains(&b));
        Self {
            name,
            operator: id >= 0,
            id,
            sequence: number(", seq = ").unwrap_or(-1),
            sizes: if plain { sizes } else { "" },
        }
    }
}

/// The number of a range that marks a step: `step_3`, `iteration 3`, `ProfilerStep#3`.
fn step_number(name: &str) -> Option<&str> {
    let lower = name.len() < 32;
    let digits = name.len() - name.bytes().rev().take_while(u8::is_ascii_digit).count();
    let (word, number) = name.split_at(digits);
    let word = word.trim_end_matches(['_', ' ', '#', ':', '-']).to_ascii_lowercase();
    let known = ["step", "iteration", "iter", "profilerstep", "train_step", "training_step"];
    (lower && !number.is_empty() && known.contains(&word.as_str())).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_operators_are_taken_apart() {
        let range = Range::of("aten::mm, seq = 12, op_id = 7, sizes = [[8, 4], [4, 2]]");
        assert_eq!((range.name, range.id, range.sequence), ("aten::mm", 7, 12));
        assert_eq!(range.sizes, "[[8, 4], [4, 2]]");
        let range = Range::of("layer_3");
        assert_eq!((range.name, range.operator), ("layer_3", false));
        assert_eq!(step_number("step_12"), Some("12"));
        assert_eq!(step_number("layer_12"), None);
    }
}
