//! Bandwidth sharing and topologies at full size.
//!
//! `flows/permutation`: 16,384 transfers of a random permutation over a two-level fat tree with 32
//! hosts per leaf, sizes uniform in 0.5 to 1.5 of the mean, all to completion; criterion's elements
//! per second are transfers per second on one core. The completion times are compared with the
//! oracle's on a smaller instance before anything is timed.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use trainyard::disturbance::random::Stream;
use trainyard::network::flow::{Problem, coflow, completion_times, oracle};
use trainyard::network::topology::Topology;
use trainyard::network::topology::generators::clos::{Parameters, build};
use trainyard::network::topology::routing::Router;

fn fat_tree(hosts: u32) -> Topology {
    // Spines of 512 ports: every leaf has one cable to each of 32.
    let parameters = Parameters {
        cards_per_leaf: Some(32),
        tiers: Some(2),
        ..Parameters::fat_tree(hosts, 1, 512, 50e9)
    };
    build(&parameters).expect("the network exists")
}

fn permutation(hosts: u32, seed: u64) -> Problem {
    let topology = fat_tree(hosts);
    let mut router = Router::new(&topology);
    let mut stream = Stream::new(seed, 0, 0, "bench");
    let to = stream.permutation(hosts);
    let mut problem = coflow::problem_of(&topology);
    for (from, to) in (0_u32..).zip(to) {
        if from == to {
            continue;
        }
        let route = router
            .route(
                topology.endpoints[from as usize],
                topology.endpoints[to as usize],
                u64::from(from),
            )
            .expect("connected");
        let bytes = 1e9 * (0.5 + stream.uniform());
        let uses = route.hops.iter().map(|hop| (hop.index() as u32, 1.0));
        problem.add(bytes, 0.0, f64::INFINITY, uses).expect("valid");
    }
    problem
}

fn flows(criterion: &mut Criterion) {
    let small = permutation(512, 1);
    let (fast, slow) = (completion_times(&small).finish, oracle::completion_times(&small));
    for (a, b) in fast.iter().zip(&slow) {
        assert!((a - b).abs() <= 1e-9 * b, "{a} against {b}");
    }
    let problem = permutation(16_384, 2);
    let mut group = criterion.benchmark_group("flows");
    group.sample_size(20);
    group.throughput(Throughput::Elements(problem.len() as u64));
    group.bench_function("permutation", |b| b.iter(|| completion_times(&problem)));
    group.finish();
}

/// Data-parallel rings of 12,288 GPUs: TP 8 inside nodes, PP 8, DP 192, one ring per rail and stage.
fn coflows(criterion: &mut Criterion) {
    let topology = build(&Parameters::rail_optimised(1536, 8, 64, 50e9, 3)).expect("exists");
    let mut router = Router::new(&topology);
    let rings: Vec<Vec<(u32, f64)>> = (0..64_u32)
        .map(|ring| {
            let (rail, stage) = (ring % 8, ring / 8);
            let members: Vec<_> = (0..192)
                .map(|d| topology.endpoints[((d * 8 + stage) * 8 + rail) as usize])
                .collect();
            coflow::ring_uses(&mut router, &members, u64::from(ring)).expect("connected")
        })
        .collect();
    let capacity = coflow::problem_of(&topology).capacity;
    criterion.bench_function("coflow/solve-12288", |b| {
        b.iter(|| coflow::rates(&capacity, &rings).expect("valid"));
    });
}

fn topologies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("topology");
    group.sample_size(20);
    group.bench_function("build-12288", |b| {
        b.iter_batched(
            || Parameters::rail_optimised(1536, 8, 64, 50e9, 3),
            |p| build(&p).expect("exists"),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, flows, coflows, topologies);
criterion_main!(benches);
