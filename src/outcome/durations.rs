//! Durations of a program: kernels by the timing model, meetings by the network model.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::network::{CollectiveTimes, GroupShape, Levels, Placement};
use crate::program::{Action, Program};
use crate::replay::{Durations, HostTimes};
use crate::scenario::Setup;
use crate::timing::{KernelLibrary, KernelTimes};
use crate::units::Nanos;

/// A program's durations and what was noticed on the way.
#[derive(Clone, Debug)]
pub struct Timed {
    /// Whole nanoseconds of everything.
    pub durations: Durations,
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
    for kernel in &program.kernels {
        let predicted = library.time(kernel)?;
        if predicted.extrapolated && !outside.contains(&kernel.name) {
            outside.push(kernel.name.clone());
        }
        kernels.push((predicted.time / sustained.kernels.value.0).to_nanos());
    }
    let mut warnings = Vec::new();
    if !outside.is_empty() {
        warnings.push(format!(
            "extrapolated: shapes outside of what {} was measured at: {}",
            setup.accelerator.name,
            outside.join(", ")
        ));
    }

    let domain = setup.node.scale_up.domain;
    let uneven_links = !setup.node.scale_up.links.is_empty();
    let placement = Placement { node: setup.node.devices, domain, uneven_links };
    let network = Levels::new(setup.node, setup.fabric);
    let mut calls_of: Vec<Vec<usize>> = vec![Vec::new(); program.families.len()];
    for template in &program.templates {
        for op in &template.ops {
            if let Action::Meet { family, call } = op.action
                && !calls_of[family.index()].contains(&call.index())
            {
                calls_of[family.index()].push(call.index());
            }
        }
    }
    let mut group_class = Vec::with_capacity(program.families.len());
    let mut meetings = Vec::with_capacity(program.families.len());
    for (family, calls) in program.families.iter().zip(&calls_of) {
        let mut shapes: BTreeMap<GroupShape, u16> = BTreeMap::new();
        let mut order: Vec<GroupShape> = Vec::new();
        let classes = family
            .groups
            .iter()
            .map(|group| {
                let shape = placement.shape(group);
                let next = order.len() as u16;
                *shapes.entry(shape.clone()).or_insert_with(|| {
                    order.push(shape);
                    next
                })
            })
            .collect();
        let mut by_call = vec![Vec::new(); program.calls.len()];
        for call in calls {
            by_call[*call] = order
                .iter()
                .map(|shape| {
                    let alone = network.time(&program.calls[*call], shape);
                    (alone / sustained.collectives.value.0).to_nanos()
                })
                .collect();
        }
        group_class.push(classes);
        meetings.push(by_call);
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
    Ok(Timed { durations: Durations { kernels, meetings, group_class, host }, warnings })
}
