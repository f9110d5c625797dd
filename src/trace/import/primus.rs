//! Primus pipeline logs: one JSON file per pipeline rank, with the start and end of every forward
//! and backward pass of every iteration, in milliseconds from the start of the iteration.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::collect::Collector;
use super::operations::{PIPELINE, add};
use super::stream::{End, Visitor, Want, walk};
use crate::trace::header::ProcessGroup;
use crate::trace::model::RankTrace;

/// Name of the format in headers.
pub const FORMAT: &str = "primus-pipeline";

/// Reads the log of a rank.
///
/// # Errors
/// It holds no pass that can be used; the text completes "FILE: ...".
pub fn read(reader: impl Read, file: &str) -> Result<RankTrace, String> {
    let mut visit = Visit { rank: Collector::new(FORMAT, file), base: 0 };
    if let End::Truncated(at, lost, cause) = walk(reader, &mut visit) {
        visit.rank.truncated(at, lost, &cause);
    }
    visit.rank.trace.header.clock.resolution_ns = 1000;
    visit.rank.finish()
}

/// File beside the logs in which Primus says how the job was laid out.
pub const CONFIG: &str = "config.json";
/// Largest such file that is read, and most stages that are believed.
const LARGEST_CONFIG: u64 = 1 << 20;
const MOST_STAGES: u32 = 1 << 16;

/// The pipeline of the logs in a folder, from the configuration beside them, where there is one.
pub fn pipeline(folder: &Path) -> Option<ProcessGroup> {
    #[derive(Deserialize)]
    struct Config {
        pp_size: u32,
    }
    let mut bytes = Vec::new();
    let file = File::open(folder.join(CONFIG)).ok()?;
    file.take(LARGEST_CONFIG).read_to_end(&mut bytes).ok()?;
    let Config { pp_size } = serde_json::from_slice(&bytes).ok()?;
    let size = i32::try_from(pp_size).ok().filter(|_| (1..=MOST_STAGES).contains(&pp_size))?;
    Some(ProcessGroup {
        name: PIPELINE.into(),
        description: String::new(),
        ranks: (0..pp_size).collect(),
        size,
    })
}

#[derive(Deserialize)]
struct Iteration {
    total: f64,
    #[serde(default)]
    fwd_start: Vec<f64>,
    #[serde(default)]
    fwd_end: Vec<f64>,
    #[serde(default)]
    bwd_start: Vec<f64>,
    #[serde(default)]
    bwd_end: Vec<f64>,
}

struct Visit {
    rank: Collector,
    /// Where the next iteration begins.
    base: i64,
}

/// Milliseconds as whole nanoseconds; at most 11 days.
fn nanos(ms: f64) -> Option<i64> {
    (ms.abs() < 1e9).then(|| (ms * 1e6).round() as i64)
}

impl Visitor for Visit {
    fn want(&mut self, path: &[String]) -> Want {
        if path.is_empty() { Want::Enter } else { Want::Whole }
    }

    fn value(&mut self, path: &[String], text: &[u8], at: u64) {
        let iteration = serde_json::from_slice::<Iteration>(text);
        let total = iteration.as_ref().ok().and_then(|it| nanos(it.total)).filter(|ns| *ns >= 0);
        let (Ok(iteration), Some(total)) = (iteration, total) else {
            return self.rank.unusable("iterations without a total and lists of passes", at);
        };
        let passes = [
            ("forward-compute", &iteration.fwd_start, &iteration.fwd_end),
            ("backward-compute", &iteration.bwd_start, &iteration.bwd_end),
        ];
        for (name, starts, ends) in passes {
            if starts.len() != ends.len() {
                self.rank.unusable("lists of starts and ends of different lengths", at);
            }
            for (number, (start, end)) in starts.iter().zip(ends).enumerate() {
                let place = |ms: f64| nanos(ms).and_then(|ns| ns.checked_add(self.base));
                let (start, end) = (place(*start), place(*end));
                add(&mut self.rank, name, start, end, number as i64, at);
            }
        }
        let name = path.first().map_or("", String::as_str);
        self.rank.step(name, self.base, total);
        self.base = self.base.saturating_add(total);
    }

    fn damaged(&mut self, at: u64) {
        self.rank.unusable("text between iterations", at);
    }
}
