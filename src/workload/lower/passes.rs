//! Forward and backward passes of a stage in the order of its schedule, with what they receive and
//! send.

use std::collections::BTreeMap;

use crate::plan::{self, Pass};
use crate::program::{Action, CallId, Collective, HostWork, OpId, Phase};

use super::super::layer::Group;
use super::super::model::LayerKind;
use super::data_parallel::{DataParallel, Unit};
use super::stage::{StageBuilder, Strand};
use super::{Lowering, RECEIVE_BACKWARD, RECEIVE_FORWARD, SEND_BACKWARD, SEND_FORWARD, Step};

/// Forward and backward steps of what a stage consists of.
pub(super) struct Passes {
    pub(super) layer: BTreeMap<LayerKind, [Vec<Step>; 2]>,
    pub(super) embedding: [Vec<Step>; 2],
    pub(super) head: [Vec<Step>; 2],
    pub(super) prediction: [Vec<Step>; 2],
}

/// What is appended for a pass.
#[derive(Clone, Copy)]
enum Entry {
    Before(Unit),
    Step(Step),
    After(Unit),
}

/// A pass on its way into the template.
struct Running {
    action: plan::Action,
    entries: Vec<Entry>,
    next: usize,
    receives: bool,
    sends: bool,
    /// The gradients of its micro-batch complete those of the step.
    completes: bool,
}

impl Running {
    fn forward(&self) -> bool {
        self.action.pass == Pass::Forward
    }

    fn done(&self) -> bool {
        self.next == self.entries.len()
    }

    /// Appends what is left, or what is left up to and including the next exchange of experts.
    fn advance(&mut self, builder: &mut StageBuilder, data: &mut DataParallel, to_exchange: bool) {
        let forward = self.forward();
        while let Some(entry) = self.entries.get(self.next) {
            self.next += 1;
            match *entry {
                Entry::Before(unit) => data.before_unit(builder, unit, forward),
                Entry::After(unit) => data.after_unit(builder, unit, forward, self.completes),
                Entry::Step(step) => {
                    builder.step(step);
                    if to_exchange && matches!(step, Step::Meet { group: Group::Expert, .. }) {
                        return;
                    }
                }
            }
        }
    }
}

