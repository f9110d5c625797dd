//! The database of the Ascend profiler (`ascend_pytorch_profiler_0.db`, `msprof.db`).

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::super::collect::{Collector, identifier, small};
use super::super::sqlite::{Fields, has_table, rows};
use super::{DATABASE, collective, copies, keeps_order};
use crate::trace::header::Device;
use crate::trace::model::{Kind, OpDetail, RankTrace};
use crate::trace::names::NameId;
use crate::trace::redact;

/// Whether a database is one of the Ascend profiler's.
#[must_use]
pub fn is_ascend(connection: &Connection) -> bool {
    has_table(connection, "STRING_IDS")
        && (has_table(connection, "TASK") || has_table(connection, "PYTORCH_API"))
}

/// Reads the rank of a database.
///
/// # Errors
/// It holds no event that can be used; the text completes "FILE: ...".
pub fn read_from(connection: &Connection, file: &str) -> Result<RankTrace, String> {
    let mut reading = Reading {
        rank: Collector::new(DATABASE, file),
        strings: BTreeMap::new(),
        types: BTreeMap::new(),
        kernels: BTreeMap::new(),
    };
    let this = &mut reading;
    this.table(connection, "STRING_IDS", &["id", "value"], |this, row, _| {
        if let (Some(id), Some(text)) = (row.int(0), row.text(1)) {
            this.strings.insert(id, text.to_owned());
        }
    });
    this.table(connection, "ENUM_HCCL_DATA_TYPE", &["id", "name"], |this, row, _| {
        if let (Some(id), Some(text)) = (row.int(0), row.text(1)) {
            this.types.insert(id, text.to_owned());
        }
    });
    this.table(connection, "COMPUTE_TASK_INFO", &["globalTaskId", "name"], |this, row, _| {
        if let (Some(task), Some(name)) = (row.int(0), row.int(1)) {
            this.kernels.insert(task, name);
        }
    });
    this.tasks(connection);
    this.collectives(connection);
    this.host(connection);
    this.identity(connection);
    reading.rank.finish()
}

struct Reading {
    rank: Collector,
    strings: BTreeMap<i64, String>,
    types: BTreeMap<i64, String>,
    /// Name of the kernel of a task.
    kernels: BTreeMap<i64, i64>,
}

impl Reading {
    fn table(
        &mut self,
        connection: &Connection,
        table: &str,
        columns: &[&str],
        mut take: impl FnMut(&mut Self, &Fields<'_, '_>, u64),
    ) {
        let mut number = 0;
        let read = rows(connection, table, columns, |row| {
            take(self, row, number);
            number += 1;
        });
        if let Err(cause) = read {
            self.rank.truncated(0, 0, &cause);
        }
    }

    fn text(&self, id: Option<i64>) -> String {
        id.and_then(|id| self.strings.get(&id)).cloned().unwrap_or_default()
    }

    fn tasks(&mut self, connection: &Connection) {
        let columns = [
            "startNs",
            "endNs",
            "deviceId",
            "streamId",
            "connectionId",
            "globalTaskId",
            "taskType",
        ];
        self.table(connection, "TASK", &columns, |this, row, at| {
            let kernel = row.int(5).and_then(|task| this.kernels.get(&task)).copied();
            let task = this.text(row.int(6));
            let (kind, name) = match kernel {
                Some(name) => (Kind::Kernel, this.text(Some(name))),
                None if copies(&task) && task != "SDMA" => (Kind::Memcpy, task),
                None if keeps_order(&task) => {
                    let what = "tasks that only keep order between streams";
                    return this.rank.left_out(what, 1);
                }
                None => return this.rank.left_out("sub-tasks of collectives", 1),
            };
            if let Some(event) = this.rank.event(kind, &name, row.int(0), row.int(1), at) {
                event.device = small(row.int(2)).unwrap_or(0);
                event.lane = identifier(row.int(3));
                event.correlation = identifier(row.int(4));
            }
        });
    }

    fn collectives(&mut self, connection: &Connection) {
        let columns =
            ["startNs", "endNs", "opName", "connectionId", "groupName", "dataType", "count"];
        let mut groups: BTreeMap<i64, i64> = BTreeMap::new();
        self.table(connection, "COMMUNICATION_OP", &columns, |this, row, at| {
            let name = this.text(row.int(2));
            // Streams of their own, one per group; the group's name holds an address.
            let next = groups.len() as i64;
            let group = *groups.entry(identifier(row.int(4))).or_insert(next);
            let dtype = row.int(5).and_then(|id| this.types.get(&id)).cloned().unwrap_or_default();
            let Some(event) = this.rank.event(Kind::Kernel, &name, row.int(0), row.int(1), at)
            else {
                return;
            };
            event.device = 0;
            event.lane = 1_000_000 + group;
            event.correlation = identifier(row.int(3));
            let label = format!("Group {group}");
            collective(&mut this.rank, &name, &dtype, identifier(row.int(6)), &label);
        });
    }

    fn host(&mut self, connection: &Connection) {
        let columns = ["startNs", "endNs", "name", "globalTid", "connectionId"];
        self.table(connection, "CANN_API", &columns, |this, row, at| {
            let name = this.text(row.int(2));
            if let Some(event) = this.rank.event(Kind::Runtime, &name, row.int(0), row.int(1), at) {
                event.lane = row.int(3).unwrap_or(0) & 0xffff_ffff;
                event.correlation = identifier(row.int(4));
            }
        });
        let columns =
            ["startNs", "endNs", "name", "globalTid", "type", "sequenceNumber", "fwdThreadId"];
        self.table(connection, "PYTORCH_API", &columns, |this, row, at| {
            if row.int(4) != Some(50_001) {
                return this.rank.left_out("the queue between threads, and Python call stacks", 1);
            }
            let name = this.text(row.int(2));
            let Some(event) = this.rank.event(Kind::Op, &name, row.int(0), row.int(1), at) else {
                return;
            };
            event.lane = row.int(3).unwrap_or(0) & 0xffff_ffff;
            if name.starts_with("ProfilerStep#") {
                event.kind = Kind::Annotation;
            } else if let Some(sequence) = row.int(5).filter(|sequence| *sequence >= 0) {
                let detail = this.rank.trace.add_op(OpDetail {
                    sequence,
                    forward_thread: identifier(row.int(6)),
                    dims: NameId::EMPTY,
                    types: NameId::EMPTY,
                });
                if let Some(event) = this.rank.trace.events.last_mut() {
                    event.detail = detail;
                }
            }
        });
        self.table(connection, "STEP_TIME", &["id", "startNs", "endNs"], |this, row, _| {
            if let (Some(id), Some(start), Some(end)) = (row.int(0), row.int(1), row.int(2)) {
                this.rank.step(&id.to_string(), start, end.saturating_sub(start));
            }
        });
    }

    fn identity(&mut self, connection: &Connection) {
        self.table(connection, "NPU_INFO", &["id", "name"], |this, row, _| {
            let devices = &mut this.rank.trace.header.identity.devices;
            if let (Some(id), Some(name)) = (row.int(0), row.text(1).and_then(redact::label))
                && devices.len() < 64
            {
                devices.push(Device { id, name, ..Device::default() });
            }
        });
        self.table(connection, "RANK_DEVICE_MAP", &["rankId"], |this, row, _| {
            if let Some(rank) = row.int(0).and_then(|rank| u32::try_from(rank).ok()) {
                this.rank.rank(rank);
            }
        });
    }
}
