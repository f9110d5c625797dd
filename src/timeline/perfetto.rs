//! Timelines as Perfetto protobuf.
//!
//! Each rank is a process and a packet sequence with interned names of its own; each lane is a
//! thread. Slices of a track nest: one that overlaps another without lying in it goes to a further
//! track below the lane.

use std::io::{self, Write};

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use prost::Message;

use super::proto::{
    CounterDescriptor, DebugAnnotation, InternedData, InternedText, ProcessDescriptor,
    ThreadDescriptor, TracePacket, TrackDescriptor, TrackEvent, event_type,
};
use super::{Flow, Lane, Process, Sink, Slice, Value};

/// `SEQ_INCREMENTAL_STATE_CLEARED`.
const CLEARED: u32 = 1;
/// `SEQ_NEEDS_INCREMENTAL_STATE`.
const NEEDED: u32 = 2;
/// `ChildTracksOrdering.EXPLICIT`.
const EXPLICIT: i32 = 3;
/// Threads are numbered from here, out of the way of processes.
const FIRST_THREAD: i64 = 10_000_000;
/// Field 1 of `Trace`, length-delimited.
const PACKET_KEY: u8 = 0x0a;

/// Distinct texts of a sequence.
#[derive(Debug, Default)]
struct Interned(HashMap<String, u64, FixedState>);

impl Interned {
    /// The number of a text; new ones are added to `fresh`.
    fn id(&mut self, text: &str, fresh: &mut Vec<InternedText>) -> u64 {
        if let Some(id) = self.0.get(text) {
            return *id;
        }
        let id = self.0.len() as u64 + 1;
        self.0.insert(text.to_owned(), id);
        fresh.push(InternedText { iid: Some(id), name: Some(text.to_owned()) });
        id
    }
}

/// A track of a lane, and the ends of the slices that are open on it, outermost first.
#[derive(Debug)]
struct Track {
    uuid: u64,
    open: Vec<i64>,
}

/// Writes Perfetto protobuf.
#[derive(Debug)]
pub struct Perfetto<W> {
    out: W,
    buffer: Vec<u8>,
    next_uuid: u64,
    next_thread: i64,
    sequence: u32,
    started: bool,
    process: u64,
    pid: i32,
    lane: String,
    tracks: Vec<Track>,
    names: Interned,
    categories: Interned,
    keys: Interned,
}

impl<W: Write> Perfetto<W> {
    /// A writer on `out`, which should be buffered.
    pub fn new(out: W) -> Self {
        Self {
            out,
            buffer: Vec::new(),
            next_uuid: 1,
            next_thread: FIRST_THREAD,
            sequence: 0,
            started: false,
            process: 0,
            pid: 0,
            lane: String::new(),
            tracks: Vec::new(),
            names: Interned::default(),
            categories: Interned::default(),
            keys: Interned::default(),
        }
    }

    fn uuid(&mut self) -> u64 {
        self.next_uuid += 1;
        self.next_uuid - 1
    }

    fn packet(&mut self, mut packet: TracePacket) -> io::Result<()> {
        packet.trusted_packet_sequence_id = Some(self.sequence);
        packet.sequence_flags = Some(if self.started { NEEDED } else { CLEARED });
        if !self.started {
            packet.first_packet_on_sequence = Some(true);
        }
        self.started = true;
        self.buffer.clear();
        self.buffer.push(PACKET_KEY);
        packet.encode_length_delimited(&mut self.buffer).map_err(io::Error::other)?;
        self.out.write_all(&self.buffer)
    }

    fn describe(&mut self, track: TrackDescriptor) -> io::Result<()> {
        self.packet(TracePacket { track_descriptor: Some(track), ..TracePacket::default() })
    }

    fn end(&mut self, uuid: u64, at_ns: i64) -> io::Result<()> {
        let event = TrackEvent {
            r#type: Some(event_type::SLICE_END),
            track_uuid: Some(uuid),
            ..TrackEvent::default()
        };
        self.packet(TracePacket {
            timestamp: Some(time(at_ns)),
            track_event: Some(event),
            ..TracePacket::default()
        })
    }

    /// Ends whatever is open on the lane.
    fn close(&mut self) -> io::Result<()> {
        for mut track in std::mem::take(&mut self.tracks) {
            while let Some(end) = track.open.pop() {
                self.end(track.uuid, end)?;
            }
        }
        Ok(())
    }

    /// The track of the lane on which a slice nests; ends what is over there by its start.
    fn track_for(&mut self, start: i64, end: i64) -> io::Result<usize> {
        for index in 0..self.tracks.len() {
            while let Some(over) = self.tracks[index].open.last().copied().filter(|e| *e <= start) {
                self.tracks[index].open.pop();
                self.end(self.tracks[index].uuid, over)?;
            }
            if self.tracks[index].open.last().is_none_or(|outer| end <= *outer) {
                return Ok(index);
            }
        }
        let uuid = self.uuid();
        let number = self.tracks.len();
        self.describe(TrackDescriptor {
            uuid: Some(uuid),
            parent_uuid: self.tracks.first().map(|track| track.uuid),
            name: Some(format!("{} (overlapping {number})", self.lane)),
            sibling_order_rank: Some(number as i32),
            ..TrackDescriptor::default()
        })?;
        self.tracks.push(Track { uuid, open: Vec::new() });
        Ok(number)
    }
}

