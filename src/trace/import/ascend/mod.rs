//! The Ascend profiler: `trace_view.json` (host, streams, launches), `kernel_details.csv` (which
//! tasks are kernels, and their exact durations), and the database that holds both.
//!
//! The first two lie in one folder per rank and are joined there: a kernel takes its stream and the
//! call that launched it from the view. Times are decimal text in microseconds. Sub-tasks of
//! collectives on their planes are left out: a collective counts once, as the vendor counts it.

pub mod database;
mod kernels;
mod view;

use std::collections::BTreeMap;

pub use kernels::read as read_kernels;
pub use view::read as read_view;

use crate::trace::collectives;
use crate::trace::header::Loss;
use crate::trace::model::{Collective, Event, Kind, RankTrace};
use crate::trace::names::NameId;

use super::collect::Collector;

/// Name of the format of a joined folder, and of `trace_view.json` alone.
pub const VIEW: &str = "ascend-text";
/// Name of the format of `kernel_details.csv` alone.
pub const KERNELS: &str = "ascend-kernels";
/// Name of the format of the database.
pub const DATABASE: &str = "ascend-database";

/// Tasks of a stream that only keep order.
const ORDERING: [&str; 12] = [
    "EVENT_RECORD",
    "EVENT_WAIT",
    "EVENT_RESET",
    "NOTIFY_RECORD",
    "NOTIFY_WAIT",
    "NOTIFY WAIT",
    "WRITE VALUE",
    "WRITE_VALUE",
    "PROFILING_ENABLE",
    "PROFILING_DISABLE",
    "PLACE_HOLDER",
    "STARS_COMMON_SYNC",
];

/// Whether a task only keeps order between streams.
fn keeps_order(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ORDERING.iter().any(|known| name == *known)
}

/// Whether a task is a copy.
fn copies(name: &str) -> bool {
    name.eq_ignore_ascii_case("MEMCPY_ASYNC") || name.eq_ignore_ascii_case("SDMA")
}

/// Gives the last event what the name of a collective says: `hcom_allReduce__865_0_1`.
fn collective(rank: &mut Collector, name: &str, dtype: &str, elements: i64, group: &str) {
    let Some(op) = name.strip_prefix("hcom_") else { return };
    let op = op.split('_').next().unwrap_or_default();
    let collective = Collective {
        op: rank.label(op),
        dtype: rank.label(element_type(dtype)),
        in_elements: elements,
        group: rank.label(group),
        ..Collective::default()
    };
    rank.collective(collective);
}

/// Types as PyTorch calls them.
fn element_type(vendor: &str) -> &str {
    match vendor {
        "FP32" => "Float",
        "FP16" => "Half",
        "BFP16" => "BFloat16",
        "FP64" => "Double",
        "INT64" => "Long",
        "INT32" => "Int",
        "INT8" => "Char",
        "UINT8" => "Byte",
        other => other,
    }
}

/// Takes the task that begins at a time: the two files round some starts apart by a nanosecond, and
/// then it is the one of the same name.
fn take(tasks: &mut BTreeMap<i64, Event>, start_ns: i64, name: NameId) -> Option<Event> {
    if let Some(task) = tasks.remove(&start_ns) {
        return Some(task);
    }
    let near = [start_ns.saturating_sub(1), start_ns.saturating_add(1)];
    let start = near.into_iter().find(|at| tasks.get(at).is_some_and(|task| task.name == name))?;
    tasks.remove(&start)
}

/// Joins the kernels of a folder with its view.
#[must_use]
pub fn join(mut view: RankTrace, kernels: &RankTrace) -> RankTrace {
    // Where each task of the view begins, on the kernels' clock.
    let shift = view.header.clock.base_unix_ns.saturating_sub(kernels.header.clock.base_unix_ns);
    let mut tasks: BTreeMap<i64, Event> = BTreeMap::new();
    let mut dropped = 0_i64;
    for event in view.events.iter().filter(|event| event.kind == Kind::Kernel) {
        tasks.entry(event.start_ns.saturating_add(shift)).or_insert(*event);
        dropped += 1;
    }
    view.events.retain(|event| event.kind != Kind::Kernel);
    for event in &kernels.events {
        let name = view.names.intern(kernels.names.get(event.name));
        let start = event.start_ns.saturating_sub(shift);
        let mut joined = Event::new(event.kind, name, start, event.dur_ns);
        joined.device = event.device;
        joined.lane = event.lane;
        if let Some(task) = take(&mut tasks, event.start_ns, name) {
            joined.device = task.device;
            joined.lane = task.lane;
            joined.correlation = task.correlation;
            joined.collective = task.collective;
            dropped -= 1;
        }
        view.events.push(joined);
    }
    let losses = &mut view.header.losses;
    losses.events_read += kernels.header.losses.events_read;
    losses.unusable.extend(kernels.header.losses.unusable.iter().cloned());
    if dropped > 0 {
        let what = "tasks that the kernel table does not list".to_owned();
        losses.left_out.push(Loss { what, events: dropped.unsigned_abs(), first_at: Vec::new() });
    }
    view.rebase();
    collectives::resolve(&mut view);
    view.settle();
    view
}
