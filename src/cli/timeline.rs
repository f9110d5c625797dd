//! `trainyard trace export` and `trainyard run --timeline`: files for trace viewers.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::error::{Error, Result, nearest_names};
use crate::outcome::{WhatIf, replayed_ranks};
use crate::output::Target;
use crate::timeline::{Chrome, Format, Perfetto, Sink};
use crate::trace::import::import;
use crate::trace::model::RankTrace;
use crate::trace::timeline::{self, Selection, ranks_of};

use super::{refuse_overwriting, stdout_error};

/// Options of `trainyard trace export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Trace directories, or profiler output as `trace import` reads it.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// File to write: *.pftrace for ui.perfetto.dev, *.json for viewers of Chrome JSON, either
    /// with .gz behind it.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Format, where the name of the file does not tell.
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Only these ranks, such as 0-3,8.
    #[arg(long, value_name = "RANKS", value_parser = rank_list)]
    ranks: Option<RankList>,
    /// Only what touches the time from here on, in ms from the start of the recording.
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    from: Option<i64>,
    /// Only what touches the time up to here, in ms.
    #[arg(long, value_name = "MS", value_parser = milliseconds)]
    to: Option<i64>,
    /// Only these steps, by name: 3 or 3..5.
    #[arg(long, value_name = "A..B", conflicts_with_all = ["from", "to"])]
    steps: Option<String>,
    /// The times of the replay instead of the recorded ones.
    #[arg(long)]
    replayed: bool,
    /// Which trace, where the paths hold several.
    #[arg(long, value_name = "NAME")]
    trace: Option<String>,
    /// Fail where anything of a trace cannot be used.
    #[arg(long)]
    strict: bool,
}

/// Ranges of ranks, as one value of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankList(pub Vec<RangeInclusive<u32>>);

/// Reads a list of ranks.
///
/// # Errors
/// It is none; the text says which part.
pub fn rank_list(text: &str) -> Result<RankList, String> {
    ranks_of(text).map(RankList)
}

/// Milliseconds as ns.
fn milliseconds(text: &str) -> Result<i64, String> {
    let ns = crate::trace::decimal::scaled(text.as_bytes(), 6);
    ns.filter(|ns| *ns >= 0).ok_or_else(|| format!("`{text}` is no number of milliseconds"))
}

/// Runs `trainyard trace export`.
///
/// # Errors
/// The trace cannot be read, what is asked for is not in it, or the file cannot be written.
pub fn export(args: ExportArgs, out: &mut dyn Write) -> Result<()> {
    let format = format_of(&args.out, args.format)?;
    let imported = import(&args.paths, args.strict)?;
    refuse_overwriting(&args.out, &imported.files)?;
    let traces: Vec<&[RankTrace]> = imported.traces.traces().collect();
    let ranks = one_trace(&traces, args.trace.as_deref())?;
    let steps = args.steps.map(|text| match text.split_once("..") {
        Some((first, last)) => (first.to_owned(), last.to_owned()),
        None => (text.clone(), text),
    });
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from >= to
    {
        return Err(Error::Missing(format!(
            "--from {} ms is not before --to {} ms: nothing is left",
            from as f64 / 1e6,
            to as f64 / 1e6
        )));
    }
    let bounded = args.from.is_some() || args.to.is_some();
    let selection = Selection {
        ranks: args.ranks.map(|list| list.0).unwrap_or_default(),
        time: bounded.then(|| (args.from.unwrap_or(0), args.to.unwrap_or(i64::MAX))),
        steps,
    };
    let write = |sink: &mut dyn Sink| {
        if args.replayed {
            timeline::write(&replayed_ranks(ranks, &WhatIf::default())?, &selection, sink)
        } else {
            timeline::write(ranks, &selection, sink)
        }
    };
    let bytes = write_timeline_file(&args.out, format, write)?;
    let count = ranks.iter().filter(|rank| selection.has_rank(rank.header.rank)).count();
    writeln!(out, "{}: {count} ranks, {bytes} bytes", args.out.display()).map_err(stdout_error)
}

/// The trace that is meant.
fn one_trace<'a>(traces: &[&'a [RankTrace]], name: Option<&str>) -> Result<&'a [RankTrace]> {
    let names: Vec<&str> =
        traces.iter().filter_map(|ranks| Some(ranks.first()?.header.trace.as_str())).collect();
    let Some(name) = name else {
        return match traces {
            [alone] => Ok(alone),
            _ => Err(Error::Missing(format!(
                "the paths hold {} traces, and a timeline has one\n  help: name it with --trace: {}",
                names.len(),
                names.join(", ")
            ))),
        };
    };
    let found = names.iter().position(|known| *known == name);
    found.and_then(|place| traces.get(place)).copied().ok_or_else(|| Error::UnknownName {
        what: "trace",
        name: name.to_owned(),
        nearest: nearest_names(name, names.iter().copied()),
    })
}

/// The format of a timeline file.
///
/// # Errors
/// Its name does not tell, and nothing else does.
pub fn format_of(path: &Path, chosen: Option<Format>) -> Result<Format> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    chosen.or_else(|| Format::of_name(&name?)).ok_or_else(|| {
        Error::Missing(format!(
            "{}: the name does not tell the format\n  help: end it in .pftrace (Perfetto) or .json \
             (Chrome), with .gz behind it where it is to be packed",
            path.display()
        ))
    })
}

/// Writes a timeline under a temporary name and renames it; gives its size.
///
/// # Errors
/// What `write` says, or the file cannot be written.
pub fn write_timeline_file(
    path: &Path,
    format: Format,
    write: impl FnOnce(&mut dyn Sink) -> Result<()>,
) -> Result<u64> {
    let target = Target::of(path)?;
    let place = &target.written;
    let file = File::create(place).map_err(|e| Error::io("create", place, e))?;
    let mut file = BufWriter::with_capacity(256 << 10, file);
    let packed = path.extension().is_some_and(|extension| extension == "gz");
    let written = if packed {
        let mut encoder = GzEncoder::new(&mut file, Compression::default());
        sink(format, &mut encoder, write)
            .and_then(|()| encoder.finish().map(drop).map_err(|e| Error::io("write", place, e)))
    } else {
        sink(format, &mut file, write)
    };
    let written = written.and_then(|()| file.flush().map_err(|e| Error::io("write", place, e)));
    drop(file);
    target.finish(written)?;
    Ok(std::fs::metadata(path).map_or(0, |about| about.len()))
}

fn sink(
    format: Format,
    out: &mut dyn Write,
    write: impl FnOnce(&mut dyn Sink) -> Result<()>,
) -> Result<()> {
    match format {
        Format::Perfetto => write(&mut Perfetto::new(out)),
        Format::Chrome => write(&mut Chrome::new(out)),
    }
}
