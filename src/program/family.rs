//! Group families: who meets whom, described once.

use schemars::JsonSchema;
use serde::Serialize;

use super::kernel::index;

index!(
    /// Index into [`super::Program::families`].
    FamilyId
);

/// The parallel dimension a family belongs to: where its exposed time is booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Tensor (and sequence) parallel.
    Tensor,
    /// Context parallel.
    Context,
    /// Expert parallel.
    Expert,
    /// Data parallel: gradients and sharded parameters.
    Data,
    /// Pipeline neighbours.
    Pipeline,
    /// All ranks: gradient norm, loss scale.
    World,
}

/// Disjoint groups of ranks, stored one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    members: Vec<u32>,
    starts: Vec<u32>,
}

impl Groups {
    /// Collects groups; empty ones are dropped.
    pub fn new(groups: impl IntoIterator<Item = Vec<u32>>) -> Self {
        let mut all = Self { members: Vec::new(), starts: vec![0] };
        for group in groups.into_iter().filter(|group| !group.is_empty()) {
            all.members.extend(group);
            all.starts.push(all.members.len() as u32);
        }
        all
    }

    /// Number of groups.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Whether there is no group.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The members of group `index`, in communicator order.
    #[must_use]
    pub fn get(&self, index: usize) -> &[u32] {
        &self.members[self.starts[index] as usize..self.starts[index + 1] as usize]
    }

    /// The groups cut into runs of `size` consecutive members.
    #[must_use]
    pub fn runs(&self, size: u32) -> Self {
        Self::new(self.iter().flat_map(|g| g.chunks(size.max(1) as usize)).map(<[u32]>::to_vec))
    }

    /// The members with the same place in each run of `size`.
    #[must_use]
    pub fn across_runs(&self, size: u32) -> Self {
        let size = size.max(1) as usize;
        Self::new(self.iter().flat_map(|group| {
            (0..size.min(group.len()))
                .map(move |i| group.iter().copied().skip(i).step_by(size).collect::<Vec<_>>())
        }))
    }

    /// All groups.
    pub fn iter(&self) -> impl Iterator<Item = &[u32]> {
        (0..self.len()).map(|i| self.get(i))
    }
}

/// A partition (of some) of the ranks into groups that communicate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family {
    /// Name for people: `tensor`, `data`, `pipeline 0>1 forward`, ...
    pub name: String,
    /// Where its exposed time is booked.
    pub dimension: Dimension,
    /// The groups.
    pub groups: Groups,
}
