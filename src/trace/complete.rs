//! What ranks that ran together lack of each other: ranks of the job, and whole steps.

use std::collections::BTreeSet;

use super::model::{Kind, RankTrace};

/// Ranks of the job that were not recorded, in words, where a rank says how many there are.
#[must_use]
pub fn missing_ranks(ranks: &[RankTrace]) -> Option<String> {
    let world = ranks.iter().find_map(|rank| rank.header.world_size)? as usize;
    (world > ranks.len()).then(|| format!("{} of {world} ranks were recorded", ranks.len()))
}

/// Steps in which a rank did nothing that others have, in words: one line per rank.
#[must_use]
pub fn lost_steps(ranks: &[RankTrace]) -> Vec<String> {
    let done: Vec<BTreeSet<&str>> = ranks.iter().map(steps_done).collect();
    let all: BTreeSet<&str> = done.iter().flatten().copied().collect();
    // In the order of the recording, not of the names.
    let mut ordered: Vec<&str> = Vec::with_capacity(all.len());
    let mut seen = BTreeSet::new();
    for window in ranks.iter().flat_map(|rank| &rank.header.windows) {
        if all.contains(&*window.name) && seen.insert(&*window.name) {
            ordered.push(&window.name);
        }
    }
    let lines = ranks.iter().zip(&done).filter_map(|(rank, done)| {
        let lost: Vec<&str> = ordered.iter().copied().filter(|step| !done.contains(step)).collect();
        let (first, last) = (lost.first()?, lost.last()?);
        let number = rank.header.rank;
        Some(match lost.len() {
            1 => format!("rank {number} has nothing of step {first}, which other ranks have"),
            n => format!(
                "rank {number} has nothing of {n} steps, {first} to {last}, which other ranks have"
            ),
        })
    });
    lines.collect()
}

/// Steps in which a rank did something; marks of steps and the profiler's own time are nothing.
fn steps_done(rank: &RankTrace) -> BTreeSet<&str> {
    let windows = rank.header.windows.iter().filter(|window| {
        let end = window.start_ns.saturating_add(window.dur_ns);
        // Events stand in the order of their starts.
        let first = rank.events.partition_point(|event| event.start_ns < window.start_ns);
        rank.events[first..]
            .iter()
            .take_while(|event| event.start_ns <= end)
            .any(|event| !matches!(event.kind, Kind::Annotation | Kind::Overhead))
    });
    windows.map(|window| window.name.as_str()).collect()
}
