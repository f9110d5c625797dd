//! Importers, one per format, and what they share: finding files, telling formats apart, and
//! deciding which ranks ran together.

pub mod ascend;
pub mod chakra;
mod collect;
pub mod execution;
pub mod json;
pub mod kineto;
pub mod nsys;
pub mod operations;
pub mod primus;
mod recognise;
pub mod rocprof;
mod source;
mod sqlite;
pub mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use self::recognise::{Format, What};
use super::header::{HEADER_FILE, RankSource};
use super::model::{RankTrace, TraceSet};
use super::{align, format, redact};
use crate::error::{Error, InputError, Result};

/// What an import gives.
#[derive(Clone, Debug, Default)]
pub struct Imported {
    /// The ranks, aligned.
    pub traces: TraceSet,
    /// Files that could not be used, and why, by path.
    pub unused: Vec<Unused>,
    /// Files that were used.
    pub files: Vec<PathBuf>,
}

/// A file that could not be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unused {
    /// Path, and the path inside an archive.
    pub path: String,
    /// Why; completes "PATH ...".
    pub why: String,
}

/// A rank and where it was found.
struct Found {
    trace: RankTrace,
    /// Folder inside the path that was asked for; the same one in several paths is one folder.
    key: String,
    /// Folder or archive, for people.
    folder: String,
    /// File name without packing.
    stem: String,
    /// The very folder it lies in.
    place: String,
}

/// Reads files, folders and archives of any supported format, and trace directories of our own.
/// Ranks that lie together and have different numbers form one trace and are put on one clock.
///
/// # Errors
/// A path cannot be read, a file that was named is no trace, or nothing at all could be used.
pub fn import(paths: &[PathBuf], strict: bool) -> Result<Imported> {
    let mut imported = Imported::default();
    for (i, path) in paths.iter().enumerate() {
        let same = |other: &PathBuf| match (other.canonicalize(), path.canonicalize()) {
            (Ok(other), Ok(path)) => other == path,
            _ => false,
        };
        if paths[..i].iter().any(same) {
            return Err(Error::Missing(format!("{} is named twice", path.display())));
        }
    }
    let mut found: Vec<Found> = Vec::new();
    let mut jobs: Vec<Job> = Vec::new();
    for path in paths {
        if path.is_dir() {
            if path.join(HEADER_FILE).is_file() {
                let read = format::read(path, strict)?;
                imported.traces.ranks.extend(read.ranks);
                imported.files.extend(format::files(path)?);
                continue;
            }
            let name = path.file_name().or_else(|| path.parent()?.file_name());
            let name = name.map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            walk(
                path,
                &Within { folder: "", root: &name, rank: None },
                &mut jobs,
                &mut imported.unused,
            )?;
        } else {
            let folder = path.parent().and_then(Path::file_name);
            jobs.push(Job {
                path: path.clone(),
                key: String::new(),
                folder: folder.map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
                named: true,
                rank: None,
            });
        }
    }
    // Files are independent; the order of results is the order of the jobs.
    let results: Vec<Result<FileResult>> = jobs.par_iter().map(read_file).collect();
    let mut configs: BTreeSet<PathBuf> = BTreeSet::new();
    for (job, result) in jobs.iter().zip(results) {
        let (ranks, unused) = result?;
        if let (true, true, Some(first)) = (job.named, ranks.is_empty(), unused.first()) {
            return Err(InputError {
                origin: first.path.clone(),
                message: first.why.clone(),
                hint: Some("`trainyard trace import` reads traces of the PyTorch profiler, Nsight Systems (SQLite), rocprof, the Ascend profiler, Chakra, Megatron-style operations (Parquet) and Primus, packed or not, or folders of them".into()),
                ..InputError::default()
            }
            .into());
        }
        if !ranks.is_empty() {
            imported.files.push(job.path.clone());
        }
        for rank in ranks.iter().filter(|rank| !rank.trace.header.groups.is_empty()) {
            if rank.trace.header.source.format == primus::FORMAT {
                configs.extend(job.path.parent().map(|folder| folder.join(primus::CONFIG)));
            }
        }
        found.extend(ranks);
        imported.unused.extend(unused);
    }
    // What says how a pipeline was laid out was used.
    imported.unused.retain(|unused| !configs.contains(Path::new(&unused.path)));
    imported.unused.sort();
    if found.is_empty() && imported.traces.ranks.is_empty() {
        let reasons: Vec<String> =
            imported.unused.iter().take(5).map(|u| format!("{} {}", u.path, u.why)).collect();
        let what: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
        return Err(InputError {
            origin: what.join(", "),
            message: "holds no trace that can be used".into(),
            hint: (!reasons.is_empty()).then(|| reasons.join("; ")),
            ..InputError::default()
        }
        .into());
    }
    imported.traces.ranks.extend(group(join(found)));
    imported
        .traces
        .ranks
        .sort_by(|a, b| (&a.header.trace, a.header.rank).cmp(&(&b.header.trace, b.header.rank)));
    for ranks in imported.traces.traces_mut() {
        align::align(ranks);
    }
    if strict {
        complete(&imported)?;
    }
    Ok(imported)
}

