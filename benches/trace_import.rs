//! How fast a PyTorch profiler trace is imported and inspected, on one core.
//!
//! The trace (34.8 MB of JSON) is real and not part of the repository; it is found under
//! `TRAINYARD_SHARED`. Without it a small synthetic trace is measured, and a line says so.
//! What is measured is the time that the thread really ran, where the system tells (Linux): the
//! rate per core does not depend on what else the machine is doing.

#![allow(missing_docs, clippy::print_stderr)]

use std::io::Read;
use std::path::PathBuf;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use trainyard::trace::analysis::inspect;
use trainyard::trace::import::kineto;
use trainyard::trace::model::TraceSet;

/// Nanoseconds that this thread has run; wall time where the system does not tell.
struct ThreadTime {
    wall: std::time::Instant,
}

impl ThreadTime {
    fn now(&self) -> u64 {
        let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
        told.and_then(|text| text.split(' ').next()?.parse().ok())
            .unwrap_or_else(|| self.wall.elapsed().as_nanos() as u64)
    }
}

impl Measurement for ThreadTime {
    type Intermediate = u64;
    type Value = u64;
    fn start(&self) -> u64 {
        self.now()
    }
    fn end(&self, start: u64) -> u64 {
        self.now() - start
    }
    fn add(&self, a: &u64, b: &u64) -> u64 {
        a + b
    }
    fn zero(&self) -> u64 {
        0
    }
    fn to_f64(&self, value: &u64) -> f64 {
        *value as f64
    }
    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// The text of the real trace, or of a synthetic one.
fn text() -> (String, Vec<u8>) {
    if let Some(shared) = std::env::var_os("TRAINYARD_SHARED") {
        let path =
            PathBuf::from(shared).join("corpus/traces/hta/trace_diff/control/control.json.gz");
        match std::fs::File::open(&path) {
            Ok(file) => {
                let mut text = Vec::new();
                match flate2::read::GzDecoder::new(file).read_to_end(&mut text) {
                    Ok(_) => return ("control".into(), text),
                    Err(e) => eprintln!("{}: {e}", path.display()),
                }
            }
            Err(e) => eprintln!("{}: {e}", path.display()),
        }
    }
    eprintln!("TRAINYARD_SHARED is not set or has no trace: measuring a synthetic one instead");
    let mut text = String::from("{\"traceEvents\": [\n");
    for i in 0..40_000_u64 {
        let ts = 1_661_203_462_000_000 + 11 * i;
        text.push_str(&format!(
            "{{\"ph\": \"X\", \"cat\": \"cpu_op\", \"name\": \"aten::mm\", \"pid\": 1, \"tid\": 1, \
             \"ts\": {ts}, \"dur\": 9, \"args\": {{\"External id\": {i}, \"Input Dims\": [[64, 64], [64, 64]], \
             \"Call stack\": \"\"}}}},\n\
             {{\"ph\": \"X\", \"cat\": \"cuda_runtime\", \"name\": \"cudaLaunchKernel\", \"pid\": 1, \
             \"tid\": 1, \"ts\": {ts}, \"dur\": 5, \"args\": {{\"cbid\": 211, \"correlation\": {i}}}}},\n\
             {{\"ph\": \"X\", \"cat\": \"kernel\", \"name\": \"gemm\", \"pid\": 0, \"tid\": 7, \"ts\": {}, \
             \"dur\": 8, \"args\": {{\"device\": 0, \"stream\": 7, \"correlation\": {i}, \"grid\": [64, 1, 1], \
             \"block\": [128, 1, 1]}}}},\n",
            ts + 20
        ));
    }
    text.push_str("{}]}");
    ("synthetic".into(), text.into_bytes())
}

fn set_of(text: &[u8]) -> TraceSet {
    match kineto::read(text, "control.json") {
        Ok(rank) => TraceSet { ranks: vec![rank] },
        Err(why) => panic!("the benchmark's trace {why}"),
    }
}

fn bench(criterion: &mut Criterion<ThreadTime>) {
    let (name, text) = text();
    let set = set_of(&text);
    eprintln!(
        "{name}: {:.1} MB of JSON, {} events retained in {:.2} MB",
        text.len() as f64 / 1e6,
        set.ranks[0].events.len(),
        set.heap_bytes() as f64 / 1e6
    );
    let mut group = criterion.benchmark_group("trace");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.sample_size(20);
    group.bench_function(format!("import {name}"), |b| b.iter(|| set_of(&text)));
    group.bench_function(format!("inspect {name}"), |b| b.iter(|| inspect(&set)));
    group.bench_function(format!("import and inspect {name}"), |b| {
        b.iter(|| inspect(&set_of(&text)));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(ThreadTime { wall: std::time::Instant::now() });
    targets = bench
}
criterion_main!(benches);
