//! The clock that a device holds through hours of training under its power limit.

use crate::hardware::DevicePower;
use crate::units::Watts;

/// Rate of kernels that keep the arithmetic units busy, over that of the benchmarks behind the
/// accelerator's constants.
///
/// Without a cap this is what the accelerator's file states, or 1. Under a cap below what such
/// kernels draw, the clock falls until they draw the cap. Dynamic power goes with `f V^2`, and the
/// voltage follows the clock in the range where parts run, so that `f` goes with the cube root of
/// what is left beside idle power (Mudge 2001, "Power: a first-class architectural design
/// constraint", IEEE Computer 34(4), equation 1). Kernels that wait for memory keep their rate.
#[must_use]
pub fn sustained_rate(power: &DevicePower, cap: Option<Watts>) -> f64 {
    let stated = power.sustained.as_ref().map_or(1.0, |figure| figure.value.0);
    let (drawn, idle) = (power.limit.value.0 * power.compute.value.0, power.idle.value.0);
    match cap {
        Some(cap) if cap.0 < drawn && cap.0 > idle => {
            stated * ((cap.0 - idle) / (drawn - idle)).cbrt()
        }
        _ => stated,
    }
}
