//! The slowest rank, and what the others would gain without its excess.
//!
//! Ranks are held together by their collectives, so the recording is reduced to a skeleton: for
//! each rank its own work between arrivals at collectives (time minus exposed waiting), and for
//! each collective the last arrival. Replaying the skeleton unchanged gives the recorded arrivals
//! back, exactly. Replaying it with one rank's excess work removed (each stretch cut to the median
//! of the other members) says what that rank costs. Waiting that ran behind computation stays
//! hidden up to the amount that was hidden.

use serde::Serialize;

use super::Together;
use super::intervals::Intervals;
use crate::trace::align::{Matched, median};

/// The work of one rank; ns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RankWork {
    /// Rank.
    pub rank: u32,
    /// From the rank's beginning to its last device event, without exposed waiting.
    pub work_ns: i64,
    /// Waiting for other ranks in collectives while nothing else ran.
    pub exposed_wait_ns: i64,
    /// Collectives in which it arrived last.
    pub arrives_last: u64,
    /// How much later than the second to last, over those.
    pub late_ns: i64,
    /// What the trace would gain in span without this rank's excess.
    pub gain_ns: i64,
}

/// The rank whose excess costs most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlowestRank {
    /// Rank; `None` where no rank costs the others anything.
    pub rank: Option<u32>,
    /// Its work minus the median work of the others.
    pub excess_ns: i64,
    /// Span over all ranks as recorded.
    pub span_ns: i64,
    /// Span without its excess.
    pub span_without_ns: i64,
    /// The difference.
    pub gain_ns: i64,
    /// Collectives that the statement rests on.
    pub collectives: u64,
    /// Every rank, in order.
    pub ranks: Vec<RankWork>,
}

/// One arrival of a rank at a collective.
struct Arrival {
    /// Own work since the previous arrival.
    work_ns: i64,
    /// Waiting that the rank can hide behind other work.
    slack_ns: i64,
    /// Exposed waiting as recorded.
    exposed_ns: i64,
}

struct Skeleton {
    arrivals: Vec<Vec<Arrival>>,
    /// Positions in `arrivals` of the members of each collective.
    members: Vec<Vec<(usize, usize)>>,
    begin: Vec<i64>,
    /// Own work after the last arrival.
    tail_ns: Vec<i64>,
    last_ns: Vec<i64>,
}

/// How many ranks are tried; the others are far from being the slowest.
const CANDIDATES: usize = 32;

pub(super) fn slowest(together: &Together<'_>) -> Option<SlowestRank> {
    if together.ranks.len() < 2 || together.matching.meetings().next().is_none() {
        return None;
    }
    let skeleton = Skeleton::of(together);
    let (first, last) = together.span()?;
    let recorded = skeleton.replay(None);
    debug_assert_eq!(recorded, skeleton.last_ns);
    let mut ranks: Vec<RankWork> = (0..together.ranks.len())
        .map(|rank| {
            let exposed: i64 = skeleton.arrivals[rank].iter().map(|a| a.exposed_ns).sum();
            RankWork {
                rank: together.ranks[rank].header.rank,
                work_ns: skeleton.last_ns[rank] - skeleton.begin[rank] - exposed,
                exposed_wait_ns: exposed,
                arrives_last: 0,
                late_ns: 0,
                gain_ns: 0,
            }
        })
        .collect();
    for matched in together.matching.meetings() {
        let mut arrivals: Vec<(i64, usize)> =
            matched.members.iter().map(|(r, i)| (together.start(*r, *i), *r)).collect();
        arrivals.sort_unstable();
        if let [.., (before, _), (latest, rank)] = arrivals.as_slice()
            && latest > before
        {
            ranks[*rank].arrives_last += 1;
            ranks[*rank].late_ns = ranks[*rank].late_ns.saturating_add(latest - before);
        }
    }
    let mut order: Vec<usize> = (0..ranks.len()).collect();
    order.sort_by_key(|rank| (std::cmp::Reverse(ranks[*rank].late_ns), *rank));
    for &rank in order.iter().take(CANDIDATES) {
        let without = skeleton.replay(Some(rank)).into_iter().max().unwrap_or(last);
        ranks[rank].gain_ns = (last - without).max(0);
    }
    let best = (0..ranks.len()).max_by_key(|r| (ranks[*r].gain_ns, std::cmp::Reverse(*r)))?;
    let gain_ns = ranks[best].gain_ns;
    let mut others: Vec<i64> =
        (0..ranks.len()).filter(|r| *r != best).map(|r| ranks[r].work_ns).collect();
    Some(SlowestRank {
        rank: (gain_ns > 0).then_some(ranks[best].rank),
        excess_ns: ranks[best].work_ns - median(&mut others),
        span_ns: last - first,
        span_without_ns: last - first - gain_ns,
        gain_ns,
        collectives: together.matching.meetings().count() as u64,
        ranks,
    })
}

