//! Better hardware is never slower, and more work never faster. A step is maximum and plus over
//! durations, so this is exact: no tolerance.
//!
//! One exception is real. Libraries choose algorithm and protocol by a table of beliefs, and do
//! switch to a slower branch when links become faster. With branches prescribed the rule is exact;
//! with the library's own choice a step may lose up to [`MISCHOICE`].

mod support;

use proptest::prelude::*;
use support::{SMALL, catalogue, setup};
use trainyard::hardware::Catalogue;
use trainyard::outcome::{Options, program_of, time_program};
use trainyard::replay::{Lumping, sweep};
use trainyard::units::Nanos;

/// Plans with every kind of communication.
const PLANS: [&[&str]; 4] = [
    &["plan.tensor_parallel=4", "plan.pipeline_parallel=2", "training.global_batch=16"],
    &[
        "plan.tensor_parallel=2",
        "plan.pipeline_parallel=4",
        "plan.virtual_stages=2",
        "plan.sharding=zero1",
        "model.shape.layers=8",
    ],
    &["plan.sharding=zero3", "software.stack=torch-fsdp", "model.shape.layers=6"],
    &[
        "plan.rank_order=[\"data\", \"tensor\", \"context\", \"pipeline\"]",
        "plan.tensor_parallel=8",
    ],
];

fn step(catalogue: &Catalogue, assignments: &[&str]) -> f64 {
    support::simulate_with(catalogue, SMALL, assignments, Options::default())
        .unwrap_or_else(|e| panic!("{e}"))
        .step
        .seconds
}

/// Relative loss of a step that a wrong belief of the library may cost: a message costs up to twice
/// its time in the wrong branch, and less than a twentieth of these steps is exposed communication
/// whose branch is in doubt.
const MISCHOICE: f64 = 0.05;

/// Ways to time collectives, and how far a step may be slower on better hardware.
const MODELS: [(&[&str], f64); 3] = [
    (&["network.model=levels"], 0.0),
    (&["network.all_reduce=ring", "network.gather_scatter=ring", "network.protocol=simple"], 0.0),
    (&[], MISCHOICE),
];

type Improve = fn(&mut Catalogue);

#[test]
fn better_hardware_is_never_slower() {
    let improvements: [(&str, Improve); 9] = [
        ("network cards", |c| {
            c.nodes.values_mut().for_each(|e| e.item.nic.bandwidth.value.0 *= 2.0)
        }),
        ("fabric links", |c| {
            c.fabrics.values_mut().for_each(|e| e.item.link_bandwidth.value.0 *= 2.0);
        }),
        ("fabric latency", |c| {
            c.fabrics.values_mut().for_each(|e| {
                e.item.base_latency.value.0 /= 2.0;
                e.item.step_latency.value.0 /= 2.0;
            });
        }),
        ("latency of the way between nodes", |c| {
            c.transports.values_mut().for_each(|e| {
                e.item.base.value.0 /= 2.0;
                e.item.per_node.value.0 /= 2.0;
            });
        }),
        ("oversubscription", |c| {
            c.fabrics.values_mut().for_each(|e| e.item.oversubscription.value.0 = 1.0);
        }),
        ("links in the node", |c| {
            c.nodes.values_mut().for_each(|e| e.item.scale_up.bandwidth.value.0 *= 2.0);
        }),
        ("memory bandwidth", |c| {
            c.accelerators.values_mut().for_each(|e| e.item.memory.bandwidth.value.0 *= 2.0);
        }),
        ("peak rate", |c| {
            c.accelerators.values_mut().for_each(|e| {
                if let Some(peak) = &mut e.item.peak.bf16 {
                    peak.value.0 *= 2.0;
                }
            });
        }),
        ("host", |c| {
            c.stacks.values_mut().for_each(|e| {
                e.item.host.per_operation.value.0 /= 2.0;
                e.item.host.per_step.value.0 /= 2.0;
            });
        }),
    ];
    for (what, improve) in improvements {
        let mut better = catalogue().clone();
        improve(&mut better);
        for plan in PLANS {
            for (model, slack) in MODELS {
                let plan = [plan, model].concat();
                let (before, after) = (step(catalogue(), &plan), step(&better, &plan));
                assert!(
                    after <= before * (1.0 + slack),
                    "{what}: {before} s became {after} s with {plan:?}"
                );
            }
        }
    }
}

#[test]
fn more_work_is_never_faster() {
    for plan in PLANS {
        for (key, sizes) in [
            ("training.global_batch", ["32", "64", "128"]),
            ("training.sequence_length", ["1024", "2048", "4096"]),
            ("model.shape.layers", ["8", "16", "24"]),
        ] {
            let times =
                sizes.map(|size| step(catalogue(), &[plan, &[&format!("{key}={size}")]].concat()));
            assert!(times.is_sorted(), "{key}: {times:?} with {plan:?}");
        }
    }
}

#[test]
fn larger_micro_batches_move_less_and_hold_more() {
    let run = |size: &str| support::run(SMALL, &[&format!("plan.micro_batch={size}")]);
    let results = ["1", "2", "4"].map(run);
    assert!(results.is_sorted_by(|a, b| a.step.seconds >= b.step.seconds));
    assert!(
        results.is_sorted_by(|a, b| a.memory.by_class.activations < b.memory.by_class.activations)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any set of kernels, transfers and host actions may become faster.
    #[test]
    fn shorter_durations_never_make_a_longer_step(
        plan in prop::sample::select(PLANS.to_vec()),
        factors in prop::collection::vec(0.0..=1.0_f64, 64),
    ) {
        let setup = setup(SMALL, plan);
        let program = program_of(&setup);
        let slow = time_program(&setup, &program).expect("times").durations;
        let mut fast = slow.clone();
        let mut next = factors.iter().cycle();
        let mut shorten = |time: &mut Nanos| {
            time.0 = (time.0 as f64 * next.next().expect("a cycle")) as i64;
        };
        fast.kernels.iter_mut().for_each(&mut shorten);
        fast.meetings.iter_mut().flatten().flatten().for_each(&mut shorten);
        let host = &mut fast.host;
        [&mut host.per_operation, &mut host.per_micro_batch, &mut host.per_step]
            .into_iter()
            .for_each(&mut shorten);
        shorten(&mut host.launch_latency);
        let lumping = Lumping::coarsest(&program, &slow);
        let before = sweep(&program, &slow, &lumping).expect("a replay").step;
        let after = sweep(&program, &fast, &lumping).expect("a replay").step;
        prop_assert!(after <= before, "{} became {}", before, after);
    }
}
