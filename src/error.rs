//! Errors and exit codes.
//!
//! A message says what was being read, where, what is wrong with it and what to write instead.
//! [`InputError`] carries the place; [`Error::exit_code`] is the documented contract of the
//! command line.

use std::fmt;
use std::path::PathBuf;

/// Result of everything that can fail for a reason the user can act on.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The documented exit codes of the `trainyard` binary.
pub mod exit_code {
    /// The command did what it was asked to do.
    pub const DONE: u8 = 0;
    /// A defect of Trainyard itself.
    pub const INTERNAL: u8 = 1;
    /// The command line could not be understood.
    pub const USAGE: u8 = 2;
    /// An input is invalid, or a device that the command needs is missing.
    pub const INVALID_INPUT: u8 = 3;
    /// A check ran and failed.
    pub const CHECK_FAILED: u8 = 4;
}

/// Where in an input a problem is, what it is, and what would be right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputError {
    /// File path, `embedded:...` for the built-in catalogue, or `--set` for an override.
    pub origin: String,
    /// One-based line and column, where known.
    pub position: Option<(usize, usize)>,
    /// The line of the input, for display under the message.
    pub line_text: Option<String>,
    /// Dotted key path, such as `plan.tensor_parallel`.
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl fmt::Display for InputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.origin)?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": ")?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        write!(f, "{}", self.message)?;
        if let (Some((line, column)), Some(text)) = (self.position, &self.line_text) {
            // Show the line and point at the column, as compilers do; long lines are cut.
            let text: String = text.chars().take(160).collect();
            let caret = " ".repeat(column.saturating_sub(1).min(160));
            write!(f, "\n  {line:>4} | {text}\n       | {caret}^")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  help: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for InputError {}

/// A parallel plan that cannot run, and the nearest one that can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError {
    /// The scenario key that is at fault, such as `plan.tensor_parallel`.
    pub key: String,
    /// The constraint that fails, with its numbers.
    pub constraint: String,
    /// The nearest plan that satisfies it.
    pub nearest: Option<String>,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "impossible plan: {}: {}", self.key, self.constraint)?;
        if let Some(nearest) = &self.nearest {
            write!(f, "\n  help: the nearest plan that works: {nearest}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PlanError {}

/// Everything that can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An input file, an override or a catalogue entry is invalid.
    #[error("{0}")]
    Input(Box<InputError>),
    /// The parallel plan is impossible.
    #[error("{0}")]
    Plan(Box<PlanError>),
    /// A name is not in the catalogue.
    #[error("no {what} named `{name}`{}", nearest_text(.nearest))]
    UnknownName {
        /// What was looked up: "accelerator", "node", ...
        what: &'static str,
        /// The name that was asked for.
        name: String,
        /// The nearest names that exist.
        nearest: Vec<String>,
    },
    /// A figure that the model needs is not in the catalogue; nothing is made up instead.
    #[error("missing figure: {what}\n  help: {hint}")]
    MissingFigure {
        /// Which figure, of which entry, and what needs it.
        what: String,
        /// Where to put it.
        hint: String,
    },
    /// A configuration that is understood but not modelled.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// The plan does not fit into device memory and `--require-fit` was given.
    #[error("{0}")]
    DoesNotFit(String),
    /// A device, a tool or a file the command needs is missing.
    #[error("{0}")]
    Missing(String),
    /// A check ran and failed.
    #[error("{0}")]
    CheckFailed(String),
    /// The operating system refused.
    #[error("failed to {action} {}: {source}", .path.display())]
    Io {
        /// What was being done, completing "failed to ...".
        action: &'static str,
        /// The path it was done to.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A defect of Trainyard: please report it.
    #[error("internal error: {0} (this is a defect of trainyard; please report it)")]
    Internal(String),
}

fn nearest_text(nearest: &[String]) -> String {
    if nearest.is_empty() {
        String::new()
    } else {
        format!("\n  help: did you mean {}?", nearest.join(", or "))
    }
}

impl Error {
    /// The exit code of the command line for this error; see [`exit_code`].
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Internal(_) => exit_code::INTERNAL,
            Self::CheckFailed(_) => exit_code::CHECK_FAILED,
            _ => exit_code::INVALID_INPUT,
        }
    }

    /// Wraps an operating system error with what was being done to which path.
    pub fn io(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }
}

impl From<InputError> for Error {
    fn from(error: InputError) -> Self {
        Self::Input(Box::new(error))
    }
}

impl From<PlanError> for Error {
    fn from(error: PlanError) -> Self {
        Self::Plan(Box::new(error))
    }
}

/// The names nearest to `name` among `candidates`, best first, at most three, only plausible ones.
#[must_use]
pub fn nearest_names<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Vec<String> {
    let lower = name.to_lowercase();
    let mut scored: Vec<(f64, &str)> = candidates
        .map(|candidate| {
            let other = candidate.to_lowercase();
            let mut score = strsim::jaro_winkler(&lower, &other)
                .max(strsim::normalized_damerau_levenshtein(&lower, &other));
            // A part of a name is a good guess, unless it is a scrap.
            let shorter = lower.len().min(other.len());
            if shorter >= 3 && (other.contains(&lower) || lower.contains(&other)) {
                score = score.max(0.9);
            }
            (score, candidate)
        })
        .filter(|(score, _)| *score >= 0.7)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.dedup_by(|a, b| a.1 == b.1);
    scored.into_iter().take(3).map(|(_, candidate)| candidate.to_owned()).collect()
}
