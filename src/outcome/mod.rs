//! From a resolved scenario to its result: the one place where workload, timing, network, replay
//! and account come together.

mod demands;
mod durations;
mod explain;
mod memory;
mod network;
mod recorded;
mod replayed;
mod result;
mod steps;
mod timeline;
mod uncertainty;
mod what_if;

pub use demands::demands_of;
use durations::kernel_info;
pub use durations::{Timed, time_program};
pub use explain::{EXPLAIN_SCHEMA, Term, Waterfall, explain};
pub use memory::{memory_by_stage, moment_name, moment_times, peak_memory};
pub use network::{Meetings, sites_of};
pub use recorded::{
    RankReplay, RecordedReplay, recorded_durations, replay_changed, replay_recorded,
};
pub use replayed::replayed_ranks;
pub use result::*;
pub use steps::{
    Factor, HalfPrediction, StepReplay, Stragglers, predict_second_half, replay_steps, stragglers,
};
pub use timeline::{first_ranks, write_timeline};
pub use uncertainty::{NINETY, Ratio, Uncertainty, Verdict, compare, uncertainty};
pub use what_if::{
    Attribution, Component, Coverage, CoveragePart, Network, NetworkFit, Pipeline,
    PipelinePrediction, Straggler, WhatIf, WhatIfReport, recorded_accelerator,
};

use std::collections::BTreeMap;

use crate::account::{self, Activity};
use crate::error::{Error, Result};
use crate::hardware::{Catalogue, Kind, for_each_figure};
use crate::network::topology::Topology as Graph;
use crate::network::topology::generators::fabric_network;
use crate::network::topology::materials::{UnitCosts, power_in_use};
use crate::plan::Recompute;
use crate::program::Program;
use crate::replay::{self, Category, Iterations, Lumping, Outcome, Sweep};
use crate::scenario::Setup;
use crate::timing::Roofline;
use crate::units::{Nanos, Seconds, Watts, significant};
use crate::workload::{LayerContext, lower};

/// Engines that can replay a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// One pass in dependency order.
    #[default]
    Sweep,
}

impl Engine {
    /// Name on the command line and in results.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sweep => "sweep",
        }
    }
}

/// How to simulate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Which engine.
    pub engine: Engine,
    /// Replay every rank instead of classes of equal ranks.
    pub no_lump: bool,
    /// Leave out what operations that overlap take from each other.
    pub frozen_rates: bool,
    /// Report every call and the load of links.
    pub network: bool,
    /// Report what the stage that needs most memory holds at every moment.
    pub memory: bool,
    /// Report on the simulation itself, which may differ where results do not.
    pub stats: bool,
}

/// The layer as one rank of the setup sees it.
#[must_use]
pub fn layer_context<'a>(setup: &'a Setup<'_>) -> LayerContext<'a> {
    LayerContext {
        model: &setup.model,
        batch: setup.plan.micro_batch,
        sequence: setup.scenario.training.sequence_length,
        tensor: setup.plan.tensor,
        context: setup.plan.context,
        expert: setup.plan.expert,
        expert_tensor: setup.plan.expert_tensor,
        sequence_parallel: setup.plan.sequence_parallel,
        precision: setup.scenario.training.precision,
        attention: setup.attention,
        fusion: &setup.recipe.fusion,
        recompute: setup.plan.recompute,
        overlap_tensor: setup.recipe.overlap.tensor_backward,
        overlap_context: setup.recipe.overlap.context,
        dispatch_per_node: setup.recipe.dispatch_per_node,
    }
}

/// Program of a setup.
#[must_use]
pub fn program_of(setup: &Setup<'_>) -> Program {
    lower(&setup.model, &setup.plan, &layer_context(setup), &setup.recipe)
}

/// Simulates one training step, and the run if the scenario has one.
///
/// # Errors
/// The accelerator lacks a figure that the scenario needs, or the program is malformed (a defect).
pub fn simulate(setup: &Setup<'_>, catalogue: &Catalogue, options: Options) -> Result<RunResult> {
    simulate_observed(setup, catalogue, options, &mut |_| Ok(()))
}

