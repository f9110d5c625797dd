//! A recorded step as a program.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::program::{
    Action, CallId, Collective, CollectiveCall, Dimension, Family, FamilyId, Groups, HostWork,
    Kernel, KernelClass, KernelId, LaneId, LaneKind, Op, OpId, Phase, Program, TemplateBuilder,
    TemplateId, Work,
};
use crate::units::Nanos;

use super::{BACKWARD, FORWARD, Job, Operation, Step, source};

/// Lanes of a rank in programs of steps, as [`Operation::lane`] numbers them.
#[must_use]
pub fn lanes() -> Vec<(String, LaneKind)> {
    let kinds = [
        ("host", LaneKind::Host),
        ("compute", LaneKind::Compute),
        ("forward send", LaneKind::Communication),
        ("forward receive", LaneKind::Communication),
        ("backward send", LaneKind::Communication),
        ("backward receive", LaneKind::Communication),
        ("data", LaneKind::Communication),
    ];
    kinds.map(|(name, kind)| (name.to_owned(), kind)).to_vec()
}

impl Job {
    /// The program of a step in which an operation (by rank and position) takes what `duration`
    /// says, with or without the host's delays. Passes whose transfers were not recorded wait for
    /// the neighbouring stage.
    ///
    /// # Errors
    /// The program is malformed, because ranks recorded operations in different orders.
    pub fn program(
        &self,
        step: &Step,
        duration: &dyn Fn(usize, usize) -> i64,
        delays: bool,
    ) -> Result<Program> {
        let mut program = Program { families: step.families.clone(), ..Program::default() };
        program.calls = step.calls(duration);
        let implicit = Implicit::of(self, step, &mut program);
        for (position, operations) in step.ranks.iter().enumerate() {
            let mut ops =
                TemplateBuilder::new(format!("rank {}", self.places[position].0), lanes());
            let mut ids: Vec<OpId> = Vec::with_capacity(operations.len());
            let (phase, micro_batch) = (Phase::Other, Op::NO_MICRO_BATCH);
            let host = LaneId(0);
            for (index, operation) in operations.iter().enumerate() {
                let before = operation.after.iter().max_by_key(|i| operations[**i].end_ns);
                let key = before.map_or(String::new(), |i| operations[*i].name.clone());
                let delay = self.delays.get(&(key, operation.name.clone())).copied().unwrap_or(0);
                let mut deps: Vec<OpId> = operation.after.iter().map(|i| ids[*i]).collect();
                if let Some((family, lane)) = implicit.receive(self, position, operation) {
                    let action = Action::Meet { family, call: implicit.call };
                    deps.push(ops.push(Op { action, lane, phase, micro_batch }, &[]));
                }
                if delays && delay > 0 {
                    if !deps.is_empty() {
                        let wait = Op { action: Action::HostWait, lane: host, phase, micro_batch };
                        ops.push(wait, &deps);
                        deps.clear();
                    }
                    let action = Action::HostWork(HostWork::Recorded(Nanos(delay)));
                    ops.push(Op { action, lane: host, phase, micro_batch }, &[]);
                }
                let action = match operation.meeting {
                    Some(meeting) => Action::Meet {
                        family: step.meetings[meeting].family,
                        call: CallId(meeting as u32),
                    },
                    None => {
                        let id = KernelId(program.kernels.len() as u32);
                        program.kernels.push(Kernel {
                            name: operation.name.clone(),
                            class: KernelClass::Other,
                            work: Work::Recorded { ns: duration(position, index).max(0) },
                        });
                        Action::Kernel(id)
                    }
                };
                let lane = operation.with.lane();
                let id = ops.push(Op { action, lane, phase, micro_batch }, &deps);
                ids.push(id);
                if let Some((family, lane)) = implicit.send(self, position, operation) {
                    let action = Action::Meet { family, call: implicit.call };
                    ops.push(Op { action, lane, phase, micro_batch }, &[id]);
                }
            }
            program.template_of_rank.push(TemplateId(position as u32));
            program.templates.push(ops.finish());
        }
        program.check()?;
        Ok(program)
    }
}

/// Name of a transfer that only a dependency between stages tells of.
pub(crate) const UNRECORDED_TRANSFER: &str = "transfer that was not recorded";

/// Transfers between stages of a recording that has only passes: they cost nothing of their own.
struct Implicit {
    /// Family of a direction, replica and sending stage.
    families: BTreeMap<(bool, usize, usize), FamilyId>,
    call: CallId,
}

impl Implicit {
    fn of(job: &Job, step: &Step, program: &mut Program) -> Self {
        let call = CallId(program.calls.len() as u32);
        let mut this = Self { families: BTreeMap::new(), call };
        if step.has_transfers() {
            return this;
        }
        program.calls.push(CollectiveCall {
            name: UNRECORDED_TRANSFER.into(),
            collective: Collective::SendRecv,
            bytes: 0,
            messages: 1,
            fanout: None,
            recorded: Some(Nanos::ZERO),
        });
        for (from, (_, stage, replica)) in job.places.iter().enumerate() {
            for (to, (_, other, same)) in job.places.iter().enumerate() {
                let forward = *other == stage + 1;
                if replica != same || !(forward || other + 1 == *stage) {
                    continue;
                }
                let id = FamilyId(program.families.len() as u32);
                program.families.push(Family {
                    name: "neighbouring stages".into(),
                    dimension: Dimension::Pipeline,
                    groups: Groups::new([vec![from as u32, to as u32]]),
                });
                this.families.insert((forward, *replica, *stage), id);
            }
        }
        this
    }

    fn send(
        &self,
        job: &Job,
        position: usize,
        operation: &Operation,
    ) -> Option<(FamilyId, LaneId)> {
        let (_, stage, replica) = job.places[position];
        let (forward, lane) = match operation.name.as_str() {
            FORWARD => (true, LaneId(2)),
            BACKWARD => (false, LaneId(4)),
            _ => return None,
        };
        Some((*self.families.get(&(forward, replica, stage))?, lane))
    }

    fn receive(
        &self,
        job: &Job,
        position: usize,
        operation: &Operation,
    ) -> Option<(FamilyId, LaneId)> {
        let (_, stage, replica) = job.places[position];
        let (forward, from) = source(operation, stage)?;
        let lane = if forward { LaneId(3) } else { LaneId(5) };
        Some((*self.families.get(&(forward, replica, from))?, lane))
    }
}
