//! A drawing of a network: one row per kind of node, lines for links, rates beside them.
//!
//! Small networks are drawn whole. Of large ones every row shows a few representatives, chosen so
//! that what is drawn hangs together (the first groups, or those at the ends of two sites), with the row's total count; lines are
//! drawn among representatives only, and the legend gives what all links of a kind add up to.

mod groups;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use petgraph::graph::NodeIndex;
use petgraph::visit::EdgeRef;

use super::{LinkKind, NodeKind, Topology, materials};
use crate::units::si;

/// Most nodes drawn in a row.
const ROW: usize = 32;
/// Size of the drawing.
const WIDTH: f64 = 1280.0;
/// Left edge of the nodes: row labels stand before it.
const LEFT: f64 = 190.0;
/// Height of a row.
const STEP: f64 = 120.0;
/// Colours of rails, distinguishable without colour vision in neighbouring pairs (Okabe and Ito).
const COLOURS: [&str; 8] =
    ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7f00", "#666666"];

/// Rows from top to bottom.
fn row_of(kind: NodeKind) -> u8 {
    match kind {
        NodeKind::Router => 0,
        NodeKind::Switch(3..) => 1,
        NodeKind::Switch(2) => 2,
        NodeKind::Switch(_) => 3,
        NodeKind::Nic => 4,
        NodeKind::Device => 5,
        NodeKind::Host | NodeKind::ScaleUpSwitch => 6,
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Representatives of each row: all where they fit; otherwise the endpoints of the first nodes,
/// and above them what they are linked to, topped up evenly.
fn representatives(topology: &Topology) -> BTreeMap<u8, Vec<NodeIndex<u32>>> {
    let graph = &topology.graph;
    let several_sites = graph.node_weights().any(|v| v.kind == NodeKind::Router);
    let mut rows: BTreeMap<u8, Vec<NodeIndex<u32>>> = BTreeMap::new();
    for node in graph.node_indices() {
        rows.entry(row_of(graph[node].kind)).or_default().push(node);
    }
    let mut shown: BTreeMap<u8, Vec<NodeIndex<u32>>> = BTreeMap::new();
    let mut seen: BTreeSet<NodeIndex<u32>> = BTreeSet::new();
    // From the devices up (and down to their switches): what is below decides what is shown above.
    for row in [5, 6, 4, 3, 2, 1, 0] {
        let Some(all) = rows.get(&row) else { continue };
        let mut chosen: Vec<NodeIndex<u32>> = if all.len() <= ROW {
            all.clone()
        } else {
            let linked: Vec<_> = all
                .iter()
                .copied()
                .filter(|n| graph.neighbors(*n).any(|other| seen.contains(&other)))
                .collect();
            let pool = if linked.is_empty() { all } else { &linked };
            let per_node = topology.endpoints_per_node as usize;
            if pool.len() <= ROW {
                pool.clone()
            } else if row >= 4 {
                // Whole nodes: the first ones, or as much of the first as fits; of sites, which lie
                // at the two ends, half of the nodes from each.
                let fits = (ROW / per_node.max(1)).max(1);
                let take = (fits * per_node).min(ROW).min(pool.len());
                let last = if several_sites { fits / 2 * per_node } else { 0 };
                [&pool[..take - last], &pool[pool.len() - last..]].concat()
            } else {
                (0..ROW).map(|i| pool[i * pool.len() / ROW]).collect()
            }
        };
        if chosen.len() < all.len() && chosen.len() < 8 {
            let missing = 8 - chosen.len();
            let extra: Vec<_> =
                all.iter().copied().filter(|n| !chosen.contains(n)).take(missing).collect();
            chosen.extend(extra);
        }
        chosen.sort();
        seen.extend(chosen.iter().copied());
        shown.insert(row, chosen);
    }
    shown
}

/// Draws the network.
#[must_use]
pub fn draw(topology: &Topology) -> String {
    let graph = &topology.graph;
    let shown = representatives(topology);
    let mut totals: BTreeMap<u8, (NodeKind, u64)> = BTreeMap::new();
    for vertex in graph.node_weights() {
        totals.entry(row_of(vertex.kind)).or_insert((vertex.kind, 0)).1 += 1;
    }
    let top = 92.0;
    let mut at: BTreeMap<NodeIndex<u32>, (f64, f64)> = BTreeMap::new();
    let mut row_y: BTreeMap<u8, f64> = BTreeMap::new();
    for (line, (row, nodes)) in shown.iter().enumerate() {
        let y = top + line as f64 * STEP + 40.0;
        row_y.insert(*row, y);
        let space = (WIDTH - LEFT - 40.0) / nodes.len() as f64;
        for (i, node) in nodes.iter().enumerate() {
            at.insert(*node, (LEFT + space * (i as f64 + 0.5), y));
        }
    }
    // A network in one row only (a mesh) is drawn as a circle.
    let mesh = shown.len() == 1;
    if mesh {
        let nodes: Vec<_> = at.keys().copied().collect();
        for (i, node) in nodes.iter().enumerate() {
            let angle =
                std::f64::consts::TAU * i as f64 / nodes.len() as f64 - std::f64::consts::FRAC_PI_2;
            at.insert(
                *node,
                (WIDTH / 2.0 + 230.0 * angle.cos(), top + 270.0 + 230.0 * angle.sin()),
            );
        }
    }
    let grouped = groups::applies(topology);
    let bottom = if grouped {
        top + groups::HEIGHT
    } else if mesh {
        top + 560.0
    } else {
        top + shown.len() as f64 * STEP
    };
    let legend = legend_lines(topology);
    let height = bottom + 30.0 + legend.len() as f64 * 20.0;

    let mut out = String::new();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
         width=\"{WIDTH}\" height=\"{height:.0}\" font-family=\"Helvetica, Arial, sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"24\" y=\"40\" font-size=\"22\" font-weight=\"bold\" fill=\"#222\">{}</text>\n",
        escape(&topology.title)
    );
    let _ = writeln!(
        out,
        "<text x=\"24\" y=\"64\" font-size=\"13\" fill=\"#555\">{}</text>",
        escape(&subtitle(topology))
    );
    if grouped {
        groups::draw(&mut out, topology, top);
    } else {
        lines(&mut out, topology, &at, mesh);
        labels(&mut out, &shown, &totals, &row_y, mesh);
        nodes(&mut out, topology, &at);
        brackets(&mut out, topology, &shown, &at, mesh);
    }
    for (i, line) in legend.iter().enumerate() {
        let y = bottom + 24.0 + i as f64 * 20.0;
        let _ = writeln!(
            out,
            "<line x1=\"24\" y1=\"{0:.0}\" x2=\"60\" y2=\"{0:.0}\" stroke=\"{1}\" \
             stroke-width=\"2\"{2}/>\n<text x=\"70\" y=\"{y:.0}\" font-size=\"13\" \
             fill=\"#333\">{3}</text>",
            y - 4.0,
            stroke(line.0),
            dash(line.0),
            escape(&line.1)
        );
    }
    out.push_str("</svg>\n");
    out
}

/// Braces under the endpoints of one node.
fn brackets(
    out: &mut String,
    topology: &Topology,
    shown: &BTreeMap<u8, Vec<NodeIndex<u32>>>,
    at: &BTreeMap<NodeIndex<u32>, (f64, f64)>,
    mesh: bool,
) {
    let lowest = shown.iter().rfind(|(row, _)| **row == 4 || **row == 5);
    let Some((_, nodes)) = lowest.filter(|_| !mesh && topology.endpoints_per_node > 1) else {
        return;
    };
    let mut spans: BTreeMap<u32, (f64, f64, f64)> = BTreeMap::new();
    for node in nodes {
        if let Some((x, y)) = at.get(node) {
            let span = spans.entry(topology.graph[*node].group).or_insert((*x, *x, *y));
            span.0 = span.0.min(*x);
            span.1 = span.1.max(*x);
        }
    }
    for (group, (left, right, y)) in spans {
        // Below the names of the endpoints and of what may stand under them.
        let y = y + 40.0;
        let _ = writeln!(
            out,
            "<path d=\"M{:.1} {y:.1} v6 H{:.1} v-6\" fill=\"none\" stroke=\"#999\"/>\n<text \
             x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\" fill=\"#555\" \
             text-anchor=\"middle\">node {group}</text>",
            left - 10.0,
            right + 10.0,
            (left + right) / 2.0,
            y + 20.0
        );
    }
}

fn subtitle(topology: &Topology) -> String {
    let m = materials::count(topology);
    let mut parts = vec![format!(
        "{} endpoints on {} nodes",
        thousands(topology.endpoints.len() as u64),
        thousands(topology.node_count() as u64)
    )];
    if m.total_switches() > 0 {
        parts.push(format!("{} switches", thousands(m.total_switches())));
    }
    if m.transceivers > 0 {
        parts.push(format!("{} transceivers", thousands(m.transceivers)));
    }
    parts.join("  ·  ")
}

fn stroke(kind: LinkKind) -> &'static str {
    match kind {
        LinkKind::Backplane => "#9aa0a6",
        LinkKind::Copper => "#b87333",
        LinkKind::Optical => "#4a7fb5",
        LinkKind::Wan => "#c0392b",
    }
}

