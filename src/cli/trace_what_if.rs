//! Options of `trainyard trace replay` that change a recording before it is replayed.

use std::sync::Arc;

use clap::{Args, ValueEnum};

use crate::error::{Error, Result};
use crate::hardware::Catalogue;
use crate::outcome::{Network, Pipeline, Straggler, WhatIf};
use crate::plan::Schedule;

/// What if.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "What if")]
pub struct WhatIfArgs {
    /// These took FACTOR times as long: a part of a name of kernels, operations or collectives, or
    /// `compute`, or `communication`. 0 keeps them in their place without any time.
    #[arg(long, value_name = "NAME=FACTOR", value_parser = name_and_factor)]
    scale: Vec<(String, f64)>,
    /// A rank's own work took FACTOR times as long.
    #[arg(long, value_name = "RANK=FACTOR", value_parser = rank_and_factor)]
    slow: Vec<(u32, f64)>,
    /// It ran on another accelerator of the catalogue, such as `mi300x` (recordings of kernels).
    #[arg(long, value_name = "NAME")]
    accelerator: Option<String>,
    /// What it was recorded on, for `--accelerator` and `--fuse`, where the recording does not say
    /// or the name is not known.
    #[arg(long, value_name = "NAME")]
    recorded_on: Option<String>,
    /// The network had FACTOR times the bandwidth.
    #[arg(long, value_name = "FACTOR", value_parser = positive)]
    network_bandwidth: Option<f64>,
    /// The fixed part of every collective and transfer took FACTOR times as long, or so much more
    /// or less (`+5us`, `-2us`).
    #[arg(
        long,
        value_name = "FACTOR|+TIME",
        value_parser = latency,
        allow_hyphen_values = true
    )]
    network_latency: Option<Latency>,
    /// These were not done at all: a part of a name of kernels, operations or collectives. Their
    /// launches go, too.
    #[arg(long, value_name = "NAME")]
    remove: Vec<String>,
    /// Adjacent kernels of a stream were one: parts of their names, in order.
    #[arg(long, value_name = "A,B,...", value_parser = names)]
    fuse: Vec<Vec1>,
    /// The excess of a rank, stage or replica were gone, with what each of them costs.
    #[arg(long, value_name = "rank=N|stage=N|replica=N", value_parser = straggler)]
    without_straggler: Vec<Straggler>,
    /// Another number of replicas.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    data_parallel: Option<u32>,
    /// Nodes of the catalogue that the replicas' collectives are timed on, for `--data-parallel`
    /// (recordings of kernels); a ring on the recorded network without. Several nodes need
    /// `--fabric NAME`.
    #[arg(long, value_name = "NAME", requires = "data_parallel")]
    node: Option<String>,
    /// The fabric between those nodes.
    #[arg(long, value_name = "NAME", requires = "node")]
    fabric: Option<String>,
    /// Another pipeline schedule (jobs recorded operation by operation).
    #[arg(long, value_enum)]
    schedule: Option<ScheduleArg>,
    /// Chunks of the model per stage; needs an interleaved schedule, which has two if nothing is
    /// said.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    chunks: Option<u32>,
    /// Another number of micro-batches.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    micro_batches: Option<u32>,
}

/// A list of names that clap takes as one value.
#[derive(Clone, Debug)]
struct Vec1(Vec<String>);

/// Change of latency.
#[derive(Clone, Copy, Debug)]
enum Latency {
    Factor(f64),
    Added(i64),
}

/// A pipeline schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ScheduleArg {
    /// All forwards, then all backwards.
    Gpipe,
    /// One forward, one backward.
    #[value(name = "1f1b")]
    OneForwardOneBackward,
    /// One forward, one backward, over several chunks per stage.
    Interleaved,
}

