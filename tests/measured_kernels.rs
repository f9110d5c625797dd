//! Measured kernels come before models: the row of a shape is its time, and shapes between rows take
//! over how far the rows are from the model.
//!
//! Sums of logarithms and their exponentials are exact to about 1e-15; compared to 1e-9.

#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use support::{SMALL, catalogue, trainyard};
use trainyard::program::{AttentionPass, FusedAttention, Kernel, KernelClass, Precision, Work};
use trainyard::timing::{
    KernelLibrary, KernelSource, KernelTime, KernelTimes, MeasuredKernels, Timing,
};

fn gemm(m: u64, n: u64, k: u64) -> Kernel {
    let work = Work::Gemm { m, n, k, batch: 1, precision: Precision::Bf16 };
    Kernel { name: "test".into(), class: KernelClass::Gemm, work }
}

fn attention(pass: AttentionPass, tokens: u64) -> Kernel {
    let work = Work::Attention {
        pass,
        implementation: FusedAttention::Flash3,
        batch: 1,
        heads: 32,
        kv_heads: 32,
        queries: tokens,
        keys: tokens,
        pairs: tokens * (tokens + 1) / 2,
        head_dim: 128,
        value_dim: 128,
        precision: Precision::Bf16,
    };
    Kernel { name: "test".into(), class: KernelClass::Attention, work }
}

fn models() -> KernelLibrary<'static> {
    KernelLibrary::new(catalogue().accelerator("h100-sxm").unwrap())
}

fn modelled(kernel: &Kernel) -> KernelTime {
    models().time(kernel).unwrap()
}

/// A row that took `factor` times as long as the model says.
fn row(kernels: &[Kernel], factor: f64) -> Timing {
    let seconds = kernels.iter().map(|kernel| modelled(kernel).time.0).sum::<f64>() * factor;
    Timing { kernels: kernels.to_vec(), seconds }
}

fn time_with(rows: &[Timing], kernel: &Kernel) -> KernelTime {
    let measured = MeasuredKernels::new(&models(), rows).unwrap();
    models().with_measured(Some(&measured)).time(kernel).unwrap()
}

fn factor(rows: &[Timing], kernel: &Kernel) -> f64 {
    time_with(rows, kernel).time.0 / modelled(kernel).time.0
}

#[test]
fn the_row_of_a_shape_is_its_time() {
    let rows = [row(&[gemm(4096, 4096, 4096)], 1.25), row(&[gemm(8192, 4096, 4096)], 0.9)];
    for (timing, factor) in rows.iter().zip([1.25, 0.9]) {
        let kernel = &timing.kernels[0];
        let time = time_with(&rows, kernel);
        assert!((time.time.0 / modelled(kernel).time.0 / factor - 1.0).abs() < 1e-9);
        assert_eq!(time.source, KernelSource::Measured);
        assert!(!time.extrapolated && time.uncertainty < modelled(kernel).uncertainty);
    }
    // Repeated rows: their mean in the logarithm, and their spread.
    let repeated = [1.0, 1.21].map(|factor| row(&[gemm(4096, 4096, 4096)], factor));
    let time = time_with(&repeated, &gemm(4096, 4096, 4096));
    assert!((time.time.0 / modelled(&gemm(4096, 4096, 4096)).time.0 / 1.1 - 1.0).abs() < 1e-9);
    let spread = (1.21_f64.ln().powi(2) / 2.0).sqrt();
    assert!((time.uncertainty / spread - 1.0).abs() < 1e-9);
}

#[test]
fn the_deviation_of_rows_fades_with_the_distance() {
    let rows = [row(&[gemm(4096, 4096, 4096)], 1.3)];
    let far = [4096, 4352, 5120, 6144, 8192, 12_288, 16_384, 65_536];
    let factors: Vec<f64> = far.iter().map(|m| factor(&rows, &gemm(*m, 4096, 4096))).collect();
    assert!(factors.is_sorted_by(|near, far| near >= far), "{factors:?}");
    assert!(factors[1] > 1.28, "{factors:?}");
    // Two doublings away, and further, rows say nothing.
    assert_eq!(factors[6..], [1.0, 1.0]);
    let source = |m| time_with(&rows, &gemm(m, 4096, 4096)).source;
    assert_eq!(source(6144), KernelSource::Interpolated);
    assert_eq!(source(65_536), KernelSource::Modelled);
    // Another format is another kernel.
    let fp8 = Work::Gemm { m: 4096, n: 4096, k: 4096, batch: 1, precision: Precision::Fp8 };
    let fp8 = Kernel { work: fp8, ..gemm(1, 1, 1) };
    assert_eq!(factor(&rows, &fp8), 1.0);
    // fp16 runs as bf16 does.
    let fp16 = Work::Gemm { m: 4096, n: 4096, k: 4096, batch: 1, precision: Precision::Fp16 };
    assert!((factor(&rows, &Kernel { work: fp16, ..gemm(1, 1, 1) }) - 1.3).abs() < 1e-9);
}

