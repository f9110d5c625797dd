//! Rebuilds when a catalogue file is added or removed; the compiler only sees changes of known ones.
#![allow(clippy::print_stdout)] // this is how a build script talks to cargo

fn main() {
    println!("cargo:rerun-if-changed=hw-models");
}
