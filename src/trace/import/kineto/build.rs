//! From event fields to the retained model.

use std::collections::BTreeMap;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use serde_json::Value;

use super::super::json::Raw;
use super::fields::{Args, Category, Fields, INSTANT, LEFT_OUT};
use super::text_of;
use crate::trace::align::median;
use crate::trace::collectives;
use crate::trace::decimal::{integer, micros_to_nanos};
use crate::trace::header::{
    Device, Loss, ProcessGroup, RankSource, SourceInfo, StepWindow, Truncation, Version,
};
use crate::trace::model::{
    Collective, Event, Geometry, Kind, LATEST_NS, LONGEST_EVENT_NS, LONGEST_RECORDING_NS, NO_ID,
    OpDetail, RankTrace, SyncDetail,
};
use crate::trace::names::NameId;
use crate::trace::redact;

/// How many offsets of a kind of loss are kept.
const OFFSETS: usize = 8;
/// Longest shape text that is kept; longer ones are lists of hundreds of tensors.
const LONGEST_SHAPE: usize = 2048;

/// Operand types that may be kept; anything else in the list becomes `?`.
const TYPES: [&str; 38] = [
    "",
    "float",
    "double",
    "int",
    "long",
    "long int",
    "bool",
    "short",
    "short int",
    "half",
    "signed char",
    "unsigned char",
    "char",
    "c10::BFloat16",
    "c10::Half",
    "BFloat16",
    "Half",
    "Float",
    "Double",
    "Int",
    "Long",
    "Bool",
    "Byte",
    "Scalar",
    "ScalarList",
    "Tensor",
    "TensorList",
    "GenericList",
    "Device",
    "Generator",
    "Stream",
    "Dict",
    "Tuple",
    "None",
    "c10::Float8_e4m3fn",
    "c10::Float8_e5m2",
    "c10::complex<float>",
    "String",
];

/// Metadata keys whose value is a version.
const VERSIONS: [(&[u8], &str); 6] = [
    (b"cuda_runtime_version", "cuda_runtime"),
    (b"cuda_driver_version", "cuda_driver"),
    (b"cupti_version", "cupti"),
    (b"hip_runtime_version", "hip_runtime"),
    (b"hip_driver_version", "hip_driver"),
    (b"roctracer_version", "roctracer"),
];

/// Collects events.
pub struct Builder {
    trace: RankTrace,
    /// Raw text that is not stored as it stands: escaped, redacted or made shorter.
    rewritten: HashMap<Box<[u8]>, NameId, FixedState>,
    shapes: HashMap<Box<[u8]>, NameId, FixedState>,
    types: HashMap<Box<[u8]>, NameId, FixedState>,
    groups: BTreeMap<String, ProcessGroup>,
    left_out: [u64; LEFT_OUT.len()],
    unknown: u64,
    no_phase: u64,
    unusable: BTreeMap<&'static str, (u64, Vec<u64>)>,
    fine: bool,
    last_offset: u64,
}

impl Builder {
    pub fn new(file: &str) -> Self {
        let mut trace = RankTrace::default();
        trace.header.source = SourceInfo { format: super::FORMAT.into(), file: file.into() };
        Self {
            trace,
            rewritten: HashMap::default(),
            shapes: HashMap::default(),
            types: HashMap::default(),
            groups: BTreeMap::new(),
            left_out: [0; LEFT_OUT.len()],
            unknown: 0,
            no_phase: 0,
            unusable: BTreeMap::new(),
            fine: false,
            last_offset: 0,
        }
    }

    /// Whether a top-level key is understood.
    pub fn knows(key: &[u8]) -> bool {
        matches!(key, b"deviceProperties" | b"distributedInfo" | b"baseTimeNanoseconds")
            || VERSIONS.iter().any(|(name, _)| *name == key)
    }

