//! From event fields to the retained model.

use std::collections::BTreeMap;

use super::super::collect::drop_strays;
use super::fields::{Args, Category, Fields, INSTANT, LEFT_OUT};
use super::metadata::plain;
use super::text::{Texts, splits};
use crate::trace::collectives;
use crate::trace::decimal::{integer, micros_to_nanos};
use crate::trace::header::{Loss, ProcessGroup, RankSource, SourceInfo, StepWindow, Truncation};
use crate::trace::model::{
    Collective, Event, Geometry, Kind, LATEST_NS, LONGEST_EVENT_NS, NO_ID, OpDetail, RankTrace,
    SyncDetail,
};
use crate::trace::names::NameId;
use crate::trace::redact;

/// How many offsets of a kind of loss are kept.
const OFFSETS: usize = 8;
/// Collects events.
pub struct Builder {
    pub(super) trace: RankTrace,
    texts: Texts,
    pub(super) groups: BTreeMap<String, ProcessGroup>,
    left_out: [u64; LEFT_OUT.len()],
    unknown: u64,
    ascend: bool,
    no_phase: u64,
    unusable: BTreeMap<&'static str, (u64, Vec<u64>)>,
    fine: bool,
    pub(super) last_offset: u64,
}

impl Builder {
    pub fn new(file: &str) -> Self {
        let mut trace = RankTrace::default();
        trace.header.source = SourceInfo { format: super::FORMAT.into(), file: file.into() };
        Self {
            trace,
            texts: Texts::default(),
            groups: BTreeMap::new(),
            left_out: [0; LEFT_OUT.len()],
            unknown: 0,
            ascend: false,
            no_phase: 0,
            unusable: BTreeMap::new(),
            fine: false,
            last_offset: 0,
        }
    }

    /// A builder for another rank of the same file.
    pub fn beside(&self) -> Self {
        let mut other = Self::new(&self.trace.header.source.file);
        other.trace.header.clock.base_unix_ns = self.trace.header.clock.base_unix_ns;
        other
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
            (_, Category::Ascend) => {
                self.ascend = true;
                return true;
            }
            (b's' | b'f' | b't', _) => {
                self.unknown += 1;
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
        let name = self.texts.name(&mut self.trace.names, fields.name);
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
        let dims = self.texts.shape(&mut self.trace.names, args.dims);
        let types = self.texts.types(&mut self.trace.names, args.types);
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

    /// Settles the rank, or says why there is none.
    pub fn finish(mut self) -> Result<RankTrace, String> {
        if self.ascend && !self.trace.events.iter().any(|event| event.kind.is_device()) {
            // Its operators look the same, and its kernels have no category.
            return Err(
                "is Ascend profiler output that does not begin like its `trace_view.json`".into()
            );
        }
        let strays = drop_strays(&mut self.trace);
        if strays > 0 {
            self.unusable.insert("events months away from the others", (strays, Vec::new()));
        }
        self.trace.header.losses.redacted_names = self.texts.redacted;
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
        if header.rank_source == RankSource::Assumed
            && let Some(rank) = rank_in_name(&header.source.file)
        {
            header.rank = rank;
            header.rank_source = RankSource::FileName;
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
