//! No input makes the program panic, hang or ask for more memory than there is: whatever a scenario
//! says, there is a result or an error with a message.

mod support;

use proptest::prelude::*;
use support::{SMALL, catalogue, document, repository};
use trainyard::error::Result;
use trainyard::hardware::{Catalogue, CatalogueItem, Entry, Shelf};
use trainyard::input::Document;
use trainyard::outcome::{Options, RunResult, simulate};
use trainyard::scenario::resolve;

/// Values that are unlikely, extreme or of the wrong kind.
const VALUES: &[&str] = &[
    "0",
    "1",
    "2",
    "3",
    "7",
    "8",
    "16",
    "64",
    "1000",
    "65536",
    "1048576",
    "16777216",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "-1",
    "0.5",
    "1e-300",
    "1e300",
    "-0.0",
    "nan",
    "inf",
    "true",
    "false",
    "\"\"",
    "\"none\"",
    "\"zero3\"",
    "\"gpipe\"",
    "\"full\"",
    "\"fp8\"",
    "\"h100-sxm\"",
    "\"\\u0000\"",
    "[]",
    "[1, 2]",
    "[0, 24]",
    "[4294967295, 4294967295]",
    "{}",
    "{ a = 1 }",
    "2026-05-01",
    "[\"tensor\", \"tensor\", \"data\", \"pipeline\"]",
];

const KEYS: &[&str] = &[
    "name",
    "seed",
    "model",
    "model.preset",
    "model.shape.layers",
    "model.shape.hidden",
    "model.shape.heads",
    "model.shape.kv_heads",
    "model.shape.head_dim",
    "model.shape.ffn_hidden",
    "model.shape.vocab",
    "model.shape.max_positions",
    "model.shape.mlp",
    "training.sequence_length",
    "training.global_batch",
    "training.precision",
    "cluster.node",
    "cluster.nodes",
    "cluster.devices",
    "cluster.fabric",
    "software.stack",
    "software.bucket_mb",
    "plan",
    "plan.tensor_parallel",
    "plan.pipeline_parallel",
    "plan.data_parallel",
    "plan.virtual_stages",
    "plan.schedule",
    "plan.micro_batch",
    "plan.sequence_parallel",
    "plan.sharding",
    "plan.shard_group",
    "plan.parameter_shard",
    "plan.gradient_shard",
    "plan.optimizer_shard",
    "plan.recompute",
    "plan.layers_per_stage",
    "plan.rank_order",
    "run.tokens",
    "account.usd_per_device_hour",
    "account.grid_g_per_kwh",
    "account.pue",
    "account.lifetime_years",
];

/// Simulates where that is quick; otherwise resolving has to be enough.
fn answer(document: &Document) -> Result<Option<RunResult>> {
    let setup = resolve(document, catalogue())?;
    let work = u64::from(setup.plan.micro_batches)
        * (u64::from(setup.model.layers) + u64::from(setup.plan.pipeline * setup.plan.chunks));
    if work > 20_000 || setup.devices > 4096 || setup.plan.pipeline > 64 {
        return Ok(None);
    }
    simulate(&setup, catalogue(), Options::default()).map(Some)
}

/// An error has something to say; a result has numbers.
fn is_sensible(answer: &Result<Option<RunResult>>, input: &str) {
    match answer {
        Ok(Some(result)) => {
            assert!(result.step.seconds > 0.0 && result.step.seconds.is_finite(), "{input}");
            assert!(result.memory.peak_bytes_per_device.is_finite(), "{input}");
            assert!(result.throughput.mfu.is_finite(), "{input}");
            assert!(result.energy.kwh.is_finite(), "{input}");
            let (cost, carbon) = (&result.cost, &result.carbon);
            for value in [cost.usd, carbon.operational_kg_co2e, carbon.embodied_kg_co2e] {
                assert!(value.is_none_or(f64::is_finite), "{input}");
            }
        }
        Ok(None) => {}
        Err(error) => {
            assert!(error.to_string().len() > 10, "{error}");
            // An internal error is a defect.
            assert_eq!(error.exit_code(), 3, "{error}\n{input}");
        }
    }
}

#[test]
fn every_key_with_every_extreme_value() {
    for key in KEYS {
        for value in VALUES {
            let assignment = format!("{key}={value}");
            let answer = document(SMALL, &[&assignment]).and_then(|document| answer(&document));
            is_sensible(&answer, &assignment);
        }
    }
}

/// Calls `visit` with every copy of `value` in which one number is another.
fn for_each_change(
    value: &toml::Value,
    to: &toml::Value,
    path: &str,
    visit: &mut dyn FnMut(&str, toml::Value),
) {
    match value {
        toml::Value::Table(table) => {
            for (key, inner) in table {
                for_each_change(inner, to, &format!("{path}.{key}"), &mut |path, changed| {
                    let mut table = table.clone();
                    table.insert(key.clone(), changed);
                    visit(path, toml::Value::Table(table));
                });
            }
        }
        toml::Value::Array(items) => {
            for (i, inner) in items.iter().enumerate() {
                for_each_change(inner, to, &format!("{path}[{i}]"), &mut |path, changed| {
                    let mut items = items.clone();
                    items[i] = changed;
                    visit(path, toml::Value::Array(items));
                });
            }
        }
        toml::Value::Integer(_) | toml::Value::Float(_) => visit(path, to.clone()),
        _ => {}
    }
}

