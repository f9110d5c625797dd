//! Who meets whom: matched collectives, and sends that meet their receives.

use std::collections::BTreeMap;

use crate::program::{
    CallId, Collective, CollectiveCall, Dimension, Family, FamilyId, Groups, Program,
};
use crate::trace::align::{common_ns, match_collectives};
use crate::trace::collectives::{CommOp, bytes, operation};
use crate::trace::launches::Launches;
use crate::trace::model::{Event, RankTrace};
use crate::units::Nanos;

use super::{Cause, Edge, Edits, Moved, Notes};

/// Ends of two clocks that were aligned may differ by this much.
const CLOCKS_NS: i64 = 20_000;

/// The meetings of a recording.
#[derive(Default)]
pub(super) struct Meetings {
    of_event: BTreeMap<(usize, usize), (FamilyId, CallId)>,
    members: Vec<Vec<(usize, usize)>>,
    /// By call.
    pub(super) moved: Vec<Moved>,
}

/// A send or a receive: sender, receiver and step.
type Transfer = (u32, u32, String);
/// A send and its receive.
type Pair = [(usize, usize); 2];

impl Meetings {
    /// Finds them and adds their families and calls to the program.
    pub(super) fn of(
        ranks: &[RankTrace],
        launches: &[Launches],
        edits: &Edits,
        program: &mut Program,
        notes: &mut Notes,
    ) -> Self {
        let mut this = Self::default();
        // One family per set of members and operation, so that the order within a family is the
        // order in which each member recorded them.
        let mut families: BTreeMap<(Vec<usize>, CommOp, String), FamilyId> = BTreeMap::new();
        for matched in &match_collectives(ranks).matched {
            let left_out = matched.members.iter().any(|member| edits.omitted.contains(member));
            if !matched.op.ends_together() || left_out {
                continue;
            }
            let members: Vec<usize> = matched.members.iter().map(|(rank, _)| *rank).collect();
            // Two process groups may have the same members; they run on streams of their own.
            let (rank, event) = matched.members[0];
            let group = ranks[rank].collective(&ranks[rank].events[event]);
            let group = group.map_or(String::new(), |c| ranks[rank].names.get(c.group).to_owned());
            let name = format!("{} of {} ranks", matched.op.name(), members.len());
            let key = (members, matched.op, group);
            let family = *families.entry(key).or_insert_with_key(|(members, ..)| {
                family(program, name, Dimension::Data, members)
            });
            this.add(ranks, program, family, matched.op, matched.members.clone());
            notes.meetings += 1;
        }
        for pairs in transfers(ranks, launches) {
            if pairs.iter().flatten().any(|member| edits.omitted.contains(member)) {
                continue;
            }
            let Some([from, to]) = pairs.first() else { continue };
            let name = format!("{} to {}", ranks[from.0].header.rank, ranks[to.0].header.rank);
            let family = family(program, name, Dimension::Pipeline, &[from.0, to.0]);
            for pair in pairs {
                this.add(ranks, program, family, CommOp::SendRecv, pair.to_vec());
                notes.transfers += 1;
            }
        }
        this
    }

    fn add(
        &mut self,
        ranks: &[RankTrace],
        program: &mut Program,
        family: FamilyId,
        op: CommOp,
        members: Vec<(usize, usize)>,
    ) {
        let shortest = members.iter().map(|(rank, event)| ranks[*rank].events[*event].dur_ns).min();
        let (rank, event) = members[0];
        let moved = moved(&ranks[rank], &ranks[rank].events[event], Some(op));
        let call = CallId(program.calls.len() as u32);
        program.calls.push(CollectiveCall {
            name: op.name().to_owned(),
            collective: pattern(op),
            bytes: moved.bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
            messages: 1,
            fanout: None,
            recorded: Some(Nanos(shortest.unwrap_or(0))),
        });
        for member in &members {
            self.of_event.insert(*member, (family, call));
        }
        self.members.push(members);
        self.moved.push(moved);
    }

    /// The meeting of an event of the rank at a position.
    pub(super) fn of_event(&self, rank: usize, event: usize) -> Option<(FamilyId, CallId)> {
        self.of_event.get(&(rank, event)).copied()
    }

    /// An edge from the first member of each meeting to each of the others.
    pub(super) fn edges(&self) -> Vec<Edge> {
        let edge =
            |from: (usize, usize), to: (usize, usize)| Edge { cause: Cause::Meeting, from, to };
        self.members
            .iter()
            .flat_map(|members| members[1..].iter().map(|to| edge(members[0], *to)))
            .collect()
    }
}

