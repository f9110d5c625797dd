//! Results for people.

mod explain;
mod memory;
mod network;
mod scatter;
mod validation;

pub use explain::explain_text;
pub use network::network_text;
pub use scatter::scatter_svg;
pub use validation::{Origin, catalogue_hash, drawn, short, statistics_text, validation_markdown};

use std::fmt::Write as _;

use crate::outcome::{Interval, KernelInfo, RunResult, Scope, StepInterval};
use crate::replay::Category;
use crate::scenario::Setup;
use crate::units::{Seconds, human_time, si, significant};

/// Bytes of a GiB.
pub const GIB: f64 = 1_073_741_824.0;

const BAR_WIDTH: usize = 32;

/// A bar of `share` (0 to 1) of the full width.
fn bar(share: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * (BAR_WIDTH * 8) as f64).round() as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

fn label(category: Category) -> &'static str {
    match category {
        Category::Compute => "compute",
        Category::Recompute => "recomputation",
        Category::Optimizer => "optimizer",
        Category::Tensor => "exposed tensor-parallel comm.",
        Category::Context => "exposed context-parallel comm.",
        Category::Expert => "exposed expert-parallel comm.",
        Category::Data => "exposed data-parallel comm.",
        Category::Pipeline => "exposed pipeline transfers",
        Category::Bubble => "pipeline bubble",
        Category::Host => "waiting for the host",
        Category::Idle => "waiting for peers",
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 && c != '-' {
            text.push(',');
        }
        text.push(c);
    }
    text
}

/// Three significant digits, as a number.
fn rounded(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(value.log10().floor() as i32 - 2);
    (value / scale).round() * scale
}

/// Both ends of an interval, the unit once where it is the same.
fn time_range(interval: StepInterval) -> String {
    let (low, high) = (human_time(Seconds(interval.low_s)), human_time(Seconds(interval.high_s)));
    match (low.split_once(' '), high.split_once(' ')) {
        (Some((number, unit)), Some((_, other))) if unit == other => format!("{number} to {high}"),
        _ => format!("{low} to {high}"),
    }
}

/// Words in lines of at most `width` columns.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let full = lines.last().map_or(0, |line| line.chars().count());
        if full > 0 && full + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// The answer to `trainyard run` as text of at most 100 columns.