/// With `--strict`, whatever could not be used is an error.
fn complete(imported: &Imported) -> Result<()> {
    let wrong = |origin: String, message: String| {
        Err(InputError {
            origin,
            message,
            hint: Some("without --strict, the rest is used and the loss reported".into()),
            ..InputError::default()
        }
        .into())
    };
    for rank in &imported.traces.ranks {
        let header = &rank.header;
        let origin = || format!("{} (rank {})", header.source.file, header.rank);
        if let Some(truncated) = &header.losses.truncated {
            return wrong(origin(), format!("ends early at byte {}", truncated.at_byte));
        }
        if let Some(loss) = header.losses.unusable.first() {
            let at = loss.first_at.first().map(|at| format!(" (the first at byte {at})"));
            let at = at.unwrap_or_default();
            return wrong(origin(), format!("has {} {}{at}", loss.events, loss.what));
        }
    }
    match imported.unused.iter().find(|unused| unused.why != NOT_A_TRACE_NAME) {
        Some(unused) => wrong(unused.path.clone(), unused.why.clone()),
        None => Ok(()),
    }
}

/// Why a file in a folder was not even opened.
pub(crate) const NOT_A_TRACE_NAME: &str = "does not have the name of a trace";

/// A file to read.
struct Job {
    path: PathBuf,
    key: String,
    folder: String,
    /// Whether the user named this very file.
    named: bool,
    /// The rank that something beside the file gives it.
    rank: Option<u32>,
}

type FileResult = (Vec<Found>, Vec<Unused>);

/// Where a walk through folders is.
struct Within<'a> {
    /// Folder below the path that was asked for.
    folder: &'a str,
    /// Name of that path.
    root: &'a str,
    /// Rank of everything in here, where a file says so.
    rank: Option<u32>,
}

/// What the Ascend profiler calls the folder of its results, inside one folder per rank.
const ASCEND_OUTPUT: &str = "ASCEND_PROFILER_OUTPUT";

