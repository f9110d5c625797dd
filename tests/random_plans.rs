//! Whatever the plan: the program is well formed, its replay ends, every nanosecond of every template
//! is booked, and one lane per class of equal ranks gives the same bits as one lane per rank
//! (invariant 2). All of it exact: no tolerance.

mod support;

use proptest::prelude::*;
use support::{SMALL, catalogue, document};
use trainyard::outcome::{program_of, time_program};
use trainyard::replay::{Lumping, Sweep};
use trainyard::scenario::resolve;
use trainyard::units::Nanos;

/// Assignments of a plan that multiplies out.
fn plans() -> impl Strategy<Value = Vec<String>> {
    let degrees = (
        prop::sample::select(vec![1_u32, 2, 4, 8]),
        prop::sample::select(vec![1_u32, 2, 3, 4]),
        prop::sample::select(vec![1_u32, 2, 3, 4, 6]),
        1_u32..=3,
    );
    let work = (1_u32..=2, 1_u32..=5, prop::sample::select(vec!["gpipe", "default"]), 1_u32..=2);
    let switches = prop::collection::vec(any::<bool>(), 16);
    let names = (
        prop::sample::select(vec!["none", "zero1", "zero2", "zero3"]),
        prop::sample::select(vec!["none", "selective", "full"]),
        prop::sample::select(vec![
            "megatron-lm-sc21",
            "megatron-core",
            "torch-fsdp",
            "megatron-deepspeed",
        ]),
        prop::sample::select(vec![
            ["tensor", "context", "data", "pipeline"],
            ["data", "tensor", "context", "pipeline"],
            ["tensor", "pipeline", "data", "context"],
            ["pipeline", "data", "tensor", "context"],
        ]),
        prop::sample::select(vec!["dgx-a100", "frontier"]),
    );
    (degrees, work, switches, names).prop_map(|(degrees, work, switches, names)| {
        let (tensor, pipeline, data, chunks) = degrees;
        let (micro_batch, batches, schedule, layers) = work;
        let (sharding, recompute, stack, order, node) = names;
        let chunks = if pipeline == 1 { 1 } else { chunks };
        let micro_batches =
            if chunks > 1 && schedule == "default" { batches * pipeline } else { batches };
        let context = if switches[8] { 2 } else { 1 };
        let devices = tensor * context * pipeline * data;
        let mut all = vec![
            format!("cluster.node={node}"),
            "cluster.fabric=hdr200-clos".to_owned(),
            format!("cluster.nodes={}", devices.div_ceil(8)),
            format!("cluster.devices={devices}"),
            format!("plan.tensor_parallel={tensor}"),
            format!("plan.context_parallel={context}"),
            format!("plan.pipeline_parallel={pipeline}"),
            format!("plan.virtual_stages={chunks}"),
            format!("plan.micro_batch={micro_batch}"),
            format!("training.global_batch={}", data * micro_batch * micro_batches),
            format!("model.shape.layers={}", pipeline * chunks * layers),
            format!("model.shape.tied_embeddings={}", switches[0]),
            format!("plan.sequence_parallel={}", switches[1] && tensor > 1),
            format!("software.overlap_gradient_reduce={}", switches[2]),
            format!("software.overlap_parameter_gather={}", switches[3]),
            format!("software.overlap_tensor={}", switches[4]),
            format!("software.overlap_pipeline={}", switches[5]),
            format!("software.bucket_mb={}", if switches[6] { 1 } else { 1000 }),
            format!("plan.sharding={sharding}"),
            format!("plan.recompute={recompute}"),
            format!("software.stack={stack}"),
            format!("plan.rank_order={order:?}"),
        ];
        if schedule != "default" {
            all.push(format!("plan.schedule={schedule}"));
        }
        if switches[9] {
            let every = if switches[10] { 2 } else { 1 };
            all.push(format!(
                "model.shape.moe={{ experts = 8, top_k = 2, expert_hidden = 512, every = {every} }}"
            ));
            // Divides the ranks of a stage with and without the tensor group.
            let spread = if data % 2 == 0 { 2 } else { 1 } * context;
            all.push(format!("plan.expert_parallel={spread}"));
            if switches[11] {
                all.push("plan.expert_tensor_parallel=1".to_owned());
            }
            all.push(format!("software.overlap_experts={}", switches[13]));
        }
        if switches[12] {
            all.push("model.shape.window=256".to_owned());
            all.push("model.shape.parallel_block=true".to_owned());
            all.push("plan.reduce_bits=8".to_owned());
            all.push("plan.gather_bits=8".to_owned());
        }
        if switches[14] {
            let captured = if switches[10] { "step" } else { "layers" };
            all.push(format!("software.graphs={captured}"));
        }
        if switches[15] {
            all.push("training.adapter_rank=8".to_owned());
        }
        // Hybrid sharding, where replicas halve.
        if switches[7] && sharding != "none" && data % 2 == 0 {
            all.push("plan.shard_group=2".to_owned());
        }
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replay_and_books_are_exact(plan in plans()) {
        let assignments: Vec<&str> = plan.iter().map(String::as_str).collect();
        let document = document(SMALL, &assignments).expect("a scenario");
        let setup = resolve(&document, catalogue()).unwrap_or_else(|e| panic!("{e}"));
        let program = program_of(&setup);
        program.check().unwrap_or_else(|e| panic!("{e}"));
        let durations = time_program(&setup, &program).unwrap_or_else(|e| panic!("{e}")).durations;

        let lumping = Lumping::coarsest(&program, &durations);
        let lumped = Sweep::run(&program, &durations, &lumping)
            .unwrap_or_else(|e| panic!("{e}"))
            .outcome();
        prop_assert!(lumped.step > Nanos::ZERO);
        let mut ranks = 0;
        for (count, breakdown) in &lumped.by_template {
            prop_assert_eq!(breakdown.sum().0, lumped.step.0 * *count as i64);
            ranks += count;
        }
        prop_assert_eq!(ranks, u64::from(setup.devices));
        prop_assert_eq!(lumped.total.sum().0, lumped.step.0 * ranks as i64);

        let every_rank = Lumping::none(&program, &durations);
        let unlumped = Sweep::run(&program, &durations, &every_rank)
            .unwrap_or_else(|e| panic!("{e}"))
            .outcome();
        prop_assert_eq!(lumped.step, unlumped.step);
        prop_assert_eq!(lumped.by_template, unlumped.by_template);
        prop_assert_eq!(lumped.total, unlumped.total);
        prop_assert_eq!((lumped.busy, lumped.waiting), (unlumped.busy, unlumped.waiting));
    }
}
