//! Networks as graphs: devices, hosts, cards and switches, and the links between them.
//!
//! A [`Topology`] is built by a generator with parameters ([`generators`]; one file each) or read
//! from a file ([`explicit`]). Everything else is derived from its nodes and edges: routes
//! ([`routing`]), the bill of materials ([`materials`]), the drawing ([`svg`]). Nothing is counted
//! by a formula beside the graph; formulas are what tests compare it with.
//!
//! A link is one edge with a capacity in each direction (links are full duplex) and a number of
//! parallel cables it stands for, so that a trunk of eight ports is one edge and eight cables.

pub mod explicit;
pub mod generators;
pub mod materials;
pub mod routing;
pub mod svg;
mod validate;

use petgraph::graph::{EdgeIndex, NodeIndex, UnGraph};

use crate::error::Result;
use crate::units::{BytesPerSecond, Seconds};

/// What a node of the graph is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeKind {
    /// An accelerator as software sees it.
    Device,
    /// A host bridge or PCI Express switch inside a server.
    Host,
    /// A switch of a scale-up domain.
    ScaleUpSwitch,
    /// A network card.
    Nic,
    /// A switch of the scale-out network, by tier: 1 is next to the cards.
    Switch(u8),
    /// A router at the edge of a data centre.
    Router,
}

impl NodeKind {
    /// Name for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Host => "host",
            Self::ScaleUpSwitch => "scale-up switch",
            Self::Nic => "nic",
            Self::Switch(1) => "leaf switch",
            Self::Switch(2) => "spine switch",
            Self::Switch(_) => "core switch",
            Self::Router => "router",
        }
    }

    /// Whether transfers start and end here.
    #[must_use]
    pub fn is_endpoint(self) -> bool {
        matches!(self, Self::Device | Self::Nic)
    }

    /// Whether it is a switch of the scale-out network.
    #[must_use]
    pub fn is_switch(self) -> bool {
        matches!(self, Self::Switch(_))
    }
}

/// A node of the graph. Names are made on request ([`Topology::name`]): a large network has more
/// nodes than anybody reads names of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vertex {
    /// What it is.
    pub kind: NodeKind,
    /// Server, scale-up domain or, for switches, group (rail, pod) it belongs to.
    pub group: u32,
    /// Position in the group.
    pub index: u32,
}

/// What a link is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkKind {
    /// Traces or a cable cartridge inside a rack.
    Backplane,
    /// Passive copper.
    Copper,
    /// Fibre with a transceiver at each end.
    Optical,
    /// A leased line.
    Wan,
}

impl LinkKind {
    /// Name for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backplane => "backplane",
            Self::Copper => "copper",
            Self::Optical => "optical",
            Self::Wan => "wan",
        }
    }
}

/// An edge of the graph.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Capacity of all its cables together, each direction.
    pub capacity: BytesPerSecond,
    /// Time from one end to the other, and through the node behind it.
    pub latency: Seconds,
    /// What it is made of.
    pub kind: LinkKind,
    /// Cables it stands for.
    pub cables: u16,
}

/// A network as a graph.
#[derive(Clone, Debug)]
pub struct Topology {
    /// What it is called: generator and parameters, or the file.
    pub title: String,
    /// Nodes and links.
    pub graph: UnGraph<Vertex, Link, u32>,
    /// Endpoints in rank order: the devices, or the cards where devices are left out.
    pub endpoints: Vec<NodeIndex<u32>>,
    /// Endpoints that share a server (or scale-up domain): ranks per node.
    pub endpoints_per_node: u32,
    /// Ports of a switch by tier (index 0 is tier 1), where generated from switches with ports.
    pub radix: Option<u32>,
    /// Ports of a switch that are meant for cards, where the rest joins switches of the same tier.
    pub card_ports: Option<u32>,
    /// Names given by a file, by node; empty for generated networks.
    pub names: Vec<String>,
    /// Names of servers given by a file, in the order of their endpoints; empty where there are none.
    pub servers: Vec<String>,
}

impl Topology {
    /// An empty network.
    #[must_use]
    pub fn new(title: String, nodes: usize, links: usize) -> Self {
        Self {
            title,
            graph: UnGraph::with_capacity(nodes, links),
            endpoints: Vec::new(),
            endpoints_per_node: 1,
            radix: None,
            card_ports: None,
            names: Vec::new(),
            servers: Vec::new(),
        }
    }

    /// Adds a node.
    pub fn add(&mut self, kind: NodeKind, group: u32, index: u32) -> NodeIndex<u32> {
        self.graph.add_node(Vertex { kind, group, index })
    }

    /// Adds a link.
    pub fn link(&mut self, a: NodeIndex<u32>, b: NodeIndex<u32>, link: Link) -> EdgeIndex<u32> {
        self.graph.add_edge(a, b, link)
    }

    /// Name of a node: the file's, or made of kind, group and position.
    #[must_use]
    pub fn name(&self, node: NodeIndex<u32>) -> String {
        if let Some(name) = self.names.get(node.index()) {
            return name.clone();
        }
        let Some(vertex) = self.graph.node_weight(node) else { return "?".into() };
        let kind = match vertex.kind {
            NodeKind::Device => "gpu",
            NodeKind::Host => "host",
            NodeKind::ScaleUpSwitch => "nvswitch",
            NodeKind::Nic => "nic",
            NodeKind::Switch(1) => "leaf",
            NodeKind::Switch(2) => "spine",
            NodeKind::Switch(_) => "core",
            NodeKind::Router => "router",
        };
        format!("{kind}{}.{}", vertex.group, vertex.index)
    }

    /// Servers (or scale-up domains) the endpoints sit on.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.endpoints.len().div_ceil(self.endpoints_per_node.max(1) as usize)
    }

    /// Names of the servers: the file's, or `node-0` and so on.
    #[must_use]
    pub fn server_names(&self) -> Vec<String> {
        if self.servers.is_empty() {
            return (0..self.node_count()).map(|i| format!("node-{i}")).collect();
        }
        self.servers.clone()
    }

    /// Checks what every network must satisfy.
    ///
    /// # Errors
    /// Two endpoints are not connected, a link has no bandwidth, or a switch has more links than
    /// ports.
    pub fn check(&self) -> Result<()> {
        validate::check(self)
    }
}