#[must_use]
pub fn run_text(result: &RunResult, setup: &Setup<'_>, with_assumptions: bool) -> String {
    let mut t = String::new();
    let plan = &result.plan;
    let _ = writeln!(t, "{}", result.scenario.name);
    if let Some(description) = &result.scenario.description {
        let _ = writeln!(t, "{description}");
    }
    let fabric = setup.fabric.map_or(String::new(), |fabric| format!(" on {}", fabric.title));
    let _ = writeln!(
        t,
        "\n  {} parameters, {} layers; sequences of {} tokens, {} per step",
        si(plan.model_parameters as f64, "").trim_end(),
        setup.model.layers,
        setup.scenario.training.sequence_length,
        plan.global_batch,
    );
    let _ = writeln!(
        t,
        "  {} devices: {} x {}{fabric}",
        grouped(f64::from(plan.devices)),
        setup.devices.div_ceil(setup.node.devices),
        setup.node.title
    );
    if let Some(graph) = &setup.network.topology {
        let _ = writeln!(t, "  wired as in a file: {}", graph.title);
    }
    let _ = writeln!(t, "  {} ({})", setup.stack.title, setup.stack.version);
    let _ = writeln!(
        t,
        "  tensor {}{} x pipeline {} x data {}{}; {} micro-batches of {}{}; recompute {}{}",
        plan.tensor_parallel,
        match plan.context_parallel {
            1 => String::new(),
            size => format!(" x context {size}"),
        },
        plan.pipeline_parallel,
        plan.data_parallel,
        match plan.expert_parallel {
            1 => String::new(),
            size => format!(" (expert {size})"),
        },
        plan.micro_batches,
        plan.micro_batch,
        if plan.virtual_stages > 1 {
            format!(", {} chunks per stage", plan.virtual_stages)
        } else {
            String::new()
        },
        format!("{:?}", plan.recompute).to_lowercase(),
        sharding_text(result),
    );

    let _ = writeln!(
        t,
        "\nStep {} (90 %: {})",
        human_time(Seconds(result.step.seconds)),
        time_range(result.step.interval_90)
    );
    let rates = &result.throughput;
    let Interval { low, high } = rates.tokens_per_second_interval_90;
    let _ = writeln!(
        t,
        "  {} tokens/s (90 %: {} to {}), {} tokens/s per device",
        grouped(rates.tokens_per_second),
        grouped(rounded(low)),
        grouped(rounded(high)),
        grouped(rates.tokens_per_second_per_device)
    );
    let _ = writeln!(
        t,
        "  {} TFLOP/s per device, MFU {} %, HFU {} %",
        significant(rates.tflops_per_device, 3),
        significant(rates.mfu * 100.0, 3),
        significant(rates.hfu * 100.0, 3)
    );

    let widest: Vec<String> = result
        .uncertainty
        .iter()
        .take(3)
        .map(|s| format!("{} ({:.1} %)", s.source, s.contribution.abs() * 100.0))
        .collect();
    if !widest.is_empty() {
        let text = format!("uncertain by {}", widest.join(", "));
        for line in wrapped(&text, 96) {
            let _ = writeln!(t, "  {line}");
        }
    }

    if let Some(shapes) = result.kernels.measured_shapes {
        t.push_str(&kernels_text(&result.kernels, shapes));
    }

    let _ = writeln!(t, "\nWhere the time goes (mean over ranks)");
    let step = result.step.seconds;
    for category in Category::ALL {
        let seconds = result.step.breakdown.get(category.key()).copied().unwrap_or(0.0);
        if seconds / step < 5e-5 {
            continue;
        }
        let _ = writeln!(
            t,
            "  {:30} {:>9}  {:>5.1} %  {}",
            label(category),
            human_time(Seconds(seconds)),
            seconds / step * 100.0,
            bar(seconds / step)
        );
    }

    if result.network.contention_seconds > 0.0 {
        let _ = writeln!(
            t,
            "  collectives take {} longer per rank because they share links",
            human_time(Seconds(result.network.contention_seconds))
        );
    }
    t.push_str(&network_text(&result.network));

    t.push_str(&memory::memory_text(&result.memory, plan.pipeline_parallel));

    let (title, what) = match result.energy.scope {
        Scope::Run => ("\nRun", ""),
        Scope::Step => ("\nPer step", " (add [run] tokens for the whole run)"),
    };
    let _ = write!(t, "{title}");
    match (result.run.days, result.run.steps, result.run.device_hours) {
        (Some(days), Some(steps), Some(hours)) => {
            let _ = writeln!(
                t,
                " {}: {} steps, {} device-hours, without interruptions",
                human_time(Seconds(days * 86400.0)),
                grouped(steps),
                grouped(hours)
            );
        }
        _ => {
            let _ = writeln!(t, "{what}");
        }
    }
    let energy = &result.energy;
    let _ = writeln!(
        t,
        "  energy    {} (accelerators {}, hosts {}, network {}; PUE {}); {} W per accelerator",
        si(energy.kwh * 1e3, "Wh"),
        si(energy.devices_kwh * 1e3, "Wh"),
        si(energy.hosts_kwh * 1e3, "Wh"),
        si(energy.network_kwh * 1e3, "Wh"),
        significant(energy.pue, 3),
        significant(energy.device_watts, 3)
    );
    match (result.cost.usd, result.cost.usd_per_device_hour, result.cost.usd_per_million_tokens) {
        (Some(usd), Some(rate), Some(tokens)) => {
            let _ = writeln!(
                t,
                "  rent      ${} at ${}/device-hour, ${} per million tokens",
                if usd >= 100.0 { grouped(usd) } else { significant(usd, 3) },
                significant(rate, 3),
                significant(tokens, 3)
            );
        }
        _ => {
            let _ = writeln!(t, "  rent      unknown: no price for this device");
        }
    }
    if let Some(operational) = result.carbon.operational_kg_co2e {
        let embodied = match result.carbon.embodied_kg_co2e {
            Some(kg) => format!("{} embodied", co2(kg)),
            None => "embodied unknown".to_owned(),
        };
        let _ = writeln!(
            t,
            "  CO2e      {} operational at {} g/kWh, {embodied}",
            co2(operational),
            significant(result.carbon.grid_g_per_kwh.unwrap_or(0.0), 3),
        );
    }

    let simulation = &result.simulation;
    let _ = write!(
        t,
        "\n{} ranks, {} operations, {} engine",
        grouped(simulation.ranks as f64),
        grouped(simulation.operation_instances as f64),
        simulation.engine
    );
    if let Some(lanes) = simulation.lanes {
        let _ = write!(t, ", {} lanes", grouped(lanes as f64));
    }
    if let Some(replays) = simulation.replays {
        let _ = write!(t, ", {replays} replays");
    }
    if let Some(seconds) = simulation.cpu_seconds {
        let _ = write!(t, ", {} CPU", human_time(Seconds(seconds)));
    }
    if let Some(bytes) = simulation.peak_bytes {
        let _ = write!(t, ", {} peak", si(bytes as f64, "B"));
    }
    let _ = writeln!(t, "; scenario {}, seed {}", result.scenario.hash, result.seed);
    for warning in &result.warnings {
        let _ = writeln!(t, "warning: {warning}");
    }
    if with_assumptions {
        let _ = writeln!(t, "\nAssumed figures");
        for a in &result.assumptions {
            let value = match (a.value, a.low, a.high) {
                (Some(value), Some(low), Some(high)) => {
                    format!("{value} ({low} to {high}) {}", a.unit.as_deref().unwrap_or_default())
                }
                _ => "curve".to_owned(),
            };
            let _ = writeln!(t, "  {}: {value}", a.what);
            let _ = writeln!(
                t,
                "      {} ({})",
                a.note.as_deref().unwrap_or(&a.source),
                a.date.as_deref().unwrap_or("no date")
            );
        }
    } else {
        let _ = writeln!(
            t,
            "{} assumed figures stand behind this; --assumptions lists them",
            result.assumptions.len()
        );
    }
    t
}