impl WhatIfArgs {
    /// The what-if; `catalogue` is loaded where it needs one.
    ///
    /// # Errors
    /// The catalogue cannot be read, or an option has nothing to say of.
    pub fn what_if(self, catalogue: &dyn Fn() -> Result<Catalogue>) -> Result<WhatIf> {
        if self.recorded_on.is_some() && self.accelerator.is_none() && self.fuse.is_empty() {
            return Err(Error::Unsupported(
                "--recorded-on alone changes nothing: it says what another accelerator or fused \
                 kernels are compared with\n  help: add --accelerator NAME or --fuse A,B"
                    .into(),
            ));
        }
        let needed = self.accelerator.is_some()
            || self.recorded_on.is_some()
            || self.node.is_some()
            || !self.fuse.is_empty();
        let (latency, added_ns) = match self.network_latency {
            Some(Latency::Factor(by)) => (by, 0),
            Some(Latency::Added(ns)) => (1.0, ns),
            None => (1.0, 0),
        };
        Ok(WhatIf {
            scales: self.scale,
            ranks: self.slow,
            accelerator: self.accelerator,
            recorded_on: self.recorded_on,
            network: Network {
                bandwidth: self.network_bandwidth.unwrap_or(1.0),
                latency,
                added_ns,
            },
            remove: self.remove,
            fuse: self.fuse.into_iter().map(|names| names.0).collect(),
            without: self.without_straggler,
            data_parallel: self.data_parallel,
            node: self.node,
            fabric: self.fabric,
            pipeline: Pipeline {
                schedule: self.schedule.map(|schedule| match schedule {
                    ScheduleArg::Gpipe => Schedule::Gpipe,
                    ScheduleArg::OneForwardOneBackward => Schedule::OneForwardOneBackward,
                    ScheduleArg::Interleaved => Schedule::Interleaved,
                }),
                chunks: self.chunks,
                micro_batches: self.micro_batches,
            },
            catalogue: if needed { Some(Arc::new(catalogue()?)) } else { None },
        })
    }
}

/// `NAME=FACTOR`.
fn name_and_factor(text: &str) -> Result<(String, f64), String> {
    let (name, factor) = text.rsplit_once('=').ok_or("expected NAME=FACTOR")?;
    let factor: f64 = factor.parse().map_err(|_| format!("`{factor}` is no number"))?;
    if name.is_empty() || !(0.0..=1000.0).contains(&factor) {
        return Err("expected a name and a factor from 0 to 1000".into());
    }
    Ok((name.to_owned(), factor))
}

/// `RANK=FACTOR`.
fn rank_and_factor(text: &str) -> Result<(u32, f64), String> {
    let (rank, factor) = name_and_factor(text)?;
    Ok((rank.parse().map_err(|_| format!("`{rank}` is no rank"))?, factor))
}

/// A factor above zero.
fn positive(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if factor > 0.0 && factor <= 1000.0 {
        Ok(factor)
    } else {
        Err("expected a factor above 0, up to 1000".into())
    }
}

/// A factor, or a time with a sign and a unit.
fn latency(text: &str) -> Result<Latency, String> {
    let expected = "expected a factor from 0 to 1000, or a time such as +5us";
    if !text.starts_with(['+', '-']) {
        let factor: f64 = text.parse().map_err(|_| expected)?;
        let fits = (0.0..=1000.0).contains(&factor);
        return if fits { Ok(Latency::Factor(factor)) } else { Err(expected.into()) };
    }
    let units = [("ns", 1.0), ("us", 1e3), ("ms", 1e6)];
    let found = units.into_iter().find_map(|(unit, ns)| Some((text.strip_suffix(unit)?, ns)));
    let (number, ns) = found.ok_or(expected)?;
    let number: f64 = number.trim().parse().map_err(|_| expected)?;
    let time = number * ns;
    if !time.is_finite() {
        return Err(expected.into());
    }
    if time.abs() > 1e9 {
        return Err("expected less than a second".into());
    }
    Ok(Latency::Added(time.round() as i64))
}

fn names(text: &str) -> Result<Vec1, String> {
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if names.len() < 2 || names.iter().any(String::is_empty) {
        return Err("expected two names or more, separated by commas".into());
    }
    Ok(Vec1(names))
}

/// `rank=3`, `stage=2` or `replica=1`.
fn straggler(text: &str) -> Result<Straggler, String> {
    let expected = "expected rank=N, stage=N or replica=N";
    let (what, number) = text.split_once('=').ok_or(expected)?;
    let bad = |_| format!("`{number}` is no {what}");
    match what {
        "rank" | "worker" => Ok(Straggler::Rank(number.parse().map_err(bad)?)),
        "stage" => Ok(Straggler::Stage(number.parse().map_err(bad)?)),
        "replica" => Ok(Straggler::Replica(number.parse().map_err(bad)?)),
        _ => Err(expected.into()),
    }
}