fn dash(kind: LinkKind) -> &'static str {
    match kind {
        LinkKind::Copper => " stroke-dasharray=\"7 3\"",
        LinkKind::Wan => " stroke-dasharray=\"2 4\"",
        LinkKind::Backplane | LinkKind::Optical => "",
    }
}

/// Every pair of node kinds that is linked: how many cables, at which rates.
fn legend_lines(topology: &Topology) -> Vec<(LinkKind, String)> {
    type Key = (LinkKind, NodeKind, NodeKind);
    let mut groups: BTreeMap<Key, (u64, f64, f64)> = BTreeMap::new();
    for edge in topology.graph.edge_references() {
        let (a, b) = (topology.graph[edge.source()].kind, topology.graph[edge.target()].kind);
        let link = edge.weight();
        let per_cable = link.capacity.get() / f64::from(link.cables);
        let entry =
            groups.entry((link.kind, a.min(b), a.max(b))).or_insert((0, f64::INFINITY, 0.0));
        entry.0 += u64::from(link.cables);
        entry.1 = entry.1.min(per_cable);
        entry.2 = entry.2.max(per_cable);
    }
    groups
        .into_iter()
        .map(|((kind, a, b), (cables, low, high))| {
            let rate = if (high - low).abs() < 1.0 {
                si(low, "B/s")
            } else {
                format!("{} to {}", si(low, "B/s"), si(high, "B/s"))
            };
            (
                kind,
                format!(
                    "{} – {}: {} {} links of {rate} each way",
                    a.as_str(),
                    b.as_str(),
                    thousands(cables),
                    kind.as_str()
                ),
            )
        })
        .collect()
}

