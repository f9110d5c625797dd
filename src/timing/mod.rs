//! Kernel time: from a kernel's shape to seconds on an accelerator.
//!
//! [`KernelTimes`] is the interface; [`Roofline`] the first model behind it.

mod roofline;

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
}

/// Times kernels on one accelerator with one kernel library.
pub trait KernelTimes {
    /// Predicts a kernel's time.
    ///
    /// # Errors
    /// The accelerator has no figure for what the kernel needs (a precision it does not support).
    fn time(&self, kernel: &Kernel) -> Result<KernelTime>;
}
