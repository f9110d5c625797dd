//! A scale-up domain on switches: every device has the same links to every switch.

use super::{Generator, LOCAL_LATENCY, Parameter, Preset, Unit, link, refuse};
use crate::error::Result;
use crate::network::topology::{LinkKind, NodeKind, Topology};

/// What distinguishes one switched domain from another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameters {
    /// Devices in a domain.
    pub devices: u32,
    /// Switches in a domain.
    pub switches: u32,
    /// Links of a device, spread evenly over the switches.
    pub links: u32,
    /// Rate of a link, bytes per second, one direction.
    pub link_rate: f64,
}

impl Parameters {
    /// Eight H100 on four NVSwitches: 18 links of 25 GB/s (data sheet).
    #[must_use]
    pub fn dgx_h100() -> Self {
        Self { devices: 8, switches: 4, links: 18, link_rate: 25e9 }
    }

    /// 72 Blackwell GPUs on 18 NVSwitches: 18 links of 50 GB/s (data sheet).
    #[must_use]
    pub fn nvl72() -> Self {
        Self { devices: 72, switches: 18, links: 18, link_rate: 50e9 }
    }
}

/// [`Parameters`] by name.
pub static GENERATOR: Generator = Generator {
    presets: &[
        Preset { name: "nvswitch", about: "eight GPUs on NVSwitches (DGX H100)", set: &[] },
        Preset {
            name: "nvl72",
            about: "72 GPUs on NVSwitches (GB200 NVL72 rack)",
            set: &[("devices", 72.0), ("switches", 18.0), ("link_rate", 50e9)],
        },
    ],
    parameters: &[
        Parameter::new("devices", Unit::Count, 8.0, "devices in the domain"),
        Parameter::new("switches", Unit::Count, 4.0, "switches in the domain"),
        Parameter::new("links", Unit::Count, 18.0, "links of a device, dealt over the switches"),
        Parameter::new("link_rate", Unit::Rate, 25e9, "of one link"),
    ],
    one_server: true,
    links: |v, nodes| nodes * v.number("devices") * v.number("switches"),
    fits: |_, _| Ok(()),
    build: |v, nodes| {
        let parameters = Parameters {
            devices: v.count("devices"),
            switches: v.count("switches"),
            links: v.count("links"),
            link_rate: v.number("link_rate"),
        };
        build(&parameters, nodes)
    },
    fabrics: &[],
};

/// Builds `domains` of them; several are not connected with each other, which is what
/// [`Topology::check`] reports.
///
/// # Errors
/// There are fewer links than switches.
pub fn build(p: &Parameters, domains: u32) -> Result<Topology> {
    if p.links < p.switches || p.switches == 0 || p.devices == 0 {
        return Err(refuse(format!(
            "{} links of a device cannot reach {} switches",
            p.links, p.switches
        )));
    }
    let mut t = Topology::new(
        format!("{domains} x {} devices on {} scale-up switches", p.devices, p.switches),
        (domains * (p.devices + p.switches)) as usize,
        (domains * p.devices * p.switches) as usize,
    );
    t.endpoints_per_node = p.devices;
    for domain in 0..domains {
        let switches: Vec<_> =
            (0..p.switches).map(|i| t.add(NodeKind::ScaleUpSwitch, domain, i)).collect();
        for d in 0..p.devices {
            let device = t.add(NodeKind::Device, domain, d);
            t.endpoints.push(device);
            for (i, switch) in (0_u32..).zip(&switches) {
                // 18 links over 4 switches are 5, 5, 4 and 4.
                let share = p.links / p.switches + u32::from(i < p.links % p.switches);
                t.link(
                    device,
                    *switch,
                    link(p.link_rate, LOCAL_LATENCY, LinkKind::Backplane, share as u16),
                );
            }
        }
    }
    Ok(t)
}
