//! Recorded traces: what profilers of real machines wrote, as typed events.
//!
//! ```text
//!  profiler output ──► import (one module per format) ──► model ──► analysis ──► view
//!                                                          ▲ │
//!                                    trace directory  ◄── format (our own, versioned)
//! ```
//!
//! - [`import`] reads files, archives and folders in a moving window, never as a tree, and decides
//!   which ranks ran together; [`align`] puts those on one clock.
//! - [`model`] is what is retained: 64-byte events and interned side tables; [`header`] is the
//!   allow-list of what is known about a rank. Nothing else survives an import.
//! - [`format`](mod@format) writes and reads trace directories, exactly.
//! - [`launches`] and [`collectives`] say which call launched what, and what communication is.
//! - [`complete`] says what ranks lack of each other.
//! - [`analysis`] computes, [`view`] draws, [`timeline`] writes what other viewers read.
//!
//! A replay needs of this module: the events of each rank in order ([`model::RankTrace`]), launch
//! calls ([`launches::Launches`]), and collectives matched across ranks
//! ([`align::match_collectives`]). This module knows no engine.

pub mod align;
pub mod analysis;
pub mod collectives;
pub mod complete;
pub mod decimal;
pub mod format;
pub mod header;
pub mod import;
pub mod launches;
pub mod model;
pub mod names;
pub mod program;
pub mod redact;
pub mod shapes;
pub mod steps;
pub mod timeline;
pub mod view;