#[test]
fn between_rows_lies_between_them_whatever_their_order() {
    let mut rows: Vec<Timing> = [(4096, 1.2), (8192, 1.4), (16_384, 1.1), (2048, 1.3)]
        .map(|(m, factor)| row(&[gemm(m, 4096, 4096)], factor))
        .to_vec();
    let kernel = gemm(6144, 4096, 4096);
    let first = time_with(&rows, &kernel);
    let ratio = first.time.0 / modelled(&kernel).time.0;
    assert!(ratio > 1.1 && ratio < 1.4, "{ratio}");
    rows.reverse();
    assert_eq!(time_with(&rows, &kernel).time, first.time);
    // Each row from the others: what they differ by is what interpolation may be off by.
    let measured = MeasuredKernels::new(&models(), &rows).unwrap();
    let error = measured.left_out_error_pct().unwrap();
    assert!(error > 5.0 && error < 20.0, "{error}");
}

#[test]
fn kernels_timed_together_share_their_deviation() {
    let pair = [AttentionPass::Forward, AttentionPass::Backward].map(|pass| attention(pass, 4096));
    let rows = [row(&pair, 1.2)];
    for kernel in &pair {
        // How the two share the time is not known: interpolated, although the shape is the row's.
        assert_eq!(time_with(&rows, kernel).source, KernelSource::Interpolated);
        assert!((factor(&rows, kernel) - 1.2).abs() < 1e-3);
    }
    // A window leaves fewer pairs, latent attention has smaller values: other kernels.
    let Work::Attention { pass, implementation, queries, precision, .. } = pair[0].work else {
        unreachable!()
    };
    for (pairs, value_dim) in [(queries * 512, 128), (queries * (queries + 1) / 2, 64)] {
        let work = Work::Attention {
            pass,
            implementation,
            batch: 1,
            heads: 32,
            kv_heads: 32,
            queries,
            keys: queries,
            pairs,
            head_dim: 128,
            value_dim,
            precision,
        };
        let kernel = Kernel { work, ..pair[0].clone() };
        let row = [row(&pair[..1], 1.2)];
        assert_ne!(time_with(&row, &kernel).source, KernelSource::Measured);
    }
    // The pass alone says more.
    let alone = [row(&pair, 1.2), row(&pair[..1], 1.5)];
    assert!((factor(&alone, &pair[0]) - 1.5).abs() < 1e-9);
    assert!((factor(&alone, &pair[1]) - 1.2).abs() < 1e-3);
}

#[test]
fn scenarios_name_tables_and_results_say_what_they_gave() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("scenario.toml", &SMALL.replace("stack = ", "gemm_table = \"gemms.csv\"\nstack = "));
    let run = |format: &str| {
        let scenario = folder.path().join("scenario.toml");
        trainyard().arg("run").arg(scenario).args(["--format", format]).assert()
    };
    let header = "accelerator,dtype,m,n,k,time_us\n";
    // GPT-3 1.3B: the first feed-forward product of 2,048 tokens is 2048 x 8192 x 2048.
    write(
        "gemms.csv",
        &format!("{header}H100,bfloat16,2048,8192,2048,200\nA100,bf16,64,64,64,9\n"),
    );
    let output = run("json").success().get_output().stdout.clone();
    let result: serde_json::Value = serde_json::from_slice(&output).unwrap();
    let kernels = &result["kernels"];
    assert_eq!(kernels["measured_shapes"], 1);
    let shares = kernels["time_by_source"].as_object().unwrap();
    assert!(shares["measured"].as_f64().unwrap() > 0.01, "{shares:?}");
    assert!(shares["interpolated"].as_f64().unwrap() > 0.01, "{shares:?}");
    let sum: f64 = shares.values().map(|share| share.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-9);
    // What of the table is not used is said.
    let warnings = result["warnings"].to_string();
    assert!(warnings.contains("1 of 2 rows are used"), "{warnings}");
    let named = |input: &serde_json::Value| input["name"] == "measured GEMMs gemms.csv";
    assert!(result["inputs"].as_array().unwrap().iter().any(named));
    let text = String::from_utf8(run("table").success().get_output().stdout.clone()).unwrap();
    assert!(text.contains("1 measured shape"), "{text}");

    let fails = |rows: &str, expected: &[&str]| {
        write("gemms.csv", rows);
        let output = run("table").code(3).get_output().stderr.clone();
        let text = String::from_utf8(output).unwrap();
        for part in expected {
            assert!(text.contains(part), "{part} in:\n{text}");
        }
    };
    fails(
        &format!("{header}A100,bf16,64,64,64,9\n"),
        &["gemm_table", "no row of h100-sxm", "A100"],
    );
    fails(&format!("{header}H100,int8,64,64,64,9\n"), &["none of the 1 rows", "bf16, fp16, fp8"]);
    fails(&format!("{header}H100,bf16,64,64,many,9\n"), &["gemms.csv:2", "many"]);
    fails(&format!("{header}H100,bf16,64,64,64,0\n"), &["gemms.csv:2", "makes no sense"]);
    fails(
        &format!("{header}H100,bf16,2048,8192,2048,0.2\n"),
        &["times shorter", "2048 x 8192 x 2048"],
    );
    fails(&format!("{header}H100,bf16,2048\n"), &["gemms.csv:2", "has 3 fields"]);
    fails("accelerator,m,n\nH100,1,2\n", &["gemms.csv:1", "no column `dtype`"]);
    fs::remove_file(folder.path().join("gemms.csv")).unwrap();
    let output = run("table").failure().get_output().stderr.clone();
    assert!(String::from_utf8(output).unwrap().contains("gemms.csv"));
}
