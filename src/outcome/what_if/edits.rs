//! Changes to the kernels of a recording before a program is made of them: removed, fused, relieved
//! of a straggler's excess.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result, nearest_names};
use crate::outcome::recorded::recorded_durations;
use crate::program::{Action, HostWork, Program};
use crate::replay::{Lumping, Sweep};
use crate::trace::align::median;
use crate::trace::launches::Launches;
use crate::trace::model::RankTrace;
use crate::trace::program::{Edits, edited_program};
use crate::trace::shapes::{Shape, shapes};

use super::accelerator::recorded_accelerator;
use super::{Attribution, Straggler, Together, WhatIf, unknown};

/// Stragglers are attributed to each rank up to this many; each is a replay of its own.
const ATTRIBUTED_RANKS: usize = 16;

/// Device events that any of the names fits.
pub(super) fn removed(ranks: &[RankTrace], names: &[String]) -> Edits {
    let mut edits = Edits::default();
    if names.is_empty() {
        return edits;
    }
    for (position, rank) in ranks.iter().enumerate() {
        for (index, event) in rank.events.iter().enumerate() {
            let fits = |text: &str| names.iter().any(|name| text.contains(name.as_str()));
            let by_op = || {
                event.communicates && fits(crate::trace::collectives::operation(rank, event).name())
            };
            if event.kind.is_device() && (fits(rank.name(event)) || by_op()) {
                edits.omitted.insert((position, index));
            }
        }
    }
    // A collective is removed on all of its members or on none.
    for matched in &crate::trace::align::match_collectives(ranks).matched {
        if matched.members.iter().any(|member| edits.omitted.contains(member)) {
            edits.omitted.extend(matched.members.iter().copied());
        }
    }
    edits
}

/// Makes one kernel of every run of adjacent kernels of a stream that fits a list of names. The
/// first keeps its place; the others and their launches go. What the first wrote for the next to
/// read stays on the chip: two transfers are saved where the operators' shapes say how large, and
/// the accelerator is known.
pub(super) fn fuse(
    ranks: &[RankTrace],
    what_if: &WhatIf,
    edits: &mut Edits,
    assumed: &mut Vec<String>,
) -> Result<()> {
    if what_if.fuse.is_empty() {
        return Ok(());
    }
    let catalogue = what_if.catalogue.as_deref();
    let accelerator = catalogue
        .and_then(|all| recorded_accelerator(ranks, what_if.recorded_on.as_deref(), all).ok());
    let rate = accelerator.map(|accelerator| {
        accelerator.memory.bandwidth.value.0 * accelerator.kernels.memory.value.0
    });
    for names in &what_if.fuse {
        if names.len() < 2 {
            return Err(Error::Unsupported("fusing takes two names of kernels or more".into()));
        }
        let (mut runs, mut with_bytes, mut saved_ns) = (0_u64, 0_u64, 0_i64);
        for (position, rank) in ranks.iter().enumerate() {
            let launches = Launches::of(rank);
            let works = shapes(rank, &launches);
            let mut streams: BTreeMap<(i32, i64), Vec<usize>> = BTreeMap::new();
            for (index, event) in rank.events.iter().enumerate() {
                if event.kind.is_device() && !edits.omitted.contains(&(position, index)) {
                    streams.entry((event.device, event.lane)).or_default().push(index);
                }
            }
            for stream in streams.into_values() {
                let mut at = 0;
                while at + names.len() <= stream.len() {
                    let run = &stream[at..at + names.len()];
                    let fits = run.iter().zip(names).all(|(index, name)| {
                        let event = &rank.events[*index];
                        !event.communicates && rank.name(event).contains(name.as_str())
                    });
                    if !fits {
                        at += 1;
                        continue;
                    }
                    let duration = |index: &usize| {
                        let own = rank.events[*index].dur_ns;
                        edits.durations.get(&(position, *index)).copied().unwrap_or(own)
                    };
                    let sum: i64 = run.iter().map(duration).sum();
                    let longest = run.iter().map(duration).max().unwrap_or(0);
                    let between: Option<u64> = run.windows(2).map(|w| passed(&works, w)).sum();
                    let transfers = match (between, rate) {
                        (Some(bytes), Some(rate)) => {
                            with_bytes += 1;
                            (2.0 * bytes as f64 / rate * 1e9).round() as i64
                        }
                        _ => 0,
                    };
                    // No part of the work that is left goes faster than it did.
                    let fused = (sum - transfers).max(longest);
                    saved_ns += sum - fused;
                    edits.durations.insert((position, run[0]), fused);
                    edits.omitted.extend(run[1..].iter().map(|index| (position, *index)));
                    runs += 1;
                    at += names.len();
                }
            }
        }
        let joined = names.join(" + ");
        if runs == 0 {
            return Err(Error::UnknownName {
                what: "run of adjacent kernels on one stream",
                name: joined,
                nearest: nearest_names(&names[0], followers(ranks, &names[0]).iter().map(|s| &**s)),
            });
        }
        assumed.push(format!(
            "{joined}: {runs} runs fused; launches and gaps between them saved, and {:.3} ms of \
             memory traffic in the {with_bytes} runs whose intermediate size is known",
            saved_ns as f64 / 1e6
        ));
    }
    Ok(())
}

/// Bytes that the first of two kernels writes for the second, where both are known.
fn passed(shapes: &[Option<Shape>], pair: &[usize]) -> Option<u64> {
    let (first, second) = (shapes[pair[0]]?, shapes[pair[1]]?);
    Some(first.output_bytes.min(second.input_bytes))
}

