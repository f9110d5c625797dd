//! From a row's configuration to a prediction.

use serde::Serialize;

use crate::error::Error;
use crate::hardware::Catalogue;
use crate::input::Document;
use crate::outcome::{Options, peak_memory, simulate};
use crate::plan::Recompute;
use crate::scenario::{Setup, resolve};
use crate::workload::Model;

use super::map::{Mapped, Reject, map};
use super::row::RowSpec;
use super::shape::{Models, embedded_models};

/// Layer passes (layers times micro-batches) of one step that are simulated at most.
const MOST_LAYER_PASSES: u64 = 4_000_000;

/// By how much our memory model may overestimate before a run that was measured is taken to have
/// recomputed more than its stack does by default: 8-bit copies of saved activations, offloading
/// and recomputation of single modules are not in it, and a whole recomputation costs a third of
/// the step.
const MEMORY_DOUBT: f64 = 0.3;

/// Whether a row was predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It was.
    Ok,
    /// It is understood and beyond the simulator, or does not say enough.
    Unsupported,
    /// It makes no sense.
    Invalid,
}

impl Status {
    /// The word in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unsupported => "unsupported",
            Self::Invalid => "invalid",
        }
    }
}

/// What is predicted for a row. Nothing here depends on a measured value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// Whether there is one.
    pub status: Status,
    /// Seconds per step of the row's global batch.
    pub step_s: Option<f64>,
    /// Lower and upper end of the 90 % interval of `step_s`.
    pub interval_s: Option<(f64, f64)>,
    /// Tokens per second and device.
    pub tokens_per_s_per_device: Option<f64>,
    /// Memory of a device as a driver tool shows it, in GB (1e9 bytes).
    pub memory_gb: Option<f64>,
    /// Memory of the device in GB.
    pub capacity_gb: Option<f64>,
    /// Catalogue name of the accelerator.
    pub accelerator: Option<String>,
    /// Catalogue name of the software stack.
    pub stack: Option<String>,
    /// Why the prediction lies outside of what the catalogue knows; empty if it does not.
    pub extrapolated: Vec<String>,
    /// What the row does not say and defaults do; warnings begin with `warning`.
    pub assumed: Vec<String>,
    /// Why there is no prediction.
    pub reason: String,
    /// Tokens of a step, devices, parameters per token and format: what scoring needs.
    #[serde(skip)]
    pub scale: Option<Scale>,
}

/// Sizes of a predicted step, from the configuration alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// Tokens of the row's global batch.
    pub tokens: f64,
    /// Devices.
    pub devices: f64,
    /// Parameters that a token passes through.
    pub parameters: f64,
    /// Number format.
    pub precision: String,
    /// Hardware family.
    pub family: String,
}

impl Prediction {
    fn none(status: Status, reason: String) -> Self {
        Self {
            status,
            step_s: None,
            interval_s: None,
            tokens_per_s_per_device: None,
            memory_gb: None,
            capacity_gb: None,
            accelerator: None,
            stack: None,
            extrapolated: Vec::new(),
            assumed: Vec::new(),
            reason,
            scale: None,
        }
    }

    /// A row that cannot be read.
    #[must_use]
    pub fn invalid(reason: String) -> Self {
        Self::none(Status::Invalid, reason)
    }

    /// Whether the plan needs more memory than the device has.
    #[must_use]
    pub fn does_not_fit(&self) -> bool {
        matches!((self.memory_gb, self.capacity_gb), (Some(needed), Some(there)) if needed > there)
    }
}

/// Predicts rows.
#[derive(Debug)]
pub struct Predictor<'a> {
    catalogue: &'a Catalogue,
    models: Models,
}

impl<'a> Predictor<'a> {
    /// A predictor with a catalogue and the embedded models.csv.
    #[must_use]
    pub fn new(catalogue: &'a Catalogue) -> Self {
        Self { catalogue, models: embedded_models() }
    }

    /// Predicts a row.
    #[must_use]
    pub fn predict(&self, spec: &RowSpec) -> Prediction {
        let mut mapped = match map(spec, self.catalogue, &self.models) {
            Ok(mapped) => mapped,
            Err(Reject::Invalid(reason)) => return Prediction::none(Status::Invalid, reason),
            Err(Reject::Unsupported(reason)) => {
                return Prediction::none(Status::Unsupported, reason);
            }
        };
        match self.run(&mut mapped) {
            Ok(prediction) => prediction,
            Err(error) => {
                let status = match &error {
                    Error::MissingFigure { .. } | Error::Unsupported(_) => Status::Unsupported,
                    _ => Status::Invalid,
                };
                Prediction {
                    accelerator: Some(mapped.accelerator),
                    stack: Some(mapped.stack),
                    assumed: mapped.assumed,
                    ..Prediction::none(status, one_line(&error))
                }
            }
        }
    }

    /// Name of the stack that a row is predicted with; `None` where it is not understood.
    #[must_use]
    pub fn stack_of(&self, spec: &RowSpec) -> Option<String> {
        map(spec, self.catalogue, &self.models).ok().map(|mapped| mapped.stack)
    }

    /// The scenario of a row as TOML, for `trainyard run`.
    ///
    /// # Errors
    /// The row is not predicted; the reason why.
    pub fn scenario(&self, spec: &RowSpec) -> Result<String, String> {
        let mut mapped =
            map(spec, self.catalogue, &self.models).map_err(|reject| match reject {
                Reject::Invalid(reason) | Reject::Unsupported(reason) => reason,
            })?;
        self.fit(&mut mapped).map_err(|error| one_line(&error))?;
        let assumed: String = mapped.assumed.iter().map(|line| format!("# {line}\n")).collect();
        toml::to_string(&mapped.scenario)
            .map(|text| format!("{assumed}{text}"))
            .map_err(|e| format!("cannot serialise the scenario: {e}"))
    }

