//! What families of groups put on the links between switches while they communicate.
//!
//! A family's groups share links among themselves by max-min fairness ([`super::Wires::shares`]).
//! When two families communicate at the same time their loads add up, and where they exceed a link,
//! everybody on it gets the same part of what it asks for. Which families do, and how long, is known
//! after a replay; here is what each would put on the links of each group. The links of cards are
//! left out: a card is shared by the calls of its own rank alone, which a replay sees exactly.

use super::{Traffic, Wires};

/// Loads are told apart in steps of this part of a link.
const STEP: f64 = 1.0 / 16.0;

/// Largest load that is told apart, in steps: a link asked for 65,536 times over. A link from a file
/// may be thinner still.
const MOST: f64 = 1_048_576.0;

/// Loads of the families on the links between switches, as parts of their capacity.
#[derive(Clone, Debug)]
pub struct Crowd {
    /// By family and directed link; empty where a family does not leave its domains.
    families: Vec<Vec<f64>>,
    /// Of all families together.
    total: Vec<f64>,
}

/// Load of the link of a group on which all families together ask for most: that of its own family,
/// and of others, in sixteenths of the link. Nothing where the link has room for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Crowding {
    /// Of the group's own family.
    pub own: u32,
    /// Of other families, by family.
    pub others: Vec<(u32, u32)>,
}

impl Crowding {
    /// Sixteenths as a part of a link.
    #[must_use]
    pub fn part(sixteenths: u32) -> f64 {
        f64::from(sixteenths) * STEP
    }

    /// Load of all families together, in sixteenths.
    #[must_use]
    pub fn total(&self) -> u32 {
        self.own + self.others.iter().map(|(_, load)| load).sum::<u32>()
    }
}

impl Crowd {
    /// No loads of so many families.
    #[must_use]
    pub fn new(families: usize) -> Self {
        Self { families: vec![Vec::new(); families], total: Vec::new() }
    }

    /// Adds a family: what each member of a group sends while it communicates, in bytes per second.
    pub fn add(
        &mut self,
        wires: &Wires,
        family: usize,
        traffic: &Traffic,
        rate: impl Fn(usize) -> f64,
    ) {
        let mut loads = Vec::new();
        wires.load(traffic, &mut loads, rate);
        let graph = &wires.topology.graph;
        let is_end = |node| graph.node_weight(node).is_some_and(|v| v.kind.is_endpoint());
        for edge in graph.edge_indices() {
            let Some((a, b)) = graph.edge_endpoints(edge) else { continue };
            let outer = is_end(a) || is_end(b);
            for link in [edge.index() * 2, edge.index() * 2 + 1] {
                loads[link] = if outer { 0.0 } else { loads[link] / graph[edge].capacity.get() };
            }
        }
        self.total.resize(loads.len(), 0.0);
        for (total, load) in self.total.iter_mut().zip(&loads) {
            *total += load;
        }
        if loads.iter().any(|load| *load > 0.0) {
            self.families[family] = loads;
        }
    }

    /// What a group of a family shares its most wanted link with.
    #[must_use]
    pub fn of(&self, family: usize, traffic: &Traffic, group: usize) -> Crowding {
        let mut worst: Option<(f64, u32)> = None;
        for (link, _) in &traffic.uses[group] {
            let total = self.total[*link as usize];
            if total > 1.0 && worst.is_none_or(|(most, _)| total > most) {
                worst = Some((total, *link));
            }
        }
        let Some((_, link)) = worst else { return Crowding::default() };
        let load = |loads: &Vec<f64>| {
            let load = loads.get(link as usize).copied().unwrap_or_default();
            // The last bits of a sum do not decide between two steps.
            (load / STEP + 1e-9).round().min(MOST) as u32
        };
        let others = self
            .families
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != family)
            .map(|(other, loads)| (other as u32, load(loads)))
            .filter(|(_, load)| *load > 0)
            .collect();
        // Its own family has been solved for: it fills the link at most.
        Crowding { own: load(&self.families[family]).min((1.0 / STEP) as u32), others }
    }
}