fn lines(
    out: &mut String,
    topology: &Topology,
    at: &BTreeMap<NodeIndex<u32>, (f64, f64)>,
    mesh: bool,
) {
    let drawn: Vec<_> = topology
        .graph
        .edge_references()
        .filter_map(|e| Some((e.weight(), *at.get(&e.source())?, *at.get(&e.target())?)))
        .collect();
    // Many lines are drawn thin and pale so that their pattern shows instead of their ink.
    let opacity = (220.0 / drawn.len().max(1) as f64).clamp(0.16, 0.85);
    for (link, (x1, y1), (x2, y2)) in drawn {
        let width = (1.0 + f64::from(link.cables).log2() * 0.9).min(5.0);
        let colour = stroke(link.kind);
        if !mesh && (y1 - y2).abs() < 1.0 {
            // Links inside a row bow upwards.
            let lift = y1 - (24.0 + (x1 - x2).abs() * 0.09).min(64.0);
            let middle = (x1 + x2) / 2.0;
            let _ = writeln!(
                out,
                "<path d=\"M{x1:.1} {y1:.1} Q{middle:.1} {lift:.1} {x2:.1} {y2:.1}\" fill=\"none\" \
                 stroke=\"{colour}\" stroke-width=\"{width:.1}\" opacity=\"{opacity:.2}\"{}/>",
                dash(link.kind)
            );
        } else {
            let _ = writeln!(
                out,
                "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" \
                 stroke=\"{colour}\" stroke-width=\"{width:.1}\" opacity=\"{opacity:.2}\"{}/>",
                dash(link.kind)
            );
        }
        if mesh && link.cables > 1 {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"12\" fill=\"#333\" \
                 text-anchor=\"middle\">×{}</text>",
                (x1 + x2) / 2.0,
                (y1 + y2) / 2.0 - 4.0,
                link.cables
            );
        }
    }
}

