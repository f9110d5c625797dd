//! Durations of a program: kernels by the timing model, meetings by the network model.

use crate::error::Result;
use crate::program::Program;
use crate::replay::{Durations, HostTimes};
use crate::scenario::Setup;
use crate::timing::{KernelLibrary, KernelTime, KernelTimes};
use crate::units::Nanos;

use super::network::{Meetings, time_meetings};

/// A program's durations and what was noticed on the way.
#[derive(Clone, Debug)]
pub struct Timed {
    /// Whole nanoseconds of everything.
    pub durations: Durations,
    /// What is known of each kernel alone: time, and how uncertain it is.
    pub kernels: Vec<KernelTime>,
    /// The calls behind its meetings.
    pub meetings: Meetings,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Times everything in a program for a setup's hardware and software.
///
/// # Errors
/// The accelerator lacks a figure that a kernel needs.
pub fn time_program(setup: &Setup<'_>, program: &Program) -> Result<Timed> {
    let library = KernelLibrary::new(setup.accelerator);
    let sustained = &setup.stack.in_training;
    let mut outside = Vec::new();
    let mut kernels = Vec::with_capacity(program.kernels.len());
    let mut alone = Vec::with_capacity(program.kernels.len());
    for kernel in &program.kernels {
        let predicted = library.time(kernel)?;
        if predicted.extrapolated && !outside.contains(&kernel.name) {
            outside.push(kernel.name.clone());
        }
        kernels.push((predicted.time / sustained.kernels.value.0).to_nanos());
        alone.push(predicted);
    }
    let mut warnings = Vec::new();
    if !outside.is_empty() {
        warnings.push(format!(
            "extrapolated: shapes outside of what {} was measured at: {}",
            setup.accelerator.name,
            outside.join(", ")
        ));
    }

    let meetings = time_meetings(setup, program)?;
    warnings.extend(meetings.unused.iter().cloned());
    for (reason, calls) in &meetings.extrapolated {
        warnings.push(format!("extrapolated: {reason}: {}", calls.join(", ")));
    }
    let host = &setup.stack.host;
    let host = HostTimes {
        per_operation: host.per_operation.value.to_nanos(),
        per_micro_batch: host.per_micro_batch.value.to_nanos(),
        per_step: host.per_step.value.to_nanos(),
        launch_latency: host.launch_latency.value.to_nanos(),
        queue_depth: host.queue_depth.value.0 as u32,
        dispatch_gap: Nanos::ZERO,
    };
    debug_assert!(kernels.iter().all(|k| *k >= Nanos::ZERO));
    let durations = Durations {
        kernels,
        meetings: meetings.times.clone(),
        group_class: meetings.classes.clone(),
        host,
    };
    Ok(Timed { durations, kernels: alone, meetings, warnings })
}