/// Simulates as [`simulate`] does, and shows the times of every operation to `observe`.
///
/// # Errors
/// As [`simulate`], and what `observe` says.
pub fn simulate_observed(
    setup: &Setup<'_>,
    catalogue: &Catalogue,
    options: Options,
    observe: &mut dyn FnMut(&Sweep<'_>) -> Result<()>,
) -> Result<RunResult> {
    let layer = layer_context(setup);
    let program = lower(&setup.model, &setup.plan, &layer, &setup.recipe);
    debug_assert!(program.check().is_ok(), "{:?}", program.check());
    let timed = time_program(setup, &program)?;
    let lumping = if options.no_lump {
        Lumping::none(&program, &timed.durations)
    } else {
        Lumping::coarsest(&program, &timed.durations)
    };
    let coupled = !options.frozen_rates;
    let demands = coupled.then(|| demands_of(setup, &program, &timed.meetings));
    let (sweep, iterations) = match options.engine {
        Engine::Sweep => replay::replay(&program, &timed.durations, &lumping, demands.as_ref())?,
    };
    observe(&sweep)?;
    let outcome = sweep.outcome();
    if outcome.step.0 <= 0 {
        return Err(Error::Internal("the step takes no time".into()));
    }
    let mut result = assemble(setup, catalogue, options, &program, &timed, &outcome, iterations)?;
    if options.memory {
        result.memory.timeline = Some(memory::memory_timeline(setup, &sweep));
    }
    Ok(result)
}

fn assemble(
    setup: &Setup<'_>,
    catalogue: &Catalogue,
    options: Options,
    program: &Program,
    timed: &Timed,
    outcome: &Outcome,
    iterations: Option<Iterations>,
) -> Result<RunResult> {
    let scenario = &setup.scenario;
    let devices = f64::from(setup.devices);
    let ranks = program.world_size() as f64;
    let step = outcome.step.seconds();
    let spread = uncertainty(setup, program, timed, &outcome.critical);
    let sequence = scenario.training.sequence_length;
    let tokens = f64::from(scenario.training.global_batch) * f64::from(sequence);
    let mut warnings = timed.warnings.clone();
    warnings.extend(iterations.and_then(|found| unsettled(found, outcome.step)));

    // Mean over ranks; each rank's accounts add up to the step, so the mean does.
    let breakdown: BTreeMap<String, f64> = Category::ALL
        .iter()
        .map(|c| (c.key().to_owned(), outcome.total.get(*c).0 as f64 / ranks / 1e9))
        .collect();

    let model_flops = setup.model.step_flops(tokens, sequence);
    let executed = model_flops + recomputed_flops(setup, tokens);
    let peak = Roofline::new(setup.accelerator).peak(scenario.training.precision)?;
    let available = peak.0 * devices * step.0;

    let memory = memory::memory_info(setup);
    if !memory.fits {
        warnings.push(format!(
            "does not fit: {} GiB needed on stage {}, {} GiB there",
            significant(memory.peak_bytes_per_device / GIB, 3),
            memory.peak_stage,
            significant(memory.capacity_bytes / GIB, 3)
        ));
    }

    let steps = scenario.run.tokens.map(|total| total / tokens);
    let factor = steps.unwrap_or(1.0);
    let run_seconds = Seconds(step.0 * factor);
    let activity = Activity {
        computing: outcome.busy.seconds(),
        communicating: outcome.waiting.seconds(),
        idle: outcome.total.get(Category::Host).seconds(),
    };
    let accounts = &scenario.account;
    let grid = setup.account.grid;
    let pue = accounts.pue.or(grid.map(|g| g.pue.value.0)).unwrap_or(1.0);
    let (network_power, closed_form) = network_power(setup);
    warnings.extend(closed_form);
    let energy = account::step_energy(
        (setup.accelerator, setup.power_cap()),
        setup.node,
        network_power,
        setup.devices,
        step,
        &activity,
        pue,
    );
    let price = accounts.usd_per_device_hour.or_else(|| {
        setup
            .account
            .prices
            .and_then(|sheet| sheet.rent.get(&setup.accelerator.name).map(|figure| figure.value.0))
    });
    if price.is_none() {
        warnings.push(format!(
            "no rent for {} on the price sheet: cost is not computed; set \
             account.usd_per_device_hour",
            setup.accelerator.name
        ));
    }
    let device_hours = run_seconds.hours() * devices;
    let intensity =
        accounts.grid_g_per_kwh.map(|g| g / 3.6e6).or(grid.map(|g| g.intensity.value.0));
    if intensity.is_none() {
        warnings.push("no grid intensity: set account.grid or account.grid_g_per_kwh".into());
    }
    let embodied = embodied_kg(setup, device_hours);
    if embodied.is_none() {
        warnings.push(format!(
            "no embodied emissions for {} in the catalogue: they are not counted",
            setup.accelerator.name
        ));
    }
    if setup.account.grid.is_some()
        && !setup.account.grid_chosen
        && accounts.grid_g_per_kwh.is_none()
    {
        warnings.push(
            "no grid is named: the world average is used for carbon; set account.grid".into(),
        );
    }
    let total_energy = energy.facility * factor;

    Ok(RunResult {
        schema: RESULT_SCHEMA.to_owned(),
        scenario: ScenarioInfo {
            name: scenario.name.clone(),
            description: scenario.description.clone(),
            hash: hash_of(scenario)?,
        },
        seed: scenario.seed,
        inputs: inputs(setup, catalogue),
        plan: plan_info(setup),
        step: StepInfo {
            seconds: step.0,
            interval_90: spread.step_interval(step),
            relative_sigma: spread.sigma,
            breakdown,
        },
        kernels: kernel_info(setup, program, timed),
        throughput: Throughput {
            tokens_per_second: tokens / step.0,
            tokens_per_second_interval_90: spread.interval(tokens / step.0),
            tokens_per_second_per_device: tokens / step.0 / devices,
            tflops_per_device: model_flops / step.0 / devices / 1e12,
            mfu: model_flops / available,
            hfu: executed / available,
            flop_convention: FLOP_CONVENTION.to_owned(),
        },
        memory,
        network: network::network_info(
            setup,
            program,
            &timed.meetings,
            (step, iterations.map_or(Nanos::ZERO, |found| found.contended)),
            options.network,
        )?,
        run: RunInfo {
            tokens: scenario.run.tokens,
            steps,
            days: steps.map(|_| run_seconds.0 / 86400.0),
            days_interval_90: steps.map(|_| spread.interval(run_seconds.0 / 86400.0)),
            device_hours: steps.map(|_| device_hours),
        },
        energy: EnergyInfo {
            scope: if steps.is_some() { Scope::Run } else { Scope::Step },
            kwh: total_energy.kwh(),
            devices_kwh: (energy.devices * factor).kwh(),
            hosts_kwh: (energy.hosts * factor).kwh(),
            network_kwh: (energy.network * factor).kwh(),
            pue,
            device_watts: energy.devices.0 / step.0 / devices,
        },
        cost: CostInfo {
            usd: price.map(|price| price * device_hours),
            usd_interval_90: price.map(|price| spread.interval(price * device_hours)),
            usd_per_device_hour: price,
            usd_per_million_tokens: price
                .map(|price| price * step.hours() * devices / tokens * 1e6),
        },
        carbon: CarbonInfo {
            operational_kg_co2e: intensity.map(|grams| total_energy.0 * grams / 1e3),
            embodied_kg_co2e: embodied,
            grid_g_per_kwh: intensity.map(|grams| grams * 3.6e6),
        },
        simulation: SimulationInfo {
            engine: options.engine.name().to_owned(),
            rates: if options.frozen_rates { "frozen" } else { "coupled" }.to_owned(),
            ranks: program.world_size() as u64,
            operation_instances: program.operation_instances(),
            lanes: options.stats.then_some(outcome.lanes as u64),
            replays: iterations.filter(|_| options.stats).map(|found| found.replays),
            cpu_seconds: None,
            peak_bytes: None,
        },
        assumptions: assumptions(setup, catalogue),
        warnings,
        uncertainty: spread.sources,
    })
}

const GIB: f64 = 1_073_741_824.0;

/// What to say where the rates of operations that overlap found no fixed point.
fn unsettled(found: Iterations, step: Nanos) -> Option<String> {
    let change = 100.0 * found.residual.0 as f64 / step.0 as f64;
    (!found.settled).then(|| {
        format!(
            "the rates of what overlaps did not settle: the step still changed by {} % in the last \
             of {} replays; --frozen-rates leaves them out",
            significant(change, 2),
            found.replays
        )
    })
}

/// Power of the switches and optics that serve the nodes in use: of the ports in use of the network's
/// graph, the part of the nodes in use. A fabric that no graph can be built of has nobody who communicates
/// over it; its power is then a closed form's, and the second of the two says so.
fn network_power(setup: &Setup<'_>) -> (Watts, Option<String>) {
    let Some(fabric) = &setup.network.fabric else { return (Watts::ZERO, None) };
    let nodes = f64::from(setup.devices) / f64::from(setup.node.devices);
    let of_graph = |graph: &Graph| {
        let all = power_in_use(graph, &UnitCosts::of(fabric));
        all * (nodes / graph.node_count().max(1) as f64)
    };
    if let Some(graph) = &setup.network.topology {
        return (of_graph(graph), None);
    }
    if nodes <= 1.0 {
        return (Watts::ZERO, None);
    }
    match fabric_network(fabric, setup.node, setup.scenario.cluster.nodes, &[]) {
        Ok(graph) => (of_graph(&graph), None),
        Err(error) => (
            account::network_power(fabric, setup.node, nodes),
            Some(format!(
                "power of the network from a closed form, not from its graph: {}",
                error.to_string().lines().next().unwrap_or_default()
            )),
        ),
    }
}

/// FLOPs of repeated forward work, in the convention of the model FLOPs.
fn recomputed_flops(setup: &Setup<'_>, tokens: f64) -> f64 {
    let sequence = setup.scenario.training.sequence_length;
    let (matrices, attention, _) = setup.model.forward_flops(sequence);
    match setup.plan.recompute {
        Recompute::None => 0.0,
        Recompute::Full => (matrices + attention) * tokens,
        Recompute::Selective => attention * tokens,
        Recompute::Operators => matrices / 2.0 * tokens,
        // Only the up-projections of latent attention are products, a few percent.
        Recompute::Modules => 0.0,
    }
}

/// Share of the hardware's embodied emissions that the device-hours take of its lifetime.
fn embodied_kg(setup: &Setup<'_>, device_hours: f64) -> Option<f64> {
    let device = setup.accelerator.embodied_carbon.as_ref()?.value.0;
    let node = setup.node.embodied_carbon.as_ref().map_or(0.0, |figure| figure.value.0);
    let per_device = device + node / f64::from(setup.node.devices);
    let lifetime_hours = setup.scenario.account.lifetime_years * 365.25 * 24.0;
    Some(per_device * device_hours / lifetime_hours / 1e3)
}

fn plan_info(setup: &Setup<'_>) -> PlanInfo {
    let plan = &setup.plan;
    PlanInfo {
        devices: setup.devices,
        tensor_parallel: plan.tensor,
        context_parallel: plan.context,
        expert_parallel: plan.expert,
        expert_tensor_parallel: plan.expert_tensor,
        pipeline_parallel: plan.pipeline,
        data_parallel: plan.data,
        virtual_stages: plan.chunks,
        schedule: plan.schedule,
        micro_batch: plan.micro_batch,
        micro_batches: plan.micro_batches,
        global_batch: plan.global_batch,
        sequence_parallel: plan.sequence_parallel,
        parameter_shard: plan.sharding.parameters,
        gradient_shard: plan.sharding.gradients,
        optimizer_shard: plan.sharding.optimizer,
        recompute: plan.recompute,
        model_parameters: setup.model.parameters(),
    }
}

fn hash_of<T: serde::Serialize>(value: &T) -> Result<String> {
    let text = serde_json::to_string(value)
        .map_err(|e| Error::Internal(format!("cannot serialise: {e}")))?;
    Ok(blake3::hash(text.as_bytes()).to_hex()[..16].to_owned())
}

/// Catalogue documents the result depends on.
fn documents<'a>(
    setup: &Setup<'_>,
    catalogue: &'a Catalogue,
) -> Vec<(String, &'a crate::input::Document)> {
    let mut all = Vec::new();
    let mut push = |what: &str, name: &str, document: Option<&'a crate::input::Document>| {
        if let Some(document) = document {
            all.push((format!("{what} {name}"), document));
        }
    };
    let (accelerator, node) = (&setup.accelerator.name, &setup.node.name);
    push("accelerator", accelerator, catalogue.accelerators.get(accelerator).map(|e| &e.document));
    push("node", node, catalogue.nodes.get(node).map(|e| &e.document));
    if let Some(fabric) = setup.fabric {
        push("fabric", &fabric.name, catalogue.fabrics.get(&fabric.name).map(|e| &e.document));
    }
    let stack = &setup.stack.name;
    push("stack", stack, catalogue.stacks.get(stack).map(|e| &e.document));
    if let Some(preset) = &setup.scenario.model.preset
        && let Ok(model) = catalogue.model(preset)
    {
        push("model", &model.name, catalogue.models.get(&model.name).map(|e| &e.document));
    }
    if let Some(grid) = setup.account.grid {
        push("grid", &grid.name, catalogue.grids.get(&grid.name).map(|e| &e.document));
    }
    if let Some(sheet) = setup.account.prices {
        push("prices", &sheet.name, catalogue.prices.get(&sheet.name).map(|e| &e.document));
    }
    all
}

