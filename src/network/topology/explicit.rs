//! Networks from a file: nodes and links by name.
//!
//! ```toml
//! name = "two nodes, one switch"
//! endpoints_per_node = 2          # optional: 1
//! switch_ports = 4                # optional: no limit
//! servers = ["host-7", "host-9"]  # optional: names for placements, in the order of the endpoints
//!
//! [[nodes]]
//! name = "a0"
//! kind = "device"                 # device, host, nic, scale_up_switch, leaf, spine, core, router
//! group = 0                       # optional: server, rail or pod it belongs to
//!
//! [[links]]
//! between = ["a0", "leaf"]
//! bandwidth = "50 GB/s"           # one direction; all cables together
//! latency = "0.5 us"
//! kind = "copper"                 # backplane, copper, optical, wan
//! cables = 1                      # optional
//! ```
//!
//! Ranks are the devices in the order of the file, or the cards where there are no devices.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Link, LinkKind, NodeKind, Topology};
use crate::error::{Error, Result, nearest_names};
use crate::input::Document;
use crate::units::{BytesPerSecond, Quantity, Seconds, read_quantity};

/// A network between servers (or inside one), for `network.topology` of scenarios and
/// `trainyard topo show FILE`: nodes and links by name.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TopologyFile {
    /// What it is called.
    name: String,
    /// Endpoints (devices, or cards where there are no devices) of a server; they fill servers in
    /// the order of the file.
    #[serde(default = "one")]
    #[schemars(range(min = 1))]
    endpoints_per_node: u32,
    /// Ports of every switch; no limit where absent.
    switch_ports: Option<u32>,
    /// Names of the servers for placements, in the order of the endpoints; `node-0` and so on where
    /// absent.
    #[serde(default)]
    servers: Vec<String>,
    /// Devices, cards, switches. Ranks are the devices in this order, or the cards.
    nodes: Vec<NodeEntry>,
    /// What joins them.
    #[serde(default)]
    links: Vec<LinkEntry>,
}

