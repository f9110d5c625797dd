//! `[network]` and the fabric: names looked up, ranks put on nodes, and what cannot be or would do
//! nothing refused.

use std::sync::Arc;

use crate::error::Error;
use crate::hardware::{
    Catalogue, CollectiveLibrary, DeviceLinks, Fabric, Node, ScaleUpKind, Stack, Transport,
};
use crate::network::collective::Algorithm;
use crate::network::placement::{Placement, Strategy};
use crate::network::topology::generators::{Arrangement, fabric_fits};
use crate::network::topology::{Topology as Graph, explicit};
use crate::network::{BandwidthMatrix, Choices};

use super::files::Files;
use super::{LinkVariability, NetworkModel, NetworkTable, PlacementStrategy, Routing, Scenario};

/// What collectives are timed with.
#[derive(Clone, Debug)]
pub struct Network<'a> {
    /// Collective library and the accelerator's links in its terms; `None`: by levels.
    pub library: Option<(&'a CollectiveLibrary, &'a DeviceLinks)>,
    /// Way between nodes.
    pub transport: Option<&'a Transport>,
    /// What the scenario prescribes.
    pub choices: Choices,
    /// The fabric with the scenario's oversubscription.
    pub fabric: Option<Fabric>,
    /// Cards, switches and links from a file; the fabric's own where there is none.
    pub topology: Option<Arc<Graph>>,
    /// What pairs of nodes were measured to reach.
    pub matrix: Option<Arc<BandwidthMatrix>>,
    /// Places of the ranks.
    pub placement: Placement,
}

/// The key that is wrong, and why.
type Refused = (&'static str, Error);

fn refuse<T>(key: &'static str, message: &str) -> std::result::Result<T, Refused> {
    Err((key, Error::Unsupported(message.to_owned())))
}

/// Looks up what `[network]` names, and puts ranks on nodes.
///
/// # Errors
/// The key that is wrong, and why.
pub(super) fn resolve<'a>(
    scenario: &Scenario,
    catalogue: &'a Catalogue,
    (node, fabric, stack): (&'a Node, Option<&'a Fabric>, &'a Stack),
    devices: u32,
    files: &mut Files<'_>,
) -> std::result::Result<Network<'a>, Refused> {
    let table = &scenario.network;
    let nodes = scenario.cluster.nodes;
    let library = match table.model {
        Some(NetworkModel::Levels) => None,
        wanted => {
            let found = catalogue.library_of(&node.accelerator, stack.collectives);
            if wanted.is_some() && found.is_none() {
                return refuse(
                    "network.model",
                    &format!("the catalogue has no collective library for {}", node.accelerator),
                );
            }
            found
        }
    };
    check_effects(table, library.is_none(), fabric)?;
    check_files(table, fabric, devices <= node.scale_up.domain)?;
    if table.transfer_engine.is_some() && node.scale_up.copies.is_none() {
        return refuse(
            "network.transfer_engine",
            &format!("has no effect on {}, whose links between devices are alike", node.name),
        );
    }
    check_algorithms(table, library.map(|(library, _)| library), node, devices)?;
    let transport = match (&table.transport, fabric) {
        (Some(name), Some(_)) => {
            Some(catalogue.transport(name).map_err(|e| ("network.transport", e))?)
        }
        (None, Some(fabric)) => {
            Some(catalogue.transport(&fabric.transport).map_err(|e| ("cluster.fabric", e))?)
        }
        (_, None) => None,
    };
    let mut fabric = fabric.cloned();
    if let (Some(ratio), Some(fabric)) = (table.oversubscription, &mut fabric) {
        fabric.oversubscription.value.0 = ratio;
    }
    let topology = match &table.topology {
        Some(name) => Some(wired(files, name, node, nodes)?),
        None => None,
    };
    if let (Some(_), Some(fabric)) = (&topology, &mut fabric) {
        // What the arrangement would have done is in the graph.
        fabric.topology = Arrangement::of_files();
        fabric.oversubscription.value.0 = 1.0;
    } else if let Some(fabric) = fabric.as_ref().filter(|_| devices > node.scale_up.domain) {
        let hint = |error: Error| {
            let error = error.to_string();
            let why = error.strip_prefix("unsupported: ").unwrap_or(&error);
            Error::Unsupported(format!(
                "{nodes} nodes do not fit on {}: {why}\n  help: use fewer nodes, or a fabric of \
                 switches with more ports",
                fabric.name
            ))
        };
        fabric_fits(fabric, node, nodes).map_err(|e| ("cluster.fabric", hint(e)))?;
    }
    let servers = topology.as_ref().map_or(nodes as usize, |graph| graph.node_count());
    let placement = match &table.placement_file {
        Some(name) => {
            let names = topology.as_ref().map_or_else(
                || (0..nodes).map(|i| format!("node-{i}")).collect(),
                |graph| graph.server_names(),
            );
            files
                .document("placement", name)
                .and_then(|document| Placement::read(&document, &names, devices, node.devices))
                .map_err(|e| ("network.placement_file", e))?
        }
        None => place(scenario, node, devices)?,
    };
    let matrix = match &table.bandwidth_matrix {
        Some(name) => {
            let matrix = files
                .table("bandwidth matrix", name)
                .and_then(|file| BandwidthMatrix::parse(&file.origin, &file.text, servers))
                .map_err(|e| ("network.bandwidth_matrix", e))?;
            Some(Arc::new(matrix))
        }
        None => None,
    };
    let choices = Choices {
        all_reduce: table.all_reduce,
        gather_scatter: table.gather_scatter,
        all_to_all: table.all_to_all,
        protocol: table.protocol,
        transfer_engine: table.transfer_engine.unwrap_or_default(),
        no_in_switch: table.in_switch_reduction == Some(false),
    };
    Ok(Network { library, transport, choices, fabric, topology, matrix, placement })
}

