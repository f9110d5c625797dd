//! What importers of typed records share: range checks, names, losses, and the settled rank.

use std::collections::BTreeMap;

use crate::trace::align::median;
use crate::trace::collectives;
use crate::trace::header::{Loss, RankSource, SourceInfo, StepWindow, Truncation};
use crate::trace::model::{
    Collective, Event, Kind, LATEST_NS, LONGEST_EVENT_NS, LONGEST_RECORDING_NS, RankTrace,
};
use crate::trace::names::NameId;
use crate::trace::redact;

/// How many offsets of a kind of loss are kept.
const OFFSETS: usize = 8;

/// Collects the events of one rank.
pub struct Collector {
    /// The rank so far.
    pub trace: RankTrace,
    unusable: BTreeMap<&'static str, (u64, Vec<u64>)>,
    left_out: BTreeMap<&'static str, u64>,
}

impl Collector {
    /// An empty rank read from `file` (without folders) in a format.
    pub fn new(format: &str, file: &str) -> Self {
        let mut trace = RankTrace::default();
        trace.header.source = SourceInfo { format: format.into(), file: file.into() };
        trace.header.clock.resolution_ns = 1;
        Self { trace, unusable: BTreeMap::new(), left_out: BTreeMap::new() }
    }

    /// Gives the rank its number as the recording has it.
    pub fn rank(&mut self, rank: u32) {
        self.trace.header.rank = rank;
        self.trace.header.rank_source = RankSource::Recorded;
    }

    /// Interns a name without what looks like a secret.
    pub fn name(&mut self, text: &str) -> NameId {
        if let Some(id) = self.trace.names.find(text.as_bytes()) {
            return id;
        }
        let clean = redact::scrub(text);
        if clean != text {
            self.trace.header.losses.redacted_names += 1;
        }
        self.trace.names.intern(&clean)
    }

    /// Interns a short plain label; nothing where it is not one.
    pub fn label(&mut self, text: &str) -> NameId {
        match redact::label(text) {
            Some(text) => self.trace.names.intern(&text),
            None => NameId::EMPTY,
        }
    }

    /// Takes an event from `start` to `end`; `at` is where it stands in the source. `None`, and a
    /// loss, where its times cannot be believed.
    pub fn event(
        &mut self,
        kind: Kind,
        name: &str,
        start: Option<i64>,
        end: Option<i64>,
        at: u64,
    ) -> Option<&mut Event> {
        self.trace.header.losses.events_read += 1;
        let believed = |t: &i64| (-LATEST_NS..=LATEST_NS).contains(t);
        let (Some(start), Some(end)) = (start.filter(believed), end.filter(believed)) else {
            self.unusable("events without a start and an end that are numbers in range", at);
            return None;
        };
        if !(0..=LONGEST_EVENT_NS).contains(&(end - start)) {
            self.unusable("events of negative duration or longer than 11 days", at);
            return None;
        }
        let name = self.name(name);
        self.trace.events.push(Event::new(kind, name, start, end - start));
        self.trace.events.last_mut()
    }

    /// Gives the last event metadata of a collective.
    pub fn collective(&mut self, collective: Collective) {
        let index = self.trace.add_collective(collective);
        if let Some(event) = self.trace.events.last_mut() {
            event.collective = index;
        }
    }

    /// Adds a step window.
    pub fn step(&mut self, name: &str, start_ns: i64, dur_ns: i64) {
        let believed = (-LATEST_NS..=LATEST_NS).contains(&start_ns)
            && (0..=LONGEST_EVENT_NS).contains(&dur_ns);
        if let (true, Some(name)) = (believed, redact::label(name)) {
            self.trace.header.windows.push(StepWindow { name, start_ns, dur_ns });
        }
    }

    /// Counts something that could not be used.
    pub fn unusable(&mut self, what: &'static str, at: u64) {
        let (count, offsets) = self.unusable.entry(what).or_default();
        *count += 1;
        if offsets.len() < OFFSETS {
            offsets.push(at);
        }
    }

    /// Counts something that is left out on purpose.
    pub fn left_out(&mut self, what: &'static str, count: u64) {
        if count > 0 {
            *self.left_out.entry(what).or_default() += count;
            self.trace.header.losses.events_read += count;
        }
    }

    /// Notes that the source ended early.
    pub fn truncated(&mut self, at_byte: u64, bytes_lost: u64, cause: &str) {
        let cause = redact::label(cause).unwrap_or_default();
        self.trace.header.losses.truncated = Some(Truncation { at_byte, bytes_lost, cause });
    }

    /// Settles the rank, or says why there is none.
    ///
    /// # Errors
    /// There is no event; the text completes "FILE: ...".
    pub fn finish(mut self) -> Result<RankTrace, String> {
        let lost = drop_strays(&mut self.trace);
        if lost > 0 {
            self.unusable.insert("events months away from the others", (lost, Vec::new()));
        }
        let header = &mut self.trace.header;
        for (what, events) in self.left_out {
            header.losses.left_out.push(Loss { what: what.into(), events, first_at: Vec::new() });
        }
        for (what, (events, first_at)) in self.unusable {
            header.losses.unusable.push(Loss { what: what.into(), events, first_at });
        }
        if self.trace.events.is_empty() && header.losses.truncated.is_none() {
            let read = header.losses.events_read;
            return Err(format!("holds no event that can be used, of {read} read"));
        }
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

/// A single event with a time from another year would stretch every window: keeps what lies within
/// half of the longest recording from the median start, and gives the number of the others.
pub fn drop_strays(trace: &mut RankTrace) -> u64 {
    let starts = || trace.events.iter().map(|event| event.start_ns);
    let (Some(first), Some(last)) = (starts().min(), starts().max()) else { return 0 };
    let windows = trace.header.windows.iter().map(|window| window.start_ns);
    let first = first.min(windows.clone().min().unwrap_or(first));
    let last = last.max(windows.max().unwrap_or(last));
    if last - first <= LONGEST_RECORDING_NS {
        return 0;
    }
    let middle = median(&mut starts().collect::<Vec<_>>());
    let near = |at: i64| (at - middle).abs() <= LONGEST_RECORDING_NS / 2;
    let before = trace.events.len();
    trace.events.retain(|event| near(event.start_ns));
    trace.header.windows.retain(|window| near(window.start_ns));
    (before - trace.events.len()) as u64
}

/// A number that is not negative, as an identifier; -1 for none.
pub fn identifier(value: Option<i64>) -> i64 {
    value.filter(|id| *id >= 0).unwrap_or(-1)
}

/// A small number that is not negative.
pub fn small(value: Option<i64>) -> Option<i32> {
    value.and_then(|n| i32::try_from(n).ok()).filter(|n| *n >= 0)
}
