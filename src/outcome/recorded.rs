//! Replay of recorded ranks: recorded durations, launches and dependencies through the engine, and
//! what they leave unexplained.

use serde::Serialize;

use crate::error::Result;
use crate::program::{Action, Program, Work};
use crate::replay::{Durations, HostTimes};
use crate::trace::model::RankTrace;
use crate::trace::program::{Notes, RecordedProgram};
use crate::trace::steps::is_operations;
use crate::units::Nanos;

use super::steps::{HalfPrediction, StepReplay, Stragglers};
use super::what_if::{WhatIf, WhatIfReport, replay_kernels, replay_operations};

/// Replay of the ranks of one trace.
#[derive(Clone, Debug, Serialize)]
pub struct RecordedReplay {
    /// By recorded rank.
    pub ranks: Vec<RankReplay>,
    /// How the edges came about.
    pub notes: Notes,
    /// By step, where the recording has steps.
    pub steps: Vec<StepReplay>,
    /// What stragglers cost, for a job recorded operation by operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stragglers: Option<Stragglers>,
    /// The second half of the steps from the first, for such a job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_half: Option<HalfPrediction>,
    /// What was changed, and how it was predicted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what_if: Option<WhatIfReport>,
}

/// A rank's recorded and replayed span: from its first device event to its last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RankReplay {
    /// Rank number.
    pub rank: u32,
    /// Recorded span.
    pub recorded_ns: i64,
    /// Span of the replay.
    pub replayed_ns: i64,
    /// Recorded time that durations, launches and dependencies do not explain (negative: the
    /// replay is longer).
    pub unexplained_ns: i64,
    /// Span under the what-if, where one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_ns: Option<i64>,
}

impl RankReplay {
    /// Unexplained share of the recorded span.
    #[must_use]
    pub fn unexplained_share(&self) -> f64 {
        if self.recorded_ns == 0 {
            return 0.0;
        }
        self.unexplained_ns as f64 / self.recorded_ns as f64
    }
}

/// Durations of a recorded program.
#[must_use]
pub fn recorded_durations(recorded: &RecordedProgram) -> Durations {
    durations_of(
        &recorded.program,
        HostTimes {
            launch_latency: recorded.launch_latency,
            dispatch_gap: recorded.dispatch_gap,
            ..HostTimes::default()
        },
    )
}

/// Durations that a program of recorded kernels and calls carries itself.
pub(crate) fn durations_of(program: &Program, host: HostTimes) -> Durations {
    let kernels = program
        .kernels
        .iter()
        .map(|kernel| match kernel.work {
            Work::Recorded { ns } => Nanos(ns),
            // A recorded program has no other kernels; a what-if re-times through the models.
            _ => Nanos::ZERO,
        })
        .collect();
    // A family's table holds the calls that it makes, and nothing of the others.
    let mut meetings: Vec<Vec<Vec<Nanos>>> = vec![Vec::new(); program.families.len()];
    for op in program.templates.iter().flat_map(|template| &template.ops) {
        if let Action::Meet { family, call } = op.action {
            let table = &mut meetings[family.index()];
            if table.len() <= call.index() {
                table.resize(call.index() + 1, Vec::new());
            }
            if table[call.index()].is_empty() {
                let recorded = program.calls[call.index()].recorded;
                table[call.index()].push(recorded.unwrap_or(Nanos::ZERO));
            }
        }
    }
    Durations {
        kernels,
        meetings,
        group_class: program.families.iter().map(|f| vec![0; f.groups.len()]).collect(),
        issue: Vec::new(),
        host,
    }
}

/// Replays ranks that ran together, unchanged.
///
/// # Errors
/// There is no device work, or the program cannot finish.
pub fn replay_recorded(ranks: &[RankTrace]) -> Result<RecordedReplay> {
    replay_changed(ranks, &WhatIf::default())
}

/// Replays ranks that ran together, unchanged and under a what-if, whose times are in
/// [`StepReplay::predicted_ns`].
///
/// # Errors
/// There is no device work, the program cannot finish, or the what-if cannot be applied.
pub fn replay_changed(ranks: &[RankTrace], what_if: &WhatIf) -> Result<RecordedReplay> {
    if ranks.first().is_some_and(is_operations) {
        replay_operations(ranks, what_if)
    } else {
        replay_kernels(ranks, what_if)
    }
}
