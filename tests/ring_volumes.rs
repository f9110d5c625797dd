//! Volumes of communication in closed form (Narayanan et al. 2021, section 3): what a step puts on
//! the wire per device, and how long a ring takes for it.
//!
//! No tolerance on bytes, which are whole numbers. Times are compared to a nanosecond, to which
//! durations are rounded.

mod support;

use support::{SMALL, catalogue, document, setup};
use trainyard::hardware::Catalogue;
use trainyard::outcome::{Options, program_of, time_program};
use trainyard::program::{Action, Collective, Dimension, Program};
use trainyard::scenario::{Setup, resolve};
use trainyard::units::{Ratio, Seconds};
use trainyard::workload::LayerKind;

/// Bytes that a member of an `n`-ring sends for a call on a buffer of `bytes`.
fn ring(collective: Collective, bytes: u64, n: u64) -> u64 {
    match collective {
        Collective::AllReduce => 2 * bytes * (n - 1) / n,
        Collective::AllGather | Collective::ReduceScatter => bytes * (n - 1) / n,
        _ => bytes,
    }
}

/// Bytes that a rank of template `t` sends in a dimension.
fn sent(program: &Program, t: usize, dimension: Dimension) -> u64 {
    let mut sum = 0;
    for op in &program.templates[t].ops {
        if let Action::Meet { family, call } = op.action {
            let family = &program.families[family.index()];
            if family.dimension == dimension {
                let call = &program.calls[call.index()];
                let n = family.groups.get(0).len() as u64;
                sum += ring(call.collective, call.bytes, n);
            }
        }
    }
    sum
}

/// The difference that one more layer makes to what stage 0 sends.
fn sent_per_layer(assignments: &[&str], dimension: Dimension) -> (u64, Setup<'static>) {
    let with = |layers: &str| {
        let setup = setup(SMALL, &[assignments, &[layers]].concat());
        (sent(&program_of(&setup), 0, dimension), setup)
    };
    let ((more, setup), (less, _)) = (with("model.shape.layers=3"), with("model.shape.layers=2"));
    (more - less, setup)
}

#[test]
fn tensor_parallelism_moves_eight_bsh_per_layer() {
    // 8 b s h (t - 1) / t elements of 2 bytes per layer, device and micro-batch; with sequence
    // parallelism a gather of the layer's two inputs in backward comes on top (Korthikanti et al.
    // 2022 keep shards and gather again): 2 x b s h (t - 1) / t.
    for (t, degree) in [(2, "plan.tensor_parallel=2"), (8, "plan.tensor_parallel=8")] {
        for (split, count) in [("false", 8), ("true", 10)] {
            let split = format!("plan.sequence_parallel={split}");
            let assignments = [degree, &split, "plan.micro_batch=2"];
            let (bytes, setup) = sent_per_layer(&assignments, Dimension::Tensor);
            let bsh = 2
                * u64::from(setup.scenario.training.sequence_length)
                * u64::from(setup.model.hidden);
            let per_micro_batch = bytes / u64::from(setup.plan.micro_batches);
            assert_eq!(per_micro_batch, count * bsh * 2 * (t - 1) / t, "t {t} {split}");
        }
    }
}

#[test]
fn full_recomputation_repeats_the_forward_half() {
    let none = sent_per_layer(&["plan.tensor_parallel=8"], Dimension::Tensor).0;
    let full = ["plan.tensor_parallel=8", "plan.recompute=full"];
    assert_eq!(sent_per_layer(&full, Dimension::Tensor).0 * 2, none * 3);
}

#[test]
fn data_parallelism_reduces_every_gradient_once() {
    // 2 (d - 1) / d of the gradients' bytes. A layer is a whole number of 16ths, so this is exact.
    let (bytes, setup) = sent_per_layer(&["software.bucket_mb=0"], Dimension::Data);
    let layer = setup.model.layer_parameters(LayerKind::DENSE).total();
    let gradients = layer * setup.recipe.gradient_reduce.bytes();
    assert_eq!(bytes, 2 * gradients * 15 / 16);
    // Sharding moves the same: a reduce-scatter, and an all-gather of the 16-bit parameters.
    let sharded = ["software.bucket_mb=0", "plan.sharding=zero1"];
    let (bytes, _) = sent_per_layer(&sharded, Dimension::Data);
    assert_eq!(bytes, gradients * 15 / 16 + layer * 2 * 15 / 16);
}

#[test]
fn fully_sharded_parameters_are_gathered_twice_per_micro_batch() {
    // Forward and backward gather 2 N (s - 1) / s bytes each, and gradients are scattered once per
    // micro-batch.
    let assignments = ["plan.sharding=zero3"];
    let (bytes, setup) = sent_per_layer(&assignments, Dimension::Data);
    let layer = setup.model.layer_parameters(LayerKind::DENSE).total();
    let gradient = setup.recipe.gradient_reduce.bytes();
    let per_micro_batch = (2 * 2 + gradient) * layer * 15 / 16;
    assert_eq!(bytes, per_micro_batch * u64::from(setup.plan.micro_batches));
}

