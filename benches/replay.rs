//! Time from scenario text to result, and of its parts, for full-size jobs.
//!
//! Promised: one 12,288-rank MegaScale step, lumped, under a second including loading.
#![allow(missing_docs)] // what criterion's macros define

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, criterion_group, criterion_main};
use trainyard::hardware::Catalogue;
use trainyard::input::Document;
use trainyard::outcome::{Options, program_of, simulate, time_program};
use trainyard::replay::{Lumping, sweep};
use trainyard::scenario::resolve;

const SCENARIOS: [(&str, &str); 3] = [
    ("quickstart", "scenarios/quickstart.toml"),
    ("megascale-175b-12288", "scenarios/megascale-175b-12288.toml"),
    ("sc21-1t-3072", "scenarios/published/megatron-sc21-table1/10-1t.toml"),
];

fn document(path: &str) -> Document {
    Document::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("a scenario")
}

/// What a user waits for once the catalogue is loaded: names, plan, program, times, replay, result.
fn whole(c: &mut Criterion) {
    let catalogue = Catalogue::load(None).expect("the catalogue");
    let mut group = c.benchmark_group("resolve and simulate");
    group.sample_size(10);
    for (name, path) in SCENARIOS {
        let document = document(path);
        group.bench_function(name, |b| {
            b.iter(|| {
                let setup = resolve(black_box(&document), &catalogue).expect("a setup");
                simulate(&setup, &catalogue, Options::default()).expect("a result")
            });
        });
    }
    group.finish();
}

/// The engine alone: program, durations and lumping are there.
fn replay(c: &mut Criterion) {
    let catalogue = Catalogue::load(None).expect("the catalogue");
    let mut group = c.benchmark_group("replay");
    group.sample_size(10);
    for (name, path) in SCENARIOS {
        let document = document(path);
        let setup = resolve(&document, &catalogue).expect("a setup");
        let program = program_of(&setup);
        let durations = time_program(&setup, &program).expect("times").durations;
        let lumping = Lumping::coarsest(&program, &durations);
        group.bench_function(name, |b| {
            b.iter(|| sweep(black_box(&program), &durations, &lumping).expect("a replay"));
        });
    }
    group.finish();
}

fn load(c: &mut Criterion) {
    c.bench_function("load the catalogue", |b| b.iter(|| Catalogue::load(None).expect("it")));
}

criterion_group!(benches, whole, replay, load);
criterion_main!(benches);
