//! Bandwidth sharing among transfers that overlap: max-min fairness.
//!
//! # What is solved
//!
//! Transfer `i` progresses at rate `r_i` and consumes `w_il r_i` of every link `l` on its way
//! (`w` is 1 for a plain flow). The rates are max-min fair: nobody can be faster without making
//! somebody slower who is not faster already. Equivalently, and this is what is checked, every
//! transfer runs at its own limit or has a *bottleneck*: a saturated link on which nobody is faster
//! (Bertsekas and Gallager, Data Networks, section 6.5.2). Such rates exist and are unique.
//!
//! A pipelined collective is one transfer ([`coflow`]): its members move in step, so it has one
//! rate, and `w` counts how many of its streams cross a link.
//!
//! # How
//!
//! * [`oracle`] is the textbook: raise all rates together until a link is full, freeze its
//!   transfers, repeat; after every completion start over. Slow and plainly right.
//! * [`completion_times`] gives the same completion times. Transfers whose links nobody else can
//!   fill run at fixed rates without an event. The others fall into components that share no link;
//!   in each, a completion re-solves only the transfers whose bottleneck it touched, and more only
//!   where the bottleneck condition turns out to be violated (`Component`). Since the
//!   condition determines the rates, stopping when it holds is exact, not an approximation.

pub mod coflow;
mod component;
mod heap;
pub mod oracle;

use crate::error::{Error, Result};

/// Transfers over links: who uses what, in compressed rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Problem {
    /// Capacity of every directed link, bytes per second.
    pub capacity: Vec<f64>,
    /// Where the uses of a transfer start in `uses`; one more entry than transfers.
    pub offsets: Vec<u32>,
    /// Link and weight, by transfer.
    pub uses: Vec<(u32, f64)>,
    /// Bytes to move, by transfer.
    pub bytes: Vec<f64>,
    /// Start time in seconds, by transfer.
    pub start: Vec<f64>,
    /// Rate limit of its own, bytes per second (infinite for none), by transfer.
    pub limit: Vec<f64>,
}

impl Problem {
    /// Links of the given capacities and no transfers.
    #[must_use]
    pub fn new(capacity: Vec<f64>) -> Self {
        Self { capacity, offsets: vec![0], ..Self::default() }
    }

    /// Adds a transfer over links with weights. A link that is named twice counts twice.
    ///
    /// # Errors
    /// A link does not exist or has no bandwidth, or a number is negative or not finite.
    pub fn add(
        &mut self,
        bytes: f64,
        start: f64,
        limit: f64,
        uses: impl IntoIterator<Item = (u32, f64)>,
    ) -> Result<()> {
        let bad = |what: String| Err(Error::Unsupported(what));
        if !(bytes.is_finite() && bytes >= 0.0 && start.is_finite() && start >= 0.0) {
            return bad(format!("a transfer of {bytes} bytes from {start} s does not exist"));
        }
        if limit.is_nan() || limit <= 0.0 {
            return bad(format!("a transfer limited to {limit} bytes per second never ends"));
        }
        let from = self.uses.len();
        for (link, weight) in uses {
            let Some(capacity) = self.capacity.get(link as usize) else {
                self.uses.truncate(from);
                return bad(format!(
                    "link {link} of a transfer is outside of the {} links",
                    self.capacity.len()
                ));
            };
            if !(*capacity > 0.0 && capacity.is_finite() && weight > 0.0 && weight.is_finite()) {
                let capacity = *capacity;
                self.uses.truncate(from);
                return bad(format!(
                    "link {link} of {capacity} bytes per second cannot carry a transfer of weight \
                     {weight}"
                ));
            }
            // A repeated link is one use of twice the weight.
            match self.uses[from..].iter_mut().find(|(other, _)| *other == link) {
                Some((_, total)) => *total += weight,
                None => self.uses.push((link, weight)),
            }
        }
        if self.uses.len() == from && limit.is_infinite() {
            return bad("a transfer without links and without a limit takes no time".into());
        }
        self.offsets.push(self.uses.len() as u32);
        self.bytes.push(bytes);
        self.start.push(start);
        self.limit.push(limit);
        Ok(())
    }

    /// As [`Self::add`] for uses that name every link once: long rows cost no search.
    ///
    /// # Errors
    /// As for [`Self::add`]; links do not increase strictly.
    pub fn add_sorted(
        &mut self,
        bytes: f64,
        start: f64,
        limit: f64,
        uses: &[(u32, f64)],
    ) -> Result<()> {
        if uses.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            return self.add(bytes, start, limit, uses.iter().copied());
        }
        let fits = uses.iter().all(|(link, weight)| {
            *weight > 0.0
                && weight.is_finite()
                && self.capacity.get(*link as usize).is_some_and(|c| *c > 0.0 && c.is_finite())
        });
        if !fits || uses.is_empty() || !(bytes >= 0.0 && start >= 0.0 && limit > 0.0) {
            return self.add(bytes, start, limit, uses.iter().copied());
        }
        self.uses.extend_from_slice(uses);
        self.offsets.push(self.uses.len() as u32);
        self.bytes.push(bytes);
        self.start.push(start);
        self.limit.push(limit);
        Ok(())
    }

    /// Transfers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are no transfers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Links and weights of a transfer.
    #[must_use]
    pub fn uses_of(&self, transfer: usize) -> &[(u32, f64)] {
        &self.uses[self.offsets[transfer] as usize..self.offsets[transfer + 1] as usize]
    }
}

