//! rocprofv3 native JSON: one process per file. Kernels name a symbol, which the file lists; call
//! buffers may be empty. Of the metadata (command line, host name, paths) nothing is kept.

use std::collections::BTreeMap;
use std::io::Read;

use serde::Deserialize;

use super::super::collect::{Collector, identifier, small};
use super::super::stream::{End, Visitor, Want, walk};
use super::{V3, blocks, copied};
use crate::trace::header::Device;
use crate::trace::model::{Geometry, Kind, RankTrace};
use crate::trace::redact;

/// Reads a trace.
///
/// # Errors
/// It holds no event that can be used; the text completes "FILE: ...".
pub fn read(reader: impl Read, file: &str) -> Result<RankTrace, String> {
    let mut visit = Visit {
        rank: Collector::new(V3, file),
        symbols: BTreeMap::new(),
        agents: BTreeMap::new(),
        operations: BTreeMap::new(),
    };
    if let End::Truncated(at, lost, cause) = walk(reader, &mut visit) {
        visit.rank.truncated(at, lost, &cause);
    }
    visit.settle();
    visit.rank.finish()
}

#[derive(Default, Deserialize)]
struct Handle {
    #[serde(default)]
    handle: u64,
}

#[derive(Default, Deserialize)]
struct Size {
    #[serde(default)]
    x: i64,
    #[serde(default)]
    y: i64,
    #[serde(default)]
    z: i64,
}

#[derive(Deserialize)]
struct Agent {
    id: Handle,
    #[serde(default, rename = "type")]
    class: i64,
    #[serde(default)]
    logical_node_type_id: i64,
    #[serde(default)]
    product_name: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    cu_count: u32,
}

#[derive(Deserialize)]
struct Symbol {
    kernel_id: i64,
    #[serde(default)]
    kernel_name: String,
    #[serde(default)]
    formatted_kernel_name: String,
}

#[derive(Deserialize)]
struct Strings {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    operations: Vec<String>,
}

#[derive(Default, Deserialize)]
struct Correlation {
    #[serde(default)]
    internal: i64,
}

#[derive(Default, Deserialize)]
struct Dispatch {
    #[serde(default)]
    agent_id: Handle,
    #[serde(default)]
    queue_id: Handle,
    #[serde(default)]
    kernel_id: i64,
    #[serde(default)]
    group_segment_size: i64,
    #[serde(default)]
    workgroup_size: Size,
    #[serde(default)]
    grid_size: Size,
}

#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    kind: i64,
    #[serde(default)]
    operation: i64,
    #[serde(default)]
    thread_id: i64,
    #[serde(default)]
    correlation_id: Correlation,
    start_timestamp: i64,
    end_timestamp: i64,
    #[serde(default)]
    dispatch_info: Dispatch,
    #[serde(default)]
    stream_id: Handle,
    #[serde(default)]
    dst_agent_id: Handle,
    #[serde(default)]
    bytes: Option<i64>,
}

struct Visit {
    rank: Collector,
    symbols: BTreeMap<i64, String>,
    /// Ordinal among devices, by handle.
    agents: BTreeMap<u64, i64>,
    /// Names of operations, by kind.
    operations: BTreeMap<i64, (String, Vec<String>)>,
}

/// Buffers of calls.
const CALLS: [&str; 4] = ["hip_api", "hsa_api", "rccl_api", "marker_api"];

impl Visitor for Visit {
    fn want(&mut self, path: &[String]) -> Want {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        match path.as_slice() {
            [] | ["rocprofiler-sdk-tool"] | ["rocprofiler-sdk-tool", "[]"] => Want::Enter,
            [_, _, "agents" | "kernel_symbols" | "buffer_records" | "strings"]
            | [_, _, "strings", "buffer_records"] => Want::Enter,
            [_, _, "buffer_records", buffer] => {
                let known =
                    CALLS.contains(buffer) || ["kernel_dispatch", "memory_copy"].contains(buffer);
                if known { Want::Enter } else { Want::Skip }
            }
            [_, _, "agents" | "kernel_symbols", "[]"]
            | [_, _, "strings", "buffer_records", "[]"]
            | [_, _, "buffer_records", _, "[]"] => Want::Whole,
            _ => Want::Skip,
        }
    }

    fn value(&mut self, path: &[String], text: &[u8], at: u64) {
        let used = match (path[2].as_str(), path.get(3).map(String::as_str)) {
            ("agents", _) => serde_json::from_slice(text).map(|agent| self.agent(agent)),
            ("kernel_symbols", _) => serde_json::from_slice(text).map(|symbol: Symbol| {
                let formatted = !symbol.formatted_kernel_name.is_empty();
                let name =
                    if formatted { symbol.formatted_kernel_name } else { symbol.kernel_name };
                self.symbols.insert(symbol.kernel_id, name);
            }),
            ("strings", _) => serde_json::from_slice(text).map(|strings: Strings| {
                let kind = self.operations.len() as i64;
                self.operations.insert(kind, (strings.kind, strings.operations));
            }),
            (_, Some(buffer)) => {
                let buffer = buffer.to_owned();
                serde_json::from_slice(text).map(|record| self.record(&buffer, &record, at))
            }
            _ => Ok(()),
        };
        if used.is_err() {
            self.rank.unusable("records that lack what their kind has", at);
        }
    }

