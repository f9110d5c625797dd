//! PyTorch execution traces: operators with shapes and no times.
//!
//! Where a profiler trace of the same rank lies in the same import, the two are linked: operators
//! are matched in the order in which each thread ran them, and the profiler's operators get the
//! collective (operation, type, elements, splits) that only the execution trace names. An execution
//! trace that stands alone becomes a rank whose operators stand in program order, one nanosecond
//! apart, and its header says that these are no times.

use std::collections::BTreeMap;
use std::io::Read;

use serde::Deserialize;
use serde_json::Value;

use super::collect::{Collector, identifier};
use super::stream::{End, Visitor, Want, walk};
use crate::trace::collectives;
use crate::trace::header::Loss;
use crate::trace::model::{Collective, Kind, OpDetail, RankTrace};
use crate::trace::names::NameId;

/// Name of the format in headers.
pub const FORMAT: &str = "pytorch-execution";
/// Longest shape text that is kept.
const LONGEST_SHAPE: usize = 2048;
/// How far apart the same operator may stand in the two traces.
const REACH: usize = 256;

/// Reads a trace.
///
/// # Errors
/// It holds no operator; the text completes "FILE: ...".
pub fn read(reader: impl Read, file: &str) -> Result<RankTrace, String> {
    let mut visit = Visit { rank: Collector::new(FORMAT, file), operators: Vec::new() };
    if let End::Truncated(at, lost, cause) = walk(reader, &mut visit) {
        visit.rank.truncated(at, lost, &cause);
    }
    visit.settle()
}

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    name: String,
    #[serde(default)]
    rf_id: Option<i64>,
    #[serde(default)]
    seq_id: Option<i64>,
    #[serde(default)]
    tid: Option<i64>,
    #[serde(default)]
    inputs: Value,
    #[serde(default)]
    input_shapes: Value,
    #[serde(default)]
    input_types: Value,
    #[serde(default)]
    attrs: Vec<Attribute>,
}

#[derive(Deserialize)]
struct Attribute {
    #[serde(default)]
    name: String,
    #[serde(default)]
    value: Value,
}

struct Operator {
    order: i64,
    thread: i64,
    sequence: i64,
    name: String,
    dims: String,
    collective: Option<Comms>,
    at: u64,
}

/// What `record_param_comms` says.
struct Comms {
    op: String,
    elements: i64,
    dtype: String,
    splits: [String; 2],
}

struct Visit {
    rank: Collector,
    operators: Vec<Operator>,
}

impl Visitor for Visit {
    fn want(&mut self, path: &[String]) -> Want {
        match path {
            [] => Want::Enter,
            [key] if key == "nodes" => Want::Enter,
            [key, _] if key == "nodes" => Want::Whole,
            _ => Want::Skip,
        }
    }

    fn value(&mut self, _: &[String], text: &[u8], at: u64) {
        match serde_json::from_slice::<Node>(text) {
            Ok(node) => self.operators.push(operator(node, at)),
            Err(_) => self.rank.unusable("nodes that are not understood", at),
        }
    }

    fn damaged(&mut self, at: u64) {
        self.rank.unusable("text between nodes", at);
    }
}

fn operator(node: Node, at: u64) -> Operator {
    let attribute =
        |name: &str| node.attrs.iter().find(|a| a.name == name).and_then(|a| a.value.as_i64());
    let part = |value: &Value, key: &str| value.get(key).cloned().unwrap_or(Value::Null);
    // Since 1.0.2 values, shapes and types stand inside `inputs`.
    let nested = node.inputs.is_object();
    let (values, shapes, types) = if nested {
        let inputs = &node.inputs;
        (part(inputs, "values"), part(inputs, "shapes"), part(inputs, "types"))
    } else {
        (node.inputs, node.input_shapes, node.input_types)
    };
    let dims = shapes.to_string();
    let plain = dims.len() <= LONGEST_SHAPE
        && dims.bytes().all(|b| b.is_ascii_digit() || b"[],-".contains(&b))
        && dims.bytes().any(|b| b.is_ascii_digit());
    let collective = (node.name == "record_param_comms").then(|| comms(&values, &types)).flatten();
    Operator {
        order: node.rf_id.or_else(|| attribute("rf_id")).unwrap_or(0),
        thread: identifier(node.tid.or_else(|| attribute("tid"))),
        sequence: identifier(node.seq_id.or_else(|| attribute("seq_id"))),
        name: node.name,
        dims: if plain { dims } else { String::new() },
        collective,
        at,
    }
}

/// The collective of a record: its tensors, then numbers, the operation's name, and split sizes.
fn comms(values: &Value, types: &Value) -> Option<Comms> {
    let list = values.as_array()?;
    let (place, op) = list.iter().enumerate().find_map(|(i, v)| Some((i, v.as_str()?)))?;
    let known =
        op.len() <= 64 && op.bytes().all(|b| b.is_ascii_lowercase() || b"_0123456789".contains(&b));
    if !known || op == "wait" {
        return None;
    }
    // A tensor is [id, storage, offset, elements, bytes of an element, device], or a list of them.
    let tensor = list.first()?.as_array()?;
    let elements = match tensor.first() {
        Some(Value::Array(_)) => tensor.iter().map(|t| t.get(3)?.as_i64()).sum::<Option<i64>>(),
        _ => tensor.get(3).and_then(Value::as_i64),
    };
    let text = types.get(0).and_then(Value::as_str).unwrap_or_default();
    let dtype = text.rsplit(['(', '[']).find(|part| !part.is_empty()).unwrap_or_default();
    let dtype = dtype.split([')', ']', ',']).next().unwrap_or_default().to_owned();
    let split = |i: usize| {
        let splits = list.get(place + i).filter(|v| v.as_array().is_some_and(|a| !a.is_empty()));
        let text = splits.map(Value::to_string).unwrap_or_default();
        let plain = text.len() <= LONGEST_SHAPE
            && text.bytes().all(|b| b.is_ascii_digit() || b"[],".contains(&b));
        if plain { text } else { String::new() }
    };
    Some(Comms {
        op: op.to_owned(),
        elements: identifier(elements),
        dtype,
        splits: [split(1), split(2)],
    })
}

