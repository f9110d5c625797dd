//! Changes to a recorded job: operations left out, another number of replicas.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::program::{CallId, Collective, CollectiveCall, Family, FamilyId, LaneId};
use crate::trace::program::{Cause, Edge};
use crate::units::Nanos;

use super::{Job, Operation, Step, With, link};

/// Operations of all ranks and steps that a job can be made to have.
const MOST_OPERATIONS: usize = 1 << 20;

impl Job {
    /// Stages of the pipeline.
    #[must_use]
    pub fn stages(&self) -> usize {
        self.places.iter().map(|(_, stage, _)| stage + 1).max().unwrap_or(0)
    }

    /// Replicas.
    #[must_use]
    pub fn replicas(&self) -> usize {
        self.places.iter().map(|(_, _, replica)| replica + 1).max().unwrap_or(0)
    }

    /// Host time in front of an operation, by the name of what it waited for and its own; of the
    /// pair that is most like it where the pair was not recorded.
    #[must_use]
    pub fn delay(&self, before: &str, name: &str) -> i64 {
        let exact = self.delays.get(&(before.to_owned(), name.to_owned()));
        exact.copied().unwrap_or_else(|| {
            let mut others: Vec<i64> =
                self.delays.iter().filter(|((_, own), _)| own == name).map(|(_, ns)| *ns).collect();
            super::median(&mut others)
        })
    }

    /// The job without the operations that `fits` names: what waited for one waits for what that
    /// waited for.
    #[must_use]
    pub fn without(&self, fits: &dyn Fn(&str) -> bool) -> Self {
        let mut job = self.clone();
        for step in &mut job.steps {
            let ranks = step.ranks.iter().map(|operations| leave_out(operations, fits)).collect();
            *step = link(&step.name, step.measured_ns, ranks, &job.places);
        }
        job
    }

    /// The job with another number of replicas. Replica `r` does what recorded replica
    /// `r mod d` did, one step later for every full round of the `d` recorded ones, so that the
    /// stragglers of one step are not copied into all. Collectives of replicas take `factor` times
    /// as long as they did in their own step.
    ///
    /// # Errors
    /// Stages have different numbers of replicas, or there would be more operations than memory is
    /// for.
    pub fn with_replicas(&self, replicas: usize, factor: &dyn Fn(&str) -> f64) -> Result<Self> {
        let (stages, recorded) = (self.stages(), self.replicas());
        if self.places.len() != stages * recorded {
            return Err(Error::Unsupported(
                "another data-parallel size needs every stage of every replica recorded".into(),
            ));
        }
        let operations: usize = self.steps.iter().flat_map(|s| &s.ranks).map(Vec::len).sum();
        let most = MOST_OPERATIONS / operations.max(1) * recorded;
        if replicas > most.max(recorded) {
            return Err(Error::Unsupported(format!(
                "{replicas} replicas of this recording are more than fit; {most} do"
            )));
        }
        let position: BTreeMap<(usize, usize), usize> = self
            .places
            .iter()
            .enumerate()
            .map(|(position, (_, stage, replica))| ((*stage, *replica), position))
            .collect();
        let mut job = self.clone();
        job.places = (0..replicas)
            .flat_map(|replica| {
                (0..stages).map(move |stage| ((replica * stages + stage) as u32, stage, replica))
            })
            .collect();
        let count = self.steps.len();
        job.steps = (0..count)
            .map(|number| {
                let own = &self.steps[number];
                let ranks = job.places.iter().map(|(_, stage, replica)| {
                    let (of, later) = (replica % recorded, replica / recorded);
                    let place = position[&(*stage, of)];
                    let source = &self.steps[(number + later) % count];
                    let mut operations = source.ranks[place].clone();
                    for operation in &mut operations {
                        operation.meeting = None;
                        if operation.with == With::Replicas {
                            let same = |other: &&Operation| {
                                other.name == operation.name && other.nth == operation.nth
                            };
                            let here = own.ranks[place].iter().find(same);
                            let ns = here.map_or(operation.alone_ns, |here| here.alone_ns);
                            operation.alone_ns =
                                (ns as f64 * factor(&operation.name)).round() as i64;
                        }
                    }
                    operations
                });
                link(&own.name, own.measured_ns, ranks.collect(), &job.places)
            })
            .collect();
        Ok(job)
    }
}

fn leave_out(operations: &[Operation], fits: &dyn Fn(&str) -> bool) -> Vec<Operation> {
    // Where each operation went, or what stands in for it.
    let mut stand_in: Vec<Vec<usize>> = Vec::with_capacity(operations.len());
    let mut kept: Vec<Operation> = Vec::new();
    for operation in operations {
        let mut after: Vec<usize> =
            operation.after.iter().flat_map(|before| stand_in[*before].iter().copied()).collect();
        after.sort_unstable();
        after.dedup();
        if fits(&operation.name) {
            stand_in.push(after);
        } else {
            stand_in.push(vec![kept.len()]);
            kept.push(Operation { after, meeting: None, ..operation.clone() });
        }
    }
    kept
}

impl Operation {
    /// Whether it sends to or receives from a neighbouring stage.
    #[must_use]
    pub const fn is_transfer(&self) -> bool {
        matches!(
            self.with,
            With::NextSend | With::PreviousReceive | With::PreviousSend | With::NextReceive
        )
    }

    /// Whether it is a collective of the replicas of a stage.
    #[must_use]
    pub const fn of_replicas(&self) -> bool {
        matches!(self.with, With::Replicas)
    }

    /// The lane it runs on in programs of steps.
    #[must_use]
    pub const fn lane(&self) -> LaneId {
        self.with.lane()
    }
}

impl Step {
    /// Families of the groups that meet.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.families
    }

    /// Family and call of an operation that meets others.
    #[must_use]
    pub fn meeting(&self, operation: &Operation) -> Option<(FamilyId, CallId)> {
        let meeting = operation.meeting?;
        Some((self.meetings[meeting].family, CallId(meeting as u32)))
    }

    /// What waits for what: operations for those of their rank that had ended, and members of
    /// meetings for each other, as an edge from the first to each other one. All are inferred from
    /// names and times.
    #[must_use]
    pub fn edges(&self) -> Vec<Edge> {
        let mut edges = Vec::new();
        for (rank, operations) in self.ranks.iter().enumerate() {
            for (index, operation) in operations.iter().enumerate() {
                for before in &operation.after {
                    let cause = Cause::InferredWait;
                    edges.push(Edge { cause, from: (rank, *before), to: (rank, index) });
                }
            }
        }
        for meeting in &self.meetings {
            for to in &meeting.members[1..] {
                edges.push(Edge { cause: Cause::Meeting, from: meeting.members[0], to: *to });
            }
        }
        edges
    }

    /// The calls of meetings, by [`Self::meeting`], each as long as the longest of its members'
    /// durations (by position and operation).
    pub fn calls(&self, duration: &dyn Fn(usize, usize) -> i64) -> Vec<CollectiveCall> {
        self.meetings
            .iter()
            .map(|meeting| {
                let longest = meeting.members.iter().map(|(r, i)| duration(*r, *i)).max();
                CollectiveCall {
                    name: meeting.name.clone(),
                    collective: Collective::SendRecv,
                    bytes: 0,
                    messages: 1,
                    fanout: None,
                    recorded: Some(Nanos(longest.unwrap_or(0))),
                }
            })
            .collect()
    }
}