/// How much of the kernels' time was measured.
fn kernels_text(kernels: &KernelInfo, shapes: usize) -> String {
    let share = |source: &str| kernels.time_by_source.get(source).copied().unwrap_or(0.0) * 100.0;
    let error = kernels.left_out_error_pct.map_or_else(String::new, |error| {
        format!(" (each from the others: {} % off in the median)", significant(error, 2))
    });
    let text = format!(
        "kernel time by {shapes} measured shape{}{error}: {:.0} % measured, {:.0} % interpolated, {:.0} % \
         modelled",
        if shapes == 1 { "" } else { "s" },
        share("measured"),
        share("interpolated"),
        share("modelled") + share("curve"),
    );
    wrapped(&text, 96).iter().map(|line| format!("  {line}\n")).collect()
}

fn sharding_text(result: &RunResult) -> String {
    let plan = &result.plan;
    if plan.optimizer_shard <= 1 {
        return String::new();
    }
    let mut parts = Vec::new();
    for (name, size) in [
        ("parameters", plan.parameter_shard),
        ("gradients", plan.gradient_shard),
        ("optimizer", plan.optimizer_shard),
    ] {
        if size > 1 {
            parts.push(format!("{name} over {size}"));
        }
    }
    format!("\n  sharded: {}", parts.join(", "))
}

fn co2(kg: f64) -> String {
    if kg >= 1000.0 {
        format!("{} t", significant(kg / 1000.0, 3))
    } else {
        format!("{} kg", significant(kg, 3))
    }
}
