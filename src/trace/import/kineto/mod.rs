//! The PyTorch profiler (Kineto), on CUDA and ROCm, from its first schema to today's.
//!
//! The file is read once, in a window that moves over it; an event is looked at as slices of that
//! window and either becomes a retained [`Event`](crate::trace::model::Event) or is counted. No tree of
//! the file is ever built. What is damaged is reported with its byte offset and the reader goes on
//! at the next event, so that a truncated file gives every complete event.

mod build;
mod fields;
mod metadata;
mod text;

use std::io::Read;

use build::Builder;
pub(super) use build::rank_in_name;
use fields::Fields;

use super::json::{Raw, Stop, Window, unescape};
use crate::timeline::RANKS_KEY;
use crate::trace::decimal::integer;
use crate::trace::model::RankTrace;

/// Name of the format in headers.
pub const FORMAT: &str = "pytorch-kineto";

/// Top-level keys by which the text behind the events is recognised after damage.
const TAIL_KEYS: [&[u8]; 8] = [
    b"\"traceName\"",
    b"\"displayTimeUnit\"",
    b"\"baseTimeNanoseconds\"",
    b"\"deviceProperties\"",
    b"\"distributedInfo\"",
    b"\"schemaVersion\"",
    b"\"INFO\"",
    b"\"trace_id\"",
];

/// Reads a trace. `file` is its name without folders.
///
/// # Errors
/// It is not a PyTorch profiler trace, or holds no event that can be used; the text completes
/// "FILE: ...".
pub fn read(reader: impl Read, file: &str) -> Result<RankTrace, String> {
    let mut ranks = read_ranks(reader, file)?;
    Ok(ranks.swap_remove(0))
}

/// Reads a trace of one rank, or a timeline of several as [`crate::timeline::Chrome`] writes it.
///
/// # Errors
/// As [`read`].
pub fn read_ranks(reader: impl Read, file: &str) -> Result<Vec<RankTrace>, String> {
    let mut reading = Reading {
        window: Window::new(reader),
        builder: Builder::new(file),
        further: Vec::new(),
        processes: Vec::new(),
        events_seen: false,
    };
    reading.root()?;
    let Reading { window, mut builder, further, events_seen, .. } = reading;
    if let Some(failure) = window.failure {
        builder.truncated_because(window_end(&builder), failure);
    }
    if !events_seen {
        return Err("is JSON, but no PyTorch profiler trace: it has no `traceEvents`".into());
    }
    let several = !further.is_empty();
    let ranks = std::iter::once(builder).chain(further).map(Builder::finish);
    let (good, mut bad): (Vec<_>, Vec<_>) = ranks.partition(Result::is_ok);
    match bad.pop() {
        // Of several ranks, those of which nothing was written are not there.
        Some(Err(why)) if !several || good.is_empty() => Err(why),
        _ => good.into_iter().collect(),
    }
}

/// A reader that fails after the last event still ends the file early.
fn window_end(builder: &Builder) -> u64 {
    builder.last_offset()
}

/// Most ranks of one file.
const MOST_RANKS: usize = 4096;

struct Reading<R> {
    window: Window<R>,
    builder: Builder,
    /// Of the ranks behind the first, where the file has several.
    further: Vec<Builder>,
    /// Processes of the ranks, where the file says so: each with its position.
    processes: Vec<(i64, usize)>,
    events_seen: bool,
}

impl<R: Read> Reading<R> {
    fn root(&mut self) -> Result<(), String> {
        self.window.refill();
        if self.window.bytes().starts_with(b"\xef\xbb\xbf") {
            self.window.consume(3);
        }
        match self.window.peek() {
            // The event array may stand alone.
            Some(b'[') => {
                self.events_seen = true;
                self.window.consume(1);
                self.events();
                Ok(())
            }
            Some(b'{') => {
                self.window.consume(1);
                self.object();
                Ok(())
            }
            Some(_) => Err("is not JSON".into()),
            None => Err("is empty".into()),
        }
    }

    /// The top-level object: the events, the few keys that are understood, and arbitrary others,
    /// of which nothing is kept.
    fn object(&mut self) {
        loop {
            match self.window.peek() {
                Some(b'}') => {
                    self.window.consume(1);
                    return;
                }
                Some(b',') => self.window.consume(1),
                Some(b'"') => {
                    let mut key = Vec::new();
                    let scanned = self.window.scan(|cursor| {
                        key.clear();
                        if let Some(text) = cursor.key()? {
                            key.extend_from_slice(&text[..text.len().min(64)]);
                        }
                        Ok(())
                    });
                    match scanned {
                        Ok(()) => {}
                        Err(Stop::Malformed) => continue,
                        Err(Stop::Incomplete) => return self.end_early(),
                    }
                    let passed = match key.as_slice() {
                        b"traceEvents" if self.window.peek() == Some(b'[') => {
                            self.window.consume(1);
                            self.events_seen = true;
                            self.events();
                            Ok(())
                        }
                        key if key == RANKS_KEY.as_bytes() => {
                            let mut value = serde_json::Value::Null;
                            let scanned = self.window.scan(|cursor| {
                                value = serde_json::from_slice(cursor.value()?.text)
                                    .unwrap_or_default();
                                Ok(())
                            });
                            self.several(&value);
                            scanned
                        }
                        known if Builder::knows(known) => {
                            let builder = &mut self.builder;
                            match self.window.scan(|cursor| {
                                let value = cursor.value()?;
                                builder.metadata(known, value);
                                Ok(())
                            }) {
                                Err(Stop::Incomplete) if !self.window.ended() => {
                                    self.window.skip_value()
                                }
                                other => other,
                            }
                        }
                        _ => self.window.skip_value(),
                    };
                    match passed {
                        Err(Stop::Incomplete) => return self.end_early(),
                        Err(Stop::Malformed) => self.window.consume(1),
                        Ok(()) => {}
                    }
                }
                Some(_) => self.window.consume(1),
                None => return self.end_early(),
            }
        }
    }

