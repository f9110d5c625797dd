//! Durations of a program: kernels by the timing model, meetings by the network model.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::hardware::Graphs;
use crate::program::{Action, Kernel, KernelClass, Program, Work};
use crate::replay::{Durations, HostTimes};
use crate::scenario::Setup;
use crate::timing::{KernelLibrary, KernelTime, KernelTimes, MeasuredKernels, sustained_rate};
use crate::units::{Nanos, Seconds};

use super::network::{Meetings, time_meetings};
use super::result::KernelInfo;

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
    let library = KernelLibrary::new(setup.accelerator).with_measured(setup.measured.as_ref());
    let sustained = &setup.stack.in_training;
    let clock = sustained_rate(&setup.accelerator.power, setup.power_cap());
    let mut outside = Vec::new();
    let mut kernels = Vec::with_capacity(program.kernels.len());
    let mut alone = Vec::with_capacity(program.kernels.len());
    for kernel in &program.kernels {
        let predicted = library.time(kernel)?;
        if predicted.extrapolated && !outside.contains(&kernel.name) {
            outside.push(kernel.name.clone());
        }
        let arithmetic = matches!(kernel.class, KernelClass::Gemm | KernelClass::Attention);
        let rate = sustained.kernels.value.0 * if arithmetic { clock } else { 1.0 };
        kernels.push((predicted.time / rate).to_nanos());
        alone.push(predicted);
    }
    let mut warnings = setup.unused_rows.clone();
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
    // Replaying a graph of the whole step is one call.
    let captured = setup.recipe.graphs == Graphs::Step;
    let unless_captured = |time: Seconds| if captured { Nanos::ZERO } else { time.to_nanos() };
    let issue = program.kernels.iter().map(|kernel| issuing(kernel, setup)).collect();
    let host = HostTimes {
        per_operation: unless_captured(host.per_operation.value),
        per_micro_batch: unless_captured(host.per_micro_batch.value),
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
        issue,
        host,
    };
    Ok(Timed { durations, kernels: alone, meetings, warnings })
}

/// Where the time of a program's kernels comes from, over all ranks.
pub(super) fn kernel_info(setup: &Setup<'_>, program: &Program, timed: &Timed) -> KernelInfo {
    let mut ranks = vec![0.0; program.templates.len()];
    for template in &program.template_of_rank {
        ranks[template.index()] += 1.0;
    }
    let mut seconds: BTreeMap<String, f64> = BTreeMap::new();
    for (template, ranks) in program.templates.iter().zip(ranks) {
        for op in &template.ops {
            if let Action::Kernel(kernel) = op.action {
                let time = timed.durations.kernels[kernel.index()].0 as f64;
                let source = timed.kernels[kernel.index()].source.name().to_owned();
                *seconds.entry(source).or_default() += time * ranks;
            }
        }
    }
    let all: f64 = seconds.values().sum();
    if all > 0.0 {
        seconds.values_mut().for_each(|seconds| *seconds /= all);
    }
    let measured = setup.measured.as_ref();
    KernelInfo {
        time_by_source: seconds,
        measured_shapes: measured.map(MeasuredKernels::shapes),
        left_out_error_pct: measured.and_then(MeasuredKernels::left_out_error_pct),
    }
}

/// Host time to issue a kernel: every launch costs the framework and the driver the same; products
/// of many experts cost more where the library launches one for each.
fn issuing(kernel: &Kernel, setup: &Setup<'_>) -> Nanos {
    let host = &setup.stack.host;
    // Routed experts have shapes that change with every micro-batch, so a graph of layers leaves
    // them out; the optimizer is no layer.
    let routed = is_routed(&kernel.name);
    let captured = match setup.recipe.graphs {
        Graphs::None => false,
        Graphs::Layers => !routed && kernel.class != KernelClass::Optimizer,
        Graphs::Step => kernel.class != KernelClass::Optimizer,
    };
    if captured {
        return Nanos::ZERO;
    }
    let launches = match kernel.work {
        Work::Stream { launches, .. } => launches,
        _ => 1,
    };
    let mut time = host.per_operation.value.0 * f64::from(launches);
    if let (true, Work::Gemm { batch, .. }, Some(each)) = (routed, kernel.work, &host.per_expert) {
        time += each.value.0 * batch as f64;
    }
    Seconds(time).to_nanos()
}

/// Whether a kernel's shape depends on which experts tokens go to.
fn is_routed(name: &str) -> bool {
    name.starts_with("expert ") || name.contains("permute")
}
