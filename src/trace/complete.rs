//! What ranks that ran together lack of each other: ranks of the job, and whole steps.

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
    let did = |rank: &RankTrace| -> Vec<String> {
        let windows = rank.header.windows.iter().filter(|window| {
            let end = window.start_ns.saturating_add(window.dur_ns);
            // Events stand in the order of their starts.
            let first = rank.events.partition_point(|event| event.start_ns < window.start_ns);
            rank.events[first..]
                .iter()
                .take_while(|event| event.start_ns <= end)
                .any(|event| event.kind != Kind::Annotation || event.kind.is_device())
        });
        windows.map(|window| window.name.clone()).collect()
    };
    let done: Vec<Vec<String>> = ranks.iter().map(did).collect();
    let mut all: Vec<&String> = Vec::new();
    for step in done.iter().flatten() {
        if !all.contains(&step) {
            all.push(step);
        }
    }
    let lines = ranks.iter().zip(&done).filter_map(|(rank, done)| {
        let lost: Vec<&str> =
            all.iter().filter(|step| !done.contains(step)).map(|step| step.as_str()).collect();
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
