//! Reading a trace directory.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::COLUMNS;
use crate::error::{Error, InputError, Result};
use crate::trace::collectives;
use crate::trace::header::{HEADER_FILE, Loss, RankEntry, SCHEMA, SCHEMA_VERSION, TraceHeader};
use crate::trace::model::{
    Collective, Event, Geometry, Kind, LONGEST_EVENT_NS, LONGEST_RECORDING_NS, NO_ID, NO_INDEX,
    OpDetail, RankTrace, SyncDetail, TraceSet,
};
use crate::trace::names::NameId;

/// How many positions of bad rows are kept.
const POSITIONS: usize = 8;

/// Reads the trace in `directory`.
///
/// A row that cannot be understood is counted in the rank's losses with its position, and the
/// others are kept; with `strict` it is an error.
///
/// # Errors
/// There is no header, it is not understood or of another version, an event file is missing, its
/// checksum or number of rows differs, a column is unknown or missing, or (with `strict`) a row is
/// bad. The message has file, line and column.
pub fn read(directory: &Path, strict: bool) -> Result<TraceSet> {
    let header = read_header(directory)?;
    let ranks = header
        .ranks
        .into_iter()
        .map(|entry| read_rank(directory, entry, strict))
        .collect::<Result<_>>()?;
    Ok(TraceSet { ranks })
}

/// The files of the trace in `directory`.
///
/// # Errors
/// There is no header, or it is not understood.
pub fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let header = read_header(directory)?;
    let events = header.ranks.into_iter().map(|entry| entry.events.file);
    let names = std::iter::once(HEADER_FILE.to_owned()).chain(events);
    Ok(names.map(|name| directory.join(name)).collect())
}

/// Reads the header of the trace in `directory`.
///
/// # Errors
/// As [`read`].
pub fn read_header(directory: &Path) -> Result<TraceHeader> {
    let path = directory.join(HEADER_FILE);
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    let origin = path.display().to_string();
    let wrong = |message: String, position: Option<(usize, usize)>, hint: Option<String>| {
        Error::from(InputError {
            origin: origin.clone(),
            line_text: position.and_then(|(line, _)| text.lines().nth(line - 1).map(Into::into)),
            position,
            message,
            hint,
            ..InputError::default()
        })
    };
    let json_error = |e: &serde_json::Error| {
        let position = (e.line() > 0).then(|| (e.line(), e.column().max(1)));
        let message = e.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        wrong(message.to_owned(), position, None)
    };
    // The version is looked at first: a newer header may have keys that this build has not.
    let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| json_error(&e))?;
    if value["schema"] != SCHEMA {
        return Err(wrong(
            format!("is no trace header: `schema` is not \"{SCHEMA}\""),
            None,
            Some("write a trace directory with `trainyard trace import`".into()),
        ));
    }
    if value["schema_version"] != SCHEMA_VERSION {
        return Err(wrong(
            format!(
                "has schema version {}, and this build reads version {SCHEMA_VERSION}",
                value["schema_version"]
            ),
            None,
            Some("import the original recording again, or use the build that wrote it".into()),
        ));
    }
    serde_json::from_str(&text).map_err(|e| json_error(&e))
}

