//! What makes equal things differ: random streams that do not depend on each other.

pub mod random;