impl Visit {
    fn settle(mut self) -> Result<RankTrace, String> {
        if self.operators.is_empty() && self.rank.trace.header.losses.truncated.is_none() {
            return Err("is an execution trace without operators".into());
        }
        self.operators.sort_by_key(|operator| operator.order);
        let count = self.operators.len() as u64;
        for (place, operator) in self.operators.iter().enumerate() {
            let at = Some(place as i64);
            let Some(event) = self.rank.event(Kind::Op, &operator.name, at, at, operator.at) else {
                continue;
            };
            event.lane = operator.thread;
            event.external = identifier(Some(operator.order));
            let dims = self.rank.trace.names.intern(&operator.dims);
            if operator.sequence >= 0 || dims != NameId::EMPTY {
                let detail = OpDetail {
                    sequence: operator.sequence,
                    forward_thread: -1,
                    dims,
                    types: NameId::EMPTY,
                };
                let detail = self.rank.trace.add_op(detail);
                if let Some(event) = self.rank.trace.events.last_mut() {
                    event.detail = detail;
                }
            }
            if let Some(comms) = &operator.collective {
                let collective = Collective {
                    op: self.rank.label(&comms.op),
                    dtype: self.rank.label(&comms.dtype),
                    in_elements: comms.elements,
                    splits: [
                        self.rank.trace.names.intern(&comms.splits[0]),
                        self.rank.trace.names.intern(&comms.splits[1]),
                    ],
                    ..Collective::default()
                };
                self.rank.collective(collective);
            }
        }
        self.rank.left_out(NO_TIMES, count);
        self.rank.trace.header.losses.events_read -= count;
        let file = self.rank.trace.header.source.file.clone();
        let mut trace = self.rank.finish()?;
        if let Some(rank) = rank_in_name(&file) {
            trace.header.rank = rank;
            trace.header.rank_source = crate::trace::header::RankSource::FileName;
        }
        Ok(trace)
    }
}

const NO_TIMES: &str = "times: an execution trace has none; operators stand in program order";

/// `dlrm_eg_3.json` is rank 3.
fn rank_in_name(file: &str) -> Option<u32> {
    let stem = super::source::stem(file);
    let (_, number) = stem.rsplit_once("_eg_").or_else(|| stem.rsplit_once("_et_"))?;
    number.parse().ok()
}

/// Gives the operators of a profiler trace what the execution trace of the same rank says of their
/// collectives. The number of operators that were matched.
pub fn link(profile: &mut RankTrace, execution: &RankTrace) -> u64 {
    let mut by_thread: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (index, event) in profile.events.iter().enumerate() {
        if event.kind == Kind::Op {
            by_thread.entry(event.lane).or_default().push(index);
        }
    }
    let mut theirs: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (index, event) in execution.events.iter().enumerate() {
        theirs.entry(event.lane).or_default().push(index);
    }
    let mut matched = 0;
    for list in theirs.values() {
        // The thread with the most of the same operators in the same order.
        let best = by_thread
            .values()
            .map(|mine| pairs(profile, mine, execution, list))
            .max_by_key(Vec::len)
            .unwrap_or_default();
        matched += best.len() as u64;
        for (mine, other) in best {
            let Some(collective) = execution.collective(&execution.events[other]).copied() else {
                continue;
            };
            let mut own = collective;
            let intern =
                |profile: &mut RankTrace, id| profile.names.intern(execution.names.get(id));
            own.op = intern(profile, collective.op);
            own.dtype = intern(profile, collective.dtype);
            own.splits = collective.splits.map(|id| intern(profile, id));
            if profile.events[mine].collective == crate::trace::model::NO_INDEX {
                profile.events[mine].collective = profile.add_collective(own);
            }
        }
    }
    if matched > 0 {
        // What the kernels were given from names is better known now.
        for event in &mut profile.events {
            if event.kind == Kind::Kernel && event.communicates {
                let known = profile.collectives.get(event.collective as usize);
                if known.is_none_or(|c| c.group == NameId::EMPTY && c.sequence < 0) {
                    event.collective = crate::trace::model::NO_INDEX;
                }
            }
        }
        collectives::resolve(profile);
        let what = format!("operators of the execution trace linked: {matched}");
        profile.header.losses.left_out.push(Loss {
            what: format!(
                "{what} (its other {} have no counterpart)",
                (execution.events.len() as u64).saturating_sub(matched)
            ),
            events: 0,
            first_at: Vec::new(),
        });
    }
    matched
}

/// Operators of two threads that are the same, in order.
fn pairs(
    profile: &RankTrace,
    mine: &[usize],
    execution: &RankTrace,
    theirs: &[usize],
) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    let mut next = 0;
    for &other in theirs {
        let name = execution.name(&execution.events[other]);
        let window = &mine[next..mine.len().min(next + REACH)];
        if let Some(at) = window.iter().position(|i| profile.name(&profile.events[*i]) == name) {
            pairs.push((window[at], other));
            next += at + 1;
        }
    }
    pairs
}