/// Passes bytes on and hashes them.
struct Hashing<R> {
    inner: R,
    hasher: blake3::Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

fn read_rank(directory: &Path, entry: RankEntry, strict: bool) -> Result<RankTrace> {
    let RankEntry { events: file, about } = entry;
    if file.file.contains(['/', '\\']) || file.file.is_empty() {
        return Err(InputError {
            origin: directory.join(HEADER_FILE).display().to_string(),
            message: format!("event file `{}` is not a plain file name", file.file),
            ..InputError::default()
        }
        .into());
    }
    let path = directory.join(&file.file);
    let origin = path.display().to_string();
    let opened = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
    let opened = BufReader::with_capacity(256 << 10, opened);
    let plain: Box<dyn Read> = if file.file.ends_with(".zst") {
        let decoder = zstd::stream::read::Decoder::with_buffer(opened);
        Box::new(decoder.map_err(|e| Error::io("decompress", &path, e))?)
    } else {
        Box::new(opened)
    };
    let hashing = Hashing { inner: plain, hasher: blake3::Hasher::new() };
    let mut reader =
        csv::ReaderBuilder::new().flexible(true).buffer_capacity(256 << 10).from_reader(hashing);
    let mut rank = RankTrace::default();
    rank.header = about;
    let columns = Columns::of(&mut reader, &path, &origin)?;
    let mut record = csv::ByteRecord::new();
    let mut rows = 0_u64;
    let mut bad = Loss::default();
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {}
            Err(e) => match e.into_kind() {
                csv::ErrorKind::Io(e) => return Err(Error::io("read", &path, e)),
                other => {
                    return Err(Error::Internal(format!("unexpected CSV error: {other:?}")));
                }
            },
        }
        rows += 1;
        let line = record.position().map_or(0, csv::Position::line) as usize;
        if let Err((column, message)) = columns.event(&record, &mut rank) {
            if strict {
                return Err(InputError {
                    origin,
                    position: Some((line, columns.position(&record, column))),
                    key: Some(COLUMNS[column].to_owned()),
                    message,
                    hint: Some("without --strict, bad rows are reported and left out".into()),
                    line_text: None,
                }
                .into());
            }
            if bad.events == 0 {
                let position = columns.position(&record, column);
                bad.what = format!(
                    "rows of {} that cannot be understood; the first at line {line}, column \
                     {position}: {}: {message}",
                    file.file, COLUMNS[column]
                );
            }
            bad.events += 1;
            if bad.first_at.len() < POSITIONS {
                bad.first_at.push(record.position().map_or(0, csv::Position::byte));
            }
        }
    }
    // What the parser has not asked for still counts.
    let mut hashing = reader.into_inner();
    std::io::copy(&mut hashing, &mut std::io::sink()).map_err(|e| Error::io("read", &path, e))?;
    let hash = hashing.hasher.finalize().to_hex();
    let wrong = |message: String| {
        Error::from(InputError {
            origin: origin.clone(),
            message,
            hint: Some("the file was changed or damaged after it was written".into()),
            ..InputError::default()
        })
    };
    if let Some(expected) = &file.blake3
        && !hash.as_str().eq_ignore_ascii_case(expected)
    {
        return Err(wrong(format!(
            "its BLAKE3 checksum is {hash}, and the header says {expected}"
        )));
    }
    if rows != file.rows {
        return Err(wrong(format!("it has {rows} rows, and the header says {}", file.rows)));
    }
    if bad.events > 0 {
        rank.header.losses.unusable.push(bad);
    }
    collectives::resolve(&mut rank);
    rank.settle();
    Ok(rank)
}

/// Where each column stands in a file.
struct Columns {
    at: [Option<usize>; COLUMNS.len()],
}

/// A field that is wrong: its column and what is wrong.
type Wrong = (usize, String);

const KIND: usize = 0;
const NAME: usize = 1;
const START: usize = 2;
const DUR: usize = 3;
const DEVICE: usize = 4;
const LANE: usize = 5;
const CORRELATION: usize = 6;
const EXTERNAL: usize = 7;
const BYTES: usize = 8;
const GRID: usize = 9;
const BLOCK: usize = 12;
const SHARED: usize = 15;
const REGISTERS: usize = 16;
const SEQUENCE: usize = 17;
const FORWARD_THREAD: usize = 18;
const DIMS: usize = 19;
const TYPES: usize = 20;
const WAIT_STREAM: usize = 21;
const WAIT_EVENT: usize = 22;
const WAIT_CORRELATION: usize = 23;
const FLOW: usize = 24;
const COLLECTIVE: usize = 25;
const GROUP: usize = 26;
const DTYPE: usize = 27;
const IN_ELEMENTS: usize = 28;
const OUT_ELEMENTS: usize = 29;
const GROUP_SIZE: usize = 30;
const PEER: usize = 31;
const COLLECTIVE_SEQUENCE: usize = 32;
const IN_SPLITS: usize = 33;
const OUT_SPLITS: usize = 34;

