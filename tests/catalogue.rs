//! The embedded hardware catalogue: complete, sourced, consistent, and extended by files alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use trainyard::hardware::{Catalogue, Entry, Kind, Shelf, for_each_figure};
use trainyard::input::Document;

fn catalogue() -> Catalogue {
    Catalogue::load(None).expect("the embedded catalogue loads")
}

fn documents(catalogue: &Catalogue) -> Vec<&Document> {
    fn of<T>(shelf: &Shelf<T>) -> impl Iterator<Item = &Document> {
        shelf.values().map(|entry: &Entry<T>| &entry.document)
    }
    of(&catalogue.accelerators)
        .chain(of(&catalogue.nodes))
        .chain(of(&catalogue.fabrics))
        .chain(of(&catalogue.stacks))
        .chain(of(&catalogue.prices))
        .chain(of(&catalogue.grids))
        .collect()
}

#[test]
fn embedded_catalogue_loads_and_file_names_are_entry_names() {
    let catalogue = catalogue();
    assert!(!catalogue.prices.is_empty());
    for document in documents(&catalogue) {
        let name = document.table()["name"].as_str().expect("name is text");
        assert!(
            document.origin().ends_with(&format!("/{name}.toml")),
            "{} is called {name}",
            document.origin()
        );
        assert!(
            name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'),
            "{name} is not kebab-case"
        );
    }
}

#[test]
fn names_and_aliases_are_unambiguous() {
    fn check<T>(shelf: &Shelf<T>) {
        let mut seen = BTreeSet::new();
        for (name, entry) in shelf {
            let table = entry.document.table();
            let aliases = table.get("aliases").and_then(toml::Value::as_array);
            let aliases = aliases.into_iter().flatten().filter_map(toml::Value::as_str);
            let all: BTreeSet<String> =
                std::iter::once(name.as_str()).chain(aliases).map(str::to_lowercase).collect();
            for name in all {
                assert!(seen.insert(name.clone()), "`{name}` names two entries");
            }
        }
    }
    let catalogue = catalogue();
    check(&catalogue.accelerators);
    check(&catalogue.nodes);
    check(&catalogue.fabrics);
    check(&catalogue.stacks);
    check(&catalogue.prices);
    check(&catalogue.grids);
}

#[test]
fn assumptions_have_a_range_or_spread_and_a_reason() {
    for document in documents(&catalogue()) {
        for_each_figure(document.table(), &mut |path, table| {
            if table["kind"].as_str() != Some(Kind::Assumed.as_str()) {
                return;
            }
            let range = table.contains_key("low") && table.contains_key("high");
            let curve = table.contains_key("points") && table.contains_key("spread");
            assert!(range || curve, "{}: {path} is assumed without a range", document.origin());
            assert!(table.contains_key("note"), "{}: {path} has no note", document.origin());
        });
    }
}

#[test]
fn figures_quoted_from_memory_say_so() {
    for document in documents(&catalogue()) {
        let sources = document.table()["sources"].as_table().expect("a table");
        let mut used = BTreeSet::new();
        for_each_figure(document.table(), &mut |path, table| {
            let key = table["source"].as_str().expect("text");
            used.insert(key.to_owned());
            let verified = sources[key]["verified"].as_bool().expect("true or false");
            assert!(
                verified || table["kind"].as_str() != Some(Kind::Measured.as_str()),
                "{}: {path} claims to be measured, but {key} was not read",
                document.origin()
            );
        });
        for key in sources.keys() {
            assert!(used.contains(key), "{}: nothing uses source {key}", document.origin());
        }
    }
}

