//! Devices on a PCI Express tree: slots, switches, host bridges, the link between sockets.

use super::{Generator, LOCAL_LATENCY, Parameter, Preset, Unit, link, refuse};
use crate::error::Result;
use crate::network::topology::{LinkKind, NodeKind, Topology};

/// What distinguishes one tree from another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameters {
    /// Sockets of a server.
    pub sockets: u32,
    /// PCI Express switches per socket; 0 where devices sit on the host bridge.
    pub switches: u32,
    /// Devices per switch (or per socket without switches).
    pub devices: u32,
    /// Rate of a slot and of a switch's upstream port, bytes per second, one direction.
    pub slot_rate: f64,
    /// Rate between sockets, one direction.
    pub socket_rate: f64,
}

impl Parameters {
    /// Two sockets with one switch of four devices each, PCI Express 4.0 x16 (31 GB/s).
    #[must_use]
    pub fn two_switches() -> Self {
        Self { sockets: 2, switches: 1, devices: 4, slot_rate: 31e9, socket_rate: 40e9 }
    }
}

/// [`Parameters`] by name.
pub static GENERATOR: Generator = Generator {
    presets: &[Preset { name: "pcie", about: "eight GPUs on a PCI Express tree", set: &[] }],
    parameters: &[
        Parameter::new("sockets", Unit::Count, 2.0, "sockets of the server"),
        Parameter::new(
            "switches",
            Unit::CountOrNone,
            1.0,
            "switches per socket; none: devices sit on the host bridge",
        ),
        Parameter::new("devices", Unit::Count, 4.0, "devices per switch (or host bridge)"),
        Parameter::new("slot_rate", Unit::Rate, 31e9, "of a slot and a switch's upstream port"),
        Parameter::new("socket_rate", Unit::Rate, 40e9, "between sockets"),
    ],
    one_server: true,
    links: |v, nodes| {
        let switches = v.number("switches").max(1.0);
        nodes * v.number("sockets") * switches * (v.number("devices") + 1.0)
    },
    fits: |_, _| Ok(()),
    build: |v, nodes| {
        let parameters = Parameters {
            sockets: v.count("sockets"),
            switches: v.count("switches"),
            devices: v.count("devices"),
            slot_rate: v.number("slot_rate"),
            socket_rate: v.number("socket_rate"),
        };
        build(&parameters, nodes)
    },
    fabrics: &[],
};

/// Builds `nodes` of them.
///
/// # Errors
/// There is no socket or no device.
pub fn build(p: &Parameters, nodes: u32) -> Result<Topology> {
    if p.sockets == 0 || p.devices == 0 {
        return Err(refuse("a PCI Express tree needs a socket and a device".into()));
    }
    let mut t = Topology::new(
        format!("{nodes} x PCI Express tree, {} sockets", p.sockets),
        (nodes * p.sockets * (1 + p.switches.max(1) * (p.devices + 1))) as usize,
        (nodes * p.sockets * p.switches.max(1) * (p.devices + 1)) as usize,
    );
    t.endpoints_per_node = p.sockets * p.switches.max(1) * p.devices;
    for node in 0..nodes {
        let mut bridges = Vec::new();
        let mut index = 0;
        for socket in 0..p.sockets {
            let bridge = t.add(NodeKind::Host, node, socket);
            let mut parents = vec![bridge];
            if p.switches > 0 {
                parents = (0..p.switches)
                    .map(|s| {
                        let switch =
                            t.add(NodeKind::Host, node, p.sockets + socket * p.switches + s);
                        t.link(
                            bridge,
                            switch,
                            link(p.slot_rate, LOCAL_LATENCY, LinkKind::Backplane, 1),
                        );
                        switch
                    })
                    .collect();
            }
            for parent in parents {
                for _ in 0..p.devices {
                    let device = t.add(NodeKind::Device, node, index);
                    index += 1;
                    t.endpoints.push(device);
                    t.link(
                        parent,
                        device,
                        link(p.slot_rate, LOCAL_LATENCY, LinkKind::Backplane, 1),
                    );
                }
            }
            bridges.push(bridge);
        }
        for pair in bridges.windows(2) {
            t.link(pair[0], pair[1], link(p.socket_rate, LOCAL_LATENCY, LinkKind::Backplane, 1));
        }
    }
    Ok(t)
}
