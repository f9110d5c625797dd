//! The network: from a collective call and the placement of its group to seconds.
//!
//! [`CollectiveTimes`] is the interface that steps are timed through, with [`Levels`] (latency and
//! bandwidth per level of the cluster, with a term that grows with the number of nodes) behind it.
//! The models that will stand behind it next are here, too:
//!
//! * [`collective`] gives the duration of a collective on links that nobody else uses.
//! * [`topology`] builds graphs of devices, cards and switches, routes over them and counts them.
//! * [`flow`] shares links among transfers that overlap.
//! * [`placement`] says which rank sits where; [`variability`] makes links differ.

pub mod collective;
pub mod flow;
mod levels;
pub mod placement;
mod shape;
pub mod topology;
pub mod variability;

pub use levels::Levels;
pub use shape::{GroupShape, Placement};

use crate::program::CollectiveCall;
use crate::units::Seconds;

/// Times collective calls of a group.
pub trait CollectiveTimes {
    /// Time from the moment at which the last member is ready until all are done.
    fn time(&self, call: &CollectiveCall, shape: &GroupShape) -> Seconds;
}
