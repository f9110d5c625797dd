//! Energy, money and carbon of a step, first version.
//!
//! Energy is power by activity times the simulated time of that activity, never design power times
//! hours: a device computes, communicates (a rank that spins in a collective is not idle) or
//! idles; hosts, switches and optics draw beside it; the facility adds its overhead (PUE).

use crate::hardware::{Accelerator, Fabric, Node};
use crate::units::{Count, Joules, Seconds, Watts};

/// Time that all devices together spend in each activity during a step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Activity {
    /// Compute lane busy.
    pub computing: Seconds,
    /// Compute lane idle, communicating or waiting in a collective.
    pub communicating: Seconds,
    /// Neither.
    pub idle: Seconds,
}

/// Energy of a step by consumer; `facility` includes all of them and the overhead.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepEnergy {
    /// Accelerators.
    pub devices: Joules,
    /// Everything else in the nodes.
    pub hosts: Joules,
    /// Switches and optics.
    pub network: Joules,
    /// Everything times the facility's overhead.
    pub facility: Joules,
}

/// Energy of one step of `duration` on `devices` devices, under a power cap if there is one, whose
/// network draws `network`.
#[must_use]
pub fn step_energy(
    (accelerator, cap): (&Accelerator, Option<Watts>),
    node: &Node,
    network: Watts,
    devices: u32,
    duration: Seconds,
    activity: &Activity,
    pue: f64,
) -> StepEnergy {
    let power = &accelerator.power;
    let limit = power.limit.value;
    let drawn = |share: f64| {
        let watts = limit * share;
        cap.filter(|cap| cap.0 < watts.0).unwrap_or(watts)
    };
    let device_energy = drawn(power.compute.value.0) * activity.computing
        + drawn(power.communicate.value.0) * activity.communicating
        + power.idle.value * activity.idle;
    let nodes = f64::from(devices) / f64::from(node.devices);
    let hosts = node.host_power.value * nodes * duration;
    let network = network * duration;
    StepEnergy {
        devices: device_energy,
        hosts,
        network,
        facility: (device_energy + hosts + network) * pue,
    }
}

/// Power of switches and optics where no graph says how many there are: those that serve the nodes'
/// cards in a full-bisection Clos of as many tiers as the number of ports asks for: `(2t - 1) N / R`
/// switches of radix `R`, `2 t N` optical ends for `N` ports.
#[must_use]
pub fn network_power(fabric: &Fabric, node: &Node, nodes: f64) -> Watts {
    if nodes <= 1.0 {
        return Watts::ZERO;
    }
    let ports = nodes * f64::from(node.nic.count);
    let Count(radix) = fabric.switch.ports.value;
    let mut tiers = 1.0;
    let mut reach = radix;
    while reach < ports && tiers < 4.0 {
        tiers += 1.0;
        reach *= radix / 2.0;
    }
    let switches = ((2.0 * tiers - 1.0) * ports / radix).max(1.0);
    let ends = 2.0 * tiers * ports;
    fabric.switch.power.value * switches + fabric.transceiver.power.value * ends
}
