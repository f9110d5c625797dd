//! Every prediction has an interval that its sources add up to, and every step a waterfall whose
//! terms add up to it.

mod support;

use serde_json::Value;
use support::{catalogue, repository, trainyard};
use trainyard::input::Document;
use trainyard::outcome::{
    NINETY, Options, Verdict, compare, explain, program_of, simulate, time_program,
};
use trainyard::replay::{Lumping, sweep};
use trainyard::scenario::resolve;
use trainyard::units::Seconds;

const SCENARIOS: [&str; 3] = [
    "scenarios/quickstart.toml",
    "scenarios/ascend-910b-70b.toml",
    "scenarios/deepseek-v3-h800.toml",
];

#[test]
fn the_longest_path_adds_up_to_the_step() {
    for path in SCENARIOS {
        let document = Document::read(&repository(path)).expect("a scenario");
        let setup = resolve(&document, catalogue()).expect("resolves");
        let program = program_of(&setup);
        let timed = time_program(&setup, &program).expect("times");
        let lumping = Lumping::coarsest(&program, &timed.durations);
        let outcome = sweep(&program, &timed.durations, &lumping).expect("replays");
        // Whole nanoseconds: exactly.
        assert_eq!(outcome.critical.sum(), outcome.step, "{path}");
        let result = simulate(&setup, catalogue(), Options::default()).expect("simulates");
        let step = &result.step;
        let sum: f64 = result.uncertainty.iter().map(|s| s.contribution.powi(2)).sum();
        assert!((sum.sqrt() - step.relative_sigma).abs() < 1e-12, "{path}");
        let high = step.seconds * (NINETY * step.relative_sigma).exp();
        assert!((step.interval_90.high_s - high).abs() < 1e-9 * high, "{path}");
        assert!(step.interval_90.low_s < step.seconds, "{path}");
        // Not narrower than one laboratory is from another, and no wider than a guess.
        assert!((0.04..0.35).contains(&step.relative_sigma), "{path}: {}", step.relative_sigma);
    }
}

#[test]
fn terms_add_up_to_the_step() {
    for path in SCENARIOS {
        let document = Document::read(&repository(path)).expect("a scenario");
        let setup = resolve(&document, catalogue()).expect("resolves");
        let waterfall = explain(&setup).expect("explains");
        let sum: f64 = waterfall.terms.iter().map(|term| term.seconds).sum();
        assert!((sum - waterfall.step_s).abs() < 1e-9 * sum, "{path}: {sum}");
        let result = simulate(&setup, catalogue(), Options::default()).expect("simulates");
        assert!((result.step.seconds - waterfall.step_s).abs() < 1e-12, "{path}");
        for term in &waterfall.terms {
            // The replay's fixed point is found to two parts in ten thousand.
            let saves = term.saves_s.unwrap_or(0.0);
            assert!(saves >= -2e-3 * waterfall.step_s, "{path}: {} saves {saves}", term.key);
        }
    }
}

#[test]
fn plans_that_share_their_errors_can_be_told_apart() {
    let document = Document::read(&repository(SCENARIOS[0])).expect("a scenario");
    let setup = resolve(&document, catalogue()).expect("resolves");
    let a = simulate(&setup, catalogue(), Options::default()).expect("simulates");
    let step = Seconds(a.step.seconds);
    let other = Seconds(a.step.seconds * 1.3);
    let same = compare((step, &a.uncertainty), (step, &a.uncertainty));
    assert_eq!(same.verdict, Verdict::CannotTell);
    let apart = compare((step, &a.uncertainty), (other, &a.uncertainty));
    assert_eq!(apart.verdict, Verdict::First);
    // The ratio is known better than either step.
    assert!((same.interval.high).ln() < NINETY * a.step.relative_sigma);
}

#[test]
fn the_command_explains_scenarios_and_rows() {
    let quickstart = repository(SCENARIOS[0]);
    let output = trainyard()
        .args(["explain", "--measured", "2.5", "--format", "json"])
        .arg(&quickstart)
        .output()
        .expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let (step, rest) = (value["step_s"].as_f64(), value["unexplained_s"].as_f64());
    let total = step.expect("a step") + rest.expect("a rest");
    assert!((total - 2.5).abs() < 1e-9, "{total}");

    let output = trainyard().args(["explain", "--row", "PT-korth_t5-22B_full"]).output();
    let output = output.expect("runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("measured step") && text.contains("arithmetic at peak"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");

    let output = trainyard().args(["explain", "--row", "no-such-row"]).output().expect("runs");
    assert!(!output.status.success());
    let output = trainyard().arg("explain").output().expect("runs");
    assert_eq!(output.status.code(), Some(2), "neither scenario nor row");
}
