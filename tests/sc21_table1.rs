//! Megatron-LM PTD-P (Narayanan et al. 2021), table 1: ten configurations from 1.7 billion to a
//! trillion parameters on 32 to 3,072 A100.
//!
//! Tolerance: mean absolute error of at most 10 % in seconds. Independent laboratories that run the
//! same plan on the same hardware differ by 2 to 6 %, and the paper's own reference tolerance is
//! 10 % per row.

mod support;

use std::collections::BTreeMap;

use support::{catalogue, repository, shared};
use trainyard::input::Document;
use trainyard::outcome::{Options, simulate};
use trainyard::scenario::resolve;

const FOLDER: &str = "scenarios/published/megatron-sc21-table1";
const LARGEST_MEAN_ERROR: f64 = 0.10;

/// Published seconds by the model's size as the scenario files and rows name it.
fn published(folder: &std::path::Path) -> BTreeMap<String, f64> {
    let path = folder.join("validation/published_tables.csv");
    let mut reader = csv::Reader::from_path(&path).expect("published_tables.csv");
    let headers = reader.headers().expect("a header").clone();
    let column = |name: &str| headers.iter().position(|h| h == name).expect("a column");
    let (id, seconds) = (column("id"), column("step_time_s"));
    let mut rows = BTreeMap::new();
    for record in reader.records() {
        let record = record.expect("a row");
        if let Some(size) = record[id].strip_prefix("PT-sc21_t1-") {
            let size = if size == "1008B" { "1T" } else { size };
            rows.insert(size.to_lowercase(), record[seconds].parse().expect("seconds"));
        }
    }
    rows
}

#[test]
fn mean_absolute_error_of_table_1() {
    let Some(shared) = shared() else {
        println!("skipped: TRAINYARD_SHARED does not name a folder with the published tables");
        return;
    };
    let published = published(&shared);
    assert_eq!(published.len(), 10, "{published:?}");
    let mut files: Vec<_> = std::fs::read_dir(repository(FOLDER))
        .expect("scenarios")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    assert_eq!(files.len(), published.len());
    let mut errors = Vec::new();
    for file in files {
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let size = name.split_once('-').expect("NUMBER-SIZE.toml").1;
        let measured = published[size];
        let document = Document::read(&file).unwrap_or_else(|e| panic!("{e}"));
        let setup = resolve(&document, catalogue()).unwrap_or_else(|e| panic!("{e}"));
        let result =
            simulate(&setup, catalogue(), Options::default()).unwrap_or_else(|e| panic!("{e}"));
        let error = result.step.seconds / measured - 1.0;
        println!(
            "{size:>7}: {:7.3} s simulated, {measured:7.3} s published, {:+5.1} %",
            result.step.seconds,
            error * 100.0
        );
        errors.push(error.abs());
    }
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    println!("mean absolute error {:.2} %", mean * 100.0);
    assert!(mean <= LARGEST_MEAN_ERROR, "mean absolute error {:.2} %", mean * 100.0);
}