impl Skeleton {
    fn of(together: &Together<'_>) -> Self {
        let count = together.ranks.len();
        let mut begin = vec![0; count];
        let mut last_ns = vec![0; count];
        let mut busy = Vec::with_capacity(count);
        for (rank, trace) in together.ranks.iter().enumerate() {
            let device = || trace.events.iter().filter(|event| event.kind.is_device());
            let first = device().map(|event| event.start_ns).min().unwrap_or(0);
            let step = trace.header.windows.first().map_or(first, |step| step.start_ns.min(first));
            begin[rank] = together.at(rank, step);
            last_ns[rank] =
                together.at(rank, device().map(|event| event.end_ns()).max().unwrap_or(step));
            busy.push(Intervals::union_of(
                device()
                    .filter(|event| !event.communicates)
                    .map(|event| {
                        (together.at(rank, event.start_ns), together.at(rank, event.end_ns()))
                    })
                    .collect(),
            ));
        }
        // The order of last arrivals is the order in which a replay can settle collectives.
        let matched: Vec<&Matched> = together.matching.meetings().collect();
        let last_arrival = |index: usize| {
            matched[index].members.iter().map(|(r, i)| together.start(*r, *i)).max().unwrap_or(0)
        };
        let mut order: Vec<(i64, usize)> =
            (0..matched.len()).map(|index| (last_arrival(index), index)).collect();
        order.sort_unstable();
        let mut arrivals: Vec<Vec<Arrival>> = (0..count).map(|_| Vec::new()).collect();
        let mut members = Vec::with_capacity(order.len());
        let mut waited = vec![0_i64; count];
        let mut worked = vec![0_i64; count];
        // Waiting in two collectives at once is counted once.
        let mut counted: Vec<i64> = begin.clone();
        for (meet, index) in order {
            let mut positions = Vec::new();
            for &(rank, event) in &matched[index].members {
                let (start, end) = (together.start(rank, event), together.end(rank, event));
                let until = meet.min(end);
                let from = start.max(counted[rank]);
                let exposed = (until - from).max(0) - busy[rank].length_in(from, until);
                let exposed = exposed.max(0);
                let slack = if exposed > 0 {
                    (meet - start) - exposed
                } else {
                    (meet - start).max(busy[rank].length_in(start, end))
                };
                let work = start - begin[rank] - waited[rank];
                arrivals[rank].push(Arrival {
                    work_ns: work - worked[rank],
                    slack_ns: slack,
                    exposed_ns: exposed,
                });
                positions.push((rank, arrivals[rank].len() - 1));
                worked[rank] = work;
                waited[rank] += exposed;
                counted[rank] = counted[rank].max(until);
            }
            members.push(positions);
        }
        let tail_ns = (0..count)
            .map(|rank| last_ns[rank] - begin[rank] - waited[rank] - worked[rank])
            .collect();
        Self { arrivals, members, begin, tail_ns, last_ns }
    }

    /// When each rank ends, with the excess work of `relieved` removed.
    fn replay(&self, relieved: Option<usize>) -> Vec<i64> {
        let mut work: Vec<i64> = self.begin.clone();
        let mut waited = vec![0_i64; self.begin.len()];
        for positions in &self.members {
            let mut meet = i64::MIN;
            for &(rank, position) in positions {
                let arrival = &self.arrivals[rank][position];
                let mut step = arrival.work_ns;
                if relieved == Some(rank) {
                    let mut others: Vec<i64> = positions
                        .iter()
                        .filter(|(other, _)| *other != rank)
                        .map(|(other, at)| self.arrivals[*other][*at].work_ns)
                        .collect();
                    step = step.min(median(&mut others));
                }
                work[rank] += step;
                meet = meet.max(work[rank] + waited[rank]);
            }
            for &(rank, position) in positions {
                let arrival = &self.arrivals[rank][position];
                let wait = meet - (work[rank] + waited[rank]) - arrival.slack_ns;
                waited[rank] += wait.max(0);
            }
        }
        (0..self.begin.len())
            .map(|rank| {
                let mut tail = self.tail_ns[rank];
                if relieved == Some(rank) {
                    let mut others: Vec<i64> = (0..self.begin.len())
                        .filter(|other| *other != rank)
                        .map(|other| self.tail_ns[other])
                        .collect();
                    tail = tail.min(median(&mut others));
                }
                work[rank] + waited[rank] + tail
            })
            .collect()
    }
}
