//! Networks by generator and parameters, one file per generator.
//!
//! A file has its generator's parameters as a type, `build`, and a [`Generator`] that says under
//! which names it can be asked for, what can be set, and which arrangements of fabric files it
//! builds. [`REGISTRY`] lists them: one line per generator, and nothing else names them one by one.

mod arrangement;
pub mod clos;
pub mod dragonfly;
pub mod hccs;
pub mod nvswitch;
mod parameters;
pub mod pcie;
pub mod rail_only;
pub mod two_sites;
pub mod xgmi;

pub use self::arrangement::{Arrangement, ForFabrics};
pub use self::parameters::{Parameter, Unit, Values};
use super::{Link, LinkKind, Topology};
use crate::error::{Error, Result, nearest_names};
use crate::hardware::{Fabric, Node};
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

/// All generators. A new one is a file here and a line in this list.
pub static REGISTRY: [&Generator; 9] = [
    &nvswitch::GENERATOR,
    &xgmi::GENERATOR,
    &hccs::MESH,
    &hccs::TWO_LEVEL,
    &pcie::GENERATOR,
    &clos::GENERATOR,
    &rail_only::GENERATOR,
    &dragonfly::GENERATOR,
    &two_sites::GENERATOR,
];

/// What builds networks of one kind.
#[derive(Debug)]
pub struct Generator {
    /// Names under which its networks can be asked for.
    pub presets: &'static [Preset],
    /// What can be set.
    pub parameters: &'static [Parameter],
    /// It is one server (or scale-up domain); several are not connected with each other.
    pub one_server: bool,
    /// About how many links a network of so many nodes has: a bound on memory, asked before anything
    /// is built.
    pub links: fn(&Values, f64) -> f64,
    /// Whether so many nodes fit, without building anything.
    pub fits: fn(&Values, u32) -> Result<()>,
    /// Builds it.
    pub build: fn(&Values, u32) -> Result<Topology>,
    /// Arrangements of fabric files that it builds.
    pub fabrics: &'static [ForFabrics],
}

/// A name for a network of a generator.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// The name.
    pub name: &'static str,
    /// What it is, for people.
    pub about: &'static str,
    /// Where it differs from the parameters' defaults.
    pub set: &'static [(&'static str, f64)],
}

/// Nodes that a network of a generator may have here: as many GPUs as the largest clusters planned,
/// and few enough that a graph of them fits into memory.
const MOST_NODES: u32 = 262_144;
/// Links of the largest graph that is built: some 60 bytes each with the nodes.
const MOST_LINKS: f64 = 8_388_608.0;

impl Generator {
    /// The parameters' values for a preset.
    #[must_use]
    pub fn values(&self, preset: &Preset) -> Values {
        let set = preset.set.iter();
        set.fold(Values::new(self.parameters), |values, (key, value)| values.with(key, *value))
    }

    /// Whether a network of these values can have so many nodes, without building it.
    ///
    /// # Errors
    /// It cannot, or it would be too large.
    pub fn check(&self, values: &Values, nodes: u32) -> Result<()> {
        if nodes == 0 {
            return Err(refuse("a network of no nodes does not exist".into()));
        }
        if nodes > MOST_NODES {
            return Err(refuse(format!(
                "{nodes} nodes are too many to build: at most {MOST_NODES}"
            )));
        }
        let links = (self.links)(values, nodes.into());
        if links > MOST_LINKS {
            return Err(refuse(format!(
                "a network of about {links:.0} links is too large: at most {MOST_LINKS}"
            )));
        }
        (self.fits)(values, nodes)
    }

    /// Builds a network of so many nodes (servers, or scale-up domains where it is one).
    ///
    /// # Errors
    /// As for [`Self::check`], or what is built is not sound.
    pub fn network(&self, values: &Values, nodes: u32) -> Result<Topology> {
        self.check(values, nodes)?;
        let topology = (self.build)(values, nodes)?;
        topology.check()?;
        Ok(topology)
    }
}

/// All names with their generators.
pub fn presets() -> impl Iterator<Item = (&'static Generator, &'static Preset)> {
    REGISTRY
        .iter()
        .flat_map(|generator| generator.presets.iter().map(|preset| (*generator, preset)))
}

/// The generator and preset of a name.
///
/// # Errors
/// There is none; the message offers the nearest names.
pub fn named(name: &str) -> Result<(&'static Generator, &'static Preset)> {
    presets().find(|(_, preset)| preset.name == name).ok_or_else(|| {
        let names = || presets().map(|(_, preset)| preset.name);
        let mut nearest = nearest_names(name, names());
        if nearest.is_empty() {
            nearest = names().map(ToOwned::to_owned).collect();
        }
        Error::UnknownName { what: "topology", name: name.to_owned(), nearest }
    })
}

/// Builds a network by name for `nodes` servers (or scale-up domains, where it is one), with
/// parameters set by `key=value`.
///
/// # Errors
/// There is no such name or parameter, or the network cannot hold as many nodes.
pub fn by_name(name: &str, nodes: u32, settings: &[String]) -> Result<Topology> {
    let (generator, preset) = named(name)?;
    let mut values = generator.values(preset);
    settings.iter().try_for_each(|setting| values.set(setting))?;
    if nodes > 1 && generator.one_server {
        return Err(refuse(format!(
            "`{name}` is one server, and {nodes} of them are not connected\n  help: leave --nodes \
             out, or name a network between servers (`trainyard topo list`)"
        )));
    }
    generator.network(&values, nodes)
}

/// The generator, values and number of nodes (or domains) of a catalogue fabric.
fn of_fabric(
    fabric: &Fabric,
    node: &Node,
    nodes: u32,
) -> Result<(&'static Generator, Values, u32)> {
    let Arrangement { generator, is } = fabric.topology;
    let (values, count) = (is.values)(Values::new(generator.parameters), fabric, node, nodes)?;
    Ok((generator, values, count))
}

/// Whether a catalogue fabric can hold so many servers, without building its graph.
///
/// # Errors
/// Its switches have too few ports, or its parts cannot be filled.
pub fn fabric_fits(fabric: &Fabric, node: &Node, nodes: u32) -> Result<()> {
    let (generator, values, count) = of_fabric(fabric, node, nodes)?;
    generator.check(&values, count)
}

/// The graph of a catalogue fabric with so many servers, with parameters set by `key=value` on top.
///
/// # Errors
/// As for [`fabric_fits`], or there is no such parameter.
pub fn fabric_network(
    fabric: &Fabric,
    node: &Node,
    nodes: u32,
    settings: &[String],
) -> Result<Topology> {
    let (generator, mut values, count) = of_fabric(fabric, node, nodes)?;
    settings.iter().try_for_each(|setting| values.set(setting))?;
    let mut topology = generator.network(&values, count)?;
    if topology.endpoints.len() as u64 == u64::from(nodes) * u64::from(node.devices) {
        // One endpoint per device: they are those of servers, whatever a domain spans.
        topology.endpoints_per_node = node.devices;
    }
    Ok(topology)
}

/// What a card of a node sends over a fabric's port.
pub(crate) fn port_rate(fabric: &Fabric, node: &Node) -> f64 {
    fabric.link_bandwidth.value.min(node.nic.bandwidth.value).get()
}