/// Every number stands in a figure or a curve, except for counts of structure.
#[test]
fn no_bare_numbers() {
    const STRUCTURE: [&str; 9] = [
        "kernels.tiles.shapes.rows",
        "kernels.tiles.shapes.columns",
        "kernels.tiles.shapes.units",
        "devices",
        "scale_up.domain",
        "nic.count",
        "scale_up.links.pairs",
        "defaults.micro_batch",
        "defaults.expert_tensor",
    ];
    fn walk(value: &toml::Value, path: &str, bare: &mut Vec<String>) {
        match value {
            toml::Value::Table(table)
                if table.contains_key("kind") && table.contains_key("source") => {}
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(value, &path, bare);
                }
            }
            toml::Value::Array(items) => items.iter().for_each(|item| walk(item, path, bare)),
            toml::Value::Integer(_) | toml::Value::Float(_) => bare.push(path.to_owned()),
            _ => {}
        }
    }
    for document in documents(&catalogue()) {
        let mut bare = Vec::new();
        walk(&toml::Value::Table(document.table().clone()), "", &mut bare);
        // What a [fit] table says about a fit: rows, residuals.
        let of_fit = |path: &str| {
            path.starts_with("fit.") || (path.starts_with("kernels.") && path.contains(".fit."))
        };
        bare.retain(|path| !STRUCTURE.contains(&path.as_str()) && !of_fit(path));
        assert!(bare.is_empty(), "{}: bare numbers at {bare:?}", document.origin());
    }
}

#[test]
fn efficiencies_are_fractions_and_grow_with_size() {
    for entry in catalogue().accelerators.values() {
        let kernels = &entry.item.kernels;
        let curves = [
            Some(&kernels.gemm),
            kernels.gemm_fp8.as_ref(),
            kernels.gemm_fp4.as_ref(),
            Some(&kernels.attention_forward),
            Some(&kernels.attention_backward),
        ];
        for curve in curves.into_iter().flatten() {
            assert!(curve.points.iter().all(|p| p[1] < 1.0), "{}", entry.item.name);
            assert!(curve.points.is_sorted_by(|a, b| a[1] <= b[1]), "{}", entry.item.name);
        }
        let power = &entry.item.power;
        assert!(power.idle.value < power.limit.value * power.communicate.value.get());
        assert!(power.communicate.value <= power.compute.value && power.compute.value.get() <= 1.0);
        let peak = &entry.item.peak;
        assert!(peak.bf16.is_some() || peak.fp16.is_some(), "{}", entry.item.name);
        assert_eq!(
            kernels.gemm_fp8.is_some(),
            peak.fp8.is_some(),
            "{}: fp8 needs both a peak and a curve",
            entry.item.name
        );
        assert_eq!(kernels.gemm_fp4.is_some(), peak.fp4.is_some(), "{}", entry.item.name);
    }
}

#[test]
fn nodes_price_sheets_and_stacks_refer_to_entries_that_exist() {
    let catalogue = catalogue();
    for (name, entry) in &catalogue.nodes {
        let node = &entry.item;
        assert!(catalogue.accelerators.contains_key(&node.accelerator), "{name}");
        let pairs = node.scale_up.links.iter().flat_map(|class| &class.pairs);
        let mut seen = BTreeSet::new();
        for [a, b] in pairs {
            assert!(a < b && *b < node.devices, "{name}: pair {a}-{b}");
            assert!(seen.insert((*a, *b)), "{name}: pair {a}-{b} is listed twice");
        }
        let (domain, devices) = (node.scale_up.domain, node.devices);
        assert!(domain % devices == 0 || devices % domain == 0, "{name}: domain of {domain}");
    }
    for (name, entry) in &catalogue.prices {
        for accelerator in entry.item.rent.keys() {
            assert!(catalogue.accelerators.contains_key(accelerator), "{name}: {accelerator}");
        }
        for node in entry.item.purchase.keys() {
            assert!(catalogue.nodes.contains_key(node), "{name}: {node}");
        }
    }
    for (name, entry) in &catalogue.stacks {
        if let Some(parent) = &entry.item.parent {
            assert!(catalogue.stacks.contains_key(parent), "{name}: parent {parent}");
        }
    }
}

