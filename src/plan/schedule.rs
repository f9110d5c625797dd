//! Pipeline schedules as action lists: what each device does with which micro-batch, in order.
//!
//! A schedule is data: for every device a list of [`Action`]s. Sends and receives follow from the
//! order of the stages and are added when the program is built, so a new schedule is one function
//! that returns lists.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A named schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Schedule {
    /// All forwards, then all backwards (Huang et al. 2019).
    #[serde(rename = "gpipe")]
    Gpipe,
    /// One forward, one backward (PipeDream-Flush, Narayanan et al. 2021).
    #[serde(rename = "1f1b")]
    OneForwardOneBackward,
    /// 1F1B over several chunks per device (Narayanan et al. 2021, section 2.2).
    #[serde(rename = "interleaved")]
    Interleaved,
}

/// What a device does in one action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pass {
    /// Forward pass of a chunk.
    Forward,
    /// Backward pass of a chunk (gradients of inputs and weights).
    Backward,
}

/// One entry of a device's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Action {
    /// Forward or backward.
    pub pass: Pass,
    /// Micro-batch, from 0.
    pub micro_batch: u32,
    /// Chunk of the device, from 0; the virtual stage is `chunk * stages + stage`.
    pub chunk: u32,
}

impl Schedule {
    /// The list of device `stage` of `stages` for `micro_batches` micro-batches and `chunks`
    /// chunks per device.
    ///
    /// Interleaving needs `micro_batches` to be a multiple of `stages`; the plan checks it.
    #[must_use]
    pub fn actions(self, stage: u32, stages: u32, micro_batches: u32, chunks: u32) -> Vec<Action> {
        self.actions_ahead(stage, stages, micro_batches, chunks, 0)
    }

    /// The same with `ahead` more forwards before the first backward, where there are as many.
    #[must_use]
    pub fn actions_ahead(
        self,
        stage: u32,
        stages: u32,
        micro_batches: u32,
        chunks: u32,
        ahead: u32,
    ) -> Vec<Action> {
        match self {
            Self::Gpipe => {
                let forward = (0..chunks).flat_map(|chunk| {
                    (0..micro_batches).map(move |micro_batch| Action {
                        pass: Pass::Forward,
                        micro_batch,
                        chunk,
                    })
                });
                let backward = (0..chunks).rev().flat_map(|chunk| {
                    (0..micro_batches).map(move |micro_batch| Action {
                        pass: Pass::Backward,
                        micro_batch,
                        chunk,
                    })
                });
                forward.chain(backward).collect()
            }
            Self::OneForwardOneBackward | Self::Interleaved => {
                interleaved(stage, stages, micro_batches, chunks, ahead)
            }
        }
    }

    /// How many of these actions come before forwards and backwards alternate: all forwards where
    /// they never do.
    #[must_use]
    pub fn warm_up(
        self,
        stage: u32,
        stages: u32,
        micro_batches: u32,
        chunks: u32,
        ahead: u32,
    ) -> u32 {
        match self {
            Self::Gpipe => micro_batches * chunks,
            Self::OneForwardOneBackward | Self::Interleaved => {
                warm_up(stage, stages, micro_batches, chunks, ahead)
            }
        }
    }

    /// Largest number of (micro-batch, chunk) activation sets that device `stage` holds at once.
    #[must_use]
    pub fn in_flight(self, stage: u32, stages: u32, micro_batches: u32, chunks: u32) -> u32 {
        let mut held: u32 = 0;
        let mut most = 0;
        for action in self.actions(stage, stages, micro_batches, chunks) {
            match action.pass {
                Pass::Forward => {
                    held += 1;
                    most = most.max(held);
                }
                Pass::Backward => held -= 1,
            }
        }
        most
    }
}

/// 1F1B over `chunks` chunks: a warm-up of forwards, alternating forwards and backwards, a
/// cool-down of backwards. The k-th forward of every device is the same (micro-batch, chunk):
/// groups of `stages` micro-batches go through chunk 0, then the same group through chunk 1, ...
/// Forwards before forwards and backwards alternate.
fn warm_up(stage: u32, stages: u32, micro_batches: u32, chunks: u32, ahead: u32) -> u32 {
    let total = micro_batches * chunks;
    let usual = if chunks == 1 {
        // A pair of passes that take turns ends as one. With the usual distance each stage would
        // wait for a whole pair of the next one; with twice the distance two pairs are on their
        // way between neighbours, as in interleaved schedules.
        (stages - stage - 1) * if ahead > 0 { 2 } else { 1 }
    } else if micro_batches == stages {
        total
    } else {
        // Narayanan et al. 2021, figure 4: enough forwards that the last device never waits.
        (stages - stage - 1) * 2 + (chunks - 1) * stages
    };
    (usual + ahead).min(total)
}

fn interleaved(
    stage: u32,
    stages: u32,
    micro_batches: u32,
    chunks: u32,
    ahead: u32,
) -> Vec<Action> {
    let total = micro_batches * chunks;
    let at = |pass: Pass, k: u32| {
        // A last group may be smaller than `stages` when there is one chunk only.
        let group = stages * chunks;
        let (group_index, within) = (k / group, k % group);
        let size = stages.min(micro_batches - group_index * stages);
        let (chunk, index) = (within / size, within % size);
        let chunk = if pass == Pass::Backward { chunks - 1 - chunk } else { chunk };
        Action { pass, micro_batch: group_index * stages + index, chunk }
    };
    let warm_up = warm_up(stage, stages, micro_batches, chunks, ahead);
    let mut actions = Vec::with_capacity(2 * total as usize);
    actions.extend((0..warm_up).map(|k| at(Pass::Forward, k)));
    for k in 0..total - warm_up {
        actions.push(at(Pass::Forward, warm_up + k));
        actions.push(at(Pass::Backward, k));
    }
    actions.extend((total - warm_up..total).map(|k| at(Pass::Backward, k)));
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_micro_batch_passes_every_chunk_once_each_way_and_forward_first() {
        for (schedule, stages, micro_batches, chunks) in [
            (Schedule::Gpipe, 4, 7, 1),
            (Schedule::OneForwardOneBackward, 4, 7, 1),
            (Schedule::OneForwardOneBackward, 8, 3, 1),
            (Schedule::Interleaved, 4, 8, 3),
            (Schedule::Interleaved, 4, 4, 2),
        ] {
            for stage in 0..stages {
                let mut seen = BTreeSet::new();
                for action in schedule.actions(stage, stages, micro_batches, chunks) {
                    let key = (action.micro_batch, action.chunk);
                    match action.pass {
                        Pass::Forward => assert!(seen.insert((key, false))),
                        Pass::Backward => {
                            assert!(seen.contains(&(key, false)));
                            assert!(seen.insert((key, true)));
                        }
                    }
                }
                assert_eq!(seen.len() as u32, 2 * micro_batches * chunks);
            }
        }
    }

    #[test]
    fn activation_sets_in_flight() {
        // GPipe holds all micro-batches; 1F1B stage i holds min(m, p - i).
        assert_eq!(Schedule::Gpipe.in_flight(0, 4, 16, 1), 16);
        for stage in 0..4 {
            assert_eq!(Schedule::OneForwardOneBackward.in_flight(stage, 4, 16, 1), 4 - stage);
        }
        assert_eq!(Schedule::OneForwardOneBackward.in_flight(0, 8, 3, 1), 3);
        // Interleaved, first device: p * (v - 1) + 2 * (p - 1) + 1 chunks.
        assert_eq!(Schedule::Interleaved.in_flight(0, 4, 16, 3), 4 * 2 + 2 * 3 + 1);
    }
}
