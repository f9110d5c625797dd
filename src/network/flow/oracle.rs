//! Progressive filling, plainly: the reference for [`super::completion_times`].

use super::Problem;

/// Max-min fair rates of the transfers in `active`, by raising all rates together and freezing the
/// transfers of every link that fills up. Inactive transfers get 0.
#[must_use]
pub fn rates(problem: &Problem, active: &[bool]) -> Vec<f64> {
    let transfers = problem.len();
    let mut rate = vec![0.0; transfers];
    let mut frozen: Vec<bool> = active.iter().map(|a| !a).collect();
    let mut level = 0.0;
    while frozen.iter().any(|f| !f) {
        let mut load = vec![0.0; problem.capacity.len()];
        let mut weight = vec![0.0; problem.capacity.len()];
        for t in 0..transfers {
            for (link, w) in problem.uses_of(t) {
                let link = *link as usize;
                if !active[t] {
                } else if frozen[t] {
                    load[link] += w * rate[t];
                } else {
                    weight[link] += w;
                }
            }
        }
        // The level at which the next link is full or the next limit is reached.
        let mut next = f64::INFINITY;
        for link in 0..problem.capacity.len() {
            if weight[link] > 0.0 {
                next = next.min((problem.capacity[link] - load[link]).max(0.0) / weight[link]);
            }
        }
        for (limit, frozen) in problem.limit.iter().zip(&frozen) {
            if !frozen {
                next = next.min(*limit);
            }
        }
        level = f64::max(level, next);
        for t in 0..transfers {
            if frozen[t] {
                continue;
            }
            let stopped = problem.limit[t] <= level * (1.0 + 1e-13)
                || problem.uses_of(t).iter().any(|(link, _)| {
                    let link = *link as usize;
                    (problem.capacity[link] - load[link]).max(0.0) / weight[link]
                        <= level * (1.0 + 1e-13)
                });
            if stopped {
                rate[t] = level;
                frozen[t] = true;
            }
        }
    }
    rate
}

/// Simulates all transfers to their ends, solving everything anew at every start and completion.
#[must_use]
pub fn completion_times(problem: &Problem) -> Vec<f64> {
    let transfers = problem.len();
    let mut finish = vec![f64::NAN; transfers];
    let mut left = problem.bytes.clone();
    let mut now = 0.0;
    let mut done = vec![false; transfers];
    loop {
        let active: Vec<bool> =
            (0..transfers).map(|t| !done[t] && problem.start[t] <= now).collect();
        let next_start = (0..transfers)
            .filter(|t| !done[*t] && problem.start[*t] > now)
            .map(|t| problem.start[t])
            .fold(f64::INFINITY, f64::min);
        if !active.contains(&true) {
            if next_start.is_infinite() {
                return finish;
            }
            now = next_start;
            continue;
        }
        let rate = rates(problem, &active);
        let mut first = f64::INFINITY;
        for t in 0..transfers {
            if active[t] {
                first = first.min(left[t] / rate[t]);
            }
        }
        let step = first.min(next_start - now);
        for t in 0..transfers {
            if active[t] {
                left[t] -= rate[t] * step;
                // What ends within rounding of the first ends with it.
                if left[t] <= problem.bytes[t] * 1e-12 {
                    done[t] = true;
                    finish[t] = now + step;
                }
            }
        }
        now += step;
    }
}
