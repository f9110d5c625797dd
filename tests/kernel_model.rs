//! The kernel models: what physics asks of them, and how far they are from measured kernels.
//!
//! The tables are not part of the repository: set `TRAINYARD_SHARED` to the folder that holds
//! `hardware/gemm_efficiency.csv` and `hardware/attention_rates.csv`. Without it the tests against
//! them say so and pass.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod support;

use support::{catalogue, shared};
use trainyard::calibrate::kernels::score;
use trainyard::hardware::measured::{read_attention, read_gemms};
use trainyard::program::{AttentionPass, FusedAttention, Kernel, KernelClass, Precision, Work};
use trainyard::timing::{KernelLibrary, KernelTime, KernelTimes};

fn time_of(accelerator: &str, class: KernelClass, work: Work) -> KernelTime {
    let accelerator = catalogue().accelerator(accelerator).unwrap();
    let kernel = Kernel { name: "test".into(), class, work };
    KernelLibrary::new(accelerator).time(&kernel).unwrap()
}

fn gemm(accelerator: &str, m: u64, n: u64, k: u64, batch: u64) -> f64 {
    let work = Work::Gemm { m, n, k, batch, precision: Precision::Bf16 };
    time_of(accelerator, KernelClass::Gemm, work).time.0
}

fn attention(kind: FusedAttention, pass: AttentionPass, keys: u64, head_dim: u64) -> f64 {
    let work = Work::Attention {
        pass,
        implementation: kind,
        batch: 16_384 / keys,
        heads: 2_048 / head_dim,
        kv_heads: 2_048 / head_dim,
        queries: keys,
        keys,
        pairs: keys * (keys + 1) / 2,
        head_dim,
        value_dim: head_dim,
        precision: Precision::Bf16,
    };
    time_of("h100-sxm", KernelClass::Attention, work).time.0
}

const FITTED: [&str; 5] = ["a100-80", "h100-sxm", "h200", "b200", "gb200"];

/// Half of the rows are fitted, the other half scored. 8 %: two times the scatter of repeated
/// measurements of one shape between library runs (3 to 5 %), so that a wrong term shows.
#[test]
fn left_out_gemms_are_within_eight_percent() {
    let Some(folder) = shared() else {
        println!("skipped: TRAINYARD_SHARED is not set");
        return;
    };
    let rows = read_gemms(&folder.join("hardware/gemm_efficiency.csv")).unwrap();
    let (modelled, interpolated) = score::held_out_gemms(catalogue(), &rows).unwrap();
    let (modelled, interpolated) = (score::table(&modelled), score::table(&interpolated));
    for accelerator in FITTED {
        for class in ["all", "m, n, k >= 1024"] {
            let key = (accelerator.to_owned(), class);
            let spread = modelled[&key];
            println!("{accelerator} {class}: {spread:?}");
            assert!(spread.median <= 8.0 && spread.rows >= 50, "{accelerator} {class} {spread:?}");
            // With the fitted half as measured kernels, the other half is predicted better over all;
            // where the model is as good as the rows repeat (2 to 3 %), not worse than by a tenth.
            let near = interpolated[&key];
            println!("{accelerator} {class}, interpolated: {near:?}");
            let most = if class == "all" { spread.median } else { 1.1 * spread.median };
            assert!(near.median < most, "{accelerator} {class} {near:?} {spread:?}");
        }
    }
}

/// Bar labels are rounded to 1 TFLOP/s and read from figures: 5 % in the median, 10 % at p90.
#[test]
fn left_out_attention_is_within_five_percent() {
    let Some(folder) = shared() else {
        println!("skipped: TRAINYARD_SHARED is not set");
        return;
    };
    let rows = read_attention(&folder.join("hardware/attention_rates.csv")).unwrap();
    let table = score::table(&score::held_out_attention(catalogue(), &rows).unwrap());
    for accelerator in ["a100-80", "h100-sxm"] {
        let spread = table[&(accelerator.to_owned(), "all fused")];
        println!("{accelerator}: {spread:?}");
        assert!(spread.median <= 5.0 && spread.p90 <= 10.0, "{accelerator} {spread:?}");
    }
}

/// Nothing of a stored score matrix is fitted, it is GEMMs and memory traffic: 20 % in the median,
/// as the benchmark's eager code may run copies that its description does not show.
#[test]
fn unfused_attention_follows_from_its_parts() {
    let Some(folder) = shared() else {
        println!("skipped: TRAINYARD_SHARED is not set");
        return;
    };
    let rows = read_attention(&folder.join("hardware/attention_rates.csv")).unwrap();
    let table = score::table(&score::attention(catalogue(), &rows).0);
    for accelerator in ["a100-80", "h100-sxm"] {
        let spread = table[&(accelerator.to_owned(), "unfused")];
        println!("{accelerator}: {spread:?}");
        assert!(spread.median <= 20.0, "{accelerator} {spread:?}");
    }
}

