//! Writing a trace directory.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::COLUMNS;
use crate::error::{Error, Result};
use crate::trace::header::{
    EventFile, HEADER_FILE, RankEntry, SCHEMA, SCHEMA_VERSION, TraceHeader,
};
use crate::trace::model::{Event, Kind, RankTrace, TraceSet};

/// How event files are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Plain CSV.
    None,
    /// CSV in a Zstandard frame.
    #[default]
    Zstd,
}

/// Level of the compressor: the default one, at which the disk is still the slower part.
const ZSTD_LEVEL: i32 = 3;

/// Writes the ranks into `directory`, which is created. The result appears at once: files are
/// written under temporary names, the header is renamed last, and a reader that finds no header
/// finds no trace. A trace that is there already is replaced.
///
/// # Errors
/// The operating system refuses.
pub fn write(set: &TraceSet, directory: &Path, compression: Compression) -> Result<TraceHeader> {
    std::fs::create_dir_all(directory).map_err(|e| Error::io("create", directory, e))?;
    let mut header = TraceHeader {
        schema: SCHEMA.into(),
        schema_version: SCHEMA_VERSION,
        written_by: concat!("trainyard ", env!("CARGO_PKG_VERSION")).into(),
        ranks: Vec::new(),
    };
    let mut renames: Vec<(PathBuf, PathBuf)> = Vec::new();
    for (trace_number, ranks) in set.traces().enumerate() {
        for rank in ranks {
            let ending = match compression {
                Compression::None => "csv",
                Compression::Zstd => "csv.zst",
            };
            // Several traces in one directory are told apart by a number in front.
            let number = rank.header.rank;
            let file = if set.traces().nth(1).is_some() {
                format!("trace-{trace_number:03}-rank-{number:05}.{ending}")
            } else {
                format!("rank-{number:05}.{ending}")
            };
            let path = directory.join(&file);
            let temporary = directory.join(format!(".{file}.partial"));
            let hash = write_events(rank, &temporary, compression)?;
            header.ranks.push(RankEntry {
                events: EventFile {
                    file,
                    rows: rank.events.len() as u64,
                    blake3: Some(hash.to_hex().to_string()),
                },
                about: rank.header.clone(),
            });
            renames.push((temporary, path));
        }
    }
    let path = directory.join(HEADER_FILE);
    let temporary = directory.join(format!(".{HEADER_FILE}.partial"));
    let mut text = serde_json::to_string_pretty(&header)
        .map_err(|e| Error::Internal(format!("a trace header cannot be written: {e}")))?;
    text.push('\n');
    std::fs::write(&temporary, text).map_err(|e| Error::io("write", &temporary, e))?;
    if path.exists() {
        // Without its header the old trace is gone, so its event files may go too.
        let old = super::read::read_header(directory).map(|old| old.ranks).unwrap_or_default();
        std::fs::remove_file(&path).map_err(|e| Error::io("replace", &path, e))?;
        for entry in old {
            let name = entry.events.file;
            let ours = name.starts_with("rank-") || name.starts_with("trace-");
            if ours && !name.contains(['/', '\\']) {
                // A file that is not there, or stays, does no harm.
                let _ = std::fs::remove_file(directory.join(name));
            }
        }
    }
    renames.push((temporary, path));
    for (from, to) in renames {
        std::fs::rename(&from, &to).map_err(|e| Error::io("rename", &from, e))?;
    }
    Ok(header)
}