    /// Takes what is on the allow-list from a top-level value.
    pub fn metadata(&mut self, key: &[u8], value: Raw<'_>) {
        match key {
            b"baseTimeNanoseconds" => match integer(value.text) {
                Some(base) => self.trace.header.clock.base_unix_ns = base,
                None => self.unusable("base times that are no whole number", self.last_offset),
            },
            b"deviceProperties" => {
                if let Ok(Value::Array(devices)) = serde_json::from_slice(value.text) {
                    self.trace.header.identity.devices =
                        devices.iter().filter_map(device).collect();
                }
            }
            b"distributedInfo" => {
                if let Ok(info) = serde_json::from_slice(value.text) {
                    self.distributed(&info);
                }
            }
            _ => {
                let known = VERSIONS.iter().find(|(name, _)| *name == key);
                if let (Some((_, name)), Some(version)) = (known, redact::label(&text_of(value))) {
                    self.version(name, version);
                }
            }
        }
    }

    fn version(&mut self, name: &str, version: String) {
        let software = &mut self.trace.header.identity.software;
        if version.len() <= 32 && !software.iter().any(|known| known.name == name) {
            software.push(Version { name: name.into(), version });
            software.sort_by(|a, b| a.name.cmp(&b.name));
        }
    }

    fn distributed(&mut self, info: &Value) {
        let header = &mut self.trace.header;
        if let Some(rank) = whole(&info["rank"]).and_then(|n| u32::try_from(n).ok()) {
            header.rank = rank;
            header.rank_source = RankSource::Recorded;
        }
        header.world_size = whole(&info["world_size"]).and_then(|n| u32::try_from(n).ok());
        header.identity.backend = info["backend"].as_str().and_then(redact::label);
        if let Some(version) = info["nccl_version"].as_str().and_then(redact::label) {
            self.version("nccl", version);
        }
        for group in info["pg_config"].as_array().into_iter().flatten() {
            let name = match &group["pg_name"] {
                Value::Number(n) => Some(n.to_string()),
                other => other.as_str().and_then(redact::label),
            };
            let Some(name) = name else { continue };
            let ranks: Vec<u32> = group["ranks"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|rank| whole(rank).and_then(|n| u32::try_from(n).ok()))
                .collect();
            let size = whole(&group["pg_size"])
                .or(whole(&group["group_size"]))
                .and_then(|n| i32::try_from(n).ok())
                .unwrap_or(if ranks.is_empty() { -1 } else { ranks.len() as i32 });
            // A list that was cut short by the writer is worse than none.
            let ranks = if size >= 0 && ranks.len() != size as usize { Vec::new() } else { ranks };
            let description = group["pg_desc"].as_str().and_then(redact::label).unwrap_or_default();
            self.groups.insert(name.clone(), ProcessGroup { name, description, ranks, size });
        }
    }