/// What a simulation of transfers gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Completion time of every transfer, seconds.
    pub finish: Vec<f64>,
    /// Transfers that ran at a fixed rate from start to end: nobody could fill their links.
    pub private: usize,
    /// Times a rate was computed.
    pub solved: u64,
}

/// Where a link stands after what cannot bind was taken out.
const FREE: u32 = u32::MAX;

/// Simulates all transfers to their ends.
#[must_use]
pub fn completion_times(problem: &Problem) -> Outcome {
    let transfers = problem.len();
    let mut outcome = Outcome { finish: vec![0.0; transfers], ..Outcome::default() };
    let limits = own_limits(problem);
    let binding = binding_links(problem, &limits);

    // Components: transfers joined by links that can bind.
    let mut parent: Vec<u32> = (0..transfers as u32).collect();
    let mut first_user = vec![FREE; problem.capacity.len()];
    for t in 0..transfers {
        for (link, _) in problem.uses_of(t) {
            if binding[*link as usize] {
                let slot = &mut first_user[*link as usize];
                if *slot == FREE {
                    *slot = t as u32;
                } else {
                    join(&mut parent, *slot, t as u32);
                }
            }
        }
    }
    let mut order: Vec<(u32, u32)> = Vec::with_capacity(transfers);
    for (t, limit) in limits.iter().enumerate() {
        let shares = problem.uses_of(t).iter().any(|(link, _)| binding[*link as usize]);
        if shares {
            order.push((root(&mut parent, t as u32), t as u32));
        } else {
            outcome.private += 1;
            outcome.finish[t] = problem.start[t] + problem.bytes[t] / limit;
        }
    }
    order.sort_unstable();
    let mut component = component::Component::new(problem.capacity.len());
    let mut rest = order.as_slice();
    while let Some(((name, _), _)) = rest.split_first().map(|(f, r)| (*f, r)) {
        let length = rest.partition_point(|(other, _)| *other == name);
        let (members, tail) = rest.split_at(length);
        component.load(problem, members, &limits, &binding);
        outcome.solved += component.run(&mut outcome.finish);
        rest = tail;
    }
    outcome
}

/// Max-min fair rates of all transfers at once, whatever their starts.
#[must_use]
pub fn rates(problem: &Problem) -> Vec<f64> {
    let limits = own_limits(problem);
    let binding = binding_links(problem, &limits);
    let mut rates = limits.clone();
    let sharing: Vec<(u32, u32)> = (0..problem.len())
        .filter(|t| problem.uses_of(*t).iter().any(|(link, _)| binding[*link as usize]))
        .map(|t| (0, t as u32))
        .collect();
    if !sharing.is_empty() {
        let mut component = component::Component::new(problem.capacity.len());
        component.load(problem, &sharing, &limits, &binding);
        component.solve_all(&mut rates);
    }
    rates
}

/// The fastest a transfer can ever be: its own limit, and its links to itself.
fn own_limits(problem: &Problem) -> Vec<f64> {
    (0..problem.len())
        .map(|t| {
            problem
                .uses_of(t)
                .iter()
                .map(|(link, weight)| problem.capacity[*link as usize] / weight)
                .fold(problem.limit[t], f64::min)
        })
        .collect()
}

/// Links that can hold somebody back: used by several transfers whose limits together exceed the
/// capacity. The others are proved free, whatever happens elsewhere.
fn binding_links(problem: &Problem, limits: &[f64]) -> Vec<bool> {
    let mut users = vec![0_u32; problem.capacity.len()];
    let mut demand = vec![0.0_f64; problem.capacity.len()];
    for (t, limit) in limits.iter().enumerate() {
        for (link, weight) in problem.uses_of(t) {
            users[*link as usize] += 1;
            demand[*link as usize] += weight * limit;
        }
    }
    (0..problem.capacity.len())
        .map(|l| users[l] > 1 && demand[l] > problem.capacity[l] * (1.0 + 1e-12))
        .collect()
}

fn root(parent: &mut [u32], mut x: u32) -> u32 {
    while parent[x as usize] != x {
        parent[x as usize] = parent[parent[x as usize] as usize];
        x = parent[x as usize];
    }
    x
}

fn join(parent: &mut [u32], a: u32, b: u32) {
    let (a, b) = (root(parent, a), root(parent, b));
    // The smaller name wins, so that names do not depend on the order of joins.
    parent[a.max(b) as usize] = a.min(b);
}
