//! Megatron-style operations, one row per operation of a rank: forward and backward passes, sends
//! and receives of the pipeline, collectives of data parallelism, optimizer.
//!
//! As published: Parquet with `rank`, `stage`, `dp_rank`, `step`, `optype`, `start_ts`, `duration`
//! (seconds, 32-bit), `mb_id`. Times begin anew in every step, so steps are laid end to end. The
//! micro-batch is kept as `external_id`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::collect::{Collector, identifier};
use crate::trace::header::ProcessGroup;
use crate::trace::model::{Collective, Kind, RankTrace};

/// Name of the format in headers.
pub const FORMAT: &str = "megatron-operations";
/// The group of ranks that hold the stages of one model replica, in the order of stages.
pub const PIPELINE: &str = "pipeline";
/// The group of ranks that hold the same stage.
pub const DATA: &str = "data";

/// Largest packed table that is unpacked into memory.
const LARGEST_PACKED: u64 = 2 << 30;
/// Between two steps, which were not recorded one after the other.
const BETWEEN_NS: i64 = 1_000_000;

struct Operation {
    rank: u32,
    step: i64,
    name: String,
    start_ns: i64,
    end_ns: i64,
    micro_batch: i64,
    at: u64,
}

/// Reads the ranks of a table.
///
/// # Errors
/// It is damaged, lacks a column or holds nothing that can be used; completes "FILE: ...".
pub fn read(path: Option<&Path>, reader: impl Read, file: &str) -> Result<Vec<RankTrace>, String> {
    match path {
        Some(path) => {
            let opened = File::open(path).map_err(|e| format!("cannot be opened: {e}"))?;
            read_from(SerializedFileReader::new(opened), file)
        }
        None => {
            let mut bytes = Vec::new();
            let read = reader.take(LARGEST_PACKED + 1).read_to_end(&mut bytes);
            read.map_err(|e| format!("cannot be unpacked: {e}"))?;
            if bytes.len() as u64 > LARGEST_PACKED {
                return Err("is a packed table of more than 2 GiB; unpack it first".into());
            }
            read_from(SerializedFileReader::new(bytes::Bytes::from(bytes)), file)
        }
    }
}

fn read_from<R: parquet::file::reader::ChunkReader + 'static>(
    reader: parquet::errors::Result<SerializedFileReader<R>>,
    file: &str,
) -> Result<Vec<RankTrace>, String> {
    let damaged = |e: parquet::errors::ParquetError| format!("is a damaged Parquet file: {e}");
    let reader = reader.map_err(damaged)?;
    let schema = reader.metadata().file_metadata().schema();
    let names: Vec<String> = schema.get_fields().iter().map(|f| f.name().to_owned()).collect();
    let column = |name: &str| names.iter().position(|known| known == name);
    let need = |name: &str| {
        column(name).ok_or_else(|| format!("is a Parquet table without a column `{name}`"))
    };
    let (rank, step, optype) = (need("rank")?, need("step")?, need("optype")?);
    let (start, duration) = (need("start_ts")?, need("duration")?);
    let (micro_batch, stage, replica) = (column("mb_id"), column("stage"), column("dp_rank"));
    let mut rows = Vec::new();
    let mut places: BTreeMap<u32, (i64, i64)> = BTreeMap::new();
    let mut lost: Vec<u64> = Vec::new();
    let mut damage = None;
    for (at, row) in reader.get_row_iter(None).map_err(damaged)?.enumerate() {
        let at = at as u64;
        let row = match row {
            Ok(row) => row,
            Err(e) => {
                damage = Some(e.to_string());
                break;
            }
        };
        let cells: Vec<&Field> = row.get_column_iter().map(|(_, field)| field).collect();
        let number = |column: Option<usize>| column.and_then(|c| whole(cells.get(c)?));
        let seconds = |column: usize| cells.get(column).and_then(|field| nanos(field));
        let name = match cells.get(optype) {
            Some(Field::Str(name)) => name.clone(),
            _ => String::new(),
        };
        let number_of_rank = number(Some(rank)).and_then(|rank| u32::try_from(rank).ok());
        let (Some(rank), Some(step), Some(start), Some(length), false) = (
            number_of_rank,
            number(Some(step)),
            seconds(start),
            seconds(duration),
            name.is_empty(),
        ) else {
            lost.push(at);
            continue;
        };
        places.insert(rank, (number(stage).unwrap_or(0), number(replica).unwrap_or(0)));
        let micro_batch = identifier(number(micro_batch));
        let end_ns = start.saturating_add(length);
        rows.push(Operation { rank, step, name, start_ns: start, end_ns, micro_batch, at });
    }
    let groups = groups(&places);
    let world_size = u32::try_from(places.len() + missing(&places)).ok();
    let spans = steps(&rows);
    let mut ranks: BTreeMap<u32, Collector> = BTreeMap::new();
    for number in places.keys() {
        let mut rank = Collector::new(FORMAT, file);
        rank.rank(*number);
        rank.trace.header.world_size = world_size;
        rank.trace.header.groups =
            groups.iter().filter(|group| group.ranks.contains(number)).cloned().collect();
        // 32-bit seconds resolve some 100 ns in a step of two seconds.
        rank.trace.header.clock.resolution_ns = 100;
        for (step, (base, first, last)) in &spans {
            rank.step(&step.to_string(), *base, last - first);
        }
        ranks.insert(*number, rank);
    }
    for row in rows {
        let (Some(rank), Some((base, first, _))) = (ranks.get_mut(&row.rank), spans.get(&row.step))
        else {
            continue;
        };
        let shift = |at: i64| at.checked_add(base - first);
        add(rank, &row.name, shift(row.start_ns), shift(row.end_ns), row.micro_batch, row.at);
    }
    if let Some(rank) = ranks.values_mut().next() {
        for at in lost {
            rank.unusable("rows without rank, step, operation and times", at);
        }
        if let Some(cause) = damage {
            rank.truncated(0, 0, &cause);
        }
    }
    if ranks.is_empty() {
        return Err("holds no row that can be used".into());
    }
    ranks.into_values().map(Collector::finish).collect()
}

