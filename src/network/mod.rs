//! Network: from a collective call and the placement of its group to seconds.
//!
//! [`CollectiveTimes`] is the interface; [`Levels`] (latency and bandwidth per level of the
//! cluster, with a term that grows with the number of nodes) the first model behind it.

mod levels;
mod shape;

pub use levels::Levels;
pub use shape::{GroupShape, Placement};

use crate::program::CollectiveCall;
use crate::units::Seconds;

/// Times collective calls of a group.
pub trait CollectiveTimes {
    /// Time from the moment at which the last member is ready until all are done.
    fn time(&self, call: &CollectiveCall, shape: &GroupShape) -> Seconds;
}