/// Reads a network from a file and checks that it has a place for every card.
fn wired(
    files: &mut Files<'_>,
    name: &str,
    node: &Node,
    nodes: u32,
) -> std::result::Result<Arc<Graph>, Refused> {
    let key = "network.topology";
    let document = files.document("topology", name).map_err(|e| (key, e))?;
    let graph = explicit::read(&document).map_err(|e| (key, e))?;
    if graph.node_count() < nodes as usize {
        return refuse(
            key,
            &format!(
                "{name} has ports for {} nodes, and the cluster has {nodes}\n  help: add endpoints, or \
                 set cluster.nodes",
                graph.node_count()
            ),
        );
    }
    let (ends, devices) = (graph.endpoints_per_node, node.devices);
    if !ends.is_multiple_of(devices) && !devices.is_multiple_of(ends) {
        return refuse(
            key,
            &format!(
                "{name} has {ends} endpoints per node, which do not divide among {devices} devices"
            ),
        );
    }
    Ok(Arc::new(graph))
}

/// Refuses files that would change nothing.
fn check_files(
    table: &NetworkTable,
    fabric: Option<&Fabric>,
    one_domain: bool,
) -> std::result::Result<(), Refused> {
    for (key, given) in [
        ("network.topology", table.topology.is_some()),
        ("network.bandwidth_matrix", table.bandwidth_matrix.is_some()),
    ] {
        if given && fabric.is_none() {
            return refuse(key, "has no effect, since no fabric is named");
        }
        if given && one_domain {
            return refuse(key, "has no effect, since all devices are in one scale-up domain");
        }
    }
    if table.topology.is_some() && table.oversubscription.is_some() {
        return refuse(
            "network.oversubscription",
            "has no effect, since network.topology says which links there are",
        );
    }
    let from_file = table.placement == PlacementStrategy::FromFile;
    if from_file && table.placement_file.is_none() {
        return refuse("network.placement", "needs network.placement_file");
    }
    if !from_file && table.placement_file.is_some() {
        return refuse("network.placement_file", "needs placement = \"from_file\"");
    }
    Ok(())
}

/// Refuses keys that would change nothing, and numbers that make no sense.
fn check_effects(
    table: &NetworkTable,
    by_levels: bool,
    fabric: Option<&Fabric>,
) -> std::result::Result<(), Refused> {
    for (key, given) in [
        ("network.all_reduce", table.all_reduce.is_some()),
        ("network.gather_scatter", table.gather_scatter.is_some()),
        ("network.all_to_all", table.all_to_all.is_some()),
        ("network.protocol", table.protocol.is_some()),
        ("network.transport", table.transport.is_some()),
        ("network.in_switch_reduction", table.in_switch_reduction.is_some()),
    ] {
        if given && by_levels {
            return refuse(key, "has no effect where collectives are timed by levels");
        }
    }
    for (key, given) in [
        ("network.transport", table.transport.is_some()),
        ("network.oversubscription", table.oversubscription.is_some()),
        ("network.routing", table.routing != Routing::Spread),
        ("network.variability", table.variability != LinkVariability::None),
    ] {
        if given && fabric.is_none() {
            return refuse(key, "has no effect, since no fabric is named");
        }
    }
    if let Some(ratio) = table.oversubscription {
        if !(ratio.is_finite() && (1.0..=64.0).contains(&ratio)) {
            return refuse(
                "network.oversubscription",
                "must be between 1 (as much up as down) and 64",
            );
        }
        if let Some(fabric) = fabric
            && !fabric.topology.is.tapers
        {
            return refuse(
                "network.oversubscription",
                &format!(
                    "has no effect on {}, whose tiers of leaf and spine are not tapered",
                    fabric.name
                ),
            );
        }
    }
    if table.placement_group.is_some() && table.placement != PlacementStrategy::RailAware {
        return refuse("network.placement_group", "needs placement = \"rail_aware\"");
    }
    if table.node_order.is_some() && table.placement != PlacementStrategy::Block {
        return refuse("network.node_order", "needs placement = \"block\"");
    }
    Ok(())
}