impl Columns {
    fn of<R: Read>(reader: &mut csv::Reader<R>, path: &Path, origin: &str) -> Result<Self> {
        let header = reader.byte_headers().map_err(|e| match e.into_kind() {
            csv::ErrorKind::Io(e) => Error::io("read", path, e),
            other => Error::Internal(format!("unexpected CSV error: {other:?}")),
        })?;
        let mut at = [None; COLUMNS.len()];
        let wrong = |column: usize, message: String, hint: Option<String>| {
            Error::from(InputError {
                origin: origin.to_owned(),
                position: Some((1, column)),
                message,
                hint,
                ..InputError::default()
            })
        };
        let mut column = 1;
        for (place, name) in header.iter().enumerate() {
            let name = String::from_utf8_lossy(name);
            match COLUMNS.iter().position(|known| *known == name) {
                Some(known) => at[known] = Some(place),
                None => {
                    let nearest = crate::error::nearest_names(&name, COLUMNS.into_iter());
                    let hint = nearest.first().map(|best| format!("did you mean `{best}`?"));
                    return Err(wrong(column, format!("unknown column `{name}`"), hint));
                }
            }
            column += name.len() + 1;
        }
        for required in [KIND, NAME, START, DUR] {
            if at[required].is_none() {
                let message = format!("required column `{}` is missing", COLUMNS[required]);
                return Err(wrong(1, message, None));
            }
        }
        Ok(Self { at })
    }

    /// One-based column of a field in its line, as far as no earlier field is quoted.
    fn position(&self, record: &csv::ByteRecord, column: usize) -> usize {
        let place = self.at[column].unwrap_or(0);
        1 + record.iter().take(place).map(|field| field.len() + 1).sum::<usize>()
    }