/// Puts a changed entry in place of `name` and answers SMALL with it.
fn with_changes<T: CatalogueItem + Clone>(
    name: &str,
    shelf: fn(&mut Catalogue) -> &mut Shelf<T>,
    checked: &mut usize,
) {
    let mut catalogue = catalogue().clone();
    let original = shelf(&mut catalogue)[name].document.clone();
    let table = toml::Value::Table(original.table().clone());
    for to in ["0", "1", "3", "1e-300", "1e300", "4294967295"] {
        let to: toml::Table = toml::from_str(&format!("to = {to}")).expect("TOML");
        for_each_change(&table, &to["to"], name, &mut |path, changed| {
            let text = toml::to_string(&changed).expect("TOML");
            // Many of these are refused when they are read.
            if let Ok(entry) = Document::parse("t.toml", text).and_then(Entry::new) {
                shelf(&mut catalogue).insert(name.to_owned(), entry);
                for assignments in
                    [&[][..], &["plan.tensor_parallel=8"], &["plan.pipeline_parallel=4"]]
                {
                    let document = support::document(SMALL, assignments).expect("a scenario");
                    let answer = resolve(&document, &catalogue)
                        .and_then(|setup| simulate(&setup, &catalogue, Options::default()));
                    let what = format!("{path} = {}", to["to"]);
                    is_sensible(&answer.map(Some), &what);
                }
                *checked += 1;
            }
        });
    }
}

#[test]
fn catalogue_entries_with_extreme_numbers() {
    let mut checked = 0;
    with_changes("dgx-h100", |c| &mut c.nodes, &mut checked);
    with_changes("h100-sxm", |c| &mut c.accelerators, &mut checked);
    with_changes("ndr400-clos", |c| &mut c.fabrics, &mut checked);
    with_changes("megatron-core", |c| &mut c.stacks, &mut checked);
    with_changes("us", |c| &mut c.grids, &mut checked);
    assert!(checked > 100, "{checked}");
}

#[test]
fn deep_nesting() {
    let deep = 100_000;
    let dotted = format!("{}a = 1", "a.".repeat(deep));
    let arrays = format!("a = {}{}", "[".repeat(deep), "]".repeat(deep));
    let tables = format!("a = {}1{}", "{a = ".repeat(deep), "}".repeat(deep));
    let headers = format!("[{}a]", "a.".repeat(deep));
    for text in [dotted, arrays, tables, headers] {
        assert!(Document::parse("t.toml", text).and_then(|document| answer(&document)).is_err());
    }
    let mut document = document(SMALL, &[]).expect("a scenario");
    assert!(document.set(&format!("{}a=1", "a.".repeat(deep))).is_err());
}

/// One change of a text.
#[derive(Clone, Debug)]
enum Edit {
    Value(usize, &'static str),
    Delete(usize),
    Repeat(usize),
    Swap(usize, usize),
    Insert(usize, char),
    Cut(usize),
    Append(&'static str, &'static str),
}

fn edits() -> impl Strategy<Value = Edit> {
    let value = prop::sample::select(VALUES);
    prop_oneof![
        4 => (any::<usize>(), value.clone()).prop_map(|(line, value)| Edit::Value(line, value)),
        1 => any::<usize>().prop_map(Edit::Delete),
        1 => any::<usize>().prop_map(Edit::Repeat),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Edit::Swap(a, b)),
        1 => (any::<usize>(), any::<char>()).prop_map(|(at, c)| Edit::Insert(at, c)),
        1 => any::<usize>().prop_map(Edit::Cut),
        2 => (prop::sample::select(KEYS), value).prop_map(|(key, value)| Edit::Append(key, value)),
    ]
}

fn apply(text: &str, edit: &Edit) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let count = lines.len().max(1);
    let place = |at: usize| text.floor_char_boundary(at % (text.len() + 1));
    match edit {
        Edit::Value(line, value) => {
            if let Some(line) = lines.get_mut(line % count)
                && let Some((key, _)) = line.split_once('=')
            {
                *line = format!("{key}= {value}");
            }
        }
        Edit::Delete(line) => {
            if !lines.is_empty() {
                lines.remove(line % count);
            }
        }
        Edit::Repeat(line) => {
            let line = lines.get(line % count).cloned();
            lines.extend(line);
        }
        Edit::Swap(a, b) => {
            if !lines.is_empty() {
                lines.swap(a % count, b % count);
            }
        }
        Edit::Insert(at, c) => {
            let mut text = text.to_owned();
            text.insert(place(*at), *c);
            return text;
        }
        Edit::Cut(at) => return text[..place(*at)].to_owned(),
        Edit::Append(key, value) => lines.insert(0, format!("{key} = {value}")),
    }
    lines.join("\n")
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1000, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn mutated_scenarios(
        start in prop::sample::select(vec![
            "scenarios/quickstart.toml",
            "scenarios/frontier-mi250x-20b.toml",
            "scenarios/ascend-910b-70b.toml",
            "scenarios/published/megatron-sc21-table1/05-39.1b.toml",
        ]),
        edits in prop::collection::vec(edits(), 1..5),
    ) {
        let mut text = std::fs::read_to_string(repository(start)).expect("a scenario");
        for edit in &edits {
            text = apply(&text, edit);
        }
        let answer = Document::parse("t.toml", text.clone()).and_then(|document| answer(&document));
        is_sensible(&answer, &text);
    }

    #[test]
    fn combinations_of_assignments(
        assignments in prop::collection::vec(
            (prop::sample::select(KEYS), prop::sample::select(VALUES)),
            2..6,
        ),
    ) {
        let assignments: Vec<String> =
            assignments.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let assignments: Vec<&str> = assignments.iter().map(String::as_str).collect();
        let answer = document(SMALL, &assignments).and_then(|document| answer(&document));
        is_sensible(&answer, &assignments.join(" "));
    }

    #[test]
    fn text_that_is_anything(text in "\\PC{0,200}") {
        let answer = Document::parse("t.toml", text.clone()).and_then(|document| answer(&document));
        prop_assert!(answer.is_err(), "{}", text);
    }
}
