//! Parameter counts of the presets against the published ones.
//!
//! Tolerance: 0.5 %, or half a unit of the last digit that was published where that is more: a model
//! called 1.7B has between 1.65 and 1.75 billion. A count off by a norm or a bias is within either;
//! the formula test below is exact to the parameter.

mod support;

use support::catalogue;
use trainyard::workload::{LayerKind, Parameters};

/// Half a unit of the last printed digit of a number as it stands in a file.
fn half_digit(text: &str) -> f64 {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let decimals = mantissa.split_once('.').map_or(0, |(_, digits)| digits.len()) as i32;
    0.5 * 10_f64.powi(exponent.parse::<i32>().expect("an exponent") - decimals)
}

#[test]
fn presets_have_the_published_number() {
    let (mut compared, mut coarse) = (0, Vec::new());
    for (name, entry) in &catalogue().models {
        let Some(published) = entry.item.published_parameters else { continue };
        let line = entry.document.text().lines().find(|l| l.starts_with("published_parameters"));
        let text = line.and_then(|line| line.split_once('=')).expect("a number").1.trim();
        let computed = entry.item.shape.complete(2048).expect("a whole shape").parameters() as f64;
        let error = (computed / published - 1.0).abs();
        let rounding = half_digit(text) / published;
        assert!(
            error <= rounding.max(0.005),
            "{name}: {computed} parameters, {text} published, {:.2} %",
            error * 100.0
        );
        compared += 1;
        if error > 0.005 {
            coarse.push(format!("{name} {:.2} % (published as {text})", error * 100.0));
        }
    }
    println!("{compared} presets compared; beyond 0.5 % only where the rounding is: {coarse:?}");
    assert!(compared >= 20, "{compared}");
    // Two-digit figures are the only excuse.
    assert!(coarse.len() <= 3, "{coarse:?}");
}

#[test]
fn gpt_models_follow_the_formula_of_narayanan_et_al() {
    // 12 l h^2 (1 + 13 / (12 h) + (V + s) / (12 l h)), which leaves out the final norm (2 h).
    for (name, entry) in &catalogue().models {
        if !name.starts_with("megatron-gpt-") {
            continue;
        }
        let model = entry.item.shape.complete(2048).expect("a whole shape");
        let [l, h, v, s] =
            [model.layers, model.hidden, model.vocab, model.max_positions].map(u64::from);
        let formula = 12 * l * h * h + 13 * l * h + (v + s) * h;
        assert_eq!(model.parameters(), formula + 2 * h, "{name}");
    }
}

#[test]
fn ranks_hold_the_model_once() {
    // Over tensor and pipeline ranks the parts add up to the model, and what tensor ranks repeat.
    for (name, t, p) in [("llama-2-70b", 8, 4), ("gpt-3-175b", 8, 8), ("llama-2-7b", 1, 2)] {
        let model =
            catalogue().model(name).expect("a preset").shape.complete(2048).expect("a shape");
        let layer = model.layer_parameters(LayerKind::DENSE);
        let on_rank = |parameters: Parameters| parameters.on_rank(t, 1).dense;
        // What the first and last stage of several hold beside their layers.
        let (embedding, head) = (model.embedding_parameters(), model.head_parameters(false));
        let held = u64::from(model.layers) * on_rank(layer) + on_rank(embedding) + on_rank(head);
        assert!(p > 1);
        let repeated = u64::from(t - 1)
            * (u64::from(model.layers) * layer.replicated + embedding.replicated + head.replicated);
        // A tied vocabulary has a second copy on the last stage.
        let copy = if model.tied_embeddings { model.vocabulary_parameters() } else { 0 };
        assert_eq!(held * u64::from(t), model.parameters() + repeated + copy, "{name}");
    }
}