/// Names of kernels next to those that a name fits, for an error.
fn followers(ranks: &[RankTrace], name: &str) -> Vec<String> {
    let mut found = BTreeSet::new();
    for rank in ranks {
        let mut last: BTreeMap<(i32, i64), bool> = BTreeMap::new();
        for event in rank.events.iter().filter(|event| event.kind.is_device()) {
            let fits = rank.name(event).contains(name);
            if last.insert((event.device, event.lane), fits) == Some(true) {
                found.insert(rank.name(event).chars().take(60).collect());
            }
        }
    }
    found.into_iter().collect()
}

pub(super) fn straggling(ranks: &[RankTrace], who: &[Straggler]) -> Result<Vec<usize>> {
    who.iter()
        .map(|who| match who {
            Straggler::Rank(rank) => {
                ranks.iter().position(|known| known.header.rank == *rank).ok_or_else(|| {
                    unknown("rank", rank, ranks.iter().map(|known| known.header.rank.to_string()))
                })
            }
            other => Err(Error::Unsupported(format!("kernels know nothing of {other}"))),
        })
        .collect()
}

/// Whose times say what a straggler's work should take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Model {
    /// Those of all ranks that are not relieved.
    Others,
    /// Those of all ranks but the one itself, relieved or not.
    AllButItself,
}

impl Model {
    /// Whether `other` says what the relieved rank `this` should take.
    fn counts(self, this: usize, other: usize, relieved: &[usize]) -> bool {
        other != this && (self == Self::AllButItself || !relieved.contains(&other))
    }
}

/// Lets the n-th kernel of a name take the median of the n-th of other ranks, where it is shorter.
pub(super) fn relieve(ranks: &[RankTrace], relieved: &[usize], model: Model, edits: &mut Edits) {
    let mut lists: BTreeMap<(&str, usize), Vec<(usize, usize)>> = BTreeMap::new();
    for (position, rank) in ranks.iter().enumerate() {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, event) in rank.events.iter().enumerate() {
            if event.kind.is_device() && !event.communicates {
                let nth = counts.entry(rank.name(event)).or_default();
                lists.entry((rank.name(event), *nth)).or_default().push((position, index));
                *nth += 1;
            }
        }
    }
    for same in lists.values() {
        let duration = |(position, index): &(usize, usize)| ranks[*position].events[*index].dur_ns;
        for member in same.iter().filter(|(position, _)| relieved.contains(position)) {
            let others = same.iter().filter(|other| model.counts(member.0, other.0, relieved));
            let mut others: Vec<i64> = others.map(duration).collect();
            if !others.is_empty() {
                edits.durations.insert(*member, duration(member).min(median(&mut others)));
            }
        }
    }
}

/// Lets the hosts of ranks take as long as those of other ranks do at the median.
pub(super) fn relieve_hosts(program: &mut Program, relieved: &[usize], model: Model) {
    let work = |ops: &[crate::program::Op]| -> i64 {
        // The first is how much later than the others the rank began to record.
        ops.iter().skip(1).map(|op| recorded_work(op.action)).sum()
    };
    let works: Vec<i64> = program.templates.iter().map(|template| work(&template.ops)).collect();
    for position in relieved.iter().copied() {
        let others = works.iter().enumerate();
        let others = others.filter(|(other, _)| model.counts(position, *other, relieved));
        let mut others: Vec<i64> = others.map(|(_, ns)| *ns).collect();
        let own = works[position];
        let wanted = median(&mut others);
        if others.is_empty() || own <= wanted || own == 0 {
            continue;
        }
        let factor = wanted as f64 / own as f64;
        for op in program.templates[position].ops.iter_mut().skip(1) {
            if let Action::HostWork(HostWork::Recorded(ns)) = &mut op.action {
                ns.0 = (ns.0 as f64 * factor).round() as i64;
            }
        }
    }
}

fn recorded_work(action: Action) -> i64 {
    match action {
        Action::HostWork(HostWork::Recorded(ns)) => ns.0,
        _ => 0,
    }
}

/// What each rank's excess costs, alone and all together: the longest span of a rank without it.
/// Every rank takes what all the others do at the median, so that it is relieved of the same work
/// alone and together, and what the savings of single ranks do not add up to is their interaction.
pub(super) fn attribution(
    ranks: &[RankTrace],
    asked: &[Straggler],
) -> Result<(Vec<Attribution>, Together)> {
    let longest = |relieved: &[usize]| -> Result<i64> {
        let mut edits = Edits::default();
        relieve(ranks, relieved, Model::AllButItself, &mut edits);
        let mut now = edited_program(ranks, &edits)?;
        relieve_hosts(&mut now.program, relieved, Model::AllButItself);
        let durations = recorded_durations(&now);
        let lumping = Lumping::none(&now.program, &durations);
        Ok(Sweep::run(&now.program, &durations, &lumping)?.step().0)
    };
    let whole = longest(&[])?;
    let mut list: Vec<usize> = straggling(ranks, asked)?;
    if ranks.len() <= ATTRIBUTED_RANKS {
        list.extend(0..ranks.len());
    }
    list.sort_unstable();
    list.dedup();
    let without_ns = longest(&list)?;
    let saved_ns = whole - without_ns;
    let share = |saved: i64| (saved_ns > 0).then(|| saved as f64 / saved_ns as f64);
    let mut found = Vec::new();
    for position in list {
        let without_ns = longest(&[position])?;
        let saved_ns = whole - without_ns;
        found.push(Attribution {
            who: Straggler::Rank(ranks[position].header.rank).to_string(),
            without_ns,
            saved_ns,
            share: share(saved_ns),
        });
    }
    found.sort_by_key(|one| std::cmp::Reverse(one.saved_ns));
    let interaction_ns = saved_ns - found.iter().map(|one| one.saved_ns).sum::<i64>();
    let interaction_share = share(interaction_ns);
    Ok((found, Together { without_ns, saved_ns, interaction_ns, interaction_share }))
}
