//! The collective model against measurements, with the targets of the project.
//!
//! The tables are not part of the repository: set `TRAINYARD_SHARED` to the folder that holds
//! `hardware/collectives.csv` and `hardware/nccl_allreduce_vtrain`. Without it these tests say so
//! and pass.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::path::PathBuf;

use trainyard::calibrate::collectives::{leave_one_out, score_with};
use trainyard::hardware::Catalogue;
use trainyard::validate::collectives::rows::{read, read_vtrain};
use trainyard::validate::collectives::score::{Case, Models, cases, summarise};

fn tables(with_vtrain: bool) -> Option<(Catalogue, Vec<Case>)> {
    let Some(folder) = std::env::var_os("TRAINYARD_SHARED").map(PathBuf::from) else {
        println!("skipped: TRAINYARD_SHARED is not set");
        return None;
    };
    let hardware = folder.join("hardware");
    let catalogue = Catalogue::load(None).unwrap();
    let mut rows = read(&hardware.join("collectives.csv")).unwrap();
    if with_vtrain {
        rows.extend(read_vtrain(&hardware.join("nccl_allreduce_vtrain")).unwrap());
    }
    let (all, _) = cases(&catalogue, &rows);
    Some((catalogue, all))
}

/// Median error with each system counted once: at most 8 % on one node and 20 % on several.
#[test]
fn measured_collectives_in_the_fit() {
    let Some((catalogue, all)) = tables(false) else { return };
    let scores = score_with(&Models::new(&catalogue), &all, &|_| true);
    let one = summarise(&scores, false).unwrap();
    let many = summarise(&scores, true).unwrap();
    println!("one node {one:?}\nseveral nodes {many:?}");
    assert!(one.weighted_median <= 8.0 && one.median_of_medians <= 8.0, "{one:?}");
    assert!(many.weighted_median <= 20.0 && many.median_of_medians <= 20.0, "{many:?}");
}

/// Leaving one system out of the fit: at most 15 % on one node and 30 % on several.
#[test]
fn measured_collectives_left_out_of_the_fit() {
    let Some((catalogue, all)) = tables(true) else { return };
    let scores = leave_one_out(&catalogue, &all, &|case| !case.noisy, &|_, _, _| {});
    let one = summarise(&scores, false).unwrap();
    let many = summarise(&scores, true).unwrap();
    println!("one node {one:?}\nseveral nodes {many:?}");
    assert!(one.weighted_median <= 15.0 && one.median_of_medians <= 15.0, "{one:?}");
    assert!(many.weighted_median <= 30.0 && many.median_of_medians <= 30.0, "{many:?}");
}
