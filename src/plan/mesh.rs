//! The rank mesh: which rank has which coordinates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::program::Groups;

/// A parallel dimension of the mesh.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Axis {
    /// Tensor parallel.
    Tensor,
    /// Context parallel.
    Context,
    /// Data parallel (expert-parallel ranks are data-parallel ranks).
    Data,
    /// Pipeline parallel.
    Pipeline,
}

/// Megatron's order: tensor varies fastest, then context, data, pipeline.
pub const DEFAULT_ORDER: [Axis; 4] = [Axis::Tensor, Axis::Context, Axis::Data, Axis::Pipeline];

/// Sizes of the dimensions and the order in which they vary, fastest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    order: [Axis; 4],
    sizes: [u32; 4],
}

impl Mesh {
    /// A mesh with the given order (fastest first) and the size of every axis.
    #[must_use]
    pub fn new(order: [Axis; 4], size: impl Fn(Axis) -> u32) -> Self {
        Self { order, sizes: order.map(size) }
    }

    /// Number of ranks.
    #[must_use]
    pub fn world_size(&self) -> u32 {
        self.sizes.iter().product()
    }

    /// Size of an axis.
    #[must_use]
    pub fn size(&self, axis: Axis) -> u32 {
        self.sizes[self.place(axis)]
    }

    fn place(&self, axis: Axis) -> usize {
        self.order.iter().position(|a| *a == axis).unwrap_or_default()
    }

    fn stride(&self, axis: Axis) -> u32 {
        self.sizes[..self.place(axis)].iter().product()
    }

    /// Coordinate of a rank along an axis.
    #[must_use]
    pub fn coordinate(&self, rank: u32, axis: Axis) -> u32 {
        rank / self.stride(axis) % self.size(axis)
    }

    /// The rank `offset` further along an axis than `rank`, which must exist.
    #[must_use]
    pub fn along(&self, rank: u32, axis: Axis, coordinate: u32) -> u32 {
        rank - self.coordinate(rank, axis) * self.stride(axis) + coordinate * self.stride(axis)
    }

    /// Groups of ranks that differ only along `axes`, the first axis varying fastest inside.
    #[must_use]
    pub fn groups(&self, axes: &[Axis]) -> Groups {
        let members = |base: u32| -> Vec<u32> {
            let mut group = vec![base];
            for axis in axes {
                let stride = self.stride(*axis);
                group = (0..self.size(*axis))
                    .flat_map(|i| group.iter().map(move |rank| rank + i * stride))
                    .collect();
            }
            group
        };
        Groups::new(
            (0..self.world_size())
                .filter(|rank| axes.iter().all(|axis| self.coordinate(*rank, *axis) == 0))
                .map(members),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh() -> Mesh {
        Mesh::new(DEFAULT_ORDER, |axis| match axis {
            Axis::Tensor => 2,
            Axis::Context => 1,
            Axis::Data => 4,
            Axis::Pipeline => 3,
        })
    }

    #[test]
    fn every_family_partitions_the_ranks() {
        let mesh = mesh();
        for groups in [
            mesh.groups(&[Axis::Tensor]),
            mesh.groups(&[Axis::Context, Axis::Data]),
            mesh.groups(&[Axis::Data]).runs(2),
            mesh.groups(&[Axis::Data]).across_runs(2),
        ] {
            let mut all: Vec<u32> = groups.iter().flatten().copied().collect();
            all.sort_unstable();
            assert_eq!(all, (0..24).collect::<Vec<_>>());
        }
    }

    #[test]
    fn order_decides_who_is_near() {
        let mesh = mesh();
        assert_eq!(mesh.groups(&[Axis::Tensor]).get(0), &[0, 1]);
        assert_eq!(mesh.groups(&[Axis::Data]).get(0), &[0, 2, 4, 6]);
        assert_eq!(mesh.groups(&[Axis::Data]).runs(2).get(0), &[0, 2]);
        assert_eq!(mesh.groups(&[Axis::Data]).across_runs(2).get(0), &[0, 4]);
        assert_eq!(mesh.along(5, Axis::Pipeline, 2), 21);
        assert_eq!(mesh.coordinate(21, Axis::Pipeline), 2);
    }
}
