//! Placement: which node and scale-up domain a rank is on, and what a group looks like.

use std::collections::BTreeMap;

/// Ranks on nodes, in order: the first node is filled first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Devices per node.
    pub node: u32,
    /// Devices per scale-up domain.
    pub domain: u32,
    /// Links inside a domain differ, so it matters which devices a pair is.
    pub uneven_links: bool,
}

/// How a group of ranks lies on the cluster; groups of one shape take equally long.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupShape {
    /// Members.
    pub ranks: u32,
    /// Scale-up domains that hold members.
    pub domains: u32,
    /// Nodes that hold members.
    pub nodes: u32,
    /// Most members in one domain.
    pub most_per_domain: u32,
    /// Fewest members in one domain that holds any.
    pub fewest_per_domain: u32,
    /// For a pair in one domain with uneven links: the two places inside it, smaller first.
    pub pair: Option<(u32, u32)>,
}

impl Placement {
    /// Shape of a group.
    #[must_use]
    pub fn shape(&self, group: &[u32]) -> GroupShape {
        let mut per_domain: BTreeMap<u32, u32> = BTreeMap::new();
        let mut nodes: Vec<u32> = Vec::with_capacity(group.len());
        for rank in group {
            *per_domain.entry(rank / self.domain).or_default() += 1;
            nodes.push(rank / self.node);
        }
        nodes.sort_unstable();
        nodes.dedup();
        let pair = match group {
            [a, b] if per_domain.len() == 1 && self.uneven_links => {
                let (a, b) = (a % self.domain, b % self.domain);
                Some((a.min(b), a.max(b)))
            }
            _ => None,
        };
        GroupShape {
            ranks: group.len() as u32,
            domains: per_domain.len() as u32,
            nodes: nodes.len() as u32,
            most_per_domain: per_domain.values().copied().max().unwrap_or(0),
            fewest_per_domain: per_domain.values().copied().min().unwrap_or(0),
            pair,
        }
    }
}
