//! A transport fitted to logs: what it predicts, and what it refuses.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

use std::fmt::Write;

use trainyard::calibrate::{fabric, nccl_log};
use trainyard::hardware::{Catalogue, Transport};
use trainyard::network::collective::{LibraryModel, Operation, Request, TransportModel, predict};
use trainyard::units::{Bytes, BytesPerSecond};

/// A log as nccl-tests would print it on a fabric three times as slow to answer as `InfiniBand`.
fn log(catalogue: &Catalogue, nodes: u32) -> String {
    let library = LibraryModel::new(catalogue.collective_library("nccl-hopper").unwrap());
    let mut transport = TransportModel::new(catalogue.transport("infiniband").unwrap());
    for hop in &mut transport.hop {
        *hop *= 3.0;
    }
    transport.efficiency = 0.8;
    let mut text = String::from("# Collective test starting: all_reduce_perf\n");
    for rank in 0..nodes * 8 {
        let _ = writeln!(
            text,
            "#  Rank {rank} Group 0 Pid 1 on host{} device {} [0x07] NVIDIA H100 80GB HBM3",
            rank / 8,
            rank % 8
        );
    }
    text.push_str("# size count type redop root time algbw busbw #wrong time algbw busbw #wrong\n");
    for power in 10..34 {
        let bytes = f64::from(power).exp2();
        let links = trainyard::network::collective::Links {
            scale_up: trainyard::hardware::ScaleUpKind::Switch,
            scale_up_bandwidth: BytesPerSecond(450e9),
            nic_bandwidth: BytesPerSecond(50e9),
        };
        let group = trainyard::network::collective::GroupShape::uniform(nodes, 8);
        let request = Request::new(Operation::AllReduce, Bytes(bytes), group, links);
        let us = predict(&library, Some(&transport), &request).unwrap().time.get() * 1e6;
        let _ = writeln!(text, "{bytes} 1 float sum -1 {us:.2} 0 0 0 {us:.2} 0 0 0");
    }
    text
}

#[test]
fn a_fit_predicts_its_logs_and_loads_as_an_overlay() {
    let catalogue = Catalogue::load(None).unwrap();
    let logs: Vec<_> = [2, 4]
        .into_iter()
        .map(|n| nccl_log::parse(&format!("{n}-nodes.log"), &log(&catalogue, n)).unwrap())
        .collect();
    let fit = fabric::calibrate(&catalogue, "ours", &logs, None, None, "2026-11").unwrap();
    let mut errors: Vec<f64> = fit.residuals.iter().map(|r| (r.1 / r.0 - 1.0).abs()).collect();
    errors.sort_by(f64::total_cmp);
    assert!(errors[errors.len() / 2] < 0.02, "{}", errors[errors.len() / 2]);
    // What was written is a catalogue entry.
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("transports")).unwrap();
    std::fs::write(folder.path().join("transports/ours.toml"), &fit.file).unwrap();
    let overlay = Catalogue::load(Some(folder.path())).unwrap();
    let ours: &Transport = overlay.transport("ours").unwrap();
    assert!((ours.efficiency.value.get() - 0.8).abs() < 0.06, "{:?}", ours.efficiency);
    assert_eq!(ours.fit.max_nodes, 4);
}

#[test]
fn logs_of_one_node_say_nothing_about_a_fabric() {
    let catalogue = Catalogue::load(None).unwrap();
    let one = nccl_log::parse("one.log", &log(&catalogue, 2).replace("host1", "host0")).unwrap();
    let error = fabric::calibrate(&catalogue, "ours", &[one], None, None, "2026-11").unwrap_err();
    assert!(error.to_string().contains("sit on one node"), "{error}");
    let text = log(&catalogue, 2).replace("NVIDIA H100 80GB HBM3", "Mystery 9000");
    let unknown = nccl_log::parse("x.log", &text).unwrap();
    let error =
        fabric::calibrate(&catalogue, "ours", &[unknown], None, None, "2026-11").unwrap_err();
    assert!(error.to_string().contains("Mystery 9000") && error.to_string().contains("--library"));
}