/// A loaded 8-GPU H100 node draws what power logs of training runs show: 7.0 kW.
#[test]
fn node_power_matches_measured_training() {
    let catalogue = catalogue();
    let node = catalogue.node("dgx-h100").expect("in the catalogue");
    let gpu = catalogue.accelerator(&node.accelerator).expect("in the catalogue");
    let devices = f64::from(node.devices);
    let watts =
        |share: f64| node.host_power.value.get() + devices * gpu.power.limit.value.get() * share;
    let mean = 0.9 * gpu.power.compute.value.get() + 0.1 * gpu.power.communicate.value.get();
    let training = watts(mean);
    // Between the 64-node run (7,005 W median) and its 95th percentile, with 3 % either way.
    assert!((6_800.0..7_460.0).contains(&training), "{training} W");
}

#[test]
fn figures_survive_units_and_aliases_resolve() {
    let catalogue = catalogue();
    let h100 = catalogue.accelerator("NVIDIA DGX-H100").expect("an alias");
    assert_eq!(h100.name, "h100-sxm");
    assert!((h100.peak.bf16.as_ref().expect("supported").value.get() - 989e12).abs() < 1.0);
    assert_eq!(catalogue.stack("Megatron-LM SC21").expect("an alias").name, "megatron-lm-sc21");
    assert_eq!(catalogue.grid("united-states").expect("an alias").name, "us");
    let wrong = catalogue.accelerator("h100-smx").expect_err("misspelt").to_string();
    assert!(wrong.contains("no accelerator named `h100-smx`"), "{wrong}");
    assert!(wrong.contains("did you mean h100-sxm"), "{wrong}");
}

/// Published measurements name hardware and frameworks in their own ways; these resolve.
#[test]
fn names_that_published_measurements_print_resolve() {
    let accelerators = [
        ("NVIDIA A100-SXM4-80GB", "a100-80"),
        ("NVIDIA A100 80GB (Jean Zay)", "a100-80"),
        ("NVIDIA H100 96GB HBM2e (Grand Teton, 500W limit)", "h100-96-500w"),
        ("NVIDIA H100 94GB", "h100-94"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA DGX-B200", "b200"),
        ("NVIDIA DGX-GB200", "gb200"),
        ("NVIDIA DGX-GB300", "gb300"),
        ("NVIDIA V100 32GB (Jean Zay, 4/node)", "v100-32"),
        ("AMD MI250X GCD (Frontier)", "mi250x-gcd"),
        ("AMD MI300 (\"MI300\" as printed)", "mi300x"),
        ("AMD MI325X", "mi325x"),
        ("AMD MI355 (\"MI355\" as printed)", "mi355x"),
        ("Huawei Ascend 910B-class (Atlas 900 A2 PODc)", "ascend-910b"),
        ("Intel Gaudi2", "gaudi2"),
        ("Google TPU v5p (v5p-12288)", "tpu-v5p"),
    ];
    let stacks = [
        ("Megatron-LM SC21", "megatron-lm-sc21"),
        ("Megatron-LM selective recomputation", "megatron-lm-2022"),
        ("Megatron-LM", "megatron-lm-2023"),
        ("Megatron-DeepSpeed 2021", "megatron-deepspeed-2021"),
        ("llm-foundry/Composer (PyTorch FSDP)", "llm-foundry"),
        ("torchtitan (ROCm)", "torchtitan"),
        ("HF accelerate FSDP", "hf-accelerate-fsdp"),
        ("NeMo 24.07", "nemo-24-07"),
        ("NeMo Megatron-Bridge", "megatron-bridge"),
        ("MegaScale", "megascale"),
        ("InternEvo", "internevo"),
        ("ModelLink/MindSpeed-LLM (Megatron)", "mindspeed"),
        ("Primus (Megatron)", "primus"),
        ("MaxText", "maxtext"),
    ];
    let catalogue = catalogue();
    for (printed, name) in accelerators {
        assert_eq!(catalogue.accelerator(printed).map(|a| a.name.as_str()).ok(), Some(name));
    }
    for (printed, name) in stacks {
        assert_eq!(catalogue.stack(printed).map(|s| s.name.as_str()).ok(), Some(name));
    }
}

/// Writes one file of an overlay and loads it.
fn overlay(folder: &str, text: &str) -> (tempfile::TempDir, Result<Catalogue, String>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    write(directory.path(), folder, "entry.toml", text);
    let loaded = Catalogue::load(Some(directory.path())).map_err(|error| error.to_string());
    (directory, loaded)
}

fn write(directory: &Path, folder: &str, file: &str, text: &str) {
    let folder = directory.join(folder);
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(file), text).expect("a file");
}