#[test]
fn pipelines_send_the_boundary_once_per_direction() {
    // b s h elements per boundary and direction, over t ranks; v chunks per device cross v times as
    // often, and a device in the middle has two boundaries.
    for (chunks, layers) in [(1, "model.shape.layers=4"), (2, "model.shape.layers=8")] {
        let chunks_key = format!("plan.virtual_stages={chunks}");
        let assignments = ["plan.pipeline_parallel=4", "plan.tensor_parallel=2", layers];
        let setup = setup(SMALL, &[&assignments[..], &[&chunks_key]].concat());
        let program = program_of(&setup);
        let bsh =
            u64::from(setup.scenario.training.sequence_length) * u64::from(setup.model.hidden);
        let per_crossing = bsh * 2 / 2 * u64::from(setup.plan.micro_batches);
        // Sends and receives of the second stage: both boundaries, both directions.
        assert_eq!(sent(&program, 1, Dimension::Pipeline), chunks * 4 * per_crossing);
    }
}

/// The catalogue with links that have bandwidth and nothing else.
fn ideal_links() -> Catalogue {
    let mut ideal = catalogue().clone();
    for entry in ideal.nodes.values_mut() {
        let links = &mut entry.item.scale_up;
        links.achieved.value = Ratio(1.0);
        links.base_latency.value = Seconds::ZERO;
        links.step_latency.value = Seconds::ZERO;
    }
    for entry in ideal.stacks.values_mut() {
        entry.item.in_training.collectives.value = Ratio(1.0);
    }
    ideal
}

#[test]
fn a_ring_takes_its_volume_over_the_bandwidth() {
    let ideal = ideal_links();
    for (t, degree) in [(2, "plan.tensor_parallel=2"), (8, "plan.tensor_parallel=8")] {
        for split in ["plan.sequence_parallel=false", "plan.sequence_parallel=true"] {
            // Latency and bandwidth per level; the library's rings are the next test's.
            let levels = "network.model=levels";
            let document = document(SMALL, &[degree, split, levels]).expect("a scenario");
            let setup = resolve(&document, &ideal).expect("a setup");
            let program = program_of(&setup);
            let durations = time_program(&setup, &program).expect("times").durations;
            let rate = setup.node.scale_up.bandwidth.value.0;
            let mut compared = 0;
            for (f, family) in program.families.iter().enumerate() {
                if family.dimension != Dimension::Tensor {
                    continue;
                }
                for (call, times) in program.calls.iter().zip(&durations.meetings[f]) {
                    for time in times {
                        let expected = ring(call.collective, call.bytes, t) as f64 / rate * 1e9;
                        assert!((time.0 as f64 - expected).abs() <= 1.0, "{call:?}: {time}");
                        compared += 1;
                    }
                }
            }
            assert!(compared >= 2, "{compared}");
        }
    }
}

#[test]
fn rings_of_the_library_carry_the_volume_and_reach_no_more_than_the_links() {
    // Prescribed rings put exactly the ring's volume on the links, as floats of whole numbers divided
    // by powers of two; and take at least as long as the data sheet's bandwidth needs for it, since
    // latency and efficiency only add.
    for (t, degree) in [(2, "plan.tensor_parallel=2"), (8, "plan.tensor_parallel=8")] {
        for split in ["plan.sequence_parallel=false", "plan.sequence_parallel=true"] {
            let rings = ["network.all_reduce=ring", "network.gather_scatter=ring"];
            let assignments = [&[degree, split][..], &rings].concat();
            let options = Options { network: true, ..Options::default() };
            let result = support::simulate_with(catalogue(), SMALL, &assignments, options)
                .unwrap_or_else(|error| panic!("{error}"));
            let node = &catalogue().nodes["dgx-h100"].item;
            let (inside, card) = (node.scale_up.bandwidth.value.0, node.nic.bandwidth.value.0);
            let mut compared = [0, 0];
            for call in result.network.calls.expect("calls") {
                assert_eq!(call.algorithm.as_deref(), Some("ring"), "{call:?}");
                let volume = ring(call.collective, call.bytes, call.ranks.into()) as f64;
                if call.domains == 1 {
                    assert_eq!((call.scale_up_bytes, call.scale_out_bytes), (volume, 0.0));
                    assert!(call.seconds >= volume / inside, "{call:?}");
                } else {
                    assert_eq!(call.scale_out_bytes, volume, "{call:?}");
                    // The members of a group on a node have that many cards.
                    let members = f64::from(call.ranks / call.domains);
                    assert!(call.seconds >= volume / (members * card), "{call:?}");
                }
                compared[usize::from(call.domains > 1)] += 1;
            }
            assert!(compared[0] >= 1 && compared[1] >= 1, "t {t}: {compared:?}");
        }
    }
}