fn labels(
    out: &mut String,
    shown: &BTreeMap<u8, Vec<NodeIndex<u32>>>,
    totals: &BTreeMap<u8, (NodeKind, u64)>,
    row_y: &BTreeMap<u8, f64>,
    mesh: bool,
) {
    for (row, nodes) in shown {
        let (Some((kind, total)), Some(y)) = (totals.get(row), row_y.get(row)) else { continue };
        let plural = if *total == 1 || kind.as_str().ends_with('s') { "" } else { "s" };
        let plural = if kind.as_str().ends_with("switch") && *total > 1 { "es" } else { plural };
        let y = if mesh { 120.0 } else { *y };
        let _ = writeln!(
            out,
            "<text x=\"24\" y=\"{:.0}\" font-size=\"14\" font-weight=\"bold\" fill=\"#222\">{} \
             {}{plural}</text>",
            y + 1.0,
            thousands(*total),
            kind.as_str()
        );
        if (nodes.len() as u64) < *total {
            let _ = writeln!(
                out,
                "<text x=\"24\" y=\"{:.0}\" font-size=\"12\" fill=\"#777\">{} drawn</text>",
                y + 18.0,
                nodes.len()
            );
        }
    }
}

fn nodes(out: &mut String, topology: &Topology, at: &BTreeMap<NodeIndex<u32>, (f64, f64)>) {
    let mut per_row: BTreeMap<u8, usize> = BTreeMap::new();
    for node in at.keys() {
        *per_row.entry(row_of(topology.graph[*node].kind)).or_default() += 1;
    }
    let rails = topology.endpoints_per_node.max(1);
    for (node, (x, y)) in at {
        let vertex = topology.graph[*node];
        let count = per_row.get(&row_of(vertex.kind)).copied().unwrap_or(1);
        let room = ((WIDTH - LEFT - 40.0) / count as f64 - 3.0).clamp(5.0, 64.0);
        let name = topology.name(*node);
        // Endpoints are coloured by rail; leaves of a rail-optimised network by theirs.
        let colour = match vertex.kind {
            NodeKind::Device | NodeKind::Nic => COLOURS[vertex.index as usize % COLOURS.len()],
            NodeKind::Switch(1) if rails > 1 => COLOURS[(vertex.group % rails) as usize % 8],
            NodeKind::Switch(_) => "#37474f",
            NodeKind::ScaleUpSwitch => "#546e7a",
            NodeKind::Host => "#8d6e63",
            NodeKind::Router => "#c0392b",
        };
        if vertex.kind.is_endpoint() {
            let r = (room / 2.0).min(13.0);
            let _ = writeln!(
                out,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r:.1}\" fill=\"{colour}\"><title>{}\
                 </title></circle>",
                escape(&name)
            );
        } else {
            let _ = writeln!(
                out,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{room:.1}\" height=\"24\" rx=\"4\" \
                 fill=\"{colour}\"><title>{}</title></rect>",
                x - room / 2.0,
                y - 12.0,
                escape(&name)
            );
        }
        if room >= 30.0 {
            let (dy, fill) = if vertex.kind.is_endpoint() { (28.0, "#333") } else { (4.0, "#fff") };
            let _ = writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{:.1}\" font-size=\"{}\" fill=\"{fill}\" \
                 text-anchor=\"middle\">{}</text>",
                y + dy,
                if room >= 52.0 { 11 } else { 9 },
                escape(&name)
            );
        }
    }
}