    /// Takes an event; `at` is its byte offset. False if it was no event at all.
    pub fn event(&mut self, fields: &Fields<'_>, at: u64) -> bool {
        self.last_offset = at;
        self.trace.header.losses.events_read += 1;
        let kind = match (fields.phase, fields.category) {
            (_, Category::LeftOut(index)) => {
                self.left_out[index] += 1;
                return true;
            }
            (0, _) => {
                self.no_phase += 1;
                return false;
            }
            (b's' | b'f' | b't', Category::Autograd) => return self.flow(fields, at),
            (b's' | b'f' | b't', _) => {
                self.left_out[3] += 1;
                return true;
            }
            (b'C' | b'n' | b'b' | b'e' | b'N' | b'O' | b'D', _) => {
                self.left_out[INSTANT] += 1;
                return true;
            }
            (b'X', Category::Kernel) => Kind::Kernel,
            (b'X', Category::Memcpy) => Kind::Memcpy,
            (b'X', Category::Memset) => Kind::Memset,
            (b'X', Category::Runtime) => Kind::Runtime,
            (b'X', Category::Driver) => Kind::Driver,
            (b'X', Category::Op) => Kind::Op,
            (b'X', Category::Annotation) => Kind::Annotation,
            (b'X', Category::Sync) => Kind::Sync,
            (b'X', Category::Overhead) => Kind::Overhead,
            (b'X', _) => {
                self.unknown += 1;
                return true;
            }
            _ => {
                self.unusable("events of a phase other than X", at);
                return true;
            }
        };
        if fields.dur.is_empty() {
            self.unusable("events without a duration", at);
            return true;
        }
        let start_ns = micros_to_nanos(fields.ts).filter(|t| (-LATEST_NS..=LATEST_NS).contains(t));
        let Some(start_ns) = start_ns else {
            self.unusable("events whose start is no finite number", at);
            return true;
        };
        let dur_ns = match micros_to_nanos(fields.dur) {
            Some(dur) if (0..=LONGEST_EVENT_NS).contains(&dur) => dur,
            Some(_) => {
                self.unusable("events of negative duration or longer than 11 days", at);
                return true;
            }
            None => {
                self.unusable("events whose duration is no finite number", at);
                return true;
            }
        };
        let name = self.name(fields.name);
        let mut event = Event::new(kind, name, start_ns, dur_ns);
        let args = &fields.args;
        event.correlation = identifier(args.correlation);
        event.external = identifier(args.external);
        match kind {
            Kind::Kernel | Kind::Memcpy | Kind::Memset => {
                event.device = small(args.device).or_else(|| small(fields.pid)).unwrap_or(-1);
                event.lane = integer(args.stream).or_else(|| lane(fields.tid)).unwrap_or(-1);
                self.device_details(&mut event, args);
                self.fine |= start_ns % 1000 != 0 || dur_ns % 1000 != 0;
            }
            Kind::Sync => {
                event.device = small(args.device).unwrap_or(-1);
                event.lane = integer(args.stream).or_else(|| lane(fields.tid)).unwrap_or(-1);
                event.detail = self.trace.add_sync(SyncDetail {
                    wait_stream: identifier(args.wait_stream),
                    wait_event: identifier(args.wait_event),
                    wait_correlation: identifier(args.wait_correlation),
                });
            }
            _ => {
                event.lane = lane(fields.tid).unwrap_or(-1);
                if kind.is_call() && event.correlation == NO_ID {
                    // Some writers give a call nothing but the operator's number, which they made
                    // equal to the correlation.
                    event.correlation = event.external;
                }
                if matches!(kind, Kind::Op | Kind::Annotation) {
                    self.op_details(&mut event, args);
                    self.step(&mut event);
                }
            }
        }
        self.trace.events.push(event);
        true
    }

    fn device_details(&mut self, event: &mut Event, args: &Args<'_>) {
        if event.kind == Kind::Kernel {
            if !args.grid.is_empty() || !args.block.is_empty() || !args.registers.is_empty() {
                event.detail = self.trace.add_geometry(Geometry {
                    grid: triple(args.grid),
                    block: triple(args.block),
                    shared_bytes: identifier(args.shared),
                    registers: small(args.registers).unwrap_or(-1),
                });
            }
            self.collective(event, args);
        } else if let Some(bytes) = integer(args.bytes).filter(|bytes| *bytes >= 0) {
            event.detail = self.trace.add_copy(bytes);
        }
    }

    fn op_details(&mut self, event: &mut Event, args: &Args<'_>) {
        let sequence = identifier(args.sequence);
        let dims = self.shape(args.dims);
        let types = self.type_list(args.types);
        if sequence >= 0 || dims != NameId::EMPTY || types != NameId::EMPTY {
            event.detail = self.trace.add_op(OpDetail {
                sequence,
                forward_thread: identifier(args.forward_thread),
                dims,
                types,
            });
        }
        self.collective(event, args);
    }

    fn collective(&mut self, event: &mut Event, args: &Args<'_>) {
        let Some(op) = plain(args.collective).filter(|op| !op.is_empty()) else { return };
        let group = plain(args.group);
        if let Some(name) = group.as_deref().filter(|name| !name.is_empty()) {
            self.learn_group(name, args);
        }
        let peer =
            [args.destination_rank, args.source_rank].into_iter().find_map(small).unwrap_or(-1);
        let mut intern = |text: Option<String>| match text {
            Some(text) => self.trace.names.intern(&text),
            None => NameId::EMPTY,
        };
        let collective = Collective {
            op: intern(Some(op)),
            group: intern(group),
            dtype: intern(plain(args.dtype)),
            splits: [intern(splits(args.in_split)), intern(splits(args.out_split))],
            in_elements: identifier(args.in_elements),
            out_elements: identifier(args.out_elements),
            group_size: small(args.group_size).unwrap_or(-1),
            peer,
            sequence: identifier(args.group_sequence),
        };
        event.collective = self.trace.add_collective(collective);
    }

