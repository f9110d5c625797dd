//! Matching collectives across ranks, and putting ranks on one clock.
//!
//! No member of an all-reduce (all-gather, reduce-scatter, all-to-all) finishes before the last
//! has arrived: ends agree within microseconds inside a host, while starts differ by milliseconds.
//! The median distance of matched ends is therefore the skew between two clocks, and what a kernel
//! recorded in front of the last arrival is waiting.

use std::collections::{BTreeMap, VecDeque};

use super::collectives::{CommOp, operation};
use super::launches::Launches;
use super::model::RankTrace;
use super::names::NameId;

/// A collective that was found on every recorded member of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matched {
    /// What it does.
    pub op: CommOp,
    /// Recorded members: position of the rank, and of its kernel in the rank's events.
    pub members: Vec<(usize, usize)>,
}

/// Matched collectives, and how many were left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matching {
    /// Matched collectives in order of their end on the first member.
    pub matched: Vec<Matched>,
    /// Communication kernels that take part in no match.
    pub unmatched: u64,
}

impl Matching {
    /// The matched collectives that nobody leaves before the last member has arrived.
    pub fn meetings(&self) -> impl Iterator<Item = &Matched> {
        self.matched.iter().filter(|matched| matched.op.ends_together())
    }
}

/// What makes two kernels on different ranks candidates for the same collective.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    /// Position in the list of groups.
    group: usize,
    op: CommOp,
    /// Step that launched it: a rank that recorded one step less does not shift the others.
    step: String,
    /// Sequence number where recorded.
    sequence: i64,
}

/// The groups of all ranks: members where known, else the name.
#[derive(Default)]
struct Groups {
    list: Vec<(Vec<u32>, String)>,
    places: BTreeMap<(Vec<u32>, String), usize>,
}

impl Groups {
    /// The place of a group that a rank calls by a name. The same members are the same group,
    /// whatever each rank calls it.
    fn place(&mut self, rank: &RankTrace, name: NameId) -> usize {
        let name = rank.names.get(name);
        let found = rank.header.groups.iter().find(|known| known.name == name);
        let members = found.map(|known| known.ranks.clone()).unwrap_or_default();
        let name = if members.is_empty() { name.to_owned() } else { String::new() };
        *self.places.entry((members, name)).or_insert_with_key(|key| {
            self.list.push(key.clone());
            self.list.len() - 1
        })
    }
}

/// Matches the collectives of ranks that ran together: the n-th of a group, operation and step on
/// one rank is the n-th on the others. Where ranks disagree about how many there were, none is
/// matched.
#[must_use]
pub fn match_collectives(ranks: &[RankTrace]) -> Matching {
    let mut lists: BTreeMap<Key, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
    let mut groups = Groups::default();
    let mut kernels = 0_u64;
    for (position, rank) in ranks.iter().enumerate() {
        if !rank.events.iter().any(|event| event.communicates) {
            continue;
        }
        let launches = Launches::of(rank);
        let mut known: BTreeMap<NameId, usize> = BTreeMap::new();
        for (index, event) in rank.events.iter().enumerate() {
            if !event.communicates {
                continue;
            }
            kernels += 1;
            let op = operation(rank, event);
            if matches!(op, CommOp::SendRecv | CommOp::Other) {
                continue;
            }
            let collective = rank.collective(event);
            let name = collective.map_or(NameId::EMPTY, |c| c.group);
            let group = *known.entry(name).or_insert_with(|| groups.place(rank, name));
            let step = launches.step(rank, index).map(|step| step.name.clone());
            let sequence = collective.map_or(-1, |c| c.sequence);
            let key = Key { group, op, step: step.unwrap_or_default(), sequence };
            lists.entry(key).or_default().entry(position).or_default().push(index);
        }
    }
    let numbers: BTreeMap<u32, usize> =
        ranks.iter().enumerate().map(|(i, rank)| (rank.header.rank, i)).collect();
    // A rank without any communication (CPU only, say) is in no unnamed group.
    let communicating =
        ranks.iter().filter(|rank| rank.events.iter().any(|e| e.communicates)).count();
    let mut matching = Matching::default();
    let mut used = 0_u64;
    for (key, lists) in lists {
        let members = &groups.list[key.group].0;
        let expected = if members.is_empty() {
            communicating
        } else {
            members.iter().filter(|rank| numbers.contains_key(rank)).count()
        };
        let count = lists.values().next().map_or(0, Vec::len);
        if expected < 2 || lists.len() != expected || lists.values().any(|l| l.len() != count) {
            continue;
        }
        used += (count * expected) as u64;
        for nth in 0..count {
            let members = lists.iter().map(|(rank, list)| (*rank, list[nth])).collect();
            matching.matched.push(Matched { op: key.op, members });
        }
    }
    matching.matched.sort_by_key(|matched| {
        let (rank, index) = matched.members[0];
        (common_ns(&ranks[rank], ranks[rank].events[index].end_ns()), rank, index)
    });
    matching.unmatched = kernels - used;
    matching
}

/// A time of a rank on the common clock of its trace, ns since 1970.
#[must_use]
pub fn common_ns(rank: &RankTrace, at_ns: i64) -> i64 {
    let clock = &rank.header.clock;
    at_ns.saturating_add(clock.base_unix_ns).saturating_add(clock.offset_ns)
}

/// Puts the ranks of a trace on the clock of the first, as far as collectives link them.
pub(crate) fn align(ranks: &mut [RankTrace]) {
    for rank in ranks.iter_mut() {
        rank.header.clock.offset_ns = 0;
        rank.header.clock.aligned_on = 0;
        rank.header.clock.residual_ns = 0;
    }
    if ranks.len() < 2 {
        return;
    }
    let matching = match_collectives(ranks);
    let usable: Vec<&Matched> = matching.meetings().collect();
    let mut of_rank: Vec<Vec<usize>> = vec![Vec::new(); ranks.len()];
    for (index, matched) in usable.iter().enumerate() {
        for (rank, _) in &matched.members {
            of_rank[*rank].push(index);
        }
    }
    let mut done = vec![false; ranks.len()];
    let mut queue = VecDeque::new();
    for root in 0..ranks.len() {
        if std::mem::replace(&mut done[root], true) {
            continue;
        }
        queue.push_back(root);
        while let Some(anchor) = queue.pop_front() {
            let mut samples: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
            for matched in of_rank[anchor].iter().map(|index| usable[*index]) {
                let end = |rank: usize, index: usize| {
                    common_ns(&ranks[rank], ranks[rank].events[index].end_ns())
                };
                let mut here = None;
                for &(rank, index) in &matched.members {
                    if rank == anchor {
                        here = Some(end(rank, index));
                    }
                }
                let Some(here) = here else { continue };
                for &(rank, index) in matched.members.iter().filter(|(rank, _)| !done[*rank]) {
                    samples.entry(rank).or_default().push(here.saturating_sub(end(rank, index)));
                }
            }
            for (rank, mut distances) in samples {
                let offset = median(&mut distances);
                let mut residuals: Vec<i64> =
                    distances.iter().map(|d| d.saturating_sub(offset).saturating_abs()).collect();
                let clock = &mut ranks[rank].header.clock;
                clock.offset_ns = offset;
                clock.aligned_on = distances.len() as u32;
                clock.residual_ns = median(&mut residuals);
                done[rank] = true;
                queue.push_back(rank);
            }
        }
    }
}

/// The lower median.
pub(crate) fn median(values: &mut [i64]) -> i64 {
    if values.is_empty() {
        return 0;
    }
    values.sort_unstable();
    values[(values.len() - 1) / 2]
}
