//! Transfers that share links, directly or through others: an event loop with incremental rates.
//!
//! When a transfer ends or starts, the set `S` of transfers to re-solve begins with those whose
//! bottleneck is on one of its links. `S` is solved by progressive filling with everybody else's
//! rate fixed, and then the bottleneck condition is checked on every link `S` uses:
//!
//! * somebody outside of `S` whose bottleneck is no longer full, or on whose bottleneck somebody is
//!   now faster, joins `S`;
//! * where a member of `S` is held back by a link on which somebody outside is faster, those
//!   join `S`;
//!
//! until nobody joins. `S` only grows, so this ends; the condition then holds for everybody, so the
//! rates are the max-min rates.

use super::heap::Heap;
use super::{FREE, Problem};

/// Relative slack of comparisons: far above rounding, far below the 1e-9 promised.
const SLACK: f64 = 1e-11;
/// Sets up to this size are filled by scanning; larger ones with an ordered queue of links.
const SCAN: usize = 24;

#[derive(Clone, Copy, Debug)]
struct Transfer {
    rate: f64,
    limit: f64,
    left: f64,
    since: f64,
    /// Link that holds it back; [`FREE`] where its own limit does.
    bottleneck: u32,
    from: u32,
    to: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct LinkState {
    capacity: f64,
    from: u32,
    /// Active users: the first `active` of its row.
    active: u32,
    /// Scratch of one filling.
    residual: f64,
    weight: f64,
    unfrozen: u32,
    /// Stamp of the last re-solve that touched it.
    stamp: u32,
}

/// One component; its buffers are reused from one to the next.
#[derive(Clone, Debug)]
pub(super) struct Component {
    /// Local number of a link of the problem.
    local: Vec<u32>,
    transfers: Vec<Transfer>,
    uses: Vec<(u32, f64)>,
    links: Vec<LinkState>,
    users: Vec<(u32, f64)>,
    names: Vec<u32>,
    starts: Vec<(f64, u32)>,
    heap: Heap,
    /// Stamp of the last re-solve a transfer was in, and whether its rate is final in it.
    in_set: Vec<u32>,
    frozen: Vec<bool>,
    stamp: u32,
    set: Vec<u32>,
    touched: Vec<u32>,
    solved: u64,
}

impl Component {
    pub(super) fn new(links: usize) -> Self {
        Self {
            local: vec![FREE; links],
            transfers: Vec::new(),
            uses: Vec::new(),
            links: Vec::new(),
            users: Vec::new(),
            names: Vec::new(),
            starts: Vec::new(),
            heap: Heap::default(),
            in_set: Vec::new(),
            frozen: Vec::new(),
            stamp: 0,
            set: Vec::new(),
            touched: Vec::new(),
            solved: 0,
        }
    }

    /// Takes the members of a component out of a problem; links that cannot bind are left out.
    pub(super) fn load(
        &mut self,
        problem: &Problem,
        members: &[(u32, u32)],
        limits: &[f64],
        binding: &[bool],
    ) {
        self.transfers.clear();
        self.uses.clear();
        self.links.clear();
        self.names.clear();
        self.starts.clear();
        for (_, t) in members {
            let t = *t as usize;
            let from = self.uses.len() as u32;
            for (link, weight) in problem.uses_of(t) {
                if !binding[*link as usize] {
                    continue;
                }
                let slot = &mut self.local[*link as usize];
                if *slot == FREE {
                    *slot = self.links.len() as u32;
                    self.links.push(LinkState {
                        capacity: problem.capacity[*link as usize],
                        ..LinkState::default()
                    });
                }
                self.links[*slot as usize].unfrozen += 1;
                self.uses.push((*slot, *weight));
            }
            self.transfers.push(Transfer {
                rate: 0.0,
                limit: limits[t],
                left: problem.bytes[t],
                since: problem.start[t],
                bottleneck: FREE,
                from,
                to: self.uses.len() as u32,
            });
            self.starts.push((problem.start[t], self.names.len() as u32));
            self.names.push(t as u32);
        }
        let mut total = 0;
        for link in &mut self.links {
            link.from = total;
            total += link.unfrozen;
            link.unfrozen = 0;
        }
        self.users.clear();
        self.users.resize(total as usize, (0, 0.0));
        // Latest start last: popped from the back.
        self.starts.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
        self.heap.reset(members.len());
        self.in_set.clear();
        self.in_set.resize(members.len(), 0);
        self.frozen.clear();
        self.frozen.resize(members.len(), false);
        self.stamp = 0;
        self.solved = 0;
        for (_, t) in members {
            for (link, _) in problem.uses_of(*t as usize) {
                self.local[*link as usize] = FREE;
            }
        }
    }

