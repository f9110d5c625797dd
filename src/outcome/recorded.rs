//! Replay of recorded ranks: recorded durations, launches and dependencies through the engine, and
//! what they leave unexplained.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::replay::{Durations, HostTimes, Lumping, Sweep};
use crate::trace::launches::Launches;
use crate::trace::model::RankTrace;
use crate::trace::program::{Notes, RecordedProgram, recorded_program};
use crate::trace::steps::is_operations;
use crate::units::Nanos;

use super::steps::{
    Factor, HalfPrediction, StepReplay, Stragglers, predict_second_half, replay_steps, stragglers,
};

use crate::program::{Action, OpId, Program, Work};

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
}

/// A change to a recording before it is replayed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WhatIf {
    /// What takes how many times as long: a part of a name, or `compute` or `communication`.
    /// Zero removes it. The first that fits counts.
    pub scales: Vec<(String, f64)>,
    /// Ranks whose own work takes so many times as long.
    pub ranks: Vec<(u32, f64)>,
}

impl WhatIf {
    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.scales.is_empty() && self.ranks.is_empty()
    }

    /// How many times as long something takes.
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
        let factor = |rank: u32, name: &str, communicates: bool| {
            what_if.factor(Some(rank), name, communicates)
        };
        let changed: Option<&Factor<'_>> = if what_if.is_empty() { None } else { Some(&factor) };
        let steps = replay_steps(ranks, changed)?;
        let several = steps.len() > 1;
        return Ok(RecordedReplay {
            ranks: Vec::new(),
            notes: Notes::default(),
            steps,
            stragglers: Some(stragglers(ranks)?),
            second_half: several.then(|| predict_second_half(ranks)).transpose()?,
        });
    }
    if !what_if.ranks.is_empty() {
        return Err(Error::Unsupported(
            "a slower rank needs a job recorded operation by operation; scale kernels instead"
                .into(),
        ));
    }
    let recorded = recorded_program(ranks)?;
    let durations = recorded_durations(&recorded);
    let lumping = Lumping::none(&recorded.program, &durations);
    let sweep = Sweep::run(&recorded.program, &durations, &lumping)?;
    let other = (!what_if.is_empty()).then(|| scaled(&recorded.program, &durations, what_if));
    let changed = match &other {
        Some(durations) => Some(Sweep::run(&recorded.program, durations, &lumping)?),
        None => None,
    };
    let mut replays = Vec::new();
    // By step: the longest span of a rank, recorded, replayed and changed.
    let mut steps: Vec<(String, [i64; 3])> = Vec::new();
    for (r, rank) in ranks.iter().enumerate() {
        let spans = |ops: &[(OpId, usize)]| {
            let recorded = |(_, event): &(OpId, usize)| {
                (rank.events[*event].start_ns, rank.events[*event].end_ns())
            };
            let of = |sweep: &Sweep<'_>, op: OpId| {
                let (start, end) = sweep.times(r as u32, op);
                (start.0, end.0)
            };
            [
                span(ops.iter().map(recorded)),
                span(ops.iter().map(|(op, _)| of(&sweep, *op))),
                changed.as_ref().map_or(0, |sweep| span(ops.iter().map(|(op, _)| of(sweep, *op)))),
            ]
        };
        let all = spans(&recorded.events[r]);
        replays.push(RankReplay {
            rank: rank.header.rank,
            recorded_ns: all[0],
            replayed_ns: all[1],
            unexplained_ns: all[0] - all[1],
            predicted_ns: changed.is_some().then_some(all[2]),
        });
        let launches = Launches::of(rank);
        for window in &rank.header.windows {
            let launched = |event: usize| {
                launches.step(rank, event).is_some_and(|step| step.start_ns == window.start_ns)
            };
            let ops: Vec<(OpId, usize)> =
                recorded.events[r].iter().filter(|(_, event)| launched(*event)).copied().collect();
            if ops.is_empty() {
                continue;
            }
            let found = spans(&ops);
            match steps.iter_mut().find(|(name, _)| *name == window.name) {
                Some((_, known)) => {
                    for (known, found) in known.iter_mut().zip(found) {
                        *known = (*known).max(found);
                    }
                }
                None => steps.push((window.name.clone(), found)),
            }
        }
    }
    let steps = steps.into_iter().map(|(step, [measured_ns, replayed_ns, predicted])| StepReplay {
        step,
        measured_ns,
        replayed_ns,
        unexplained_ns: measured_ns - replayed_ns,
        predicted_ns: changed.is_some().then_some(predicted),
    });
    Ok(RecordedReplay {
        ranks: replays,
        notes: recorded.notes,
        steps: steps.collect(),
        stragglers: None,
        second_half: None,
    })
}

/// From the first start to the last end.
fn span(times: impl Iterator<Item = (i64, i64)>) -> i64 {
    let ends = times.fold(None, |found: Option<(i64, i64)>, (start, end)| {
        Some(found.map_or((start, end), |(first, last)| (first.min(start), last.max(end))))
    });
    ends.map_or(0, |(first, last)| last - first)
}

/// Durations under a what-if.
pub(super) fn scaled(program: &Program, durations: &Durations, what_if: &WhatIf) -> Durations {
    let mut changed = durations.clone();
    let by = |time: &mut Nanos, factor: f64| {
        time.0 = ((time.0 as f64 * factor).round() as i64).max(0);
    };
    for (time, kernel) in changed.kernels.iter_mut().zip(&program.kernels) {
        let communicates = crate::trace::collectives::communicates(&kernel.name);
        by(time, what_if.factor(None, &kernel.name, communicates));
    }
    for table in &mut changed.meetings {
        for (times, call) in table.iter_mut().zip(&program.calls) {
            for time in times {
                by(time, what_if.factor(None, &call.name, true));
            }
        }
    }
    changed
}