    /// Does something with a row's setup, as it is predicted; beside it stands how many times its
    /// work the row's step has.
    ///
    /// # Errors
    /// The row is not predicted; the reason why.
    pub fn with_setup<T>(
        &self,
        spec: &RowSpec,
        act: impl FnOnce(&Setup<'a>, f64) -> Result<T, Error>,
    ) -> Result<T, String> {
        let mut mapped =
            map(spec, self.catalogue, &self.models).map_err(|reject| match reject {
                Reject::Invalid(reason) | Reject::Unsupported(reason) => reason,
            })?;
        let setup = self.fit(&mut mapped).map_err(|error| one_line(&error))?;
        act(&setup, mapped.batch_scale).map_err(|error| one_line(&error))
    }

    fn run(&self, mapped: &mut Mapped) -> Result<Prediction, Error> {
        let setup = self.fit(mapped)?;
        let passes = u64::from(setup.model.layers) * u64::from(setup.plan.micro_batches);
        if passes > MOST_LAYER_PASSES {
            return Err(Error::Unsupported(format!(
                "{} layers times {} micro-batches is more than {MOST_LAYER_PASSES}",
                setup.model.layers, setup.plan.micro_batches
            )));
        }
        let result = simulate(&setup, self.catalogue, Options::default())?;
        for warning in result.warnings.iter().filter(|w| w.contains("extrapolat")) {
            mapped.extrapolated.push(warning.clone());
        }
        if !result.memory.fits {
            mapped.assumed.push(format!(
                "warning: does not fit: {:.1} of {:.1} GB",
                result.memory.peak_bytes_per_device / 1e9,
                result.memory.capacity_bytes / 1e9
            ));
        }
        let step = result.step.seconds * mapped.batch_scale;
        let training = &setup.scenario.training;
        let tokens = f64::from(training.global_batch)
            * mapped.batch_scale
            * f64::from(training.sequence_length);
        let devices = f64::from(setup.devices);
        let precision = serde_json::to_value(training.precision).ok();
        Ok(Prediction {
            status: Status::Ok,
            step_s: Some(step),
            interval_s: Some((
                result.step.interval_90.low_s * mapped.batch_scale,
                result.step.interval_90.high_s * mapped.batch_scale,
            )),
            tokens_per_s_per_device: Some(tokens / step / devices),
            memory_gb: Some(result.memory.reserved_bytes_per_device / 1e9),
            capacity_gb: Some(result.memory.capacity_bytes / 1e9),
            accelerator: Some(mapped.accelerator.clone()),
            stack: Some(mapped.stack.clone()),
            extrapolated: mapped.extrapolated.clone(),
            assumed: mapped.assumed.clone(),
            reason: String::new(),
            scale: Some(Scale {
                tokens,
                devices,
                parameters: active_parameters(&setup.model),
                precision: precision
                    .as_ref()
                    .and_then(serde_json::Value::as_str)
                    .unwrap_or_default()
                    .to_owned(),
                family: setup.accelerator.family.clone(),
            }),
        })
    }

    /// Resolves the scenario; where recomputation is not stated, with the first step of the ladder
    /// that fits into memory, since the row was measured and so did fit.
    fn fit(&self, mapped: &mut Mapped) -> Result<Setup<'a>, Error> {
        let resolved = |mapped: &Mapped| -> Result<Setup<'a>, Error> {
            let text = toml::to_string(&mapped.scenario)
                .map_err(|e| Error::Internal(format!("cannot serialise a scenario: {e}")))?;
            resolve(&Document::parse("scenario of the row", text)?, self.catalogue)
        };
        let mut setup = resolved(mapped)?;
        let ladder = mapped.recompute_ladder.clone();
        let fits = |setup: &Setup<'_>| {
            let capacity = setup.accelerator.memory.capacity.value.0;
            peak_memory(setup).1.memory.total() <= capacity * (1.0 + MEMORY_DOUBT)
        };
        for step in ladder.iter().skip(1) {
            if fits(&setup) {
                break;
            }
            mapped.scenario.plan.recompute = *step;
            setup = resolved(mapped)?;
        }
        if let Some(default) = ladder.first() {
            let used = mapped.scenario.plan.recompute;
            let why = if used == *default { "" } else { ", since less does not fit" };
            mapped.assumed.push(format!("recompute {}{why}", recompute_name(used)));
        }
        Ok(setup)
    }
}

fn recompute_name(recompute: Recompute) -> &'static str {
    match recompute {
        Recompute::None => "none",
        Recompute::Selective => "selective",
        Recompute::Modules => "modules",
        Recompute::Operators => "operators",
        Recompute::Full => "full",
    }
}

/// Parameters that a token passes through: of the experts, those it is sent to.
fn active_parameters(model: &Model) -> f64 {
    let idle: u64 = (0..model.layers)
        .map(|index| {
            let experts = model.layer_parameters(model.layer_kind(index)).expert;
            model.moe.map_or(0, |moe| {
                experts / u64::from(moe.experts) * u64::from(moe.experts - moe.top_k)
            })
        })
        .sum();
    model.parameters().saturating_sub(idle) as f64
}

/// An error as one line without its place in a generated scenario.
fn one_line(error: &Error) -> String {
    let text = match error {
        Error::Input(input) => {
            let hint = input.hint.as_ref().map_or_else(String::new, |hint| format!("; {hint}"));
            let key = input.key.as_ref().map_or_else(String::new, |key| format!("{key}: "));
            format!("{key}{}{hint}", input.message)
        }
        other => other.to_string(),
    };
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
