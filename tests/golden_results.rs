//! The whole result of every committed scenario, so that no prediction changes unseen.
//!
//! Numbers are rounded to six significant digits: last bits of floating-point functions differ
//! between platforms, and no prediction is that good. Texts of the catalogue that explain an assumed
//! figure, and hashes of its files, are left out: they change without moving anything.
//!
//! After an intended change: `INSTA_UPDATE=always cargo test --test golden_results --test timeline`,
//! read the difference, and say in CHANGELOG.md under *Prediction changes* what moved and why.

mod support;

use serde_json::{Value, json};
use support::{catalogue, committed_scenarios, repository};
use trainyard::input::Document;
use trainyard::outcome::{Options, simulate};
use trainyard::scenario::resolve;

/// Six significant digits; whole numbers as they are.
fn rounded(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            let rounded: f64 = format!("{:.5e}", number.as_f64().expect("a float"))
                .parse()
                .expect("what was printed");
            json!(rounded)
        }
        Value::Array(items) => items.iter().map(rounded).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(key, value)| (key.clone(), rounded(value))).collect())
        }
        other => other.clone(),
    }
}

#[test]
fn results_of_committed_scenarios() {
    let scenarios = committed_scenarios();
    assert!(scenarios.len() >= 14, "{scenarios:?}");
    for path in scenarios {
        let document = Document::read(&path).unwrap_or_else(|e| panic!("{e}"));
        let setup = resolve(&document, catalogue()).unwrap_or_else(|e| panic!("{e}"));
        let result =
            simulate(&setup, catalogue(), Options::default()).unwrap_or_else(|e| panic!("{e}"));
        let sum: f64 = result.step.breakdown.values().sum();
        // Eleven sums of nanoseconds over ranks, divided and added as floats.
        assert!((sum - result.step.seconds).abs() <= 1e-9 * result.step.seconds, "{path:?}");
        let mut value = rounded(&serde_json::to_value(&result).expect("JSON"));
        for input in value["inputs"].as_array_mut().expect("inputs") {
            *input = input["name"].clone();
        }
        for assumption in value["assumptions"].as_array_mut().expect("assumptions") {
            let (what, unit) = (assumption["what"].as_str(), assumption["unit"].as_str());
            let text = format!(
                "{} = {} ({} to {}) {}",
                what.unwrap_or_default(),
                assumption["value"],
                assumption["low"],
                assumption["high"],
                unit.unwrap_or_default()
            );
            *assumption = json!(text);
        }
        let relative = path.strip_prefix(repository("scenarios")).expect("below scenarios");
        let name = relative.with_extension("").to_string_lossy().replace(['/', '\\'], "__");
        let text = serde_json::to_string_pretty(&value).expect("JSON");
        insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, text);
        });
    }
}
