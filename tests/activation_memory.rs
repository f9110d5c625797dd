//! Activation memory per layer in closed form (Korthikanti et al. 2022, equations 1 to 4): bytes kept
//! from forward to backward of a GPT layer with dropout and unfused attention. Bytes are whole
//! numbers: no tolerance.

mod support;

use support::{SMALL, setup};
use trainyard::outcome::layer_context;

/// s, b, h, a of the setups below.
fn saved(assignments: &[&str]) -> (u64, [u64; 4]) {
    let mut all = vec!["software.attention=unfused", "software.dropout=true"];
    all.extend(assignments);
    let setup = setup(SMALL, &all);
    let layer = layer_context(&setup);
    let sizes = [
        setup.scenario.training.sequence_length,
        setup.plan.micro_batch,
        setup.model.hidden,
        setup.model.heads,
    ];
    (layer.saved_bytes(trainyard::workload::LayerKind::DENSE), sizes.map(u64::from))
}

#[test]
fn without_tensor_parallelism() {
    // Equation 1: s b h (34 + 5 a s / h).
    for shape in [
        &[][..],
        &["plan.micro_batch=4"],
        &["training.sequence_length=4096"],
        &["model.preset=gpt-3-175b"],
        &["model.preset=megatron-gpt-22b", "plan.micro_batch=2"],
    ] {
        let (bytes, [s, b, h, a]) = saved(shape);
        assert_eq!(bytes, 34 * s * b * h + 5 * a * s * s * b, "{shape:?}");
    }
}

#[test]
fn with_tensor_parallelism() {
    // Equation 2: s b h (10 + 24 / t + 5 a s / (h t)).
    for (t, degree) in [(2, "plan.tensor_parallel=2"), (8, "plan.tensor_parallel=8")] {
        let (bytes, [s, b, h, a]) = saved(&[degree]);
        assert_eq!(bytes, 10 * s * b * h + 24 * s * b * h / t + 5 * a * s * s * b / t);
    }
}

#[test]
fn with_sequence_parallelism() {
    // Equation 4: s b h / t (34 + 5 a s / h).
    for (t, degree) in [(2, "plan.tensor_parallel=2"), (8, "plan.tensor_parallel=8")] {
        let (bytes, [s, b, h, a]) = saved(&[degree, "plan.sequence_parallel=true"]);
        assert_eq!(bytes * t, 34 * s * b * h + 5 * a * s * s * b);
    }
}

#[test]
fn with_recomputation() {
    // Selective: the attention core is gone, 34 s b h / t; full: the layer's input, 2 s b h.
    let parallel = ["plan.tensor_parallel=8", "plan.sequence_parallel=true"];
    let (bytes, [s, b, h, _]) = saved(&[&parallel[..], &["plan.recompute=selective"]].concat());
    assert_eq!(bytes * 8, 34 * s * b * h);
    let (bytes, [s, b, h, _]) = saved(&["plan.recompute=full"]);
    assert_eq!(bytes, 2 * s * b * h);
}
