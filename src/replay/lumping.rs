//! Exact lumping: ranks that cannot differ share a lane.
//!
//! Two ranks are equal when they run the same template and, in every family, their groups are
//! placed alike and hold the same *set* of equal ranks. Sets are enough because a meeting starts
//! at the maximum over its members. The coarsest such partition is found by colour refinement:
//! start from the template, split by what a rank's groups look like, repeat until nothing splits.

use std::collections::{BTreeMap, BTreeSet};

use crate::program::{Program, TemplateId};

use super::Durations;

/// What a rank sees: for each family it is in, what its group looks like.
type Sight = Vec<(u32, u32)>;

/// Lanes that meet, and how their groups are placed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LaneGroup {
    /// Members, ascending.
    pub lanes: Vec<u32>,
    /// Class of the group ([`Durations::group_class`]).
    pub class: u16,
}

/// Which ranks share a lane. Lanes of a template are contiguous.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lumping {
    /// Lane of each rank.
    pub lane_of_rank: Vec<u32>,
    /// Number of ranks of each lane.
    pub weight: Vec<u64>,
    /// Template of each lane.
    pub template: Vec<TemplateId>,
    /// First lane of each template, and one past the last lane of the last.
    pub first_lane: Vec<u32>,
    /// By family: distinct groups of lanes; a lane is in at most one group of a family.
    pub groups: Vec<Vec<LaneGroup>>,
    /// By family and lane: its group in `groups`, `u32::MAX` for none.
    group_of_lane: Vec<Vec<u32>>,
}

impl Lumping {
    /// The coarsest exact lumping.
    #[must_use]
    pub fn coarsest(program: &Program, durations: &Durations) -> Self {
        let mut colour: Vec<u32> = program.template_of_rank.iter().map(|t| t.0).collect();
        let mut count = distinct(&colour);
        loop {
            // What every rank sees in each family: the class of its group and its set of colours.
            let mut seen: Vec<Sight> = vec![Vec::new(); colour.len()];
            let mut looks: BTreeMap<(u16, Vec<u32>), u32> = BTreeMap::new();
            for (f, family) in program.families.iter().enumerate() {
                for (g, group) in family.groups.iter().enumerate() {
                    let set: BTreeSet<u32> = group.iter().map(|r| colour[*r as usize]).collect();
                    let key = (durations.group_class[f][g], set.into_iter().collect());
                    let next = looks.len() as u32;
                    let look = *looks.entry(key).or_insert(next);
                    for rank in group {
                        seen[*rank as usize].push((f as u32, look));
                    }
                }
            }
            let mut names: BTreeMap<(u32, &Sight), u32> = BTreeMap::new();
            let mut refined = Vec::with_capacity(colour.len());
            for (rank, old) in colour.iter().enumerate() {
                let next = names.len() as u32;
                refined.push(*names.entry((*old, &seen[rank])).or_insert(next));
            }
            let refined_count = names.len();
            colour = refined;
            if refined_count == count {
                break;
            }
            count = refined_count;
        }
        Self::from_colours(program, durations, &colour)
    }

    /// Every rank has its own lane.
    #[must_use]
    pub fn none(program: &Program, durations: &Durations) -> Self {
        let colours: Vec<u32> = (0..program.world_size() as u32).collect();
        Self::from_colours(program, durations, &colours)
    }

    fn from_colours(program: &Program, durations: &Durations, colour: &[u32]) -> Self {
        // Order lanes by template, then by the first rank that has the colour.
        let mut first_rank: BTreeMap<u32, u32> = BTreeMap::new();
        for (rank, c) in colour.iter().enumerate() {
            first_rank.entry(*c).or_insert(rank as u32);
        }
        let mut order: Vec<(TemplateId, u32, u32)> = first_rank
            .iter()
            .map(|(c, rank)| (program.template_of_rank[*rank as usize], *rank, *c))
            .collect();
        order.sort_unstable();
        let mut lane_of_colour: BTreeMap<u32, u32> = BTreeMap::new();
        let mut template = Vec::with_capacity(order.len());
        for (lane, (t, _, c)) in order.iter().enumerate() {
            lane_of_colour.insert(*c, lane as u32);
            template.push(*t);
        }
        let lane_of_rank: Vec<u32> = colour.iter().map(|c| lane_of_colour[c]).collect();
        let mut weight = vec![0; order.len()];
        for lane in &lane_of_rank {
            weight[*lane as usize] += 1;
        }
        let first_lane = (0..=program.templates.len() as u32)
            .map(|t| template.partition_point(|other| other.0 < t) as u32)
            .collect();
        let groups: Vec<Vec<LaneGroup>> = program
            .families
            .iter()
            .enumerate()
            .map(|(f, family)| {
                let set: BTreeSet<LaneGroup> = family
                    .groups
                    .iter()
                    .enumerate()
                    .map(|(g, group)| {
                        let lanes: BTreeSet<u32> =
                            group.iter().map(|rank| lane_of_rank[*rank as usize]).collect();
                        LaneGroup {
                            lanes: lanes.into_iter().collect(),
                            class: durations.group_class[f][g],
                        }
                    })
                    .collect();
                set.into_iter().collect()
            })
            .collect();
        let group_of_lane = groups
            .iter()
            .map(|groups| {
                let mut of = vec![u32::MAX; weight.len()];
                for (g, group) in groups.iter().enumerate() {
                    for lane in &group.lanes {
                        of[*lane as usize] = g as u32;
                    }
                }
                of
            })
            .collect();
        Self { lane_of_rank, weight, template, first_lane, groups, group_of_lane }
    }

    /// Class of the group of a family that a lane is in.
    #[must_use]
    pub fn class_of_lane(&self, family: usize, lane: u32) -> Option<u16> {
        let group = *self.group_of_lane.get(family)?.get(lane as usize)?;
        self.groups[family].get(group as usize).map(|g| g.class)
    }

    /// Lanes that meet a lane in a family, itself among them; empty if it is in no group.
    #[must_use]
    pub fn members(&self, family: usize, lane: u32) -> &[u32] {
        let group = self.group_of_lane.get(family).and_then(|of| of.get(lane as usize));
        group
            .and_then(|group| self.groups[family].get(*group as usize))
            .map_or(&[], |group| &group.lanes)
    }

    /// Number of lanes.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.weight.len()
    }
}

fn distinct(colours: &[u32]) -> usize {
    colours.iter().collect::<BTreeSet<_>>().len()
}
