//! rocprof, version 1: Chrome events whose times are text; whole nanoseconds stand in the
//! arguments. Devices are the processes that have a `dev-id`.

use std::io::Read;

use serde::Deserialize;
use serde_json::Value;

use super::super::collect::{Collector, identifier, small};
use super::super::stream::{End, Visitor, Want, walk};
use super::{V1, call};
use crate::trace::decimal::integer;
use crate::trace::model::{Kind, RankTrace};

/// Reads a trace.
///
/// # Errors
/// It holds no event that can be used; the text completes "FILE: ...".
pub fn read(reader: impl Read, file: &str) -> Result<RankTrace, String> {
    let mut visit = Visit { rank: Collector::new(V1, file) };
    if let End::Truncated(at, lost, cause) = walk(reader, &mut visit) {
        visit.rank.truncated(at, lost, &cause);
    }
    visit.rank.finish()
}

#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    ph: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    tid: Value,
    #[serde(default)]
    args: Option<Args>,
}

#[derive(Deserialize)]
struct Args {
    #[serde(default, rename = "BeginNs")]
    begin: Value,
    #[serde(default, rename = "EndNs")]
    end: Value,
    #[serde(default, rename = "dev-id")]
    device: Value,
    #[serde(default, rename = "stream-id")]
    stream: Value,
}

fn number(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => integer(text.as_bytes()),
        Value::Number(number) => number.as_i64(),
        _ => None,
    }
}

struct Visit {
    rank: Collector,
}

impl Visitor for Visit {
    fn want(&mut self, path: &[String]) -> Want {
        match path {
            [] => Want::Enter,
            [key] if key == "traceEvents" => Want::Enter,
            [key, _] if key == "traceEvents" => Want::Whole,
            _ => Want::Skip,
        }
    }

    fn value(&mut self, _: &[String], text: &[u8], at: u64) {
        let Ok(record) = serde_json::from_slice::<Record>(text) else {
            return self.rank.unusable("events that are not JSON", at);
        };
        match record.ph.as_str() {
            "X" => {}
            // The array begins with an empty object.
            "" | "M" => return self.rank.left_out("process and thread labels", 1),
            _ => return self.rank.left_out("arrows from calls to device work", 1),
        }
        let Some(args) = record.args else {
            return self.rank.unusable("events without BeginNs and EndNs", at);
        };
        let (begin, end) = (number(&args.begin), number(&args.end));
        let device = small(number(&args.device));
        let copies = record.name.starts_with("Copy") || record.name.starts_with("Memcpy");
        let kind = match (device, copies) {
            (Some(_), true) => Kind::Memcpy,
            (Some(_), false) if record.name.starts_with("Fill") => Kind::Memset,
            (Some(_), false) => Kind::Kernel,
            (None, _) => call(&record.name),
        };
        if let Some(event) = self.rank.event(kind, &record.name, begin, end, at) {
            match device {
                Some(device) => {
                    event.device = device;
                    event.lane = identifier(number(&args.stream));
                }
                None => event.lane = identifier(number(&record.tid)),
            }
        }
    }

    fn damaged(&mut self, at: u64) {
        self.rank.unusable("text between events", at);
    }
}