    /// Members of a group: as listed, or as an evenly spaced range where the list was cut short.
    fn learn_group(&mut self, name: &str, args: &Args<'_>) {
        let known = self.groups.get(name);
        if known.is_some_and(|group| !group.ranks.is_empty()) {
            return;
        }
        let number = |text: &[u8]| integer(text).and_then(|n| u32::try_from(n).ok());
        let size = number(args.group_size);
        let listed: Option<Vec<u32>> = args
            .group_ranks
            .strip_prefix(b"[")
            .and_then(|text| text.strip_suffix(b"]"))
            .filter(|text| !text.is_empty())
            .and_then(|text| text.split(|b| *b == b',').map(number).collect());
        let ranks = match (listed, size) {
            (Some(ranks), Some(size)) if ranks.len() == size as usize => ranks,
            (Some(ranks), None) => ranks,
            (_, Some(size)) if size <= 1 << 20 => {
                match (number(args.group_start), number(args.group_stride)) {
                    (Some(start), Some(stride)) => {
                        (0..size).map_while(|i| i.checked_mul(stride)?.checked_add(start)).collect()
                    }
                    _ => Vec::new(),
                }
            }
            _ => Vec::new(),
        };
        let size = size.and_then(|n| i32::try_from(n).ok()).unwrap_or(if ranks.is_empty() {
            -1
        } else {
            ranks.len() as i32
        });
        let description = known
            .map(|group| group.description.clone())
            .filter(|text| !text.is_empty())
            .or_else(|| plain(args.group_description))
            .unwrap_or_default();
        let group = ProcessGroup { name: name.to_owned(), description, ranks, size };
        self.groups.insert(name.to_owned(), group);
    }

    fn flow(&mut self, fields: &Fields<'_>, at: u64) -> bool {
        let start_ns = micros_to_nanos(fields.ts).filter(|t| (-LATEST_NS..=LATEST_NS).contains(t));
        let (Some(start_ns), Some(id)) = (start_ns, integer(fields.id)) else {
            self.unusable("arrows without a time or number", at);
            return true;
        };
        let name = self.trace.names.intern("fwdbwd");
        let mut event = Event::new(Kind::Flow, name, start_ns, 0);
        event.correlation = id;
        event.lane = lane(fields.tid).unwrap_or(-1);
        event.detail = u32::from(fields.phase != b's');
        self.trace.events.push(event);
        true
    }

