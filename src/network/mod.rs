//! The network: from a collective call and the place of its group to seconds.
//!
//! [`CollectiveTimes`] is the interface that steps are timed through. Two models stand behind it:
//!
//! * [`Fitted`]: algorithms and protocols as the library chooses them, with constants fitted per
//!   library, architecture and transport ([`collective`]).
//! * [`Levels`]: latency and bandwidth per level of the cluster, for accelerators whose library the
//!   catalogue has no constants of.
//!
//! Around them: [`placement`] says which rank sits where, [`Sites`] what a group looks like from
//! there, [`Routes`] what copies between devices of a node reach, [`BandwidthMatrix`] what pairs of nodes were measured to reach; [`topology`] builds graphs of devices, cards and switches, routes over them and counts
//! them; [`flow`] shares links among transfers that overlap; [`variability`] makes links differ.

pub mod collective;
mod contention;
mod fitted;
pub mod flow;
mod levels;
mod matrix;
pub mod placement;
mod routes;
mod sites;
pub mod topology;
pub mod variability;

pub(crate) use contention::in_steps;
pub use contention::{Crowd, Crowding, LinkLoad, Pattern, Traffic, WHOLE, Wires};
pub use fitted::{Choices, Fitted};
pub use levels::Levels;
pub use matrix::BandwidthMatrix;
pub use routes::{Routes, TransferEngine};
pub use sites::{GroupPlace, Sites};

use crate::error::Result;
use crate::program::CollectiveCall;
use crate::units::{Bytes, Seconds};

/// What a call takes, and what it uses on the way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CollectiveTime {
    /// From the moment at which the last member is ready until all are done.
    pub time: Seconds,
    /// Algorithm, where the model has any.
    pub algorithm: Option<collective::Algorithm>,
    /// Protocol, where the model has any.
    pub protocol: Option<collective::Protocol>,
    /// Bytes one rank sends over scale-up links.
    pub scale_up_bytes: Bytes,
    /// Bytes that leave the busiest scale-up domain.
    pub scale_out_bytes: Bytes,
    /// SMs or compute units it occupies; 0 where the model does not know.
    pub compute_units: f64,
    /// Bytes one rank reads and writes in its own memory.
    pub memory_bytes: Bytes,
    /// Why the prediction lies outside of what was measured; empty where it does not.
    pub extrapolated: Vec<&'static str>,
}

/// Times collective calls of a group.
pub trait CollectiveTimes {
    /// Predicts a call.
    ///
    /// # Errors
    /// The group crosses domains without a network, or the prescribed algorithm is not one for the
    /// operation.
    fn time(&self, call: &CollectiveCall, place: &GroupPlace) -> Result<CollectiveTime>;
}