/// Passes bytes on and hashes them.
struct Hashing<W> {
    inner: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

fn write_events(rank: &RankTrace, path: &Path, compression: Compression) -> Result<blake3::Hash> {
    let failed = |e: std::io::Error| Error::io("write", path, e);
    let file = File::create(path).map_err(|e| Error::io("create", path, e))?;
    let file = BufWriter::with_capacity(256 << 10, file);
    match compression {
        Compression::None => {
            let (mut file, hash) = write_csv(rank, file).map_err(failed)?;
            file.flush().map_err(failed)?;
            Ok(hash)
        }
        Compression::Zstd => {
            let encoder = zstd::stream::write::Encoder::new(file, ZSTD_LEVEL).map_err(failed)?;
            let (encoder, hash) = write_csv(rank, encoder).map_err(failed)?;
            let mut file = encoder.finish().map_err(failed)?;
            file.flush().map_err(failed)?;
            Ok(hash)
        }
    }
}

fn write_csv<W: Write>(rank: &RankTrace, inner: W) -> std::io::Result<(W, blake3::Hash)> {
    let hashing = Hashing { inner, hasher: blake3::Hasher::new() };
    let mut writer = csv::WriterBuilder::new().buffer_capacity(64 << 10).from_writer(hashing);
    writer.write_record(COLUMNS).map_err(io_error)?;
    let mut row = Row { record: csv::ByteRecord::with_capacity(512, COLUMNS.len()) };
    for event in &rank.events {
        row.fill(rank, event);
        writer.write_byte_record(&row.record).map_err(io_error)?;
    }
    let hashing = writer.into_inner().map_err(|e| std::io::Error::other(e.to_string()))?;
    Ok((hashing.inner, hashing.hasher.finalize()))
}

fn io_error(error: csv::Error) -> std::io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(e) => e,
        other => std::io::Error::other(format!("{other:?}")),
    }
}

/// Builds one record after another without allocating.
struct Row {
    record: csv::ByteRecord,
}

impl Row {
    fn text(&mut self, text: &str) {
        self.record.push_field(text.as_bytes());
    }

    fn number(&mut self, value: i64) {
        let mut digits = [0_u8; 20];
        let mut at = digits.len();
        let mut rest = value.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if value < 0 {
            at -= 1;
            digits[at] = b'-';
        }
        self.record.push_field(&digits[at..]);
    }

    /// A number that is absent when negative.
    fn optional(&mut self, value: i64) {
        if value < 0 { self.blanks(1) } else { self.number(value) }
    }

    fn blanks(&mut self, count: usize) {
        for _ in 0..count {
            self.record.push_field(b"");
        }
    }

    fn fill(&mut self, rank: &RankTrace, event: &Event) {
        self.record.clear();
        self.text(event.kind.name());
        self.text(rank.name(event));
        self.number(event.start_ns);
        self.number(event.dur_ns);
        self.optional(event.device.into());
        self.number(event.lane);
        self.optional(event.correlation);
        self.optional(event.external);
        self.optional(rank.bytes(event).unwrap_or(-1));
        match rank.geometry(event) {
            Some(geometry) => {
                for size in geometry.grid.into_iter().chain(geometry.block) {
                    self.number(size.into());
                }
                self.optional(geometry.shared_bytes);
                self.optional(geometry.registers.into());
            }
            None => self.blanks(8),
        }
        match rank.op(event) {
            Some(op) => {
                self.optional(op.sequence);
                self.optional(op.forward_thread);
                self.text(rank.names.get(op.dims));
                self.text(rank.names.get(op.types));
            }
            None => self.blanks(4),
        }
        match rank.sync(event) {
            Some(sync) => {
                self.optional(sync.wait_stream);
                self.optional(sync.wait_event);
                self.optional(sync.wait_correlation);
            }
            None => self.blanks(3),
        }
        match event.kind {
            Kind::Flow if rank.flow_starts(event) => self.text("start"),
            Kind::Flow => self.text("end"),
            _ => self.blanks(1),
        }
        match rank.collective(event) {
            Some(collective) => {
                self.text(rank.names.get(collective.op));
                self.text(rank.names.get(collective.group));
                self.text(rank.names.get(collective.dtype));
                self.optional(collective.in_elements);
                self.optional(collective.out_elements);
                self.optional(collective.group_size.into());
                self.optional(collective.peer.into());
                self.optional(collective.sequence);
                self.text(rank.names.get(collective.splits[0]));
                self.text(rank.names.get(collective.splits[1]));
            }
            None => self.blanks(10),
        }
    }
}
