//! Model states in closed form (Rajbhandari et al. 2020, section 3.1, with a shard group per class of
//! tensors): 2 N / s_p of parameters, 2 N / s_g of 16-bit gradients, 12 N / s_o of optimizer states.
//!
//! No tolerance: bytes are exact. Beside the formulas a device holds what is gathered at the moment
//! (the largest unit and a layer ahead) and the gradients of the largest unit before they are
//! scattered, where the class is sharded at all; these are counted here from the model's shape.

mod support;

use support::setup;
use trainyard::hardware::GradientType;
use trainyard::outcome::memory_by_stage;
use trainyard::plan::Pass;
use trainyard::workload::{Doing, LayerKind};

const TEXT: &str = r#"
name = "zero"
[model]
preset = "llama-2-7b"
[training]
sequence_length = 4096
global_batch = 64
[cluster]
node = "dgx-h100"
nodes = 8
fabric = "ndr400-clos"
[software]
stack = "torch-fsdp"
"#;

#[test]
fn model_states_by_shard_group() {
    for (s_p, s_g, s_o) in [
        (1, 1, 1),
        (1, 1, 64),
        (1, 64, 64),
        (64, 64, 64),
        (1, 8, 64),
        (8, 8, 64),
        (8, 64, 64),
        (8, 8, 8),
        (2, 8, 64),
    ] {
        let assignments = [
            format!("plan.parameter_shard={s_p}"),
            format!("plan.gradient_shard={s_g}"),
            format!("plan.optimizer_shard={s_o}"),
        ];
        let assignments: Vec<&str> = assignments.iter().map(String::as_str).collect();
        let mut setup = setup(TEXT, &assignments);
        setup.recipe.gradient_store = GradientType::Bf16;
        setup.recipe.gradient_reduce = GradientType::Bf16;
        // The moment at which a sharded unit exists whole and its gradients are there.
        let memory = memory_by_stage(&setup)[0]
            .moments()
            .find(|moment| {
                matches!(moment.doing, Doing::Pass(action) if action.pass == Pass::Backward)
            })
            .expect("a backward pass")
            .memory;

        let model = &setup.model;
        let n = model.parameters() as f64;
        let layer = model.layer_parameters(LayerKind::DENSE).total() as f64;
        // The output projection with the final norm is one unit, the embedding another; two
        // neighbours are gathered at once.
        let (first, last) = (model.embedding_parameters(), model.head_parameters(false));
        let (first, last) = (first.total() as f64, last.total() as f64);
        let largest = layer.max(last);
        let pair = (first + layer).max(layer + last).max(2.0 * layer);
        let gathered = if s_p > 1 { 2.0 * pair } else { 0.0 };
        let unscattered = if s_g > 1 { 2.0 * largest } else { 0.0 };
        assert_eq!(memory.weights, 2.0 * n / f64::from(s_p) + gathered, "parameters over {s_p}");
        assert_eq!(
            memory.gradients,
            2.0 * n / f64::from(s_g) + unscattered,
            "gradients over {s_g}"
        );
        assert_eq!(memory.optimizer, 12.0 * n / f64::from(s_o), "optimizer over {s_o}");
    }
}

#[test]
fn the_four_schemes_are_shard_groups() {
    for (scheme, groups) in
        [("none", [1, 1, 1]), ("zero1", [1, 1, 64]), ("zero2", [1, 64, 64]), ("zero3", [64; 3])]
    {
        let plan = setup(TEXT, &[&format!("plan.sharding={scheme}")]).plan;
        let sharding = plan.sharding;
        assert_eq!([sharding.parameters, sharding.gradients, sharding.optimizer], groups);
        if scheme == "none" {
            continue;
        }
        let assignments = [&format!("plan.sharding={scheme}"), "plan.shard_group=8"];
        let hybrid = setup(TEXT, &assignments).plan.sharding;
        let expected = groups.map(|size: u32| size.min(8));
        assert_eq!([hybrid.parameters, hybrid.gradients, hybrid.optimizer], expected);
    }
}
