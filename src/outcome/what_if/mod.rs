//! What-ifs on recordings: what is changed, and what is said about it beside the predicted times.
//!
//! A [`WhatIf`] is a list of changes. Recordings of kernels (`kernels`) and of operations
//! (`operations`) take different ones; what makes no sense for a recording is an error, never
//! passed over. Durations are changed, or the program; waiting is derived again by the engine.

mod accelerator;
mod edits;
mod kernels;
mod network;
mod operations;
mod pipeline;
mod replicas;

use std::sync::Arc;

use serde::Serialize;

use crate::error::{Error, Result, nearest_names};
use crate::hardware::Catalogue;
use crate::program::{Action, Program};
use crate::replay::Sweep;
use crate::trace::analysis::intervals::Intervals;

pub use accelerator::{Coverage, CoveragePart, recorded_accelerator};
pub use network::NetworkFit;
pub use pipeline::{Pipeline, PipelinePrediction};

pub(super) use kernels::{changed as changed_kernels, replay as replay_kernels};
pub(super) use operations::replay as replay_operations;

/// Changes to a recording before it is replayed.
#[derive(Clone, Debug, Default)]
pub struct WhatIf {
    /// What takes how many times as long: a part of a name, or `compute` or `communication`.
    /// Zero keeps it in its place without any time. The first that fits counts.
    pub scales: Vec<(String, f64)>,
    /// Ranks whose own work takes so many times as long.
    pub ranks: Vec<(u32, f64)>,
    /// Another accelerator, by name or alias in the catalogue.
    pub accelerator: Option<String>,
    /// What it was recorded on, where the recording does not say or the catalogue does not know
    /// the name.
    pub recorded_on: Option<String>,
    /// The network.
    pub network: Network,
    /// Parts of names of kernels or operations that are not done at all.
    pub remove: Vec<String>,
    /// Sequences of parts of names: adjacent kernels of one stream that become one.
    pub fuse: Vec<Vec<String>>,
    /// Who no longer straggles.
    pub without: Vec<Straggler>,
    /// Another number of replicas.
    pub data_parallel: Option<u32>,
    /// Nodes that [`Self::data_parallel`] is timed on, by name in the catalogue; a ring without.
    pub node: Option<String>,
    /// The fabric between them.
    pub fabric: Option<String>,
    /// The pipeline.
    pub pipeline: Pipeline,
    /// Where names are looked up; needed for [`Self::accelerator`] and [`Self::node`], useful for
    /// [`Self::fuse`].
    pub catalogue: Option<Arc<Catalogue>>,
}

/// What changes of the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Network {
    /// Bandwidth becomes so many times what it was.
    pub bandwidth: f64,
    /// The fixed part of every call becomes so many times what it was.
    pub latency: f64,
    /// Added to every call, ns.
    pub added_ns: i64,
}

impl Default for Network {
    fn default() -> Self {
        Self { bandwidth: 1.0, latency: 1.0, added_ns: 0 }
    }
}

/// Whose excess is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Straggler {
    /// A rank.
    Rank(u32),
    /// All ranks of a pipeline stage.
    Stage(usize),
    /// All ranks of a replica.
    Replica(usize),
}

impl std::fmt::Display for Straggler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rank(rank) => write!(f, "rank {rank}"),
            Self::Stage(stage) => write!(f, "stage {stage}"),
            Self::Replica(replica) => write!(f, "replica {replica}"),
        }
    }
}

/// Names that stand for everything of a kind where something is scaled.
const CLASSES: [&str; 2] = ["compute", "communication"];