/// Perfetto's times are not negative.
fn time(at_ns: i64) -> u64 {
    u64::try_from(at_ns).unwrap_or(0)
}

fn annotation(key: u64, value: Value<'_>) -> DebugAnnotation {
    let mut annotation = DebugAnnotation { name_iid: Some(key), ..DebugAnnotation::default() };
    match value {
        Value::Whole(number) => annotation.int_value = Some(number),
        Value::Number(number) => annotation.double_value = Some(number),
        Value::Text(text) | Value::Json(text) => annotation.string_value = Some(text.to_owned()),
    }
    annotation
}

impl<W: Write> Sink for Perfetto<W> {
    fn begin(&mut self, _: &[Process], _: i64) -> io::Result<()> {
        Ok(())
    }

    fn process(&mut self, process: &Process) -> io::Result<()> {
        self.close()?;
        self.sequence += 1;
        self.started = false;
        self.names = Interned::default();
        self.categories = Interned::default();
        self.keys = Interned::default();
        self.process = self.uuid();
        // Process 0 is the idle process of a machine.
        self.pid = i32::try_from(process.rank).unwrap_or(i32::MAX - 1) + 1;
        self.describe(TrackDescriptor {
            uuid: Some(self.process),
            process: Some(ProcessDescriptor {
                pid: Some(self.pid),
                process_name: Some(process.name.clone()),
            }),
            child_ordering: Some(EXPLICIT),
            ..TrackDescriptor::default()
        })
    }

    fn lane(&mut self, lane: &Lane<'_>) -> io::Result<()> {
        self.close()?;
        let uuid = self.uuid();
        let tid = self.next_thread;
        self.next_thread += 1;
        lane.name.clone_into(&mut self.lane);
        self.tracks.push(Track { uuid, open: Vec::new() });
        self.describe(TrackDescriptor {
            uuid: Some(uuid),
            parent_uuid: Some(self.process),
            thread: Some(ThreadDescriptor {
                pid: Some(self.pid),
                tid: Some(tid),
                thread_name: Some(lane.name.to_owned()),
            }),
            sibling_order_rank: Some(lane.order as i32),
            ..TrackDescriptor::default()
        })
    }

    fn slice(&mut self, slice: &Slice<'_>) -> io::Result<()> {
        let (start, end) = (slice.start_ns.max(0), slice.end_ns.max(slice.start_ns).max(0));
        let index = self.track_for(start, end)?;
        let mut fresh = InternedData::default();
        let category = slice.class.unwrap_or(slice.category);
        let mut event = TrackEvent {
            r#type: Some(event_type::SLICE_BEGIN),
            track_uuid: Some(self.tracks[index].uuid),
            name_iid: Some(self.names.id(slice.name, &mut fresh.event_names)),
            category_iids: vec![self.categories.id(category, &mut fresh.event_categories)],
            flow_ids: slice.flows.iter().map(|flow| flow.id).collect(),
            ..TrackEvent::default()
        };
        for arg in slice.args {
            let key = self.keys.id(arg.key, &mut fresh.debug_annotation_names);
            event.debug_annotations.push(annotation(key, arg.value));
        }
        let interned_data = (fresh != InternedData::default()).then_some(fresh);
        self.packet(TracePacket {
            timestamp: Some(time(start)),
            track_event: Some(event),
            interned_data,
            ..TracePacket::default()
        })?;
        self.tracks[index].open.push(end);
        Ok(())
    }

    fn arrow(&mut self, _: i64, _: &Flow) -> io::Result<()> {
        // Arrows of Perfetto join slices; one that no slice starts with has no place.
        Ok(())
    }

    fn counter(&mut self, name: &str, unit: &str, values: &[(i64, f64)]) -> io::Result<()> {
        self.close()?;
        let uuid = self.uuid();
        self.describe(TrackDescriptor {
            uuid: Some(uuid),
            parent_uuid: Some(self.process),
            name: Some(name.to_owned()),
            counter: Some(CounterDescriptor { unit_name: Some(unit.to_owned()) }),
            ..TrackDescriptor::default()
        })?;
        for (at, value) in values {
            let event = TrackEvent {
                r#type: Some(event_type::COUNTER),
                track_uuid: Some(uuid),
                double_counter_value: Some(*value),
                ..TrackEvent::default()
            };
            self.packet(TracePacket {
                timestamp: Some(time(*at)),
                track_event: Some(event),
                ..TracePacket::default()
            })?;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.close()?;
        self.out.flush()
    }
}