fn family(
    program: &mut Program,
    name: String,
    dimension: Dimension,
    members: &[usize],
) -> FamilyId {
    let id = FamilyId(program.families.len() as u32);
    let groups = Groups::new([members.iter().map(|rank| *rank as u32).collect()]);
    program.families.push(Family { name, dimension, groups });
    id
}

/// What a communication kernel moved, as far as its rank recorded it.
pub(super) fn moved(rank: &RankTrace, event: &Event, op: Option<CommOp>) -> Moved {
    let op = op.unwrap_or_else(|| operation(rank, event));
    let collective = rank.collective(event);
    let group = collective.map_or("", |c| rank.names.get(c.group)).to_owned();
    let known = rank.header.groups.iter().find(|known| known.name == group);
    let size = collective
        .map(|c| c.group_size)
        .filter(|size| *size > 0)
        .or_else(|| known.map(|known| known.size).filter(|size| *size > 0))
        .and_then(|size| u32::try_from(size).ok());
    let ranks = match (op, size) {
        (CommOp::SendRecv, _) => Some(2),
        (_, None) if group.is_empty() => rank.header.world_size,
        (_, size) => size,
    };
    let (put_in, got_out) = bytes(rank, event);
    // Without the size of the group the sum over its members is not known.
    let known = ranks.is_some() || !matches!(op, CommOp::AllGather | CommOp::ReduceScatter);
    let bytes = op.message_bytes(put_in, got_out, ranks.unwrap_or(1)).filter(|_| known);
    Moved { op, group, bytes, ranks }
}

/// Pairs of a send and its receive, by sender, receiver and step: the n-th send to a rank is the
/// n-th receive from it. Pairs are taken only where both sides recorded as many, and every receive
/// was running when its send was: then the recorded order of each stream is one in which they can
/// meet.
fn transfers(ranks: &[RankTrace], launches: &[Launches]) -> Vec<Vec<Pair>> {
    let mut found: BTreeMap<Transfer, [Vec<(usize, usize)>; 2]> = BTreeMap::new();
    for (position, rank) in ranks.iter().enumerate() {
        let own = rank.header.rank;
        for (index, event) in rank.events.iter().enumerate() {
            if !event.communicates || operation(rank, event) != CommOp::SendRecv {
                continue;
            }
            let Some(collective) = rank.collective(event) else { continue };
            let Ok(peer) = u32::try_from(collective.peer) else { continue };
            let name = rank.names.get(collective.op).to_ascii_lowercase();
            let (sends, receives) = (name.contains("send"), name.contains("recv"));
            if sends == receives {
                // Both in one kernel, or neither: nobody knows which way.
                continue;
            }
            let step = launches[position].step(rank, index).map(|step| step.name.clone());
            let (from, to) = if sends { (own, peer) } else { (peer, own) };
            let lists = found.entry((from, to, step.unwrap_or_default())).or_default();
            lists[usize::from(receives)].push((position, index));
        }
    }
    let when = |(rank, event): (usize, usize)| {
        let event = &ranks[rank].events[event];
        (common_ns(&ranks[rank], event.start_ns), common_ns(&ranks[rank], event.end_ns()))
    };
    // Steps of one pair of ranks stay in order, as one family.
    let mut pairs: BTreeMap<(u32, u32), Vec<Pair>> = BTreeMap::new();
    for ((from, to, _), [sends, receives]) in found {
        let met: Vec<Pair> =
            sends.iter().zip(&receives).map(|(send, receive)| [*send, *receive]).collect();
        let overlap = met.iter().all(|[send, receive]| {
            let (send, receive) = (when(*send), when(*receive));
            send.0.max(receive.0) <= send.1.min(receive.1) + CLOCKS_NS
        });
        // In the order of one stream on each side, so that both come to them in the same order.
        let one_stream = [&sends, &receives].iter().all(|list| {
            let stream = |(rank, event): &(usize, usize)| {
                let event = &ranks[*rank].events[*event];
                (event.device, event.lane)
            };
            list.iter().all(|member| stream(member) == stream(&list[0]))
        });
        if sends.len() == receives.len() && overlap && one_stream {
            pairs.entry((from, to)).or_default().extend(met);
        }
    }
    pairs.into_values().collect()
}

fn pattern(op: CommOp) -> Collective {
    match op {
        CommOp::AllGather | CommOp::Gather => Collective::AllGather,
        CommOp::ReduceScatter | CommOp::Scatter => Collective::ReduceScatter,
        CommOp::AllToAll => Collective::AllToAll,
        CommOp::Broadcast => Collective::Broadcast,
        CommOp::SendRecv => Collective::SendRecv,
        _ => Collective::AllReduce,
    }
}