/// Refuses algorithms that the operation, the library or the cluster does not have.
fn check_algorithms(
    table: &NetworkTable,
    library: Option<&CollectiveLibrary>,
    node: &Node,
    devices: u32,
) -> std::result::Result<(), Refused> {
    use Algorithm::{
        Direct, Hierarchical, HierarchicalOverlapped, InSwitch, InSwitchTree, Ring, Tree, TwoHop,
    };
    for (key, what, wanted, possible) in [
        (
            "network.all_reduce",
            "an all-reduce",
            table.all_reduce,
            &[Ring, Tree, InSwitch, InSwitchTree, Hierarchical, HierarchicalOverlapped][..],
        ),
        (
            "network.gather_scatter",
            "an all-gather or reduce-scatter",
            table.gather_scatter,
            &[Ring, Hierarchical, HierarchicalOverlapped],
        ),
        ("network.all_to_all", "an all-to-all", table.all_to_all, &[Direct, TwoHop]),
    ] {
        if let Some(wanted) = wanted.filter(|wanted| !possible.contains(wanted)) {
            let names: Vec<&str> = possible.iter().map(|a| a.as_str()).collect();
            return refuse(
                key,
                &format!(
                    "{} is no algorithm of {what}\n  help: one of {}",
                    wanted.as_str(),
                    names.join(", ")
                ),
            );
        }
    }
    let one_domain = devices <= node.scale_up.domain;
    let in_switch = matches!(table.all_reduce, Some(InSwitch | InSwitchTree));
    if (in_switch || table.in_switch_reduction == Some(true))
        && !(node.scale_up.in_switch_reduction && node.scale_up.kind == ScaleUpKind::Switch)
    {
        let key = if in_switch { "network.all_reduce" } else { "network.in_switch_reduction" };
        return refuse(key, &format!("the switches inside {} cannot reduce", node.name));
    }
    if let Some(library) = library.filter(|library| library.branches.in_switch.is_none())
        && (in_switch || table.in_switch_reduction.is_some())
    {
        let key = if in_switch { "network.all_reduce" } else { "network.in_switch_reduction" };
        return refuse(key, &format!("{} has no reduction in the switch", library.name));
    }
    if in_switch && table.in_switch_reduction == Some(false) {
        return refuse(
            "network.in_switch_reduction",
            "is false, and network.all_reduce asks for reduction in the switch",
        );
    }
    if one_domain && matches!(table.all_reduce, Some(Tree | InSwitchTree)) {
        return refuse(
            "network.all_reduce",
            "is an algorithm between scale-up domains, and all devices are in one",
        );
    }
    Ok(())
}

/// Puts ranks on nodes.
fn place(
    scenario: &Scenario,
    node: &Node,
    devices: u32,
) -> std::result::Result<Placement, Refused> {
    let table = &scenario.network;
    let nodes = scenario.cluster.nodes;
    if let Some(order) = &table.node_order {
        return Placement::in_order(order, devices, nodes, node.devices)
            .map_err(|e| ("network.node_order", e));
    }
    let strategy = match table.placement {
        // A file is read before this.
        PlacementStrategy::Block | PlacementStrategy::FromFile => Strategy::Block,
        PlacementStrategy::Strided => Strategy::Strided,
        PlacementStrategy::RailAware => Strategy::RailAware {
            group: table.placement_group.unwrap_or(scenario.plan.tensor_parallel),
        },
        PlacementStrategy::Random => Strategy::Random { seed: scenario.seed },
    };
    let key = if table.placement_group.is_some() {
        "network.placement_group"
    } else {
        "network.placement"
    };
    Placement::new(strategy, devices, nodes, node.devices).map_err(|e| (key, e))
}