    fn damaged(&mut self, at: u64) {
        self.rank.unusable("text between records", at);
    }
}

impl Visit {
    fn agent(&mut self, agent: Agent) {
        // 2 is a GPU.
        if agent.class != 2 {
            return;
        }
        let ordinal = agent.logical_node_type_id;
        self.agents.insert(agent.id.handle, ordinal);
        if let Some(name) = redact::label(&agent.product_name) {
            let devices = &mut self.rank.trace.header.identity.devices;
            devices.push(Device {
                id: ordinal,
                name,
                memory_bytes: None,
                compute: redact::label(&agent.name),
                multiprocessors: (agent.cu_count > 0).then_some(agent.cu_count),
            });
        }
    }

    fn record(&mut self, buffer: &str, record: &Record, at: u64) {
        let (start, end) = (Some(record.start_timestamp), Some(record.end_timestamp));
        let device = |handle: u64| small(self.agents.get(&handle).copied()).unwrap_or(-1);
        let lane = i64::try_from(record.stream_id.handle).unwrap_or(-1);
        let correlation = identifier(Some(record.correlation_id.internal));
        match buffer {
            "kernel_dispatch" => {
                let info = &record.dispatch_info;
                let ordinal = device(info.agent_id.handle);
                // Queues run in order. Stream numbers are of no use: some versions give nearly
                // every dispatch one of its own.
                let lane = i64::try_from(info.queue_id.handle).unwrap_or(-1);
                // The symbol may come later: its number is the name until the end.
                let name = format!("\u{1}{}", info.kernel_id);
                let Some(event) = self.rank.event(Kind::Kernel, &name, start, end, at) else {
                    return;
                };
                (event.device, event.lane, event.correlation) = (ordinal, lane, correlation);
                let (grid, block) = (&info.grid_size, &info.workgroup_size);
                let size = |n: i64| u32::try_from(n).unwrap_or(0);
                let detail = self.rank.trace.add_geometry(Geometry {
                    grid: [
                        blocks(grid.x, block.x),
                        blocks(grid.y, block.y),
                        blocks(grid.z, block.z),
                    ],
                    block: [size(block.x), size(block.y), size(block.z)],
                    shared_bytes: identifier(Some(info.group_segment_size)),
                    registers: -1,
                });
                if let Some(event) = self.rank.trace.events.last_mut() {
                    event.detail = detail;
                }
            }
            "memory_copy" => {
                let ordinal = device(record.dst_agent_id.handle);
                if let Some(event) = self.rank.event(Kind::Memcpy, "Memcpy", start, end, at) {
                    (event.device, event.lane, event.correlation) = (ordinal, lane, correlation);
                    copied(&mut self.rank, record.bytes);
                }
            }
            _ => {
                let name = format!("\u{2}{} {}", record.kind, record.operation);
                let kind = match buffer {
                    "marker_api" => Kind::Annotation,
                    "hsa_api" => Kind::Driver,
                    _ => Kind::Runtime,
                };
                if let Some(event) = self.rank.event(kind, &name, start, end, at) {
                    event.lane = record.thread_id;
                    event.correlation = correlation;
                }
            }
        }
    }

    /// Replaces numbers of symbols and operations by their names.
    fn settle(&mut self) {
        let numbered: Vec<String> = self.rank.trace.names.iter().map(str::to_owned).collect();
        let mut renamed = Vec::with_capacity(numbered.len());
        for text in &numbered {
            let name = if let Some(id) = text.strip_prefix('\u{1}') {
                let symbol = id.parse().ok().and_then(|id: i64| self.symbols.get(&id));
                symbol.cloned().unwrap_or_else(|| format!("kernel {id}"))
            } else if let Some(id) = text.strip_prefix('\u{2}') {
                self.operation(id).unwrap_or_else(|| format!("call {id}"))
            } else {
                text.clone()
            };
            renamed.push(name);
        }
        let mut events = std::mem::take(&mut self.rank.trace.events);
        self.rank.trace.names = crate::trace::names::Names::default();
        let ids: Vec<_> = renamed.iter().map(|name| self.rank.name(name)).collect();
        for event in &mut events {
            event.name = ids[event.name.index()];
        }
        self.rank.trace.events = events;
        self.rank.trace.header.identity.devices.sort_by_key(|device| device.id);
    }

    fn operation(&self, id: &str) -> Option<String> {
        let (kind, operation) = id.split_once(' ')?;
        let (_, names) = self.operations.get(&kind.parse().ok()?)?;
        names.get(operation.parse::<usize>().ok()?).cloned()
    }
}
