//! The parameters of a software stack that measurements can determine.

use crate::hardware::{Figure, Kind, Stack};

/// A parameter: where it stands in a stack's file, and what it means for the fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Parameter {
    /// `in_training.kernels`: rate of kernels over that in isolation.
    Kernels,
    /// `in_training.collectives`: rate of collectives over that in isolation.
    Collectives,
    /// `in_training.beside_compute`: how much longer a transfer takes beside a kernel.
    BesideCompute,
    /// `host.per_operation`: host time per launched operation.
    PerOperation,
    /// `host.per_expert`: host time per local expert and grouped product.
    PerExpert,
    /// `host.per_micro_batch`: host time per micro-batch and direction.
    PerMicroBatch,
    /// `host.per_step`: host time per step.
    PerStep,
    /// `broadcast_turn`: time of one owner's turn when parameters are broadcast.
    BroadcastTurn,
}

impl Parameter {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Kernels,
        Self::Collectives,
        Self::BesideCompute,
        Self::PerOperation,
        Self::PerExpert,
        Self::PerMicroBatch,
        Self::PerStep,
        Self::BroadcastTurn,
    ];

    /// Its key in the stack's file.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Kernels => "in_training.kernels",
            Self::Collectives => "in_training.collectives",
            Self::BesideCompute => "in_training.beside_compute",
            Self::PerOperation => "host.per_operation",
            Self::PerExpert => "host.per_expert",
            Self::PerMicroBatch => "host.per_micro_batch",
            Self::PerStep => "host.per_step",
            Self::BroadcastTurn => "broadcast_turn",
        }
    }

    /// The parameter with a key.
    #[must_use]
    pub fn parse(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.key() == key)
    }

    /// Unit in which the file states it, and its size in base units.
    #[must_use]
    pub fn unit(self) -> (&'static str, f64) {
        match self {
            Self::Kernels | Self::Collectives | Self::BesideCompute => ("1", 1.0),
            Self::PerOperation | Self::PerExpert | Self::PerMicroBatch => ("us", 1e-6),
            Self::PerStep | Self::BroadcastTurn => ("ms", 1e-3),
        }
    }

    /// Plausible range in base units: what the fit may not leave, with the reason in each stack's
    /// note.
    ///
    /// A kernel in training is slower than in isolation by the fall of the clock under sustained
    /// power and by whatever a stack does that the model does not list; below 0.6 something else
    /// is wrong. A Python framework issues an operation in 2 to 40 us, and prepares the operands of
    /// an expert with a handful of operations.
    #[must_use]
    pub fn bounds(self) -> (f64, f64) {
        match self {
            Self::Kernels => (0.6, 1.1),
            Self::Collectives => (0.4, 1.1),
            Self::BesideCompute => (0.02, 1.0),
            Self::PerOperation => (2e-6, 40e-6),
            Self::PerExpert => (5e-6, 200e-6),
            Self::PerMicroBatch => (50e-6, 20e-3),
            Self::PerStep => (1e-3, 300e-3),
            Self::BroadcastTurn => (0.3e-3, 6e-3),
        }
    }

    /// How far the prior lets it stray, as the standard deviation of its logarithm.
    #[must_use]
    pub fn prior_sigma(self) -> f64 {
        match self {
            Self::Kernels => 0.08,
            Self::Collectives => 0.2,
            Self::PerOperation | Self::PerExpert => 0.4,
            Self::BesideCompute | Self::PerMicroBatch | Self::PerStep => 0.7,
            Self::BroadcastTurn => 1.0,
        }
    }

    /// Its value in base units; `None` where the stack has none.
    #[must_use]
    pub fn get(self, stack: &Stack) -> Option<f64> {
        Some(match self {
            Self::Kernels => stack.in_training.kernels.value.0,
            Self::Collectives => stack.in_training.collectives.value.0,
            Self::BesideCompute => stack.in_training.beside_compute.value.0,
            Self::PerOperation => stack.host.per_operation.value.0,
            Self::PerExpert => stack.host.per_expert.as_ref()?.value.0,
            Self::PerMicroBatch => stack.host.per_micro_batch.value.0,
            Self::PerStep => stack.host.per_step.value.0,
            Self::BroadcastTurn => stack.broadcast_turn.as_ref()?.value.0,
        })
    }

    /// Sets its value in base units, and leaves its range; nothing happens where the stack has no such
    /// figure.
    pub fn set(self, stack: &mut Stack, value: f64) {
        self.change(stack, value, None);
    }

    /// Sets its value and range in base units; a derived range is one of two standard deviations.
    pub fn set_with_range(self, stack: &mut Stack, value: f64, range: (f64, f64)) {
        self.change(stack, value, Some(range));
    }

    fn change(self, stack: &mut Stack, value: f64, range: Option<(f64, f64)>) {
        use crate::units::{Ratio, Seconds};
        let put_ratio = |figure: &mut Figure<Ratio>, value: Ratio| {
            figure.value = value;
            if let Some((low, high)) = range {
                (figure.low, figure.high) = (Some(Ratio(low)), Some(Ratio(high)));
                figure.kind = Kind::Derived;
            }
        };
        let put_seconds = |figure: &mut Figure<Seconds>, value: Seconds| {
            figure.value = value;
            if let Some((low, high)) = range {
                (figure.low, figure.high) = (Some(Seconds(low)), Some(Seconds(high)));
                figure.kind = Kind::Derived;
            }
        };
        match self {
            Self::Kernels => put_ratio(&mut stack.in_training.kernels, Ratio(value)),
            Self::Collectives => put_ratio(&mut stack.in_training.collectives, Ratio(value)),
            Self::BesideCompute => put_ratio(&mut stack.in_training.beside_compute, Ratio(value)),
            Self::PerOperation => put_seconds(&mut stack.host.per_operation, Seconds(value)),
            Self::PerExpert => {
                if let Some(figure) = &mut stack.host.per_expert {
                    put_seconds(figure, Seconds(value));
                }
            }
            Self::PerMicroBatch => put_seconds(&mut stack.host.per_micro_batch, Seconds(value)),
            Self::PerStep => put_seconds(&mut stack.host.per_step, Seconds(value)),
            Self::BroadcastTurn => {
                if let Some(figure) = &mut stack.broadcast_turn {
                    put_seconds(figure, Seconds(value));
                }
            }
        }
    }
}
