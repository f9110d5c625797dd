//! `trainyard topo`: networks that can be asked for, what one is made of and costs, a drawing of it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{Error, Result};
use crate::hardware::{Catalogue, Fabric, Node};
use crate::input::Document;
use crate::network::topology::generators::{by_name, fabric_network, named, presets};
use crate::network::topology::materials::{Materials, UnitCosts, count};
use crate::network::topology::{LinkKind, Topology, explicit, svg};
use crate::output::{check_target, write_file};
use crate::units::si;

use super::stdout_error;

/// Prints what a network is made of, counted from its graph.
#[derive(Args, Clone, Debug)]
pub struct TopoShow {
    /// A network's name (`trainyard topo list`), or a TOML file; the graph of --fabric if absent.
    #[arg(required_unless_present = "fabric")]
    pub name: Option<String>,
    /// Servers (scale-up domains); one if absent.
    #[arg(long)]
    pub nodes: Option<u32>,
    /// Sets a parameter, such as radix=32 or port_rate="200 Gb/s" (`trainyard topo list NAME`).
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Catalogue fabric: its prices and powers are applied, and without NAME its graph is shown, as
    /// scenarios use it.
    #[arg(long, value_name = "NAME")]
    pub fabric: Option<String>,
    /// Catalogue node whose cards are on the fabric; one that usually has it if absent.
    #[arg(long, value_name = "NAME", requires = "fabric", conflicts_with = "name")]
    pub node: Option<String>,
    /// Writes a drawing.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// Lists the networks that can be asked for.
#[derive(Args, Clone, Debug)]
pub struct TopoList {
    /// Shows what can be set of this one: key, value, unit.
    name: Option<String>,
    /// Shows what can be set of all of them.
    #[arg(long, conflicts_with = "name")]
    parameters: bool,
}

/// Runs `topo list`.
///
/// # Errors
/// There is no network of that name, or the output cannot be written.
pub fn list(args: &TopoList, out: &mut dyn Write) -> Result<()> {
    if let Some(name) = &args.name {
        let (generator, preset) = named(name)?;
        writeln!(out, "{name}: {}", preset.about).map_err(stdout_error)?;
        return write!(out, "{}", generator.values(preset).describe()).map_err(stdout_error);
    }
    for (generator, preset) in presets() {
        writeln!(out, "{:<18} {}", preset.name, preset.about).map_err(stdout_error)?;
        if args.parameters {
            write!(out, "{}", generator.values(preset).describe()).map_err(stdout_error)?;
        }
    }
    Ok(())
}

/// The node whose cards are on a fabric: the one asked for, or one that usually has it.
fn node_of<'a>(
    catalogue: &'a Catalogue,
    fabric: &Fabric,
    wanted: Option<&str>,
) -> Result<&'a Node> {
    if let Some(name) = wanted {
        return catalogue.node(name);
    }
    let nodes = || catalogue.nodes.values().map(|entry| &entry.item);
    let has = |node: &&Node| {
        let usual = node.usual_fabric.as_deref().and_then(|name| catalogue.fabric(name).ok());
        usual.is_some_and(|usual| usual.name == fabric.name)
    };
    let mut having: Vec<&Node> = nodes().filter(has).collect();
    having.sort_by_key(|node| (!node.usual, node.name.as_str()));
    having.first().copied().ok_or_else(|| {
        Error::Missing(format!(
            "no node of the catalogue usually has `{}`\n  help: name one with --node, such as \
             --node dgx-h100 (`trainyard hw list`)",
            fabric.name
        ))
    })
}

fn load(args: &TopoShow, catalogue: &Catalogue, fabric: Option<&Fabric>) -> Result<Topology> {
    let nodes = args.nodes.unwrap_or(1);
    let Some(name) = &args.name else {
        let fabric = fabric
            .ok_or_else(|| Error::Missing("name a network, or a fabric with --fabric".into()))?;
        let node = node_of(catalogue, fabric, args.node.as_deref())?;
        let mut topology = fabric_network(fabric, node, nodes, &args.set)?;
        topology.title =
            format!("{} with {nodes} x {}: {}", fabric.name, node.name, topology.title);
        return Ok(topology);
    };
    if name.ends_with(".toml") || Path::new(name).is_file() {
        let topology = explicit::read(&Document::read(Path::new(name))?)?;
        for (option, given) in [("--nodes", args.nodes.is_some()), ("--set", !args.set.is_empty())]
        {
            if given {
                return Err(Error::Unsupported(format!(
                    "{option} has no effect on {name}, which says itself what there is"
                )));
            }
        }
        return Ok(topology);
    }
    by_name(name, nodes, &args.set).map_err(|error| match error {
        Error::UnknownName { what: "topology", name, .. } if name.contains(['/', '.']) => {
            let names: Vec<&str> = presets().map(|(_, preset)| preset.name).collect();
            Error::Missing(format!(
                "there is no file `{name}`, and no generator of that name\n  help: the generators \
                 are {}",
                names.join(", ")
            ))
        }
        other => other,
    })
}