    /// Runs to the end; writes completion times and returns how many rates were computed.
    pub(super) fn run(&mut self, finish: &mut [f64]) -> u64 {
        loop {
            let start = self.starts.last().map(|(time, _)| *time);
            let end = self.heap.peek();
            match (start, end) {
                (None, None) => return self.solved,
                // Starts first, so that simultaneous ones are solved together.
                (Some(time), end) if end.is_none_or(|(e, _)| time <= e) => self.begin(time),
                (_, Some((time, transfer))) => {
                    self.heap.pop();
                    finish[self.names[transfer as usize] as usize] = time;
                    self.finish(transfer, time);
                }
                (Some(_), None) => return self.solved,
            }
        }
    }

    /// Rates with every member active at once.
    pub(super) fn solve_all(&mut self, rates: &mut [f64]) {
        for start in &mut self.starts {
            start.0 = 0.0;
        }
        self.begin(0.0);
        for (transfer, name) in self.transfers.iter().zip(&self.names) {
            rates[*name as usize] = transfer.rate;
        }
    }

    fn begin(&mut self, now: f64) {
        self.open();
        while let Some((time, transfer)) = self.starts.last().copied()
            && time <= now
        {
            self.starts.pop();
            let t = self.transfers[transfer as usize];
            for at in t.from..t.to {
                let (link, weight) = self.uses[at as usize];
                let state = &mut self.links[link as usize];
                self.users[(state.from + state.active) as usize] = (transfer, weight);
                state.active += 1;
            }
            self.take(transfer);
        }
        self.resolve(now);
    }

    fn finish(&mut self, transfer: u32, now: f64) {
        let t = self.transfers[transfer as usize];
        self.open();
        for at in t.from..t.to {
            let link = self.uses[at as usize].0;
            let state = &mut self.links[link as usize];
            let row = state.from as usize..(state.from + state.active) as usize;
            if let Some(position) = self.users[row.clone()].iter().position(|u| u.0 == transfer) {
                self.users.swap(row.start + position, row.end - 1);
                state.active -= 1;
            }
            // The transfers it may have held back.
            for user in state.from..state.from + state.active {
                let other = self.users[user as usize].0;
                if self.transfers[other as usize].bottleneck == link {
                    self.take(other);
                }
            }
        }
        if !self.set.is_empty() {
            self.resolve(now);
        }
    }

    /// Starts a new set.
    fn open(&mut self) {
        self.stamp += 1;
        self.set.clear();
        self.touched.clear();
    }

    /// Takes a transfer into the set, with its links.
    fn take(&mut self, transfer: u32) {
        if self.in_set[transfer as usize] == self.stamp {
            return;
        }
        self.in_set[transfer as usize] = self.stamp;
        self.set.push(transfer);
        let t = self.transfers[transfer as usize];
        for at in t.from..t.to {
            let link = self.uses[at as usize].0;
            if self.links[link as usize].stamp != self.stamp {
                self.links[link as usize].stamp = self.stamp;
                self.touched.push(link);
            }
        }
    }

    /// Solves the set, lets it grow until the bottleneck condition holds, and moves completions.
    fn resolve(&mut self, now: f64) {
        // What was sent at the old rates: once per transfer, when it joins.
        let mut settled = 0;
        loop {
            while settled < self.set.len() {
                let t = &mut self.transfers[self.set[settled] as usize];
                if t.rate > 0.0 {
                    t.left = (t.left - t.rate * (now - t.since)).max(0.0);
                }
                t.since = now;
                settled += 1;
            }
            self.fill();
            self.solved += self.set.len() as u64;
            if !self.grow() {
                break;
            }
        }
        for i in 0..self.set.len() {
            let transfer = self.set[i];
            let t = self.transfers[transfer as usize];
            self.heap.set(transfer, now + t.left / t.rate);
        }
    }

    /// Progressive filling of the set, everybody else fixed.
    fn fill(&mut self) {
        for &link in &self.touched {
            let state = &mut self.links[link as usize];
            let (mut residual, mut weight, mut unfrozen) = (state.capacity, 0.0, 0);
            for &(user, w) in &self.users[state.from as usize..(state.from + state.active) as usize]
            {
                if self.in_set[user as usize] == self.stamp {
                    weight += w;
                    unfrozen += 1;
                } else {
                    residual -= w * self.transfers[user as usize].rate;
                }
            }
            (state.residual, state.weight, state.unfrozen) = (residual.max(0.0), weight, unfrozen);
        }
        for &transfer in &self.set {
            self.frozen[transfer as usize] = false;
        }
        if self.set.len() <= SCAN { self.fill_by_scan() } else { self.fill_by_queue() }
    }

    fn share(&self, link: u32) -> f64 {
        let state = &self.links[link as usize];
        state.residual.max(0.0) / state.weight
    }