fn walk(
    path: &Path,
    within: &Within<'_>,
    jobs: &mut Vec<Job>,
    unused: &mut Vec<Unused>,
) -> Result<()> {
    let entries = std::fs::read_dir(path).map_err(|e| Error::io("list", path, e))?;
    let mut entries: Vec<PathBuf> = entries
        .map(|entry| entry.map(|e| e.path()).map_err(|e| Error::io("list", path, e)))
        .collect::<Result<_>>()?;
    entries.sort();
    let name_of = |path: &Path| {
        path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let rank = entries.iter().find_map(|entry| {
        name_of(entry).strip_prefix("profiler_info_")?.strip_suffix(".json")?.parse().ok()
    });
    let rank = rank.or(within.rank);
    let Within { folder, root, .. } = *within;
    // Ranks of the Ascend profiler lie two folders apart and ran together.
    let key = folder.strip_suffix(ASCEND_OUTPUT).map_or(folder, |outer| {
        outer.trim_end_matches('/').rsplit_once('/').map_or("", |(outer, _)| outer)
    });
    for entry in entries {
        let name = name_of(&entry);
        if name.starts_with('.') {
            continue;
        }
        if entry.is_dir() {
            let inner = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            walk(&entry, &Within { folder: &inner, root, rank }, jobs, unused)?;
        } else if source::looks_like_trace(&name) {
            let shown = if key.is_empty() { root } else { key };
            jobs.push(Job {
                path: entry,
                key: key.to_owned(),
                folder: shown.to_owned(),
                named: false,
                rank,
            });
        } else {
            let why = NOT_A_TRACE_NAME.to_owned();
            unused.push(Unused { path: entry.display().to_string(), why });
        }
    }
    Ok(())
}

fn read_file(job: &Job) -> Result<FileResult> {
    let mut found = Vec::new();
    let mut failed = Vec::new();
    let mut unused = Vec::new();
    let origin = job.path.display().to_string();
    source::visit(
        &job.path,
        &mut |member| {
            let label = if member.folder.is_empty() {
                origin.clone()
            } else {
                format!("{origin}: {}/{}", member.folder, member.file)
            };
            // Archives are folders of their own, unless several were named.
            let (key, folder) = match (member.folder.is_empty(), job.named) {
                (true, _) => (job.key.clone(), job.folder.clone()),
                (false, true) => {
                    let inner = member.folder.split_once('/').map_or("", |(_, inner)| inner);
                    (inner.to_owned(), member.folder.clone())
                }
                (false, false) => (
                    format!("{}/{}", job.key, member.folder),
                    format!("{}/{}", job.folder, member.folder),
                ),
            };
            let parent = job.path.parent().map(|p| p.display().to_string()).unwrap_or_default();
            let place = format!("{parent}: {}", member.folder);
            let stem = source::stem(&member.file).to_owned();
            let unpacked = member.folder.is_empty() && member.format == Format::Primus;
            let pipeline = job.path.parent().filter(|_| unpacked).and_then(primus::pipeline);
            match read_member(member) {
                Ok(traces) => {
                    let several = traces.len() > 1;
                    for mut trace in traces {
                        let header = &mut trace.header;
                        if header.rank_source == RankSource::Assumed && !several {
                            let named = kineto::rank_in_name(&header.source.file);
                            if let Some(rank) = named.or(job.rank) {
                                (header.rank, header.rank_source) = (rank, RankSource::FileName);
                            }
                        }
                        if header.source.format == primus::FORMAT
                            && let Some(pipeline) = &pipeline
                        {
                            header.groups = vec![pipeline.clone()];
                        }
                        // The ranks of one file ran together, and with those of no other file.
                        let (key, folder) = if several {
                            (format!("{key}/{stem}"), stem.clone())
                        } else {
                            (key.clone(), folder.clone())
                        };
                        let (stem, place) = (stem.clone(), place.clone());
                        found.push(Found { trace, key, folder, stem, place });
                    }
                }
                Err(why) => failed.push(Unused { path: label, why }),
            }
        },
        &mut |label, why| {
            let path = if origin.ends_with(&label) {
                origin.clone()
            } else {
                format!("{origin}: {label}")
            };
            unused.push(Unused { path, why });
        },
    )?;
    unused.extend(failed);
    Ok((found, unused))
}

/// Reads the ranks of one unpacked trace in memory, whatever its format.
///
/// # Errors
/// It is no trace, or holds nothing that can be used; the text completes "FILE: ...".
pub fn read_bytes(bytes: &[u8], file: &str) -> Result<Vec<RankTrace>, String> {
    match recognise::recognise(&bytes[..bytes.len().min(4096)]) {
        What::Trace(format) => read_member(source::Member {
            format,
            path: None,
            folder: String::new(),
            file: file.to_owned(),
            reader: Box::new(bytes),
        }),
        What::Other(why) => Err(why.to_owned()),
        _ => Err("is packed".into()),
    }
}

/// Reads one trace with the importer of its format.
fn read_member(member: source::Member<'_>) -> Result<Vec<RankTrace>, String> {
    let source::Member { format, path, file, reader, .. } = member;
    let file = file.as_str();
    Ok(vec![match format {
        Format::Kineto => return kineto::read_ranks(reader, file),
        Format::ExecutionTrace => execution::read(reader, file)?,
        Format::ChakraJson => chakra::read_json(reader, file)?,
        Format::ChakraProtobuf => chakra::read_protobuf(reader, file)?,
        Format::AscendView => ascend::read_view(reader, file)?,
        Format::AscendKernels => ascend::read_kernels(reader, file)?,
        Format::RocprofV1 => rocprof::read_v1(reader, file)?,
        Format::RocprofV3 => rocprof::read_v3(reader, file)?,
        Format::RocprofCsv => rocprof::read_table(reader, file)?,
        Format::Primus => primus::read(reader, file)?,
        Format::Operations => return operations::read(path, reader, file),
        Format::Sqlite => {
            let database = sqlite::open(path, reader)?;
            if ascend::database::is_ascend(&database) {
                ascend::database::read_from(&database, file)?
            } else if nsys::is_nsys(&database) {
                return nsys::read_from(&database, file);
            } else {
                return Err(
                    "is an SQLite database, but neither of Nsight Systems nor of Ascend".into()
                );
            }
        }
    }])
}

/// Joins files that tell of one process: tables of rocprofv3, kernels and view of Ascend, a
/// profiler trace and the execution trace of the same rank.
fn join(found: Vec<Found>) -> Vec<Found> {
    let mut joined: Vec<Found> = Vec::with_capacity(found.len());
    let mut executions = Vec::new();
    for mut one in found {
        let format = one.trace.header.source.format.clone();
        let partner = joined.iter_mut().find(|other| {
            let theirs = other.trace.header.source.format.as_str();
            other.place == one.place
                && match format.as_str() {
                    rocprof::TABLES => {
                        theirs == rocprof::TABLES
                            && rocprof::belong_together(&other.trace, &one.trace)
                    }
                    // `kernel_details` comes before `trace_view`.
                    ascend::VIEW => theirs == ascend::KERNELS,
                    _ => false,
                }
        });
        match partner {
            Some(other) => {
                let first = std::mem::take(&mut other.trace);
                let rank = (first.header.rank, first.header.rank_source);
                other.trace = if format == ascend::VIEW {
                    other.stem.clone_from(&one.stem);
                    ascend::join(std::mem::take(&mut one.trace), &first)
                } else {
                    rocprof::join(first, &one.trace)
                };
                (other.trace.header.rank, other.trace.header.rank_source) = rank;
            }
            None if format == execution::FORMAT => executions.push(one),
            None => joined.push(one),
        }
    }
    for one in executions {
        let profile = joined.iter_mut().find(|other| {
            other.trace.header.source.format == kineto::FORMAT
                && other.trace.header.rank == one.trace.header.rank
                && other.trace.header.rank_source != RankSource::Assumed
        });
        let linked = profile.map_or(0, |other| execution::link(&mut other.trace, &one.trace));
        if linked == 0 {
            joined.push(one);
        }
    }
    joined
}

/// Decides which ranks ran together. Files in one folder with different rank numbers did; where a
/// number occurs more than once (several profiling cycles), the n-th files of all ranks did.
fn group(found: Vec<Found>) -> Vec<RankTrace> {
    let mut folders: BTreeMap<(String, Option<u32>), Vec<Found>> = BTreeMap::new();
    for one in found {
        let key = (one.key.clone(), one.trace.header.world_size);
        folders.entry(key).or_default().push(one);
    }
    let mut groups: Vec<(usize, Vec<Found>)> = Vec::new();
    for mut members in folders.into_values() {
        members.sort_by(|a, b| {
            (a.trace.header.rank, &a.stem, &a.folder).cmp(&(
                b.trace.header.rank,
                &b.stem,
                &b.folder,
            ))
        });
        let mut cycles: Vec<Vec<Found>> = Vec::new();
        let mut previous = None;
        let mut cycle = 0;
        for member in members {
            let rank = member.trace.header.rank;
            cycle = if previous == Some(rank) { cycle + 1 } else { 0 };
            previous = Some(rank);
            if cycles.len() <= cycle {
                cycles.push(Vec::new());
            }
            cycles[cycle].push(member);
        }
        let several = cycles.len() > 1;
        groups.extend(
            cycles
                .into_iter()
                .enumerate()
                .map(|(i, members)| (if several { i + 1 } else { 0 }, members)),
        );
    }
    let only_one = groups.len() == 1;
    let mut taken: BTreeMap<String, u32> = BTreeMap::new();
    let mut ranks = Vec::new();
    for (cycle, members) in groups {
        let folder = members.first().map(|m| m.folder.clone()).unwrap_or_default();
        let folder =
            if members.iter().any(|m| m.folder != folder) { String::new() } else { folder };
        let mut name = match (members.as_slice(), folder.is_empty()) {
            ([alone], _) if only_one => alone.stem.clone(),
            ([alone], true) => alone.stem.clone(),
            ([alone], false) => format!("{folder}/{}", alone.stem),
            (_, true) => "trace".to_owned(),
            (_, false) => folder,
        };
        if members.len() > 1 && cycle > 0 {
            name = format!("{name}#{cycle}");
        }
        // Two traces never share a name.
        let count = taken.entry(name.clone()).or_insert(0);
        *count += 1;
        if *count > 1 {
            name = format!("{name} ({count})");
        }
        let name = redact::scrub(&name).into_owned();
        for mut member in members {
            member.trace.header.trace.clone_from(&name);
            ranks.push(member.trace);
        }
    }
    ranks
}
