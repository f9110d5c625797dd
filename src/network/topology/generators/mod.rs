//! Networks by generator and parameters, one file per generator.

pub mod clos;
pub mod dragonfly;
pub mod hccs;
pub mod nvswitch;
pub mod pcie;
pub mod rail_only;
pub mod two_sites;
pub mod xgmi;

use super::{Link, LinkKind, Topology};
use crate::error::{Error, Result, nearest_names};
use crate::units::{BytesPerSecond, Seconds};

/// Latency of a switch and the cable behind it, seconds: below 0.15 us port to port (Quantum-2,
/// maker's claim) plus 30 m of fibre.
pub const SWITCH_LATENCY: f64 = 0.3e-6;
/// Latency of a hop inside a server, seconds: assumed, 0.1 to 1 us.
pub const LOCAL_LATENCY: f64 = 0.5e-6;

pub(crate) fn link(rate: f64, latency: f64, kind: LinkKind, cables: u16) -> Link {
    Link {
        capacity: BytesPerSecond(rate * f64::from(cables)),
        latency: Seconds(latency),
        kind,
        cables,
    }
}

pub(crate) fn refuse(what: String) -> Error {
    Error::Unsupported(what)
}

/// Networks that can be asked for by name, with what they are.
pub const NAMES: [(&str, &str); 14] = [
    ("nvswitch", "eight GPUs on NVSwitches (DGX H100)"),
    ("nvl72", "72 GPUs on NVSwitches (GB200 NVL72 rack)"),
    ("mi250x", "eight dies of four MI250X on xGMI (Frontier, LUMI)"),
    ("mi300x", "eight MI300X in a full xGMI mesh"),
    ("hccs", "eight Ascend 910B in a full HCCS mesh"),
    ("cloudmatrix", "Ascend 910C over two levels of UB switches (CloudMatrix384)"),
    ("pcie", "eight GPUs on a PCI Express tree"),
    ("fat-tree", "full-bisection fat tree of radix-64 switches"),
    ("rail-optimised", "Clos in which card i of every node of a group meets on leaf i"),
    ("rail-optimised-3", "the same with three tiers"),
    ("rail-only-64", "rails without a spine that joins them, radix-64 switches"),
    ("rail-only-128", "the same with radix-128 switches"),
    ("dragonfly", "groups of switches, all-to-all (Slingshot)"),
    ("two-sites", "two rail-optimised data centres over a WAN"),
];

/// Nodes that a network of a generator may have here: as many GPUs as the largest clusters planned,
/// and few enough that a graph of them fits into memory.
const MOST_NODES: u32 = 262_144;

/// Builds a network by name for `nodes` servers (or scale-up domains, where it is one).
///
/// # Errors
/// There is no such name, or the network cannot hold as many nodes.
pub fn by_name(name: &str, nodes: u32) -> Result<Topology> {
    if nodes == 0 {
        return Err(refuse("a network of no nodes does not exist".into()));
    }
    if nodes > MOST_NODES {
        return Err(refuse(format!("{nodes} nodes are too many to draw: at most {MOST_NODES}")));
    }
    let one_server = ["nvswitch", "nvl72", "mi250x", "mi300x", "hccs", "pcie"];
    if nodes > 1 && one_server.contains(&name) {
        return Err(refuse(format!(
            "`{name}` is one server, and {nodes} of them are not connected\n  help: leave --nodes \
             out, or name a network between servers (`trainyard topo list`)"
        )));
    }
    let topology = match name {
        "nvswitch" => nvswitch::build(&nvswitch::Parameters::dgx_h100(), nodes)?,
        "nvl72" => nvswitch::build(&nvswitch::Parameters::nvl72(), nodes)?,
        "mi250x" => xgmi::build(&xgmi::Parameters::mi250x(), nodes)?,
        "mi300x" => hccs::build_mesh(&hccs::Mesh::mi300x(), nodes)?,
        "hccs" => hccs::build_mesh(&hccs::Mesh::ascend_910b(), nodes)?,
        "cloudmatrix" => hccs::build_two_level(&hccs::TwoLevel::cloudmatrix384(), nodes)?,
        "pcie" => pcie::build(&pcie::Parameters::two_switches(), nodes)?,
        "fat-tree" => clos::build(&clos::Parameters::fat_tree(nodes * 8, 8, 64, 50e9))?,
        "rail-optimised" => clos::build(&clos::Parameters::rail_optimised(nodes, 8, 64, 50e9, 2))?,
        "rail-optimised-3" => {
            clos::build(&clos::Parameters::rail_optimised(nodes, 8, 64, 50e9, 3))?
        }
        "rail-only-64" => rail_only::build(&rail_only::Parameters::new(nodes * 8, 8, 64, 50e9))?,
        "rail-only-128" => rail_only::build(&rail_only::Parameters::new(nodes * 8, 8, 128, 50e9))?,
        "dragonfly" => dragonfly::build(&dragonfly::Parameters::slingshot(nodes))?,
        "two-sites" => two_sites::build(&two_sites::Parameters::example(nodes))?,
        _ => {
            return Err(Error::UnknownName {
                what: "topology",
                name: name.to_owned(),
                nearest: nearest_names(name, NAMES.iter().map(|(name, _)| *name)),
            });
        }
    };
    topology.check()?;
    Ok(topology)
}