    /// Recognises the windows of the profiler's schedule.
    fn step(&mut self, event: &mut Event) {
        let Some(number) = self.trace.names.get(event.name).strip_prefix("ProfilerStep#") else {
            return;
        };
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return;
        }
        let window =
            StepWindow { name: number.to_owned(), start_ns: event.start_ns, dur_ns: event.dur_ns };
        event.kind = Kind::Annotation;
        self.trace.header.windows.push(window);
    }

    fn name(&mut self, raw: Raw<'_>) -> NameId {
        if !raw.escaped {
            if let Some(id) = self.trace.names.find(raw.text) {
                return id;
            }
        }
        if let Some(id) = self.rewritten.get(raw.text) {
            return *id;
        }
        let text = text_of(raw);
        let clean = redact::scrub(&text);
        let id = self.trace.names.intern(&clean);
        if clean.len() != text.len() || clean != text {
            self.trace.header.losses.redacted_names += 1;
        }
        if clean.as_bytes() != raw.text {
            self.rewritten.insert(raw.text.into(), id);
        }
        id
    }

    fn shape(&mut self, raw: &[u8]) -> NameId {
        if raw.len() <= 2 {
            return NameId::EMPTY;
        }
        if let Some(id) = self.shapes.get(raw) {
            return *id;
        }
        let text: String = raw
            .iter()
            .filter(|b| !b.is_ascii_whitespace())
            .map(|b| char::from(*b))
            .take(LONGEST_SHAPE + 1)
            .collect();
        let kept = text.len() <= LONGEST_SHAPE
            && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'[' | b']' | b',' | b'-'))
            && text.bytes().any(|b| b.is_ascii_digit());
        let id = if kept { self.trace.names.intern(&text) } else { NameId::EMPTY };
        self.shapes.insert(raw.into(), id);
        id
    }

    fn type_list(&mut self, raw: &[u8]) -> NameId {
        if raw.len() <= 2 || raw.len() > LONGEST_SHAPE {
            return NameId::EMPTY;
        }
        if let Some(id) = self.types.get(raw) {
            return *id;
        }
        let items: Vec<&str> = serde_json::from_slice::<Vec<&str>>(raw).unwrap_or_default();
        let known: Vec<&str> = items
            .iter()
            .map(|item| TYPES.into_iter().find(|known| known == item).unwrap_or("?"))
            .collect();
        let id = if known.iter().all(|item| item.is_empty()) {
            NameId::EMPTY
        } else {
            self.trace.names.intern(&format!("[{}]", known.join(",")))
        };
        self.types.insert(raw.into(), id);
        id
    }

    /// Counts an event that could not be used.
    pub fn unusable(&mut self, what: &'static str, at: u64) {
        let (count, offsets) = self.unusable.entry(what).or_default();
        *count += 1;
        if offsets.len() < OFFSETS {
            offsets.push(at);
        }
    }

    /// Offset of the last event.
    pub fn last_offset(&self) -> u64 {
        self.last_offset
    }

    /// Notes that the source ended early.
    pub fn truncated(&mut self, at_byte: u64, bytes_lost: u64) {
        self.trace.header.losses.truncated =
            Some(Truncation { at_byte, bytes_lost, cause: String::new() });
    }

    /// Notes why the source ended early.
    pub fn truncated_because(&mut self, at_byte: u64, cause: String) {
        let truncation = self
            .trace
            .header
            .losses
            .truncated
            .get_or_insert(Truncation { at_byte, ..Truncation::default() });
        truncation.cause = redact::label(&cause).unwrap_or_else(|| "damaged archive".into());
    }

    /// A single event with a time from another year would stretch every window: keeps what lies
    /// within half of the longest recording from the median start.
    fn drop_strays(&mut self) {
        let starts = || self.trace.events.iter().map(|event| event.start_ns);
        let (Some(first), Some(last)) = (starts().min(), starts().max()) else { return };
        if last - first <= LONGEST_RECORDING_NS {
            return;
        }
        let middle = median(&mut starts().collect::<Vec<_>>());
        let near = |at: i64| (at - middle).abs() <= LONGEST_RECORDING_NS / 2;
        let before = self.trace.events.len();
        self.trace.events.retain(|event| near(event.start_ns));
        self.trace.header.windows.retain(|window| near(window.start_ns));
        let lost = (before - self.trace.events.len()) as u64;
        self.unusable.insert("events months away from the others", (lost, Vec::new()));
    }

    /// Settles the rank, or says why there is none.
    pub fn finish(mut self) -> Result<RankTrace, String> {
        self.drop_strays();
        let header = &mut self.trace.header;
        for (index, (category, why)) in LEFT_OUT.into_iter().enumerate() {
            if self.left_out[index] > 0 {
                let what = format!("{category}: {why}");
                let events = self.left_out[index];
                header.losses.left_out.push(Loss { what, events, first_at: Vec::new() });
            }
        }
        if self.unknown > 0 {
            let what = "categories that are not known".to_owned();
            header.losses.left_out.push(Loss { what, events: self.unknown, first_at: Vec::new() });
        }
        if self.no_phase > 0 {
            self.unusable.insert("objects that are no events", (self.no_phase, Vec::new()));
        }
        for (what, (events, first_at)) in self.unusable {
            header.losses.unusable.push(Loss { what: what.to_owned(), events, first_at });
        }
        if self.trace.events.is_empty() {
            let read = header.losses.events_read;
            if header.losses.truncated.is_none() {
                return Err(format!(
                    "none of its {read} events belongs to a category of the PyTorch profiler"
                ));
            }
        }
        if header.rank_source == RankSource::Assumed {
            if let Some(rank) = rank_in_name(&header.source.file) {
                header.rank = rank;
                header.rank_source = RankSource::FileName;
            }
        }
        header.clock.resolution_ns = if self.fine { 1 } else { 1000 };
        header.groups = self.groups.into_values().collect();
        // The same step is sometimes written both as an operator and as an annotation.
        header
            .windows
            .sort_by(|a, b| (a.start_ns, a.dur_ns, &a.name).cmp(&(b.start_ns, b.dur_ns, &b.name)));
        header.windows.dedup();
        self.trace.rebase();
        collectives::resolve(&mut self.trace);
        self.trace.settle();
        Ok(self.trace)
    }
}

