//! Rails without a spine that joins them (arXiv 2307.12169): cards of equal index of all scale-up
//! domains share a network of their own, and traffic between rails is forwarded inside a domain.

use super::clos;
use super::{
    ForFabrics, Generator, LOCAL_LATENCY, Parameter, Preset, SWITCH_LATENCY, Unit, Values, link,
    port_rate, refuse,
};
use crate::error::Result;
use crate::network::topology::{LinkKind, NodeKind, Topology};

/// What distinguishes one such network from another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameters {
    /// Devices, each with a card of its own.
    pub devices: u32,
    /// Devices in a scale-up domain, which is the number of rails.
    pub domain: u32,
    /// Ports of a switch.
    pub radix: u32,
    /// Rate of a port, bytes per second, one direction.
    pub port_rate: f64,
    /// Rate of a device into its scale-up domain, bytes per second, one direction.
    pub domain_rate: f64,
}

impl Parameters {
    /// With 450 GB/s into the domain (`NVLink` 4).
    #[must_use]
    pub fn new(devices: u32, domain: u32, radix: u32, port_rate: f64) -> Self {
        Self { devices, domain, radix, port_rate, domain_rate: 450e9 }
    }
}

fn parameters(v: &Values, domains: u32) -> Parameters {
    Parameters {
        devices: domains.saturating_mul(v.count("domain")),
        domain: v.count("domain"),
        radix: v.count("radix"),
        port_rate: v.number("port_rate"),
        domain_rate: v.number("domain_rate"),
    }
}

/// [`Parameters`] by name.
pub static GENERATOR: Generator = Generator {
    presets: &[
        Preset {
            name: "rail-only-64",
            about: "rails without a spine that joins them, radix-64 switches",
            set: &[],
        },
        Preset {
            name: "rail-only-128",
            about: "the same with radix-128 switches",
            set: &[("radix", 128.0)],
        },
    ],
    parameters: &[
        Parameter::new("domain", Unit::Count, 8.0, "devices of a scale-up domain: rails"),
        Parameter::new("radix", Unit::Count, 64.0, "ports of a switch"),
        Parameter::new("port_rate", Unit::Rate, 50e9, "of a card and a switch's port"),
        Parameter::new("domain_rate", Unit::Rate, 450e9, "of a device into its domain"),
    ],
    one_server: false,
    links: |v, nodes| 5.0 * nodes * v.number("domain"),
    fits: |v, nodes| fits(&parameters(v, nodes)),
    build: |v, nodes| build(&parameters(v, nodes)),
    fabrics: &[ForFabrics {
        name: "rail_only",
        about: "Rails without a spine that joins them.",
        rails: true,
        joins_rails: false,
        tapers: false,
        line: false,
        values: |v, fabric, node, nodes| {
            let (devices, domain) = (nodes.saturating_mul(node.devices), node.scale_up.domain);
            whole_domains(devices, domain)?;
            let values = v
                .with("domain", domain.into())
                .with("radix", fabric.switch.ports.value.0.trunc())
                .with("port_rate", port_rate(fabric, node))
                .with("domain_rate", node.scale_up.bandwidth.value.get());
            Ok((values, devices / domain))
        },
    }],
};

fn whole_domains(devices: u32, domain: u32) -> Result<()> {
    if domain == 0 || devices == 0 || !devices.is_multiple_of(domain) {
        return Err(refuse(format!("{devices} devices do not fill domains of {domain}")));
    }
    Ok(())
}

fn one_rail(p: &Parameters) -> clos::Parameters {
    clos::Parameters::fat_tree(p.devices / p.domain, 1, p.radix, p.port_rate)
}

/// Whether the devices fit, without building anything.
///
/// # Errors
/// As [`build`].
pub fn fits(p: &Parameters) -> Result<()> {
    whole_domains(p.devices, p.domain)?;
    clos::fits(&one_rail(p))
}

/// Builds the network: per domain one switch that stands for the whole scale-up fabric, per rail
/// one switch or a fat tree of its own.
///
/// # Errors
/// The devices do not fill whole domains, or a rail does not fit into its tiers.
pub fn build(p: &Parameters) -> Result<Topology> {
    fits(p)?;
    let domains = p.devices / p.domain;
    let mut t = Topology::new(
        format!("rail-only, {} devices in domains of {}, radix {}", p.devices, p.domain, p.radix),
        (p.devices * 3) as usize,
        (p.devices * 4) as usize,
    );
    t.radix = Some(p.radix);
    t.endpoints_per_node = p.domain;
    let mut cards = Vec::with_capacity(p.devices as usize);
    for domain in 0..domains {
        let inside = t.add(NodeKind::ScaleUpSwitch, domain, 0);
        for rail in 0..p.domain {
            let device = t.add(NodeKind::Device, domain, rail);
            let card = t.add(NodeKind::Nic, domain, rail);
            t.link(device, inside, link(p.domain_rate, LOCAL_LATENCY, LinkKind::Backplane, 1));
            t.link(device, card, link(p.port_rate, LOCAL_LATENCY, LinkKind::Backplane, 1));
            t.endpoints.push(device);
            cards.push(card);
        }
    }
    // One rail is built by the Clos generator and copied for each of them.
    let one = clos::build(&one_rail(p))?;
    for rail in 0..p.domain {
        let mut here = Vec::with_capacity(one.graph.node_count());
        for vertex in one.graph.node_weights() {
            here.push(match vertex.kind {
                NodeKind::Nic => cards[(vertex.group * p.domain + rail) as usize],
                kind => {
                    let number = here.len() as u32;
                    t.add(kind, rail, number)
                }
            });
        }
        for edge in one.graph.raw_edges() {
            let mut copied = edge.weight;
            copied.latency = crate::units::Seconds(SWITCH_LATENCY);
            t.link(here[edge.source().index()], here[edge.target().index()], copied);
        }
    }
    Ok(t)
}