impl WhatIf {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.scales.is_empty()
            && self.ranks.is_empty()
            && self.accelerator.is_none()
            && self.network == Network::default()
            && self.remove.is_empty()
            && self.fuse.is_empty()
            && self.without.is_empty()
            && self.data_parallel.is_none()
            && self.node.is_none()
            && self.pipeline == Pipeline::default()
    }

    /// How many times as long something takes: of [`Self::scales`] and [`Self::ranks`].
    #[must_use]
    pub fn factor(&self, rank: Option<u32>, name: &str, communicates: bool) -> f64 {
        let fits = |part: &str| match part {
            "compute" => !communicates,
            "communication" => communicates,
            part => name.contains(part),
        };
        let scale = self.scales.iter().find(|(part, _)| fits(part)).map_or(1.0, |(_, by)| *by);
        let own = self.ranks.iter().find(|(number, _)| Some(*number) == rank && !communicates);
        scale * own.map_or(1.0, |(_, by)| *by)
    }

    /// Checks that every name fits something, and every rank was recorded.
    fn check(&self, names: &[&str], ranks: &[u32]) -> Result<()> {
        let known = |part: &str| names.iter().any(|name| name.contains(part));
        let mut scaled = self.scales.iter().map(|(part, _)| part.as_str());
        if let Some(part) = scaled.find(|part| !CLASSES.contains(part) && !known(part)) {
            return Err(unknown_name(part, names.iter().copied().chain(CLASSES)));
        }
        let mut named = self.remove.iter().chain(self.fuse.iter().flatten()).map(String::as_str);
        match named.find(|part| !known(part)) {
            Some(part) if CLASSES.contains(&part) => {
                return Err(Error::Unsupported(format!(
                    "`{part}` stands for all of it in --scale only; name what is removed or fused, \
                     or let it take no time (--scale {part}=0)"
                )));
            }
            Some(part) => return Err(unknown_name(part, names.iter().copied())),
            None => {}
        }
        let slowed = self.ranks.iter().map(|(rank, _)| *rank);
        let relieved = self.without.iter().filter_map(|who| match who {
            Straggler::Rank(rank) => Some(*rank),
            _ => None,
        });
        for rank in slowed.chain(relieved) {
            if !ranks.contains(&rank) {
                return Err(unknown("rank", rank, ranks.iter().map(u32::to_string)));
            }
        }
        Ok(())
    }

    /// What is changed, in words.
    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (name, by) in &self.scales {
            words.push(format!("{name} takes {by} times as long"));
        }
        for (rank, by) in &self.ranks {
            words.push(format!("rank {rank} takes {by} times as long for its own work"));
        }
        if let Some(name) = &self.accelerator {
            words.push(format!("on {name}"));
        }
        if self.network.bandwidth != 1.0 {
            words.push(format!("{} times the network bandwidth", self.network.bandwidth));
        }
        if self.network.latency != 1.0 {
            words.push(format!("{} times the network latency", self.network.latency));
        }
        if self.network.added_ns != 0 {
            words.push(format!("{:+} us per call", self.network.added_ns as f64 / 1e3));
        }
        words.extend(self.remove.iter().map(|name| format!("without {name}")));
        words.extend(self.fuse.iter().map(|names| format!("{} as one kernel", names.join(" + "))));
        words.extend(self.without.iter().map(|who| format!("without the excess of {who}")));
        words.extend(self.data_parallel.map(|n| format!("{n} replicas")));
        words.extend(self.pipeline.words());
        words
    }
}

/// An error for a name that is in nothing recorded, with the words nearest to it.
fn unknown_name<'a>(part: &str, names: impl Iterator<Item = &'a str>) -> Error {
    // Names of kernels are long and decorated: their words are what people type.
    let mut words: Vec<&str> = names
        .flat_map(|name| name.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-')))
        .flat_map(|word| std::iter::once(word).chain(word.split('_')))
        .filter(|word| word.len() > 2)
        .collect();
    words.sort_unstable();
    words.dedup();
    Error::UnknownName {
        what: "kernel, operation or collective",
        name: part.to_owned(),
        nearest: nearest_names(part, words.into_iter()),
    }
}

/// An error for a number that was not recorded.
fn unknown(
    what: &'static str,
    number: impl std::fmt::Display,
    known: impl Iterator<Item = String>,
) -> Error {
    let known: Vec<String> = known.collect();
    let name = number.to_string();
    let mut nearest = nearest_names(&name, known.iter().map(String::as_str));
    if nearest.is_empty() {
        nearest = known.into_iter().take(3).collect();
    }
    Error::UnknownName { what, name, nearest }
}

/// What is said about a what-if beside the predicted times.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WhatIfReport {
    /// What was changed, in words.
    pub changes: Vec<String>,
    /// Where the time goes, before and after.
    pub components: Vec<Component>,
    /// What had to be assumed.
    pub assumed: Vec<String>,
    /// What of the compute time was re-timed how, for another accelerator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
    /// How the time of collectives splits into latency and bandwidth.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<NetworkFit>,
    /// The prediction of another schedule, with its interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<PipelinePrediction>,
    /// What each straggler costs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stragglers: Vec<Attribution>,
    /// What those of a recording of kernels cost together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub together: Option<Together>,
}

