//! `trace_view.json`: operators, calls and steps of the host, tasks of streams, collectives.
//!
//! Which process is the device is said by its label, which may come after its events; events
//! without a category wait until the end.

use std::collections::BTreeMap;
use std::io::Read;

use serde::Deserialize;
use serde_json::{Number, Value};

use super::super::collect::{Collector, identifier};
use super::super::stream::{End, Visitor, Want, walk};
use super::{VIEW, collective, copies, keeps_order};
use crate::trace::analysis::Intervals;
use crate::trace::decimal::{integer, micros_to_nanos};
use crate::trace::model::{Kind, OpDetail, RankTrace};
use crate::trace::names::NameId;

/// Reads a view.
///
/// # Errors
/// It holds no event that can be used; the text completes "FILE: ...".
pub fn read(reader: impl Read, file: &str) -> Result<RankTrace, String> {
    let mut view = View {
        rank: Collector::new(VIEW, file),
        processes: BTreeMap::new(),
        threads: BTreeMap::new(),
        pending: Vec::new(),
    };
    if let End::Truncated(at, lost, cause) = walk(reader, &mut view) {
        view.rank.truncated(at, lost, &cause);
    }
    view.settle();
    view.rank.finish()
}

#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    ph: String,
    #[serde(default)]
    cat: String,
    #[serde(default)]
    name: Value,
    #[serde(default)]
    pid: Value,
    #[serde(default)]
    tid: Value,
    #[serde(default)]
    ts: Value,
    #[serde(default)]
    dur: Value,
    #[serde(default)]
    args: Option<Args>,
}

#[derive(Default, Deserialize)]
struct Args {
    #[serde(default)]
    name: Value,
    #[serde(default, rename = "Sequence number")]
    sequence: Value,
    #[serde(default, rename = "Fwd thread id")]
    forward_thread: Value,
    #[serde(default)]
    connection_id: Value,
    #[serde(default)]
    data_type: Value,
    #[serde(default)]
    count: Value,
}

/// The text of a number or string.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => Number::to_string(number),
        _ => String::new(),
    }
}

fn number(value: &Value) -> Option<i64> {
    integer(text(value).as_bytes())
}

/// An event whose process is not known yet.
struct Pending {
    pid: i64,
    tid: i64,
    name: NameId,
    start: i64,
    end: i64,
    connection: i64,
    dtype: NameId,
    elements: i64,
    at: u64,
}

struct View {
    rank: Collector,
    processes: BTreeMap<i64, String>,
    threads: BTreeMap<(i64, i64), String>,
    pending: Vec<Pending>,
}

impl Visitor for View {
    fn want(&mut self, path: &[String]) -> Want {
        if path.is_empty() { Want::Enter } else { Want::Whole }
    }

    fn value(&mut self, _: &[String], text: &[u8], at: u64) {
        match serde_json::from_slice::<Record>(text) {
            Ok(record) => self.record(&record, at),
            Err(_) => self.rank.unusable("events that are not JSON", at),
        }
    }

    fn damaged(&mut self, at: u64) {
        self.rank.unusable("text between events", at);
    }
}

