//! Bandwidth sharing: the fast solver against the textbook, and what max-min fairness means.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use proptest::prelude::*;
use trainyard::network::flow::{Problem, completion_times, oracle, rates};

/// Up to 12 links and 24 transfers over one to four of them, some with limits, weights and starts.
fn problems() -> impl Strategy<Value = Problem> {
    let links = prop::collection::vec(1.0_f64..100.0, 1..12);
    links.prop_flat_map(|capacity| {
        let count = capacity.len() as u32;
        let transfer = (
            prop::collection::vec((0..count, prop_oneof![Just(1.0), 0.2_f64..3.0]), 1..5),
            1.0_f64..1000.0,
            prop_oneof![Just(0.0), 0.0_f64..20.0],
            prop_oneof![3 => Just(f64::INFINITY), 1 => 0.5_f64..50.0],
        );
        (Just(capacity), prop::collection::vec(transfer, 1..24)).prop_map(
            |(capacity, transfers)| {
                let mut problem = Problem::new(capacity);
                for (uses, bytes, start, limit) in transfers {
                    problem.add(bytes, start, limit, uses).unwrap();
                }
                problem
            },
        )
    })
}

/// As `problems`, large enough for components that need the queue instead of the scan.
fn large_problems() -> impl Strategy<Value = Problem> {
    (20..60_u32, 60..160_usize, any::<u64>()).prop_map(|(links, transfers, seed)| {
        let mut s = trainyard::disturbance::random::Stream::new(seed, 0, 0, "test");
        let mut problem = Problem::new((0..links).map(|_| 5.0 + 20.0 * s.uniform()).collect());
        for _ in 0..transfers {
            let uses: Vec<(u32, f64)> =
                (0..1 + s.below(3)).map(|_| (s.below(u64::from(links)) as u32, 1.0)).collect();
            problem.add(100.0 * s.uniform() + 1.0, 0.0, f64::INFINITY, uses).unwrap();
        }
        problem
    })
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-12)
}

/// Every transfer runs at its limit, or has a full link on which nobody is faster.
fn every_transfer_has_a_bottleneck(problem: &Problem, rates: &[f64]) -> Result<(), TestCaseError> {
    let mut load = vec![0.0; problem.capacity.len()];
    let mut fastest = vec![0.0_f64; problem.capacity.len()];
    for (t, rate) in rates.iter().enumerate() {
        for (link, weight) in problem.uses_of(t) {
            load[*link as usize] += weight * rate;
            fastest[*link as usize] = fastest[*link as usize].max(*rate);
        }
    }
    for (link, load) in load.iter().enumerate() {
        prop_assert!(*load <= problem.capacity[link] * (1.0 + 1e-9), "link {} is over", link);
    }
    for (t, rate) in rates.iter().enumerate() {
        let limited = *rate >= problem.limit[t] * (1.0 - 1e-9);
        let held = problem.uses_of(t).iter().any(|(link, _)| {
            let link = *link as usize;
            load[link] >= problem.capacity[link] * (1.0 - 1e-9)
                && *rate >= fastest[link] * (1.0 - 1e-9)
        });
        prop_assert!(limited || held, "transfer {} could be faster: {:?}", t, rates);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn rates_are_optimal_and_those_of_the_oracle(problem in problems()) {
        let fast = rates(&problem);
        every_transfer_has_a_bottleneck(&problem, &fast)?;
        let slow = oracle::rates(&problem, &vec![true; problem.len()]);
        for (a, b) in fast.iter().zip(&slow) {
            prop_assert!(close(*a, *b), "{:?} {:?}", fast, slow);
        }
    }

    #[test]
    fn completion_times_are_those_of_the_oracle(problem in problems()) {
        let fast = completion_times(&problem).finish;
        let slow = oracle::completion_times(&problem);
        for (a, b) in fast.iter().zip(&slow) {
            prop_assert!(close(*a, *b), "{:?} {:?}", fast, slow);
        }
    }

    /// More bandwidth everywhere is faster for everybody by as much.
    #[test]
    fn twice_the_bandwidth_takes_half_the_time(problem in problems()) {
        let mut wide = problem.clone();
        for c in &mut wide.capacity {
            *c *= 2.0;
        }
        for l in &mut wide.limit {
            *l *= 2.0;
        }
        for s in &mut wide.start {
            *s /= 2.0;
        }
        let (narrow, wide) = (completion_times(&problem).finish, completion_times(&wide).finish);
        for (a, b) in narrow.iter().zip(&wide) {
            prop_assert!(close(*a, 2.0 * b));
        }
    }

    /// More bandwidth on one link never makes the slowest slower.
    #[test]
    fn a_wider_link_does_not_hurt_the_slowest(problem in problems(), which in any::<prop::sample::Index>()) {
        let mut wide = problem.clone();
        let link = which.index(wide.capacity.len());
        wide.capacity[link] *= 1.5;
        let slowest = |p: &Problem| rates(p).into_iter().fold(f64::INFINITY, f64::min);
        prop_assert!(slowest(&wide) >= slowest(&problem) * (1.0 - 1e-9));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn large_components_agree_with_the_oracle(problem in large_problems()) {
        let fast = completion_times(&problem).finish;
        let slow = oracle::completion_times(&problem);
        for (a, b) in fast.iter().zip(&slow) {
            prop_assert!(close(*a, *b), "{} {}", a, b);
        }
    }
}

#[test]
fn transfers_alone_on_their_links_need_no_event() {
    let mut problem = Problem::new(vec![10.0, 10.0, 5.0]);
    problem.add(100.0, 0.0, f64::INFINITY, [(0, 1.0)]).unwrap();
    problem.add(100.0, 0.0, f64::INFINITY, [(1, 1.0), (2, 1.0)]).unwrap();
    let outcome = completion_times(&problem);
    assert_eq!((outcome.private, outcome.solved), (2, 0));
    assert_eq!(outcome.finish, [10.0, 20.0]);
}

#[test]
fn bad_transfers_are_refused() {
    let mut problem = Problem::new(vec![10.0, 0.0]);
    assert!(problem.add(1.0, 0.0, f64::INFINITY, [(7, 1.0)]).is_err());
    assert!(problem.add(1.0, 0.0, f64::INFINITY, [(1, 1.0)]).is_err());
    assert!(problem.add(-1.0, 0.0, f64::INFINITY, [(0, 1.0)]).is_err());
    assert!(problem.add(1.0, f64::NAN, f64::INFINITY, [(0, 1.0)]).is_err());
    assert!(problem.add(1.0, 0.0, f64::INFINITY, []).is_err());
    assert!(problem.add(1.0, 0.0, 0.0, [(0, 1.0)]).is_err());
    assert_eq!((problem.len(), problem.uses.len()), (0, 0));
}
