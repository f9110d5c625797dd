//! Networks whose switches are all on one tier (dragonfly): groups on a circle, and one group
//! beside it.

use std::collections::BTreeMap;
use std::f64::consts::{FRAC_PI_2, TAU};
use std::fmt::Write;

use petgraph::visit::EdgeRef;

use super::{COLOURS, escape, stroke, thousands};
use crate::network::topology::{LinkKind, NodeKind, Topology};
use crate::units::si;

/// Height of the drawing between title and legend.
pub(super) const HEIGHT: f64 = 620.0;
/// Most groups drawn.
const MOST: usize = 32;

/// Nodes up to which a network is drawn whole, whatever its links.
const WHOLE: usize = 64;

/// Whether links between switches of one tier carry the traffic of more than can be drawn whole.
pub(super) fn applies(topology: &Topology) -> bool {
    let graph = &topology.graph;
    let tiers: u8 = graph
        .node_weights()
        .filter_map(|v| if let NodeKind::Switch(tier) = v.kind { Some(tier) } else { None })
        .max()
        .unwrap_or(0);
    tiers == 1
        && graph.node_count() > WHOLE
        && graph
            .edge_references()
            .any(|e| graph[e.source()].kind.is_switch() && graph[e.target()].kind.is_switch())
}

fn ring(centre: (f64, f64), radius: f64, i: usize, of: usize) -> (f64, f64) {
    let angle = TAU * i as f64 / of.max(1) as f64 - FRAC_PI_2;
    (centre.0 + radius * angle.cos(), centre.1 + radius * angle.sin())
}

/// Draws the groups into `out`, from `top` down.
pub(super) fn draw(out: &mut String, topology: &Topology, top: f64) {
    let graph = &topology.graph;
    let mut switches: BTreeMap<u32, u64> = BTreeMap::new();
    for vertex in graph.node_weights().filter(|v| v.kind.is_switch()) {
        *switches.entry(vertex.group).or_default() += 1;
    }
    let mut cards: BTreeMap<u32, u64> = BTreeMap::new();
    let mut between: BTreeMap<(u32, u32), (u64, f64, LinkKind)> = BTreeMap::new();
    let mut inside: Vec<(u32, u32, LinkKind)> = Vec::new();
    let mut inside_rate = 0.0;
    for edge in graph.edge_references() {
        let (a, b) = (graph[edge.source()], graph[edge.target()]);
        let link = edge.weight();
        match (a.kind.is_switch(), b.kind.is_switch()) {
            (true, true) if a.group == b.group => {
                if a.group == 0 {
                    inside.push((a.index, b.index, link.kind));
                    inside_rate = link.capacity.get();
                }
            }
            (true, true) => {
                let entry = between
                    .entry((a.group.min(b.group), a.group.max(b.group)))
                    .or_insert((0, 0.0, link.kind));
                entry.0 += u64::from(link.cables);
                entry.1 += link.capacity.get();
            }
            (true, false) => *cards.entry(a.group).or_default() += 1,
            (false, true) => *cards.entry(b.group).or_default() += 1,
            (false, false) => {}
        }
    }
    let groups: Vec<u32> = switches.keys().copied().take(MOST).collect();
    let centre = (390.0, top + 310.0);
    let place = |group: u32| {
        groups.iter().position(|g| *g == group).map(|i| ring(centre, 225.0, i, groups.len()))
    };
    let few = between.len() <= 10;
    // What holds of any two groups is said once.
    let alike = between.values().next().copied().filter(|first| {
        between.len() > 1 && between.values().all(|one| (one.0, one.1) == (first.0, first.1))
    });
    for ((a, b), (cables, capacity, kind)) in &between {
        let (Some((x1, y1)), Some((x2, y2))) = (place(*a), place(*b)) else { continue };
        let _ = writeln!(
            out,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{}\" \
             stroke-width=\"2\" opacity=\"{}\"/>",
            stroke(*kind),
            if few { 0.9 } else { 0.45 }
        );
        if few && alike.is_none() {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"12\" fill=\"#333\" \
                 text-anchor=\"middle\" stroke=\"#fff\" stroke-width=\"4\" \
                 paint-order=\"stroke\">{cables} cables, {}</text>",
                (x1 + x2) / 2.0,
                (y1 + y2) / 2.0,
                si(*capacity, "B/s")
            );
        }
    }
    let radius = (520.0 / groups.len() as f64).clamp(16.0, 44.0);
    for (i, group) in groups.iter().enumerate() {
        let (x, y) = ring(centre, 225.0, i, groups.len());
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" fill=\"{}\"/>\n<text \
             x=\"{x:.1}\" y=\"{:.1}\" font-size=\"12\" font-weight=\"bold\" fill=\"#fff\" \
             text-anchor=\"middle\">{group}</text>",
            COLOURS[i % COLOURS.len()],
            y + 4.0
        );
        if groups.len() <= 12 {
            let _ = writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{:.1}\" font-size=\"12\" fill=\"#333\" \
                 text-anchor=\"middle\" stroke=\"#fff\" stroke-width=\"4\" \
                 paint-order=\"stroke\">{} switches, {} nics</text>",
                y + radius + 16.0,
                switches.get(group).copied().unwrap_or(0),
                thousands(cards.get(group).copied().unwrap_or(0))
            );
        }
    }
    let _ = writeln!(
        out,
        "<text x=\"24\" y=\"{:.0}\" font-size=\"14\" font-weight=\"bold\" \
         fill=\"#222\">{} groups{}</text>",
        top + 10.0,
        switches.len(),
        alike.map_or_else(String::new, |(cables, capacity, _)| format!(
            ", {cables} cables, {} between any two",
            si(capacity, "B/s")
        ))
    );
    if switches.len() > groups.len() {
        let _ = writeln!(
            out,
            "<text x=\"24\" y=\"{:.0}\" font-size=\"12\" fill=\"#777\">{} drawn</text>",
            top + 28.0,
            groups.len()
        );
    }
    one_group(out, &inside, inside_rate, switches.get(&0).copied().unwrap_or(0) as usize, top);
}

fn one_group(
    out: &mut String,
    inside: &[(u32, u32, LinkKind)],
    rate: f64,
    switches: usize,
    top: f64,
) {
    let centre = (980.0, top + 310.0);
    let _ = writeln!(
        out,
        "<text x=\"980\" y=\"{:.0}\" font-size=\"14\" font-weight=\"bold\" fill=\"#222\" \
         text-anchor=\"middle\">{}</text>",
        top + 10.0,
        escape(&format!(
            "inside group 0: {switches} switches, {} links of {}",
            inside.len(),
            si(rate, "B/s")
        ))
    );
    let opacity = (60.0 / inside.len().max(1) as f64).clamp(0.15, 0.8);
    for (a, b, kind) in inside {
        let (x1, y1) = ring(centre, 215.0, *a as usize, switches);
        let (x2, y2) = ring(centre, 215.0, *b as usize, switches);
        let _ = writeln!(
            out,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{}\" \
             opacity=\"{opacity:.2}\"/>",
            stroke(*kind)
        );
    }
    for i in 0..switches {
        let (x, y) = ring(centre, 215.0, i, switches);
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"18\" height=\"18\" rx=\"3\" fill=\"{}\"/>",
            x - 9.0,
            y - 9.0,
            COLOURS[0]
        );
    }
}