    /// Takes the list of the ranks that share a file.
    fn several(&mut self, list: &serde_json::Value) {
        let ranks = list.as_array().map(Vec::as_slice).unwrap_or_default();
        for about in ranks.iter().take(MOST_RANKS) {
            let Some(pid) = about["pid"].as_i64() else { continue };
            if self.processes.iter().any(|(known, _)| *known == pid) {
                continue;
            }
            let position = self.processes.len();
            self.processes.push((pid, position));
            if position > 0 {
                self.further.push(self.builder.beside());
            }
            let builder = match position.checked_sub(1) {
                None => &mut self.builder,
                Some(further) => &mut self.further[further],
            };
            for (key, value) in about.as_object().into_iter().flatten() {
                let text = match value.as_str() {
                    Some(text) => text.to_owned(),
                    None => value.to_string(),
                };
                let raw = Raw { text: text.as_bytes(), ..Raw::default() };
                builder.metadata(key.as_bytes(), raw);
            }
        }
        self.processes.sort_unstable();
    }

    fn end_early(&mut self) {
        let at = self.window.offset();
        let left = self.window.bytes().len() as u64;
        self.builder.truncated(at + left, left);
        self.window.consume(left as usize);
    }

    /// The events, after the opening bracket.
    fn events(&mut self) {
        let mut damaged = false;
        loop {
            if damaged && !self.seek_next_object() {
                return;
            }
            let at = self.window.offset();
            match self.window.peek() {
                Some(b'{') => {
                    let at = self.window.offset();
                    let Self { builder, further, processes, .. } = self;
                    let scanned = self.window.scan(|cursor| {
                        let fields = Fields::parse(cursor)?;
                        if processes.is_empty() {
                            return Ok(builder.event(&fields, at));
                        }
                        let pid = integer(fields.pid);
                        let place = processes.binary_search_by_key(&pid, |(pid, _)| Some(*pid));
                        match place.map(|place| processes[place].1.checked_sub(1)) {
                            Ok(None) => Ok(builder.event(&fields, at)),
                            Ok(Some(rank)) => Ok(further[rank].event(&fields, at)),
                            // Labels are passed over before their process is known.
                            Err(_) if fields.pid.is_empty() => Ok(builder.event(&fields, at)),
                            Err(_) => {
                                builder.unusable("events of a process that is no rank", at);
                                Ok(true)
                            }
                        }
                    });
                    match scanned {
                        Ok(used) => damaged &= !used,
                        Err(Stop::Incomplete) if self.window.ended() => return self.end_early(),
                        Err(Stop::Incomplete) => {
                            self.builder.unusable("events larger than 16 MiB", at);
                            if self.window.skip_value() == Err(Stop::Incomplete) {
                                return self.end_early();
                            }
                        }
                        Err(Stop::Malformed) => {
                            self.builder.unusable("events that are not JSON", at);
                            damaged = true;
                        }
                    }
                }
                Some(b',') => self.window.consume(1),
                Some(b']') => {
                    self.window.consume(1);
                    return;
                }
                Some(_) => {
                    self.builder.unusable("text between events", at);
                    damaged = true;
                }
                None => return self.end_early(),
            }
        }
    }

    /// After damage: moves to the next opening brace, or behind the closing bracket of the events.
    /// False where the events are over.
    fn seek_next_object(&mut self) -> bool {
        loop {
            let Some(at) = memchr::memchr2(b'{', b']', self.window.bytes()) else {
                self.window.consume(self.window.bytes().len());
                if !self.window.refill() {
                    self.end_early();
                    return false;
                }
                continue;
            };
            self.window.consume(at);
            if self.window.bytes().first() == Some(&b'{') {
                return true;
            }
            // A bracket closes the events only where known top-level text follows.
            while self.window.bytes().len() < 256 && self.window.refill() {}
            let mut after = self.window.bytes()[1..].trim_ascii_start();
            if let Some(rest) = after.strip_prefix(b",") {
                after = rest.trim_ascii_start();
                if TAIL_KEYS.iter().any(|key| after.starts_with(key)) {
                    self.window.consume(1);
                    return false;
                }
            } else if after.is_empty()
                || (after[0] == b'}' && after[1..].trim_ascii_start().is_empty())
            {
                self.window.consume(1);
                return false;
            }
            self.window.consume(1);
        }
    }
}

/// The text of a raw value.
fn text_of(raw: Raw<'_>) -> String {
    if raw.escaped { unescape(raw.text) } else { String::from_utf8_lossy(raw.text).into_owned() }
}