/// Runs `topo show`.
///
/// # Errors
/// There is no such network or parameter, it cannot hold so many nodes, its file is wrong, or the
/// output cannot be written.
pub fn show(args: &TopoShow, catalogue: &Catalogue, out: &mut dyn Write) -> Result<()> {
    // What can be wrong is found before the first line is printed.
    if let Some(path) = &args.svg {
        check_target(path)?;
    }
    let fabric = args.fabric.as_deref().map(|name| catalogue.fabric(name)).transpose()?;
    let topology = load(args, catalogue, fabric)?;
    let drawing = args.svg.as_ref().map(|_| svg::draw(&topology));
    let materials = count(&topology);
    bill(&topology, &materials, fabric, out).map_err(stdout_error)?;
    if let (Some(path), Some(drawing)) = (&args.svg, drawing) {
        write_file(path, drawing.as_bytes())?;
        writeln!(out, "drawing          {}", path.display()).map_err(stdout_error)?;
    }
    Ok(())
}

fn bill(
    topology: &Topology,
    materials: &Materials,
    fabric: Option<&Fabric>,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    let unit = fabric.map(UnitCosts::of);
    let each = |price: Option<f64>, power: f64| {
        let price = price.map_or_else(|| "price not known".to_owned(), |p| si(p, "USD"));
        format!(" at {price} and {}", si(power, "W"))
    };
    writeln!(out, "{}", topology.title)?;
    writeln!(
        out,
        "endpoints        {} on {} nodes",
        topology.endpoints.len(),
        topology.node_count()
    )?;
    if materials.scale_up_switches > 0 {
        writeln!(out, "scale-up         {} switches", materials.scale_up_switches)?;
    }
    if materials.routers > 0 {
        writeln!(
            out,
            "routers          {}, of which the catalogue has neither price nor power",
            materials.routers
        )?;
    }
    for (tier, switches) in &materials.switches {
        writeln!(out, "tier {tier}           {switches} switches")?;
    }
    let costs = unit
        .map_or_else(String::new, |u| each(u.switch_price.map(|p| p.get()), u.switch_power.get()));
    writeln!(out, "switches         {}{costs}", materials.total_switches())?;
    let costs = unit.map_or_else(String::new, |u| {
        each(u.transceiver_price.map(|p| p.get()), u.transceiver_power.get())
    });
    writeln!(out, "transceivers     {}{costs}", materials.transceivers)?;
    let mut kinds: BTreeMap<(LinkKind, String), u64> = BTreeMap::new();
    for edge in topology.graph.edge_references() {
        let link = edge.weight();
        let rate = si(link.capacity.get() / f64::from(link.cables), "B/s");
        *kinds.entry((link.kind, rate)).or_default() += u64::from(link.cables);
    }
    for ((kind, rate), cables) in kinds {
        writeln!(out, "cables           {cables} {} at {rate}", kind.as_str())?;
    }
    let (Some(unit), Some(fabric)) = (unit, fabric) else { return Ok(()) };
    let totals = materials.totals(&unit);
    match totals.price {
        Some(price) => writeln!(
            out,
            "price            {}, switches and transceivers; cables are not priced",
            si(price.get(), "USD")
        )?,
        None => writeln!(
            out,
            "price            not known: {} has no price of {}",
            fabric.name,
            unit.unpriced().join(" and of ")
        )?,
    }
    writeln!(
        out,
        "power            {}, switches and transceivers in training",
        si(totals.power.get(), "W")
    )?;
    let ports = fabric.switch.ports.value.get() as u32;
    if let Some(radix) = topology.radix.filter(|radix| *radix != ports) {
        writeln!(
            out,
            "note             the switches here have {radix} ports, those of {} {ports}: its price \
             and power are applied all the same",
            fabric.name
        )?;
    }
    Ok(())
}