/// A component of the time of ranks: means over ranks (and steps, of jobs recorded operation by
/// operation), ns. Compute, exposed communication, exposed copies and idle time add up to the span:
/// the step of such a job, else from the first device work of a rank to its last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Component {
    /// Which.
    pub component: &'static str,
    /// In the unchanged replay.
    pub replayed_ns: i64,
    /// Under the what-if.
    pub predicted_ns: i64,
}

/// What a straggler costs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attribution {
    /// Who.
    pub who: String,
    /// Mean step (or longest span) without its excess, ns.
    pub without_ns: i64,
    /// What that saves, ns.
    pub saved_ns: i64,
    /// Share of what removing the excess of everybody would save; absent where that saves nothing.
    pub share: Option<f64>,
}

/// What the stragglers of a list cost together, ns.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Together {
    /// Longest span without the excess of any of them.
    pub without_ns: i64,
    /// What that saves.
    pub saved_ns: i64,
    /// What of that the savings of single stragglers do not add up to: above zero where the excess
    /// of one hides behind another's.
    pub interaction_ns: i64,
    /// The same as a share; with the shares of the stragglers it adds up to one.
    pub interaction_share: Option<f64>,
}

/// What an operation does, for [`Components`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    Compute,
    Communicate,
    Copy,
}

/// Sums of time by component over ranks and steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Components {
    compute: i64,
    exposed_communication: i64,
    exposed_copies: i64,
    idle: i64,
    /// Ranks and steps that were added.
    count: i64,
}

impl Components {
    /// Adds the ranks of a replay, each from its first device work to its last, or all of them over
    /// the `whole` step; `does` says what a kernel is.
    fn add(
        &mut self,
        program: &Program,
        sweep: &Sweep<'_>,
        whole: bool,
        does: &dyn Fn(usize) -> Does,
    ) {
        for rank in 0..program.world_size() {
            let template = &program.templates[program.template_of_rank[rank].index()];
            let mut parts: [Vec<(i64, i64)>; 3] = Default::default();
            let (mut first, mut last) = (i64::MAX, i64::MIN);
            for (index, op) in template.ops.iter().enumerate() {
                let kind = match op.action {
                    Action::Kernel(kernel) => does(kernel.index()),
                    Action::Meet { .. } => Does::Communicate,
                    _ => continue,
                };
                let (start, end) = sweep.times(rank as u32, crate::program::OpId(index as u32));
                first = first.min(start.0);
                last = last.max(end.0);
                let part = match kind {
                    Does::Compute => 0,
                    Does::Communicate => 1,
                    Does::Copy => 2,
                };
                parts[part].push((start.0, end.0));
            }
            if last < first {
                continue;
            }
            if whole {
                (first, last) = (0, sweep.step().0);
            }
            let [compute, communication, copies] = parts.map(Intervals::union_of);
            let busy = compute.union(&communication);
            let all = busy.union(&copies);
            self.compute += compute.length();
            self.exposed_communication += busy.length() - compute.length();
            self.exposed_copies += all.length() - busy.length();
            self.idle += last - first - all.length();
            self.count += 1;
        }
    }

    /// Means before and after, with their sum.
    fn table(before: Self, after: Self) -> Vec<Component> {
        let mean = |sum: i64, of: Self| sum / of.count.max(1);
        let row = |component, get: &dyn Fn(&Self) -> i64| Component {
            component,
            replayed_ns: mean(get(&before), before),
            predicted_ns: mean(get(&after), after),
        };
        let span = |c: &Self| c.compute + c.exposed_communication + c.exposed_copies + c.idle;
        vec![
            row("compute", &|c| c.compute),
            row("exposed communication", &|c| c.exposed_communication),
            row("exposed copies", &|c| c.exposed_copies),
            row("idle and waiting", &|c| c.idle),
            row("span", &span),
        ]
    }
}