impl View {
    fn record(&mut self, record: &Record, at: u64) {
        let (pid, tid) = (number(&record.pid), number(&record.tid));
        match record.ph.as_str() {
            "X" => {}
            "M" => {
                let label = record.args.as_ref().map(|args| text(&args.name)).unwrap_or_default();
                let (Some(pid), true) = (pid, label.len() < 128) else { return };
                match text(&record.name).as_str() {
                    "process_name" => drop(self.processes.insert(pid, label)),
                    "thread_name" => {
                        drop(self.threads.insert((pid, tid.unwrap_or(-1)), label));
                    }
                    _ => {}
                }
                return;
            }
            "s" | "f" | "t" => {
                return self.rank.left_out("arrows, which the connection numbers already give", 1);
            }
            _ => return self.rank.left_out("counters and instants", 1),
        }
        let name = text(&record.name);
        let start = micros_to_nanos(text(&record.ts).as_bytes());
        let length = micros_to_nanos(text(&record.dur).as_bytes());
        let end = start.zip(length).and_then(|(start, length)| start.checked_add(length));
        let none = Args::default();
        let args = record.args.as_ref().unwrap_or(&none);
        match record.cat.as_str() {
            "cpu_op" => {
                let Some(event) = self.rank.event(Kind::Op, &name, start, end, at) else { return };
                event.lane = identifier(tid);
                if let Some(step) = name.strip_prefix("ProfilerStep#") {
                    event.kind = Kind::Annotation;
                    let (start, dur) = (event.start_ns, event.dur_ns);
                    self.rank.step(step, start, dur);
                } else if let Some(sequence) = number(&args.sequence).filter(|s| *s >= 0) {
                    let detail = self.rank.trace.add_op(OpDetail {
                        sequence,
                        forward_thread: identifier(number(&args.forward_thread)),
                        dims: NameId::EMPTY,
                        types: NameId::EMPTY,
                    });
                    if let Some(event) = self.rank.trace.events.last_mut() {
                        event.detail = detail;
                    }
                }
            }
            "user_annotation" => {
                if let Some(event) = self.rank.event(Kind::Annotation, &name, start, end, at) {
                    event.lane = identifier(tid);
                }
            }
            "" => match (start, end) {
                (Some(start), Some(end)) => {
                    let dtype = text(&args.data_type);
                    let pending = Pending {
                        pid: identifier(pid),
                        tid: identifier(tid),
                        name: self.rank.name(&name),
                        start,
                        end,
                        connection: identifier(number(&args.connection_id)),
                        dtype: self.rank.label(&dtype),
                        elements: identifier(number(&args.count)),
                        at,
                    };
                    self.pending.push(pending);
                }
                _ => self.rank.unusable("events whose times are no numbers", at),
            },
            "python_function" => self.rank.left_out("Python call stacks", 1),
            "enqueue" | "dequeue" => self.rank.left_out("the queue between threads", 1),
            _ => self.rank.left_out("categories that are not known", 1),
        }
    }

    /// Gives the events without a category their meaning.
    fn settle(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let process = |one: &Pending| self.processes.get(&one.pid).map_or("", String::as_str);
        let thread = |one: &Pending| {
            self.threads.get(&(one.pid, one.tid)).map_or("", String::as_str).to_owned()
        };
        // The vendor's own list of what computes, where the file has it.
        let computing: Vec<(i64, i64)> = pending
            .iter()
            .filter(|one| process(one) == "Overlap Analysis" && thread(one) == "Computing")
            .map(|one| (one.start, one.end))
            .collect();
        // Written with two decimals: up to 10 ns short.
        let computing = (!computing.is_empty()).then(|| {
            Intervals::union_of(computing.into_iter().map(|(a, b)| (a, b + 10)).collect())
        });
        for one in &pending {
            let name = self.rank.trace.names.get(one.name).to_owned();
            let label = self.processes.get(&one.pid).map_or("", String::as_str).to_owned();
            let thread = self.threads.get(&(one.pid, one.tid)).cloned().unwrap_or_default();
            let kind = match label.as_str() {
                "Ascend Hardware" if keeps_order(&name) => {
                    self.rank.left_out("tasks that only keep order between streams", 1);
                    continue;
                }
                "Ascend Hardware" if copies(&name) => Kind::Memcpy,
                "Ascend Hardware" => {
                    let computes = computing.as_ref().is_none_or(|set| {
                        set.length_in(one.start, one.start.saturating_add(1)) > 0
                    });
                    if !computes {
                        self.rank.left_out("tasks that the vendor does not count as computing", 1);
                        continue;
                    }
                    Kind::Kernel
                }
                "HCCL" | "Communication"
                    if thread.contains("Communication") || name.starts_with("hcom_") =>
                {
                    Kind::Kernel
                }
                "HCCL" | "Communication" => {
                    self.rank.left_out("sub-tasks of collectives", 1);
                    continue;
                }
                "CANN" => Kind::Runtime,
                _ => {
                    self.rank.left_out("the vendor's own analysis", 1);
                    continue;
                }
            };
            let event = self.rank.event(kind, &name, Some(one.start), Some(one.end), one.at);
            let Some(event) = event else { continue };
            event.correlation = one.connection;
            event.lane = one.tid;
            if kind.is_device() {
                event.device = 0;
                if label != "Ascend Hardware" {
                    // Collectives run on streams of their own, one per group.
                    event.lane = 1_000_000 + one.tid.clamp(0, 1_000_000);
                    let dtype = self.rank.trace.names.get(one.dtype).to_owned();
                    collective(&mut self.rank, &name, &dtype, one.elements, &thread);
                }
            }
        }
    }
}
