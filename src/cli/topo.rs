//! `trainyard topo show`: what a network is made of, and a drawing of it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{Error, Result, nearest_names};
use crate::hardware::Catalogue;
use crate::input::Document;
use crate::network::topology::generators::{NAMES, by_name};
use crate::network::topology::materials::{UnitCosts, count};
use crate::network::topology::{Topology, explicit, svg};
use crate::units::si;

/// Prints what a network is made of, counted from its graph.
#[derive(Args, Clone, Debug)]
pub struct TopoShow {
    /// A generator's name (see `topo list`), or a TOML file.
    pub name: String,
    /// Servers (scale-up domains) of a generator; one if absent.
    #[arg(long)]
    pub nodes: Option<u32>,
    /// Catalogue fabric whose prices and powers are applied.
    #[arg(long, value_name = "NAME")]
    pub fabric: Option<String>,
    /// Writes a drawing.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

fn io(error: std::io::Error) -> Error {
    Error::io("write", "standard output", error)
}

/// Lists the generators.
///
/// # Errors
/// The output cannot be written.
pub fn list(out: &mut dyn Write) -> Result<()> {
    for (name, what) in NAMES {
        writeln!(out, "{name:<18} {what}").map_err(io)?;
    }
    Ok(())
}

fn load(name: &str, nodes: Option<u32>) -> Result<Topology> {
    if name.ends_with(".toml") || Path::new(name).is_file() {
        let topology = explicit::read(&Document::read(Path::new(name))?)?;
        if nodes.is_some() {
            return Err(Error::Unsupported(format!(
                "--nodes has no effect on {name}, which says itself what there is"
            )));
        }
        return Ok(topology);
    }
    by_name(name, nodes.unwrap_or(1)).map_err(|error| match error {
        Error::UnknownName { name, .. } if name.contains(['/', '.']) => Error::Missing(format!(
            "there is no file `{name}`, and no generator of that name\n  help: the generators \
             are {}",
            NAMES.map(|(name, _)| name).join(", ")
        )),
        Error::UnknownName { what, name, .. } => {
            let nearest = nearest_names(&name, NAMES.iter().map(|(n, _)| *n));
            let nearest = if nearest.is_empty() {
                NAMES.iter().map(|(n, _)| (*n).to_owned()).collect()
            } else {
                nearest
            };
            Error::UnknownName { what, name, nearest }
        }
        other => other,
    })
}

/// Runs `topo show`.
///
/// # Errors
/// There is no such network, it cannot hold so many nodes, its file is wrong, or the output cannot
/// be written.
pub fn show(args: &TopoShow, catalogue: &Catalogue, out: &mut dyn Write) -> Result<()> {
    // The path is tried before the work is done.
    if let Some(path) = &args.svg
        && let Some(parent) = path.parent()
        && !parent.as_os_str().is_empty()
        && !parent.is_dir()
    {
        return Err(Error::Missing(format!("there is no directory {}", parent.display())));
    }
    let topology = load(&args.name, args.nodes)?;
    print(&topology, out).map_err(io)?;
    let materials = count(&topology);
    if let Some(name) = &args.fabric {
        let fabric = catalogue.fabric(name)?;
        match UnitCosts::of(fabric) {
            Some(unit) => {
                let totals = materials.totals(&unit);
                writeln!(out, "price            {}", si(totals.price.get(), "USD")).map_err(io)?;
                writeln!(out, "power            {}", si(totals.power.get(), "W")).map_err(io)?;
            }
            None => {
                return Err(Error::MissingFigure {
                    what: format!("price of a switch or transceiver of fabric `{}`", fabric.name),
                    hint: "add `price` to [switch] and [transceiver] of its file".into(),
                });
            }
        }
    }
    if let Some(path) = &args.svg {
        let temporary = path.with_extension("svg.new");
        std::fs::write(&temporary, svg::draw(&topology))
            .map_err(|e| Error::io("write", &temporary, e))?;
        std::fs::rename(&temporary, path).map_err(|e| Error::io("rename", path, e))?;
        writeln!(out, "drawing          {}", path.display()).map_err(io)?;
    }
    Ok(())
}

fn print(topology: &Topology, out: &mut dyn Write) -> std::io::Result<()> {
    let materials = count(topology);
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
    for (tier, switches) in &materials.switches {
        writeln!(out, "tier {tier}           {switches} switches")?;
    }
    writeln!(out, "switches         {}", materials.total_switches())?;
    writeln!(out, "transceivers     {}", materials.transceivers)?;
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for edge in topology.graph.edge_references() {
        let link = edge.weight();
        let rate = link.capacity.get() / f64::from(link.cables);
        *kinds.entry(format!("{} at {}", link.kind.as_str(), si(rate, "B/s"))).or_default() +=
            u64::from(link.cables);
    }
    for (kind, cables) in kinds {
        writeln!(out, "cables           {cables} {kind}")?;
    }
    Ok(())
}
