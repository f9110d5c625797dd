//! Analysis.
pub mod intervals;
pub mod windows;
