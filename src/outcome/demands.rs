//! What a step's kernels and calls ask of their device: the input of coupled rates.

use crate::network::Crowding;
use crate::program::{Collective, Program, Work};
use crate::replay::{Demand, Demands, SharedLink};
use crate::scenario::Setup;

use super::network::Meetings;

/// Demands of a program on a setup's hardware.
#[must_use]
pub fn demands_of(setup: &Setup<'_>, program: &Program, meetings: &Meetings) -> Demands {
    let units = setup.accelerator.compute_units.as_ref().map(|figure| figure.value.0);
    let bandwidth = setup.accelerator.memory.bandwidth.value;
    let by_call = meetings.each(|call, predicted, place| {
        let time = predicted.time.0.max(1e-9);
        let crossing = predicted.scale_out_bytes.0 / f64::from(place.shape.min_per_node.max(1));
        let cards = meetings.device_rate.0;
        let share = |x: f64| if x.is_finite() { x.clamp(0.0, 1.0) } else { 0.0 };
        Demand {
            units: units.map_or(0.0, |all| share(predicted.compute_units / all)),
            memory: share(predicted.memory_bytes.0 / time / bandwidth.0),
            cards: share(crossing / time / cards),
            // Programs post receives long before stacks do, which issue them with the pass before.
            spins: program.calls[call].collective != Collective::SendRecv,
        }
    });
    let shared = |crowding: &Crowding| SharedLink {
        own: Crowding::part(crowding.own),
        others: crowding.others.iter().map(|(f, load)| (*f, Crowding::part(*load))).collect(),
    };
    Demands {
        memory_bound: program
            .kernels
            .iter()
            .map(|kernel| matches!(kernel.work, Work::Stream { .. }))
            .collect(),
        meetings: by_call,
        shared: meetings
            .crowding
            .iter()
            .map(|classes| classes.iter().map(shared).collect())
            .collect(),
        transfer_slowdown: setup.stack.in_training.beside_compute.value.0,
    }
}