fn inputs(setup: &Setup<'_>, catalogue: &Catalogue) -> Vec<InputInfo> {
    let info = |name: String, origin: &str, text: &str| InputInfo {
        name,
        origin: origin.to_owned(),
        hash: blake3::hash(text.as_bytes()).to_hex()[..16].to_owned(),
    };
    let of_catalogue = documents(setup, catalogue);
    of_catalogue
        .into_iter()
        .map(|(name, document)| info(name, document.origin(), document.text()))
        .chain(
            setup
                .files
                .iter()
                .map(|file| info(format!("{} {}", file.kind, file.name), &file.origin, &file.text)),
        )
        .collect()
}

/// Every assumed figure the result depends on, and the defaults taken by the scenario.
fn assumptions(setup: &Setup<'_>, catalogue: &Catalogue) -> Vec<Assumption> {
    let mut all = Vec::new();
    for (name, document) in documents(setup, catalogue) {
        let wanted = |path: &str| -> bool {
            // A price sheet holds many prices; only the one that is used is an assumption here.
            !name.starts_with("prices ") || path == format!("rent.{}", setup.accelerator.name)
        };
        for_each_figure(document.table(), &mut |path, table| {
            let text = |key: &str| table.get(key).and_then(toml::Value::as_str).map(str::to_owned);
            let number = |key: &str| {
                table.get(key).and_then(|v| v.as_float().or(v.as_integer().map(|i| i as f64)))
            };
            if text("kind").as_deref() != Some(Kind::Assumed.as_str()) || !wanted(path) {
                return;
            }
            let source = text("source").unwrap_or_default();
            let citation = document
                .table()
                .get("sources")
                .and_then(|s| s.get(&source))
                .and_then(toml::Value::as_table);
            let of_source = |key: &str| {
                citation.and_then(|c| c.get(key)).and_then(toml::Value::as_str).map(str::to_owned)
            };
            all.push(Assumption {
                what: format!("{name}: {path}"),
                value: number("value"),
                low: number("low"),
                high: number("high"),
                unit: text("unit"),
                source: of_source("citation").unwrap_or(source),
                date: text("date").or_else(|| of_source("date")),
                note: text("note"),
            });
        });
    }
    all.push(Assumption {
        what: "account.lifetime_years".into(),
        value: Some(setup.scenario.account.lifetime_years),
        low: Some(4.0),
        high: Some(6.0),
        unit: Some("year".into()),
        source: "hyperscalers depreciate over 5 to 6 years, AI laboratories plan with 4".into(),
        date: Some("2024".into()),
        note: Some("spreads embodied emissions over the hardware's life".into()),
    });
    all
}
