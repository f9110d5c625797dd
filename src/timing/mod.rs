//! Kernel time: from a kernel's shape to seconds on an accelerator.
//!
//! [`KernelTimes`] is the interface. [`KernelLibrary`] is what runs are timed with: the tile model
//! of GEMMs ([`TileModel`]), the block model of fused attention ([`FlashModel`]), bytes over
//! bandwidth for the rest ([`MemoryModel`]); where an accelerator has no fitted constants, the
//! efficiency curves of [`Roofline`]. [`MeasuredKernels`] stand before all of these: what was measured
//! is what was measured, and what lies between measured shapes takes their deviation from the model.

mod attention;
mod clock;
mod gemm;
mod library;
mod measured;
mod memory;
mod roofline;

pub use attention::{AttentionShape, FlashModel};
pub use clock::sustained_rate;
pub use gemm::{GemmShape, TileModel, alignment_of};
pub use library::KernelLibrary;
pub use measured::{MeasuredKernels, Timing};
pub use memory::{MemoryModel, STREAM_UNCERTAINTY};
pub use roofline::Roofline;

use crate::error::Result;
use crate::program::Kernel;
use crate::units::Seconds;

/// A kernel's predicted time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KernelTime {
    /// Time on an otherwise idle device.
    pub time: Seconds,
    /// The shape lies outside of what the model was made from.
    pub extrapolated: bool,
    /// Relative uncertainty of the time, one standard deviation.
    pub uncertainty: f64,
    /// Where the time comes from.
    pub source: KernelSource,
}

/// Where a kernel's time comes from, in the order of trust.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KernelSource {
    /// A measured row of this shape.
    Measured,
    /// Measured rows of shapes near it, and the model between them.
    Interpolated,
    /// A model fitted to measured rows of the accelerator.
    #[default]
    Modelled,
    /// A curve of efficiency by size.
    Curve,
}

impl KernelSource {
    /// Name in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Measured => "measured",
            Self::Interpolated => "interpolated",
            Self::Modelled => "modelled",
            Self::Curve => "curve",
        }
    }
}

/// Times kernels on one accelerator with one kernel library.
pub trait KernelTimes {
    /// Predicts a kernel's time.
    ///
    /// # Errors
    /// The accelerator has no figure for what the kernel needs (a precision it does not support).
    fn time(&self, kernel: &Kernel) -> Result<KernelTime>;
}
