//! The network: topologies, collectives, bandwidth sharing, placement and variability.
//!
//! * [`collective`] gives the duration of a collective on links that nobody else uses.
//! * [`topology`] builds graphs of devices, cards and switches, routes over them and counts them.
//! * [`flow`] shares links among transfers that overlap.
//! * [`placement`] says which rank sits where; [`variability`] makes links differ.

pub mod collective;
pub mod flow;
pub mod placement;
pub mod topology;
pub mod variability;
