//! Timelines as Chrome JSON in the vocabulary of the PyTorch profiler, so that viewers of both and
//! `trainyard trace import` read them. Times are microseconds with three decimals, which hold every
//! nanosecond.
//!
//! One rank gives a file like the profiler's own. Several ranks are processes of one file, and a
//! top-level list says which process is which rank; importers of others see one process each.

use std::io::{self, Write};

use super::{End, Flow, Lane, Process, Sink, Slice, Value};

/// Top-level key of the list of ranks.
pub const RANKS_KEY: &str = "trainyardRanks";

/// Writes Chrome JSON.
#[derive(Debug)]
pub struct Chrome<W> {
    out: W,
    any: bool,
    rank: u32,
    tid: i64,
}

impl<W: Write> Chrome<W> {
    /// A writer on `out`, which should be buffered.
    pub fn new(out: W) -> Self {
        Self { out, any: false, rank: 0, tid: 0 }
    }

    /// Begins an event: what all have.
    fn event(&mut self, phase: char, at_ns: Option<i64>) -> io::Result<()> {
        let separator = if std::mem::replace(&mut self.any, true) { ",\n" } else { "\n" };
        let Self { rank, tid, .. } = self;
        write!(self.out, "{separator}{{\"ph\":\"{phase}\",\"pid\":{rank},\"tid\":{tid}")?;
        if let Some(at) = at_ns {
            write!(self.out, ",\"ts\":{}", Micros(at))?;
        }
        Ok(())
    }

    fn text(&mut self, key: &str, value: &str) -> io::Result<()> {
        write!(self.out, ",\"{key}\":")?;
        serde_json::to_writer(&mut self.out, value).map_err(io::Error::other)
    }

    fn metadata(&mut self, what: &str, key: &str, value: &serde_json::Value) -> io::Result<()> {
        self.event('M', None)?;
        self.text("name", what)?;
        write!(self.out, ",\"args\":{{\"{key}\":{value}}}}}")
    }

    fn flow(&mut self, at_ns: i64, flow: &Flow) -> io::Result<()> {
        let phase = match flow.end {
            End::Start => 's',
            End::Step => 't',
            End::Finish => 'f',
        };
        self.event(phase, Some(at_ns))?;
        write!(self.out, ",\"cat\":\"{0}\",\"name\":\"{0}\"", flow.category)?;
        write!(self.out, ",\"id\":{},\"bp\":\"e\"}}", flow.chrome_id)
    }
}

/// Nanoseconds as decimal microseconds.
struct Micros(i64);

impl std::fmt::Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let ns = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:03}", ns / 1000, ns % 1000)
    }
}

impl<W: Write> Sink for Chrome<W> {
    fn begin(&mut self, processes: &[Process], base_unix_ns: i64) -> io::Result<()> {
        write!(
            self.out,
            "{{\n\"schemaVersion\":1,\n\"displayTimeUnit\":\"ns\",\n\"baseTimeNanoseconds\":\
             {base_unix_ns},\n"
        )?;
        if let [alone] = processes {
            for (key, value) in &alone.about {
                writeln!(self.out, "{}:{value},", serde_json::Value::from(key.as_str()))?;
            }
        } else {
            write!(self.out, "\"{RANKS_KEY}\":[")?;
            for (position, process) in processes.iter().enumerate() {
                let separator = if position > 0 { ",\n" } else { "\n" };
                write!(self.out, "{separator}{{\"pid\":{}", process.rank)?;
                for (key, value) in &process.about {
                    write!(self.out, ",{}:{value}", serde_json::Value::from(key.as_str()))?;
                }
                write!(self.out, "}}")?;
            }
            writeln!(self.out, "\n],")?;
        }
        write!(self.out, "\"traceEvents\":[")
    }

    fn process(&mut self, process: &Process) -> io::Result<()> {
        self.rank = process.rank;
        self.tid = 0;
        self.metadata("process_name", "name", &process.name.as_str().into())?;
        self.metadata("process_sort_index", "sort_index", &process.rank.into())
    }

    fn lane(&mut self, lane: &Lane<'_>) -> io::Result<()> {
        self.tid = lane.id;
        self.metadata("thread_name", "name", &lane.name.into())?;
        self.metadata("thread_sort_index", "sort_index", &lane.order.into())
    }

    fn slice(&mut self, slice: &Slice<'_>) -> io::Result<()> {
        self.event('X', Some(slice.start_ns))?;
        write!(self.out, ",\"dur\":{}", Micros(slice.end_ns - slice.start_ns))?;
        match slice.class {
            Some(class) => write!(self.out, ",\"cat\":\"{},{class}\"", slice.category)?,
            None => write!(self.out, ",\"cat\":\"{}\"", slice.category)?,
        }
        self.text("name", slice.name)?;
        write!(self.out, ",\"args\":{{")?;
        for (position, arg) in slice.args.iter().enumerate() {
            if position > 0 {
                write!(self.out, ",")?;
            }
            write!(self.out, "\"{}\":", arg.key)?;
            match arg.value {
                Value::Whole(number) => write!(self.out, "{number}")?,
                Value::Number(number) if number.is_finite() => write!(self.out, "{number}")?,
                Value::Number(_) => write!(self.out, "null")?,
                Value::Json(text) => write!(self.out, "{text}")?,
                Value::Text(text) => {
                    serde_json::to_writer(&mut self.out, text).map_err(io::Error::other)?;
                }
            }
        }
        write!(self.out, "}}}}")?;
        for flow in slice.flows {
            self.flow(slice.start_ns, flow)?;
        }
        Ok(())
    }

    fn arrow(&mut self, at_ns: i64, flow: &Flow) -> io::Result<()> {
        self.flow(at_ns, flow)
    }

    fn counter(&mut self, name: &str, unit: &str, values: &[(i64, f64)]) -> io::Result<()> {
        self.tid = 0;
        for (at, value) in values {
            self.event('C', Some(*at))?;
            self.text("name", name)?;
            write!(self.out, ",\"args\":{{\"{unit}\":{value}}}}}")?;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        writeln!(self.out, "\n]}}")?;
        self.out.flush()
    }
}
