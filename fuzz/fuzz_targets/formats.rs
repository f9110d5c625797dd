//! Any bytes through whichever importer takes them, then through the replay, the breakdown and the
//! timelines: no panic, no hang, and what is written is read back.
//!
//! `cargo +nightly fuzz run formats fuzz/corpus/formats FOLDER`, with small recordings in FOLDER.

#![no_main]

use trainyard::outcome::{WhatIf, replay_recorded, replayed_ranks};
use trainyard::timeline::{Chrome, Perfetto};
use trainyard::trace::analysis::step_components;
use trainyard::trace::import::read_bytes;
use trainyard::trace::timeline::{Selection, write};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(mut ranks) = read_bytes(bytes, "rank-0") else { return };
    // A log of one pipeline rank does not say of how many, and is replayed only where that is known.
    if let [alone] = ranks.as_mut_slice() {
        alone.header.world_size.get_or_insert(1);
    }
    let _ = replay_recorded(&ranks);
    let _ = step_components(&ranks);
    if let Ok(replayed) = replayed_ranks(&ranks, &WhatIf::default()) {
        let _ = step_components(&replayed);
    }
    let selection = Selection::default();
    let _ = write(&ranks, &selection, &mut Perfetto::new(std::io::sink()));
    let mut out = Vec::new();
    let written = write(&ranks, &selection, &mut Chrome::new(&mut out));
    // Clocks of several ranks may lie further apart than an importer believes.
    if let (1, Ok(()), Ok(back)) = (ranks.len(), written, read_bytes(&out, "rank-0")) {
        assert_eq!(back[0].header.losses.unusable_count(), 0);
    }
});