/// One tile more than fills the SMs costs a wave more. 1.3: of two waves of 256 x 128 tiles for
/// 133 instead of 132 (factor 2) other tiles and split reductions take back at most two thirds.
#[test]
fn a_tile_more_than_a_wave_shows() {
    let full = gemm("h100-sxm", 256 * 11, 128 * 12, 8192, 1);
    let more = gemm("h100-sxm", 256 * 11, 128 * 13, 8192, 1);
    assert!(more > 1.3 * full, "{full} {more}");
}

/// Twice the work in any one dimension takes longer, exactly.
#[test]
fn more_work_is_never_faster() {
    for accelerator in FITTED {
        for m in [256, 1024, 3072, 8192] {
            for n in [1024, 4096, 12_288] {
                for k in [512, 2048, 8192] {
                    let base = gemm(accelerator, m, n, k, 1);
                    for (m, n, k, batch) in
                        [(2 * m, n, k, 1), (m, 2 * n, k, 1), (m, n, 2 * k, 1), (m, n, k, 2)]
                    {
                        let more = gemm(accelerator, m, n, k, batch);
                        assert!(more >= base, "{accelerator} {m} {n} {k} {batch}: {more} {base}");
                    }
                }
            }
        }
    }
}

/// No GEMM is faster than the peak rate, exactly.
#[test]
fn no_gemm_beats_the_peak() {
    for accelerator in FITTED {
        let peak = catalogue().accelerator(accelerator).unwrap().peak.bf16.as_ref().unwrap().value;
        for size in [512, 2048, 8192, 32_768] {
            let flops = 2.0 * (size as f64).powi(3);
            assert!(
                flops / gemm(accelerator, size, size, size, 1) < peak.0,
                "{accelerator} {size}"
            );
        }
    }
}

/// A vocabulary of odd size makes its projection 1.5 to 3.5 times slower: two published accounts
/// say two to three.
#[test]
fn an_odd_vocabulary_is_slow() {
    for accelerator in ["a100-80", "h100-sxm"] {
        let padded = gemm(accelerator, 8192, 50_304, 4096, 1);
        let odd = gemm(accelerator, 8192, 50_257, 4096, 1);
        assert!((1.5..3.5).contains(&(odd / padded)), "{accelerator} {}", odd / padded);
    }
}

/// Head sizes off the tiles pay for the padding: 80 costs as much per head as 96 or more, and the
/// same width in heads of 80 is slower than in heads of 64 or 128. Exact.
#[test]
fn head_sizes_off_the_tiles_are_slow() {
    // Scores and values of unfused attention: the width 10,240 in heads of 64, 80 and 128.
    let unfused = |head: u64| {
        let heads = 10_240 / head;
        let scores = gemm("a100-80", 2048, 2048, head, heads);
        (scores + gemm("a100-80", 2048, head, 2048, heads)) / (heads * head) as f64
    };
    assert!(unfused(80) > unfused(128), "{} {}", unfused(80), unfused(128));
    let fused = |head| attention(FusedAttention::Flash2, AttentionPass::Forward, 2048, head);
    assert!(fused(72) / (2048 / 72) as f64 >= fused(96) / (2048 / 96) as f64 * 0.98);
}

/// Experts whose rows just spill over a tile pay for the whole tile, and experts fill the waves
/// together: eight at once are faster than one after the other. Exact.
#[test]
fn groups_fill_waves_together() {
    let together = gemm("h100-sxm", 384, 4096, 4096, 8);
    assert!(together < 8.0 * gemm("h100-sxm", 384, 4096, 4096, 1));
    assert!(gemm("h100-sxm", 272, 4096, 4096, 8) > 1.1 * gemm("h100-sxm", 256, 4096, 4096, 8));
}

/// Generations on Hopper rank as published: Triton, 2, cuDNN, 3, for 4,096 tokens and heads of 128,
/// and the third is 1.5 to 2 times the second forward (Shah et al. 2024, abstract).
#[test]
fn attention_generations_rank() {
    for pass in [AttentionPass::Forward, AttentionPass::Backward] {
        use FusedAttention::{Cudnn, Flash2, Flash3, Triton};
        let time = |kind| attention(kind, pass, 4096, 128);
        assert!(time(Triton) > time(Flash2) && time(Flash2) > time(Cudnn));
        assert!(time(Cudnn) > time(Flash3));
        let gain = time(Flash2) / time(Flash3);
        assert!((1.4..2.1).contains(&gain), "{pass:?} {gain}");
    }
}

/// Every time has an uncertainty, larger where the shape was never measured.
#[test]
fn uncertainty_grows_off_the_measured_shapes() {
    let gemm = |precision| {
        let work = Work::Gemm { m: 4096, n: 4096, k: 4096, batch: 1, precision };
        time_of("h100-sxm", KernelClass::Gemm, work)
    };
    let (measured, narrow) = (gemm(Precision::Bf16), gemm(Precision::Fp8));
    assert!(!measured.extrapolated && narrow.extrapolated);
    assert!(measured.uncertainty > 0.02 && measured.uncertainty < 0.15);
    assert!(narrow.uncertainty > measured.uncertainty);
    assert!(narrow.time < measured.time);
}