    fn field<'r>(&self, record: &'r csv::ByteRecord, column: usize) -> &'r [u8] {
        self.at[column].and_then(|place| record.get(place)).unwrap_or_default()
    }

    fn text<'r>(&self, record: &'r csv::ByteRecord, column: usize) -> Result<&'r str, Wrong> {
        std::str::from_utf8(self.field(record, column))
            .map_err(|_| (column, "is not UTF-8 text".to_owned()))
    }

    fn number(&self, record: &csv::ByteRecord, column: usize) -> Result<Option<i64>, Wrong> {
        let field = self.field(record, column);
        if field.is_empty() {
            return Ok(None);
        }
        let text = self.text(record, column)?;
        let number = text
            .parse()
            .map_err(|_| (column, format!("`{}` is not a whole number", shorten(text))))?;
        Ok(Some(number))
    }

    /// A number that must be there and lie in a range.
    fn required(
        &self,
        record: &csv::ByteRecord,
        column: usize,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<i64, Wrong> {
        let value = self.number(record, column)?.ok_or((column, "is missing".to_owned()))?;
        if range.contains(&value) {
            Ok(value)
        } else {
            Err((column, format!("{value} is out of range")))
        }
    }

    /// A non-negative number, or -1 where absent.
    fn optional(&self, record: &csv::ByteRecord, column: usize) -> Result<i64, Wrong> {
        match self.number(record, column)? {
            Some(value) if value < 0 => Err((column, format!("{value} is negative"))),
            value => Ok(value.unwrap_or(-1)),
        }
    }

    fn small(&self, record: &csv::ByteRecord, column: usize) -> Result<i32, Wrong> {
        let value = self.optional(record, column)?;
        i32::try_from(value).map_err(|_| (column, format!("{value} is too large")))
    }

    fn interned(
        &self,
        record: &csv::ByteRecord,
        column: usize,
        rank: &mut RankTrace,
    ) -> Result<NameId, Wrong> {
        Ok(rank.names.intern(self.text(record, column)?))
    }

    /// Whether any of the columns has a value.
    fn any(&self, record: &csv::ByteRecord, columns: std::ops::RangeInclusive<usize>) -> bool {
        columns.into_iter().any(|column| !self.field(record, column).is_empty())
    }

    fn event(&self, record: &csv::ByteRecord, rank: &mut RankTrace) -> Result<(), Wrong> {
        let kind = self.text(record, KIND)?;
        let kind = Kind::from_name(kind)
            .ok_or_else(|| (KIND, format!("`{}` is not a kind of event", shorten(kind))))?;
        let start = self.required(record, START, 0..=LONGEST_RECORDING_NS)?;
        let dur = self.required(record, DUR, 0..=LONGEST_EVENT_NS)?;
        let name = self.interned(record, NAME, rank)?;
        let mut event = Event::new(kind, name, start, dur);
        event.device = self.small(record, DEVICE)?;
        event.lane = self.number(record, LANE)?.unwrap_or(-1);
        event.correlation = self.optional(record, CORRELATION)?;
        event.external = self.optional(record, EXTERNAL)?;
        event.detail = match kind {
            Kind::Kernel if self.any(record, GRID..=REGISTERS) => {
                let mut geometry = Geometry {
                    shared_bytes: self.optional(record, SHARED)?,
                    registers: self.small(record, REGISTERS)?,
                    ..Geometry::default()
                };
                for axis in 0..3 {
                    geometry.grid[axis] = self.size(record, GRID + axis)?;
                    geometry.block[axis] = self.size(record, BLOCK + axis)?;
                }
                rank.add_geometry(geometry)
            }
            Kind::Memcpy | Kind::Memset if self.any(record, BYTES..=BYTES) => {
                let bytes = self.optional(record, BYTES)?;
                rank.add_copy(bytes)
            }
            Kind::Op | Kind::Annotation if self.any(record, SEQUENCE..=TYPES) => {
                let detail = OpDetail {
                    sequence: self.optional(record, SEQUENCE)?,
                    forward_thread: self.optional(record, FORWARD_THREAD)?,
                    dims: self.interned(record, DIMS, rank)?,
                    types: self.interned(record, TYPES, rank)?,
                };
                rank.add_op(detail)
            }
            Kind::Sync => {
                let detail = SyncDetail {
                    wait_stream: self.optional(record, WAIT_STREAM)?,
                    wait_event: self.optional(record, WAIT_EVENT)?,
                    wait_correlation: self.optional(record, WAIT_CORRELATION)?,
                };
                rank.add_sync(detail)
            }
            Kind::Flow => match self.text(record, FLOW)? {
                "start" => 0,
                "end" => 1,
                other => return Err((FLOW, format!("`{}` is no end of a flow", shorten(other)))),
            },
            _ => NO_INDEX,
        };
        if self.any(record, COLLECTIVE..=COLLECTIVE) {
            let collective = Collective {
                op: self.interned(record, COLLECTIVE, rank)?,
                group: self.interned(record, GROUP, rank)?,
                dtype: self.interned(record, DTYPE, rank)?,
                in_elements: self.optional(record, IN_ELEMENTS)?,
                out_elements: self.optional(record, OUT_ELEMENTS)?,
                group_size: self.small(record, GROUP_SIZE)?,
                peer: self.small(record, PEER)?,
                sequence: self.optional(record, COLLECTIVE_SEQUENCE)?,
                splits: [
                    self.interned(record, IN_SPLITS, rank)?,
                    self.interned(record, OUT_SPLITS, rank)?,
                ],
            };
            event.collective = rank.add_collective(collective);
        }
        debug_assert!(event.correlation >= NO_ID);
        rank.events.push(event);
        Ok(())
    }

    fn size(&self, record: &csv::ByteRecord, column: usize) -> Result<u32, Wrong> {
        let value = self.optional(record, column)?.max(0);
        u32::try_from(value).map_err(|_| (column, format!("{value} is too large")))
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}
