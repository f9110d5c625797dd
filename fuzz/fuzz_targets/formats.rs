//! Any bytes through whichever importer takes them: no panic, no hang.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(ranks) = trainyard::trace::import::read_bytes(bytes, "rank-0") {
        let _ = trainyard::outcome::replay_recorded(&ranks);
    }
});
