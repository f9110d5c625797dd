//! Recorded ranks, replayed unchanged, take as long as they took.
//!
//! Tolerance: 2 % of the recorded span, first device event to last. What durations, launch edges
//! and dependencies leave unexplained is not copied, so a replay may only be shorter by that much;
//! 2 % is the bar the replay of real traces is held to, and a few times the launch jitter seen in
//! these files.

use std::path::PathBuf;

use trainyard::outcome::replay_recorded;
use trainyard::trace::import::import;

const TOLERANCE: f64 = 0.02;

fn corpus(path: &str) -> Option<PathBuf> {
    let Ok(shared) = std::env::var("TRAINYARD_SHARED") else {
        println!("skipped: TRAINYARD_SHARED is not set");
        return None;
    };
    let path = PathBuf::from(shared).join("corpus/traces").join(path);
    assert!(path.exists(), "{} is missing", path.display());
    Some(path)
}

/// Single-rank traces whose GPU times are consistent.
const SINGLE: [&str; 13] = [
    "hta/amd_trace",
    "hta/critical_path/alexnet",
    "hta/critical_path/cuda_event_sync",
    "hta/critical_path/cuda_event_sync_multi_stream",
    "hta/critical_path/simple_add",
    "hta/nccl_parser_config",
    "hta/ns_resolution_trace",
    "hta/trace_diff/control",
    "kineto_tb",
    "tracelens/b200",
    "tracelens/h100",
    "tracelens/mi300",
    "tracelens/inference",
];

#[test]
fn single_ranks_replay_to_their_recorded_span() {
    let mut worst: f64 = 0.0;
    for name in SINGLE {
        let Some(path) = corpus(name) else { return };
        let imported = import(&[path], false).unwrap();
        for trace in imported.traces.traces() {
            for rank in trace {
                if !rank.events.iter().any(|e| e.kind.is_device()) {
                    continue;
                }
                let replay = replay_recorded(std::slice::from_ref(rank)).unwrap();
                let r = &replay.ranks[0];
                println!(
                    "{:60} recorded {:>12} ns, replayed {:>12} ns, unexplained {:+.3} %  {:?}",
                    format!("{name} {}", rank.header.source.file),
                    r.recorded_ns,
                    r.replayed_ns,
                    100.0 * r.unexplained_share(),
                    replay.notes
                );
                worst = worst.max(r.unexplained_share().abs());
            }
        }
    }
    assert!(worst <= TOLERANCE, "worst is {:.3} %", 100.0 * worst);
}