impl Lowering<'_> {
    /// Appends all passes of a stage.
    ///
    /// Where exchanges of experts run behind compute, a forward and the backward pass that follows
    /// it take turns: while the tokens of one travel, the other computes (DeepSeek-V3, arXiv
    /// 2412.19437, section 3.2.1; `--overlap-moe-expert-parallel-comm` of Megatron-Core). The
    /// schedule then starts one forward earlier, so that the two are of different micro-batches.
    pub(super) fn passes(
        &mut self,
        builder: &mut StageBuilder,
        data: &mut DataParallel,
        passes: &Passes,
        stage: u32,
    ) {
        let actions = self.plan.actions(stage);
        let mut place = 0;
        while let Some(first) = actions.get(place) {
            let mut one = self.running(passes, stage, *first);
            let turns = self.plan.takes_turns(stage, place, first);
            let Some(second) = actions.get(place + 1).filter(|_| turns) else {
                place += 1;
                self.begin(builder, stage, &one);
                one.advance(builder, data, false);
                self.end(builder, stage, &one);
                continue;
            };
            place += 2;
            let mut two = self.running(passes, stage, *second);
            let fresh = builder.fork();
            self.begin(builder, stage, &one);
            let mut other: Strand = std::mem::replace(&mut builder.strand, fresh);
            self.begin(builder, stage, &two);
            // The backward pass begins: its first exchange hides behind attention of the other.
            while !(one.done() && two.done()) {
                two.advance(builder, data, true);
                std::mem::swap(&mut builder.strand, &mut other);
                one.advance(builder, data, true);
                std::mem::swap(&mut builder.strand, &mut other);
            }
            self.end(builder, stage, &two);
            std::mem::swap(&mut builder.strand, &mut other);
            self.end(builder, stage, &one);
            builder.join(other);
        }
    }

    fn running(&self, passes: &Passes, stage: u32, action: plan::Action) -> Running {
        let plan = self.plan;
        let (chunk, forward) = (action.chunk, action.pass == Pass::Forward);
        let virtual_stage = chunk * plan.pipeline + stage;
        let is_first = virtual_stage == 0;
        let is_last = virtual_stage == plan.pipeline * plan.chunks - 1;
        // Units of the chunk in forward order, each with its passes.
        let first_layer = plan.first_layer_of(stage, chunk);
        let mut units: Vec<(Unit, &[Vec<Step>; 2])> = Vec::new();
        if is_first {
            units.push((Unit::Embedding, &passes.embedding));
        }
        for layer in 0..plan.layers_of(stage, chunk) {
            let kind = self.model.layer_kind(first_layer + layer);
            units.push((Unit::Layer(chunk, layer), &passes.layer[&kind]));
        }
        if is_last {
            units.push((Unit::Head, &passes.head));
            for module in 0..self.model.mtp_modules {
                units.push((Unit::Prediction(module), &passes.prediction));
            }
        }
        if !forward {
            units.reverse();
        }
        let mut entries = Vec::new();
        for (unit, steps) in units {
            entries.push(Entry::Before(unit));
            entries.extend(steps[usize::from(!forward)].iter().copied().map(Entry::Step));
            entries.push(Entry::After(unit));
        }
        Running {
            action,
            entries,
            next: 0,
            receives: if forward { !is_first } else { !is_last },
            sends: if forward { !is_last } else { !is_first },
            completes: !forward && action.micro_batch == plan.micro_batches - 1,
        }
    }

    fn begin(&mut self, builder: &mut StageBuilder, stage: u32, pass: &Running) {
        let forward = pass.forward();
        builder.strand.phase = if forward { Phase::Forward } else { Phase::Backward };
        builder.strand.micro_batch = pass.action.micro_batch;
        builder.host(HostWork::MicroBatch);
        // Interleaved 1F1B exchanges after a forward *and* a backward pass in one batch, so a send
        // has to be done by the second pass after it, not by the next.
        builder.strand.pending.append(&mut builder.overdue_sends);
        builder.overdue_sends = std::mem::take(&mut builder.unfinished_sends);
        if pass.receives {
            let [previous, following] = self.neighbours(stage);
            let from = if forward { previous } else { following };
            self.receive(builder, from, stage, forward);
        }
    }

    /// Hands the result on.
    fn end(&mut self, builder: &mut StageBuilder, stage: u32, pass: &Running) {
        if pass.sends {
            let [previous, following] = self.neighbours(stage);
            let to = if pass.forward() { following } else { previous };
            self.send(builder, stage, to, pass.forward());
        }
    }

    fn neighbours(&self, stage: u32) -> [u32; 2] {
        let stages = self.plan.pipeline;
        [(stage + stages - 1) % stages, (stage + 1) % stages]
    }

    fn pipeline_call(&mut self) -> CallId {
        // With tensor parallelism each rank sends its part; without sequence parallelism the parts
        // are gathered inside the tensor group (Narayanan et al. 2021, section 4.1).
        let bytes = self.layer.stream_bytes() / u64::from(self.plan.tensor);
        self.call("pipeline", Collective::SendRecv, bytes.max(1))
    }

    fn receive(&mut self, builder: &mut StageBuilder, from: u32, to: u32, forward: bool) {
        let call = self.pipeline_call();
        let Some(family) = self.families.pipeline.get(&(from, to, forward)).copied() else {
            return;
        };
        let lane = if forward { RECEIVE_FORWARD } else { RECEIVE_BACKWARD };
        // Where sends and receives are not overlapped, the receive waits for the compute stream.
        let deps: Vec<OpId> = if self.recipe.overlap.pipeline {
            Vec::new()
        } else {
            builder.strand.last_compute.into_iter().collect()
        };
        let op = builder.push(Action::Meet { family, call }, lane, &deps);
        builder.strand.pending.push(op);
        if self.plan.tensor > 1 && !self.plan.sequence_parallel {
            let bytes = self.layer.stream_bytes();
            let gather = self.call("pipeline gather", Collective::AllGather, bytes);
            builder.meet(Group::Tensor, gather);
        }
    }

    fn send(&mut self, builder: &mut StageBuilder, from: u32, to: u32, forward: bool) {
        let call = self.pipeline_call();
        let Some(family) = self.families.pipeline.get(&(from, to, forward)).copied() else {
            return;
        };
        let lane = if forward { SEND_FORWARD } else { SEND_BACKWARD };
        let mut deps: Vec<OpId> = builder.strand.last_compute.into_iter().collect();
        deps.extend(builder.strand.pending.iter().copied());
        let op = builder.push(Action::Meet { family, call }, lane, &deps);
        if self.recipe.overlap.pipeline {
            return;
        }
        if self.plan.chunks == 1 {
            builder.strand.pending.push(op);
        } else {
            builder.unfinished_sends.push(op);
        }
    }
}