/// A whole number that may have been written as text.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

fn device(value: &Value) -> Option<Device> {
    let major = whole(&value["computeMajor"]);
    let minor = whole(&value["computeMinor"]);
    Some(Device {
        id: whole(&value["id"])?,
        name: value["name"].as_str().and_then(redact::label).unwrap_or_default(),
        memory_bytes: whole(&value["totalGlobalMem"]).and_then(|n| u64::try_from(n).ok()),
        compute: major.zip(minor).map(|(major, minor)| format!("{major}.{minor}")),
        multiprocessors: whole(&value["numSms"]).and_then(|n| u32::try_from(n).ok()),
    })
}

/// An identifier; negative ones mean none.
fn identifier(text: &[u8]) -> i64 {
    integer(text).filter(|id| *id >= 0).unwrap_or(NO_ID)
}

/// A small number that is not negative.
fn small(text: &[u8]) -> Option<i32> {
    integer(text).and_then(|n| i32::try_from(n).ok()).filter(|n| *n >= 0)
}

/// A thread or stream: a number, or text that ends in one (`stream 7`).
fn lane(text: &[u8]) -> Option<i64> {
    integer(text).or_else(|| {
        let digits = text.iter().rev().take_while(|b| b.is_ascii_digit()).count();
        integer(&text[text.len() - digits..])
    })
}

/// `[x, y, z]`; zeros where it is something else.
fn triple(text: &[u8]) -> [u32; 3] {
    let mut sizes = [0; 3];
    let inner = text.strip_prefix(b"[").and_then(|text| text.strip_suffix(b"]"));
    for (slot, part) in sizes.iter_mut().zip(inner.unwrap_or_default().split(|b| *b == b',')) {
        *slot = integer(part).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
    }
    sizes
}

/// A short plain label of a raw string.
fn plain(text: &[u8]) -> Option<String> {
    std::str::from_utf8(text).ok().and_then(redact::label)
}

/// Split sizes; nothing where they are even.
fn splits(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let kept = text.len() > 2
        && text.len() <= LONGEST_SHAPE
        && text.bytes().all(|b| b.is_ascii_digit() || b"[], .".contains(&b));
    kept.then(|| text.replace(' ', ""))
}

/// The rank that a file name gives: `rank-3.json`, `worker12_step_4.pt.trace.json`.
pub fn rank_in_name(file: &str) -> Option<u32> {
    let lower = file.to_ascii_lowercase();
    ["rank", "worker"].into_iter().find_map(|word| {
        lower.match_indices(word).find_map(|(at, _)| {
            let rest = lower[at + word.len()..].trim_start_matches(['-', '_', '.', '=']);
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            rest[..digits].parse().ok()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_found_in_file_names() {
        for (file, rank) in [
            ("rank-0.Apr_03_18_51_38.1102.pt.trace.json", Some(0)),
            ("worker12_step_4.1694128201545.pt.trace.json", Some(12)),
            ("trace_rank_007.json.gz", Some(7)),
            ("resnet50_num_workers_4__worker0.162.json", Some(0)),
            ("host1_1234.pt.trace.json", None),
        ] {
            assert_eq!(rank_in_name(file), rank, "{file}");
        }
    }

    #[test]
    fn lanes_may_be_text() {
        assert_eq!(lane(b"stream 7"), Some(7));
        assert_eq!(lane(b"-1"), Some(-1));
        assert_eq!(lane(b"PyTorch Profiler"), None);
        assert_eq!(triple(b"[1, 40, 1]"), [1, 40, 1]);
    }
}
