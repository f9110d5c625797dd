//! Memory-bound kernels: bytes over achieved bandwidth, with a ramp.

use crate::hardware::Accelerator;
use crate::units::{Bytes, Seconds};

/// Relative uncertainty (one standard deviation) of a memory-bound kernel: published streaming
/// fractions of one part differ by this much between read, copy and triad.
pub const STREAM_UNCERTAINTY: f64 = 0.1;

/// Time of kernels that move bytes and hardly compute.
#[derive(Clone, Copy, Debug)]
pub struct MemoryModel<'a> {
    accelerator: &'a Accelerator,
}

impl<'a> MemoryModel<'a> {
    /// From the accelerator's bandwidth, achieved fraction and floor.
    #[must_use]
    pub fn new(accelerator: &'a Accelerator) -> Self {
        Self { accelerator }
    }

    /// Time that bytes take once the memory is busy.
    #[must_use]
    pub fn transfer(&self, bytes: f64) -> Seconds {
        let rate =
            self.accelerator.memory.bandwidth.value * self.accelerator.kernels.memory.value.0;
        Bytes(bytes) / rate
    }

    /// Time of `launches` kernels that move `bytes` together. Each pays the floor, so the rate
    /// ramps up with size: half of the achieved bandwidth is reached at [`Self::half_size`].
    #[must_use]
    pub fn seconds(&self, bytes: f64, launches: u32) -> Seconds {
        self.transfer(bytes) + self.accelerator.kernels.floor.value * f64::from(launches)
    }

    /// Bytes at which one kernel moves at half of the achieved bandwidth: floor times that
    /// bandwidth (about 5 MB on A100, 7 MB on H100).
    #[must_use]
    pub fn half_size(&self) -> Bytes {
        let rate =
            self.accelerator.memory.bandwidth.value * self.accelerator.kernels.memory.value.0;
        Bytes(rate.0 * self.accelerator.kernels.floor.value.0)
    }
}
