//! Full meshes of devices (HCCS of Ascend 910B, xGMI of MI300X), and domains over two levels of
//! switches (UB of CloudMatrix).

use super::{Generator, LOCAL_LATENCY, Parameter, Preset, Unit, link, refuse};
use crate::error::Result;
use crate::network::topology::{LinkKind, NodeKind, Topology};

/// A full mesh.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mesh {
    /// Devices in a node.
    pub devices: u32,
    /// Rate between two devices, bytes per second, one direction.
    pub pair_rate: f64,
}

impl Mesh {
    /// Eight Ascend 910B: 56 GB/s per pair, read as both directions together (hearsay on the page
    /// it comes from).
    #[must_use]
    pub fn ascend_910b() -> Self {
        Self { devices: 8, pair_rate: 28e9 }
    }

    /// Eight MI300X: 64 GB/s per pair (data sheet).
    #[must_use]
    pub fn mi300x() -> Self {
        Self { devices: 8, pair_rate: 64e9 }
    }
}

/// [`Mesh`] by name.
pub static MESH: Generator = Generator {
    presets: &[
        Preset {
            name: "mi300x",
            about: "eight MI300X in a full xGMI mesh",
            set: &[("pair_rate", 64e9)],
        },
        Preset { name: "hccs", about: "eight Ascend 910B in a full HCCS mesh", set: &[] },
    ],
    parameters: &[
        Parameter::new("devices", Unit::Count, 8.0, "devices in the node"),
        Parameter::new("pair_rate", Unit::Rate, 28e9, "between two devices"),
    ],
    one_server: true,
    links: |v, nodes| nodes * v.number("devices") * v.number("devices") / 2.0,
    fits: |_, _| Ok(()),
    build: |v, nodes| {
        let mesh = Mesh { devices: v.count("devices"), pair_rate: v.number("pair_rate") };
        build_mesh(&mesh, nodes)
    },
    fabrics: &[],
};

/// Builds `nodes` meshes.
///
/// # Errors
/// A mesh has fewer than two devices.
pub fn build_mesh(p: &Mesh, nodes: u32) -> Result<Topology> {
    if p.devices < 2 {
        return Err(refuse(format!("a mesh of {} devices has no link", p.devices)));
    }
    let mut t = Topology::new(
        format!("{nodes} x full mesh of {}", p.devices),
        (nodes * p.devices) as usize,
        (nodes * p.devices * (p.devices - 1) / 2) as usize,
    );
    t.endpoints_per_node = p.devices;
    for node in 0..nodes {
        let devices: Vec<_> = (0..p.devices).map(|i| t.add(NodeKind::Device, node, i)).collect();
        for (i, a) in devices.iter().enumerate() {
            for b in &devices[i + 1..] {
                t.link(*a, *b, link(p.pair_rate, LOCAL_LATENCY, LinkKind::Backplane, 1));
            }
        }
        t.endpoints.extend(devices);
    }
    Ok(t)
}

/// A domain whose nodes have switches of their own, joined by a second level.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TwoLevel {
    /// Devices in a node.
    pub devices: u32,
    /// First-level switches in a node; every device has a link to each.
    pub first: u32,
    /// Second-level switches of the whole domain.
    pub second: u32,
    /// Rate of a device, all its links, bytes per second, one direction.
    pub device_rate: f64,
    /// Most nodes of a domain.
    pub nodes: u32,
}

impl TwoLevel {
    /// 48 nodes of eight packages, seven first-level switches each, 112 second-level switches in
    /// seven planes of sixteen, 392 GB/s per package, non-blocking (CloudMatrix384, three pages).
    #[must_use]
    pub fn cloudmatrix384() -> Self {
        Self { devices: 8, first: 7, second: 112, device_rate: 392e9, nodes: 48 }
    }
}

/// [`TwoLevel`] by name.
pub static TWO_LEVEL: Generator = Generator {
    presets: &[Preset {
        name: "cloudmatrix",
        about: "Ascend 910C over two levels of UB switches (CloudMatrix384)",
        set: &[],
    }],
    parameters: &[
        Parameter::new("devices", Unit::Count, 8.0, "devices in a node"),
        Parameter::new("first", Unit::Count, 7.0, "first-level switches in a node"),
        Parameter::new("second", Unit::Count, 112.0, "second-level switches of the domain"),
        Parameter::new("device_rate", Unit::Rate, 392e9, "of a device over all its links"),
        Parameter::new("most_nodes", Unit::Count, 48.0, "nodes that a domain holds"),
    ],
    one_server: false,
    links: |v, nodes| nodes * (v.number("devices") * v.number("first") + v.number("second")),
    fits: |_, _| Ok(()),
    build: |v, nodes| {
        let domain = TwoLevel {
            devices: v.count("devices"),
            first: v.count("first"),
            second: v.count("second"),
            device_rate: v.number("device_rate"),
            nodes: v.count("most_nodes"),
        };
        build_two_level(&domain, nodes)
    },
    fabrics: &[],
};

/// Builds a domain of `nodes`.
///
/// # Errors
/// There are more nodes than the domain holds, or planes do not come out even.
pub fn build_two_level(p: &TwoLevel, nodes: u32) -> Result<Topology> {
    if nodes > p.nodes {
        return Err(refuse(format!(
            "{nodes} nodes do not fit into a domain of {} nodes of {} devices",
            p.nodes, p.devices
        )));
    }
    if p.first == 0 || !p.second.is_multiple_of(p.first) {
        return Err(refuse(format!(
            "{} second-level switches do not make {} planes",
            p.second, p.first
        )));
    }
    let per_plane = p.second / p.first;
    let mut t = Topology::new(
        format!("{nodes} nodes of {} devices over two levels of switches", p.devices),
        (nodes * (p.devices + p.first) + p.second) as usize,
        (nodes * p.first * (p.devices + per_plane)) as usize,
    );
    t.endpoints_per_node = p.devices;
    // Planes of the second level: switch i of every node is joined to plane i only.
    let planes: Vec<Vec<_>> = (0..p.first)
        .map(|plane| (0..per_plane).map(|i| t.add(NodeKind::Switch(2), plane, i)).collect())
        .collect();
    let plane_rate = p.device_rate / f64::from(p.first);
    for node in 0..nodes {
        let first: Vec<_> = (0..p.first).map(|i| t.add(NodeKind::ScaleUpSwitch, node, i)).collect();
        for d in 0..p.devices {
            let device = t.add(NodeKind::Device, node, d);
            t.endpoints.push(device);
            for switch in &first {
                t.link(device, *switch, link(plane_rate, LOCAL_LATENCY, LinkKind::Backplane, 1));
            }
        }
        for (switch, plane) in first.iter().zip(&planes) {
            let up = plane_rate * f64::from(p.devices) / f64::from(per_plane);
            for spine in plane {
                t.link(*switch, *spine, link(up, LOCAL_LATENCY, LinkKind::Optical, 1));
            }
        }
    }
    Ok(t)
}