    fn fill_by_scan(&mut self) {
        let mut left = self.set.len();
        while left > 0 {
            let (mut level, mut tightest) = (f64::INFINITY, FREE);
            for &link in &self.touched {
                if self.links[link as usize].unfrozen > 0 {
                    let share = self.share(link);
                    if share < level {
                        (level, tightest) = (share, link);
                    }
                }
            }
            let mut limited = FREE;
            for &transfer in &self.set {
                if !self.frozen[transfer as usize] {
                    let limit = self.transfers[transfer as usize].limit;
                    if limit <= level {
                        (level, limited) = (limit, transfer);
                    }
                }
            }
            if limited != FREE {
                self.freeze(limited, level, FREE);
                left -= 1;
            } else if tightest != FREE {
                left -= self.freeze_link(tightest, level);
            } else {
                return;
            }
        }
    }

    /// As the scan, with links in order of their share. A link's share only grows as others
    /// freeze at lower levels, so an entry that is out of date is put back with its new share.
    fn fill_by_queue(&mut self) {
        use std::cmp::Reverse;
        let mut queue: std::collections::BinaryHeap<Reverse<(u64, u32)>> = self
            .touched
            .iter()
            .filter(|link| self.links[**link as usize].unfrozen > 0)
            // Shares are not negative, so their bits are ordered as they are.
            .map(|link| Reverse((self.share(*link).to_bits(), *link)))
            .collect();
        let mut limited: Vec<u32> = self.set.clone();
        limited.sort_by(|a, b| {
            let limit = |t: &u32| self.transfers[*t as usize].limit;
            limit(b).total_cmp(&limit(a)).then(b.cmp(a))
        });
        let mut left = self.set.len();
        while left > 0 {
            while limited.last().is_some_and(|t| self.frozen[*t as usize]) {
                limited.pop();
            }
            let limit = limited.last().map_or(f64::INFINITY, |t| self.transfers[*t as usize].limit);
            let tightest = loop {
                let Some(Reverse((bits, link))) = queue.peek().copied() else { break None };
                if self.links[link as usize].unfrozen == 0 {
                    queue.pop();
                    continue;
                }
                let share = self.share(link);
                if share.to_bits() > bits {
                    queue.pop();
                    queue.push(Reverse((share.to_bits(), link)));
                    continue;
                }
                break Some((share, link));
            };
            match tightest {
                Some((share, link)) if share < limit => left -= self.freeze_link(link, share),
                _ => match limited.pop() {
                    Some(transfer) => {
                        self.freeze(transfer, limit, FREE);
                        left -= 1;
                    }
                    None => return,
                },
            }
        }
    }

    fn freeze_link(&mut self, link: u32, level: f64) -> usize {
        let state = self.links[link as usize];
        let mut count = 0;
        for at in state.from..state.from + state.active {
            let user = self.users[at as usize].0;
            if self.in_set[user as usize] == self.stamp && !self.frozen[user as usize] {
                self.freeze(user, level, link);
                count += 1;
            }
        }
        count
    }

    fn freeze(&mut self, transfer: u32, level: f64, bottleneck: u32) {
        self.frozen[transfer as usize] = true;
        let t = &mut self.transfers[transfer as usize];
        t.rate = level;
        t.bottleneck = bottleneck;
        for at in t.from..t.to {
            let (link, weight) = self.uses[at as usize];
            let state = &mut self.links[link as usize];
            state.residual -= weight * level;
            state.unfrozen -= 1;
            // Fractions do not add up to zero; the count does.
            state.weight = if state.unfrozen == 0 { 0.0 } else { state.weight - weight };
        }
    }

    /// Takes in whoever the bottleneck condition fails for; whether there was anybody.
    fn grow(&mut self) -> bool {
        let before = self.set.len();
        let mut i = 0;
        // Links that join with new members are looked at in the next round, after a filling.
        let links = self.touched.len();
        while i < links {
            let link = self.touched[i];
            i += 1;
            let state = self.links[link as usize];
            let row = state.from as usize..(state.from + state.active) as usize;
            let (mut load, mut fastest) = (0.0, 0.0_f64);
            // The slowest member of the set that this link holds back.
            let mut held = f64::INFINITY;
            for &(user, weight) in &self.users[row.clone()] {
                let t = &self.transfers[user as usize];
                load += weight * t.rate;
                fastest = fastest.max(t.rate);
                if t.bottleneck == link && self.in_set[user as usize] == self.stamp {
                    held = held.min(t.rate);
                }
            }
            let full = load >= state.capacity * (1.0 - SLACK);
            for at in row {
                let user = self.users[at].0;
                if self.in_set[user as usize] == self.stamp {
                    continue;
                }
                let t = self.transfers[user as usize];
                let lost = t.bottleneck == link && (!full || t.rate < fastest * (1.0 - SLACK));
                let unfair = t.rate > held * (1.0 + SLACK);
                if lost || unfair {
                    self.take(user);
                }
            }
        }
        self.set.len() > before
    }
}