const GRID: &str = r#"name = "moon"
title = "Far side"
intensity = { value = 12, unit = "gCO2e/kWh", kind = "measured", source = "log" }
pue = { value = 1.5, unit = "1", kind = "assumed", source = "log", low = 1.2, high = 2, note = "cold" }

[sources.log]
citation = "station log"
date = "2026"
verified = true
"#;

#[test]
fn overlay_adds_and_replaces() {
    let before = catalogue();
    let (_keep, added) = overlay("grids", GRID);
    let added = added.expect("a valid overlay");
    assert_eq!(added.grids.len(), before.grids.len() + 1);
    assert_eq!(added.grid("moon").expect("added").title, "Far side");

    let (_keep, replaced) = overlay("grids", &GRID.replace("\"moon\"", "\"us\""));
    let replaced = replaced.expect("a valid overlay");
    assert_eq!(replaced.grids.len(), before.grids.len());
    assert_eq!(replaced.grid("us").expect("replaced").title, "Far side");
}

#[test]
fn overlay_errors_have_place_and_remedy() {
    let cases = [
        ("unit", GRID.replace("gCO2e/kWh", "kg/kWh"), ":3:1", "not a unit of carbon intensity"),
        (
            "source",
            GRID.replacen("source = \"log\"", "source = \"logg\"", 1),
            ":3:",
            "did you mean `log`",
        ),
        ("unknown key", GRID.replace("title", "titel"), ":2:1", "did you mean `title`"),
        ("range", GRID.replace("low = 1.2, ", ""), ":4:1", "needs `low` and `high`"),
    ];
    for (what, text, place, remedy) in cases {
        let (_keep, loaded) = overlay("grids", &text);
        let message = loaded.expect_err(what);
        assert!(message.contains(&format!("entry.toml{place}")), "{what}: {message}");
        assert!(message.contains(remedy), "{what}: {message}");
    }
}

/// Two sites are joined by a line, and nothing else is.
#[test]
fn overlay_fabric_of_two_sites_needs_a_line() {
    let text = |name: &str| catalogue().fabrics[name].document.text().to_owned();
    let lines = text("ndr400-two-sites");
    let from = lines.find("[wan.bandwidth]").expect("a line");
    let to = lines.find("[sources.fibre]").expect("its sources");
    let without = format!("{}{}", &lines[..from], &lines[to..]);
    let joined = lines.replacen("\"two_sites\"", "\"rail_optimised_clos\"", 1);
    for (text, key, wanted) in [(without, "topology", "needs [wan]"), (joined, "wan", "two_sites")]
    {
        let (_keep, loaded) = overlay("fabrics", &text);
        let message = loaded.expect_err(key).to_string();
        assert!(message.contains(key) && message.contains(wanted), "{message}");
    }
}

#[test]
fn overlay_node_with_an_unknown_accelerator_names_the_nearest() {
    let node = catalogue().nodes["dgx-h100"].document.clone();
    let text = toml::to_string(node.table()).expect("TOML");
    let (_keep, loaded) = overlay("nodes", &text.replace("\"h100-sxm\"", "\"h100-sxn\""));
    let message = loaded.expect_err("no such accelerator");
    assert!(message.contains("entry.toml:") && message.contains("accelerator"), "{message}");
    assert!(message.contains("no accelerator named `h100-sxn`"), "{message}");
    assert!(message.contains("did you mean h100-sxm"), "{message}");
}

#[test]
fn overlay_folder_that_is_misspelt_is_an_error() {
    let (_keep, loaded) = overlay("accelerator", GRID);
    let message = loaded.expect_err("no such folder");
    assert!(message.contains("accelerators"), "{message}");
}
