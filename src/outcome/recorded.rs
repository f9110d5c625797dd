//! Replay of recorded ranks: recorded durations, launches and dependencies through the engine, and
//! what they leave unexplained.

use serde::Serialize;

use crate::error::Result;
use crate::replay::{Durations, HostTimes, Lumping, Sweep};
use crate::trace::model::RankTrace;
use crate::trace::program::{Notes, RecordedProgram, recorded_program};
use crate::units::Nanos;

use crate::program::{Action, OpId, Program, Work};

/// Replay of the ranks of one trace.
#[derive(Clone, Debug, Serialize)]
pub struct RecordedReplay {
    /// By recorded rank.
    pub ranks: Vec<RankReplay>,
    /// How the edges came about.
    pub notes: Notes,
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
        host,
    }
}

/// Replays ranks that ran together, unchanged.
///
/// # Errors
/// There is no device work, or the program cannot finish.
pub fn replay_recorded(ranks: &[RankTrace]) -> Result<RecordedReplay> {
    let recorded = recorded_program(ranks)?;
    let durations = recorded_durations(&recorded);
    let lumping = Lumping::none(&recorded.program, &durations);
    let sweep = Sweep::run(&recorded.program, &durations, &lumping)?;
    let replays = ranks
        .iter()
        .enumerate()
        .map(|(r, rank)| {
            let ops = &recorded.events[r];
            let span = |times: &dyn Fn(OpId, usize) -> (i64, i64)| {
                let start = ops.iter().map(|(op, event)| times(*op, *event).0).min().unwrap_or(0);
                let end = ops.iter().map(|(op, event)| times(*op, *event).1).max().unwrap_or(0);
                end - start
            };
            let recorded_ns =
                span(&|_, event| (rank.events[event].start_ns, rank.events[event].end_ns()));
            let replayed_ns = span(&|op, _| {
                let (start, end) = sweep.times(r as u32, op);
                (start.0, end.0)
            });
            RankReplay {
                rank: rank.header.rank,
                recorded_ns,
                replayed_ns,
                unexplained_ns: recorded_ns - replayed_ns,
            }
        })
        .collect();
    Ok(RecordedReplay { ranks: replays, notes: recorded.notes })
}