/// Adds an operation to a rank: passes on one stream, transfers of each direction and collectives
/// on others.
pub(super) fn add(
    rank: &mut Collector,
    name: &str,
    start: Option<i64>,
    end: Option<i64>,
    micro_batch: i64,
    at: u64,
) {
    let transfer = name.ends_with("-send") || name.ends_with("-recv");
    let collective = ["-all-gather", "-reduce-scatter", "-all-reduce"];
    let collective = collective.iter().any(|ending| name.ends_with(ending));
    let lane = match (transfer, collective) {
        (true, _) if name.starts_with("forward") => 1,
        (true, _) => 2,
        (_, true) => 3,
        _ => 0,
    };
    let Some(event) = rank.event(Kind::Kernel, name, start, end, at) else { return };
    event.device = 0;
    event.lane = lane;
    event.external = micro_batch;
    if transfer || collective {
        let group = if transfer { PIPELINE } else { DATA };
        let collective =
            Collective { op: rank.label(name), group: rank.label(group), ..Collective::default() };
        rank.collective(collective);
    }
}

/// Start of each step on the common time line, and its first and last time as recorded.
fn steps(rows: &[Operation]) -> BTreeMap<i64, (i64, i64, i64)> {
    let mut spans: BTreeMap<i64, (i64, i64, i64)> = BTreeMap::new();
    for row in rows {
        let span = spans.entry(row.step).or_insert((0, i64::MAX, i64::MIN));
        span.1 = span.1.min(row.start_ns);
        span.2 = span.2.max(row.end_ns);
    }
    let mut base = 0_i64;
    for span in spans.values_mut() {
        span.0 = base;
        base = base.saturating_add(span.2.saturating_sub(span.1)).saturating_add(BETWEEN_NS);
    }
    spans
}

/// Groups from the stage and replica of each rank.
fn groups(places: &BTreeMap<u32, (i64, i64)>) -> Vec<ProcessGroup> {
    let mut pipelines: BTreeMap<i64, Vec<(i64, u32)>> = BTreeMap::new();
    let mut data: BTreeMap<i64, Vec<(i64, u32)>> = BTreeMap::new();
    for (rank, (stage, replica)) in places {
        pipelines.entry(*replica).or_default().push((*stage, *rank));
        data.entry(*stage).or_default().push((*replica, *rank));
    }
    let group = |name: &str, mut members: Vec<(i64, u32)>| {
        members.sort_unstable();
        let ranks: Vec<u32> = members.into_iter().map(|(_, rank)| rank).collect();
        let size = i32::try_from(ranks.len()).unwrap_or(-1);
        ProcessGroup { name: name.into(), description: String::new(), ranks, size }
    };
    let pipelines = pipelines.into_values().map(|members| group(PIPELINE, members));
    pipelines.chain(data.into_values().map(|members| group(DATA, members))).collect()
}

/// Ranks that the table has no rows of, though it has some of their stage, or of a later one, or of
/// their replica, or of a later one.
fn missing(places: &BTreeMap<u32, (i64, i64)>) -> usize {
    let held: BTreeSet<(i64, i64)> = places.values().copied().collect();
    let counted = |of: &dyn Fn(&(i64, i64)) -> i64| held.iter().map(of).max().unwrap_or(0) + 1;
    let all = counted(&|place| place.0).saturating_mul(counted(&|place| place.1));
    // Numbers that make no sense say nothing of ranks.
    match usize::try_from(all) {
        Ok(all) if all <= 1 << 20 => all.saturating_sub(held.len()),
        _ => 0,
    }
}

fn whole(field: &Field) -> Option<i64> {
    Some(match field {
        Field::Byte(n) => i64::from(*n),
        Field::Short(n) => i64::from(*n),
        Field::Int(n) => i64::from(*n),
        Field::Long(n) => *n,
        Field::UByte(n) => i64::from(*n),
        Field::UShort(n) => i64::from(*n),
        Field::UInt(n) => i64::from(*n),
        Field::ULong(n) => i64::try_from(*n).ok()?,
        _ => return None,
    })
}

/// Seconds as whole nanoseconds; at most 11 days from the start of a step.
fn nanos(field: &Field) -> Option<i64> {
    let seconds = match field {
        Field::Float(n) => f64::from(*n),
        Field::Double(n) => *n,
        other => whole(other)? as f64,
    };
    (seconds.abs() < 1e6).then(|| (seconds * 1e9).round() as i64)
}
