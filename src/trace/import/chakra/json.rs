//! The JSON encoding: `workload_graph`, whose keys differ in case from writer to writer.

use std::io::Read;

use serde::Deserialize;

use super::super::collect::Collector;
use super::super::stream::{End, Visitor, Want, walk};
use super::{Class, FORMAT, Node, collective_name, settle};
use crate::trace::model::RankTrace;

/// Reads a trace.
///
/// # Errors
/// It holds no node that can be used; the text completes "FILE: ...".
pub fn read(reader: impl Read, file: &str) -> Result<RankTrace, String> {
    let mut visit = Visit { rank: Collector::new(FORMAT, file), nodes: Vec::new() };
    if let End::Truncated(at, lost, cause) = walk(reader, &mut visit) {
        visit.rank.truncated(at, lost, &cause);
    }
    settle(visit.rank, visit.nodes)
}

#[derive(Deserialize)]
struct Encoded {
    #[serde(alias = "Id")]
    id: u64,
    #[serde(default, alias = "Name")]
    name: String,
    #[serde(alias = "NodeType", alias = "type", alias = "node_type")]
    class: i64,
    #[serde(default, alias = "ctrlDeps")]
    ctrl_deps: Vec<u64>,
    #[serde(default, alias = "dataDeps")]
    data_deps: Vec<u64>,
    #[serde(default, alias = "duration_micros")]
    runtime: i64,
    #[serde(default)]
    start_time_micros: i64,
    #[serde(default)]
    is_cpu_op: bool,
    #[serde(default)]
    comm_type: Option<i64>,
    #[serde(default)]
    comm_size: Option<i64>,
}

struct Visit {
    rank: Collector,
    nodes: Vec<Node>,
}

impl Visitor for Visit {
    fn want(&mut self, path: &[String]) -> Want {
        match path {
            [] => Want::Enter,
            [key] if key == "workload_graph" => Want::Enter,
            [key, _] if key == "workload_graph" => Want::Whole,
            _ => Want::Skip,
        }
    }

    fn value(&mut self, _: &[String], text: &[u8], at: u64) {
        let Ok(encoded) = serde_json::from_slice::<Encoded>(text) else {
            return self.rank.unusable("nodes without a number and a type", at);
        };
        let Some(class) = Class::of(encoded.class) else {
            return self.rank.left_out("nodes that hold metadata", 1);
        };
        let mut deps = encoded.data_deps;
        deps.extend(&encoded.ctrl_deps);
        self.nodes.push(Node {
            id: encoded.id,
            name: encoded.name,
            class,
            on_host: encoded.is_cpu_op,
            start_us: encoded.start_time_micros,
            duration_us: encoded.runtime,
            deps,
            collective: encoded.comm_type.and_then(collective_name),
            bytes: encoded.comm_size.filter(|bytes| *bytes >= 0).unwrap_or(-1),
            peer: -1,
            at,
        });
    }

    fn damaged(&mut self, at: u64) {
        self.rank.unusable("text between nodes", at);
    }
}