fn one() -> u32 {
    1
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum NodeWord {
    /// An accelerator.
    Device,
    /// A host bridge or PCI Express switch.
    Host,
    /// A network card.
    Nic,
    /// A switch of a scale-up domain.
    ScaleUpSwitch,
    /// A switch next to the cards.
    Leaf,
    /// A switch of the second tier.
    Spine,
    /// A switch of the third tier.
    Core,
    /// A router at the edge of a data centre.
    Router,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum LinkWord {
    /// Traces or a cable cartridge inside a rack.
    Backplane,
    /// Passive copper.
    Copper,
    /// Fibre with a transceiver at each end of each cable.
    Optical,
    /// A leased line.
    Wan,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NodeEntry {
    /// Name that links use; no two nodes share one.
    name: String,
    /// What it is.
    kind: NodeWord,
    /// Server, rail or pod it belongs to, for drawings.
    #[serde(default)]
    group: u32,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LinkEntry {
    /// The names of its two ends.
    between: [String; 2],
    /// Rate of all its cables together, one direction, with its unit: `50 GB/s`, `400 Gb/s`.
    #[schemars(regex(pattern = r"^[0-9.eE+-]+ *[A-Za-z]+/s$"))]
    bandwidth: String,
    /// Time from one end to the other, and through the node behind it, with its unit: `0.5 us`.
    #[schemars(regex(pattern = r"^[0-9.eE+-]+ *[a-z]+$"))]
    latency: String,
    /// What it is made of.
    kind: LinkWord,
    /// Cables it stands for; one where absent.
    #[schemars(range(min = 1))]
    cables: Option<u16>,
}

/// Slowest link, bytes per second: over a slower one, times of steps leave the range of whole
/// nanoseconds.
const SLOWEST: f64 = 1e6;

/// A quantity written as a number and a unit: `50 GB/s`.
fn quantity<Q: Quantity>(document: &Document, key: &str, text: &str) -> Result<Q> {
    read_quantity(text).map_err(|(message, hint)| document.error_at(key, &message, Some(hint)))
}

/// Reads a network.
///
/// # Errors
/// A key is unknown, two nodes share a name, a link names a node that does not exist or has no
/// bandwidth, a switch has more cables than ports, or two endpoints are not connected; the message
/// has the place in the file where there is one.
pub fn read(document: &Document) -> Result<Topology> {
    let file: TopologyFile = document.decode()?;
    let mut topology = Topology::new(file.name, file.nodes.len(), file.links.len());
    if file.endpoints_per_node == 0 {
        return Err(document.error_at("endpoints_per_node", "must be at least 1", None));
    }
    topology.endpoints_per_node = file.endpoints_per_node;
    topology.radix = file.switch_ports;
    let mut by_name = BTreeMap::new();
    let mut positions: BTreeMap<(NodeKind, u32), u32> = BTreeMap::new();
    for (i, node) in file.nodes.iter().enumerate() {
        let kind = match node.kind {
            NodeWord::Device => NodeKind::Device,
            NodeWord::Host => NodeKind::Host,
            NodeWord::Nic => NodeKind::Nic,
            NodeWord::ScaleUpSwitch => NodeKind::ScaleUpSwitch,
            NodeWord::Leaf => NodeKind::Switch(1),
            NodeWord::Spine => NodeKind::Switch(2),
            NodeWord::Core => NodeKind::Switch(3),
            NodeWord::Router => NodeKind::Router,
        };
        let position = positions.entry((kind, node.group)).or_default();
        let index = topology.add(kind, node.group, *position);
        *position += 1;
        topology.names.push(node.name.clone());
        if by_name.insert(node.name.as_str(), index).is_some() {
            return Err(document.error_at(
                &format!("nodes[{i}].name"),
                &format!("`{}` is already the name of another node", node.name),
                None,
            ));
        }
    }
    for (i, entry) in file.links.iter().enumerate() {
        let mut ends = [None; 2];
        for (end, (slot, name)) in ends.iter_mut().zip(&entry.between).enumerate() {
            *slot = by_name.get(name.as_str()).copied();
            if slot.is_none() {
                let nearest = nearest_names(name, by_name.keys().copied());
                return Err(document.error_at(
                    &format!("links[{i}].between[{end}]"),
                    &format!("no node named `{name}`"),
                    nearest.first().map(|near| format!("did you mean `{near}`?")),
                ));
            }
        }
        let [Some(a), Some(b)] = ends else { continue };
        if a == b {
            return Err(document.error_at(
                &format!("links[{i}].between"),
                "a link leads from a node to itself",
                None,
            ));
        }
        let key = format!("links[{i}].bandwidth");
        let capacity: BytesPerSecond = quantity(document, &key, &entry.bandwidth)?;
        if capacity.get() <= 0.0 {
            return Err(document.error_at(
                &key,
                "a link without bandwidth carries nothing",
                Some("remove the link, or give its rate".into()),
            ));
        }
        if capacity.get() < SLOWEST {
            return Err(document.error_at(
                &key,
                &format!("`{}` is too slow to train over", entry.bandwidth),
                Some("a link has at least 1 MB/s".into()),
            ));
        }
        let latency: Seconds = quantity(document, &format!("links[{i}].latency"), &entry.latency)?;
        let kind = match entry.kind {
            LinkWord::Backplane => LinkKind::Backplane,
            LinkWord::Copper => LinkKind::Copper,
            LinkWord::Optical => LinkKind::Optical,
            LinkWord::Wan => LinkKind::Wan,
        };
        let cables = entry.cables.unwrap_or(1);
        if cables == 0 {
            let key = format!("links[{i}].cables");
            return Err(document.error_at(&key, "must be at least 1", None));
        }
        topology.link(a, b, Link { capacity, latency, kind, cables });
    }
    let of_kind = |kind: NodeKind| {
        topology.graph.node_indices().filter(|n| topology.graph[*n].kind == kind).collect()
    };
    topology.endpoints = of_kind(NodeKind::Device);
    if topology.endpoints.is_empty() {
        topology.endpoints = of_kind(NodeKind::Nic);
    }
    if topology.endpoints.is_empty() {
        return Err(document.error_at(
            "nodes",
            "there is no device and no nic, so there is nobody to communicate",
            None,
        ));
    }
    let per_node = topology.endpoints_per_node as usize;
    if !topology.endpoints.len().is_multiple_of(per_node) {
        return Err(document.error_at(
            "endpoints_per_node",
            &format!("{} endpoints do not fill servers of {per_node}", topology.endpoints.len()),
            None,
        ));
    }
    for (i, name) in file.servers.iter().enumerate() {
        if file.servers[..i].contains(name) {
            let message = format!("`{name}` is already the name of another server");
            return Err(document.error_at(&format!("servers[{i}]"), &message, None));
        }
    }
    if !file.servers.is_empty() && file.servers.len() != topology.node_count() {
        let (named, there) = (file.servers.len(), topology.node_count());
        let message = format!("{named} servers are named, and the endpoints are those of {there}");
        return Err(document.error_at("servers", &message, None));
    }
    topology.servers = file.servers;
    topology.check().map_err(|error| match error {
        Error::Unsupported(message) => document.error_at("", &message, None),
        other => other,
    })?;
    Ok(topology)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "pair"
switch_ports = 2
[[nodes]]
name = "a"
kind = "device"
[[nodes]]
name = "b"
kind = "device"
[[nodes]]
name = "leaf0"
kind = "leaf"
[[links]]
between = ["a", "leaf0"]
bandwidth = "400 Gb/s"
latency = "1 us"
kind = "copper"
[[links]]
between = ["b", "leaf0"]
bandwidth = "50 GB/s"
latency = "500 ns"
kind = "optical"
"#;

    fn parse(text: &str) -> Result<Topology> {
        read(&Document::parse("net.toml", text.to_owned())?)
    }
    fn message(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "{from}");
        parse(&GOOD.replace(from, to)).unwrap_err().to_string()
    }

    #[test]
    fn reads_a_network() {
        let t = parse(GOOD).unwrap();
        assert_eq!((t.endpoints.len(), t.graph.edge_count()), (2, 2));
        assert_eq!(t.name(t.endpoints[1]), "b");
        let same = parse(&GOOD.replace("50 GB/s", "5e10 B/s")).unwrap();
        let rate = |t: &Topology| t.graph.edge_weights().last().map(|link| link.capacity);
        assert_eq!(rate(&t), rate(&same));
    }

    #[test]
    fn bad_networks_are_refused_with_a_place() {
        let m = message("[\"b\", \"leaf0\"]", "[\"b\", \"lef0\"]");
        assert!(m.contains("net.toml:19") && m.contains("did you mean `leaf0`"), "{m}");
        let m = message("50 GB/s", "0 GB/s");
        assert!(m.contains("without bandwidth") && m.contains("net.toml:20"), "{m}");
        let m = message("50 GB/s", "50 GB");
        assert!(m.contains("not a unit of bandwidth"), "{m}");
        let m = message("50 GB/s", "0e9 GB/s");
        assert!(m.contains("without bandwidth"), "{m}");
        let m = message("50 GB/s", "1e-3 B/s");
        assert!(m.contains("too slow") && m.contains("net.toml:20"), "{m}");
        let m = message("between = [\"b\", \"leaf0\"]", "between = [\"b\", \"b\"]");
        assert!(m.contains("to itself"), "{m}");
        let m = message("switch_ports = 2", "switch_ports = 1");
        assert!(m.contains("2 cables and 1 ports"), "{m}");
        let m = message("switch_ports = 2", "servers = [\"x\"]");
        assert!(m.contains("net.toml:3") && m.contains("1 servers are named"), "{m}");
        let m = message("switch_ports = 2", "endpoints_per_node = 3");
        assert!(m.contains("net.toml:3") && m.contains("2 endpoints do not fill"), "{m}");
        let m = message("name = \"b\"", "name = \"a\"");
        assert!(m.contains("already the name"), "{m}");
        let m = message("kind = \"leaf\"", "kind = \"leef\"");
        assert!(m.contains("did you mean `leaf`"), "{m}");
        let cut = GOOD.split("[[links]]\nbetween = [\"b\"").next().unwrap();
        let m = parse(cut).unwrap_err().to_string();
        assert!(m.contains("a and b are not connected"), "{m}");
    }
}
