//! Constants of collectives from measured collectives.
//!
//! Three independent sets are fitted, each on the rows that determine it, the earlier ones held
//! fixed: measuring programs (shortest time they report), libraries (each branch on the rows for
//! which the library's own choice is that branch, inside one node), transports (rows across nodes
//! whose network the source states). All parameters are fitted as logarithms with a weak prior
//! (sigma stated beside each), residuals are logarithms of time, systems weigh the same however
//! many rows they have, and outliers are dampened (Cauchy).
//!
//! A transport's prior is the fit of its parent over all rows of the family: what one fabric of a
//! kind says little about, the others say.

mod fit;
mod write;

pub use fit::{BRANCH_NAMES, BranchFit, Fitted, fit, fit_one_transport};
pub use write::{transport_file, write_catalogue};

use std::collections::BTreeSet;

use crate::hardware::Catalogue;
use crate::validate::collectives::score::{Case, Models, SystemScore, answer, score};

/// Scores the systems of `cases` with `models`.
#[must_use]
pub fn score_with(
    models: &Models,
    cases: &[Case],
    keep: &dyn Fn(&Case) -> bool,
) -> Vec<SystemScore> {
    let predicted: Vec<(&Case, f64)> = cases
        .iter()
        .filter(|case| case.scored && keep(case))
        .filter_map(|case| answer(models, case).ok().map(|(time, _)| (case, time)))
        .collect();
    score(&predicted)
}

/// Leaves every system out of the fit in turn and scores those of its rows that `keep` admits
/// with the rest's constants. A fit takes seconds to a minute; `progress` hears of each before it
/// begins: the system, its number from 1, and how many there are.
#[must_use]
pub fn leave_one_out(
    catalogue: &Catalogue,
    cases: &[Case],
    keep: &dyn Fn(&Case) -> bool,
    progress: &dyn Fn(&str, usize, usize),
) -> Vec<SystemScore> {
    let systems: BTreeSet<&str> =
        cases.iter().filter(|c| c.scored).map(|c| c.system.as_str()).collect();
    let count = systems.len();
    let mut scores: Vec<SystemScore> = systems
        .into_iter()
        .enumerate()
        .flat_map(|(number, left_out)| {
            progress(left_out, number + 1, count);
            let rest: Vec<Case> =
                cases.iter().filter(|case| case.system != left_out).cloned().collect();
            let fitted = fit(catalogue, &rest);
            score_with(&fitted.models, cases, &|case| case.system == left_out && keep(case))
        })
        .collect();
    scores.sort_by(|a, b| (a.several_nodes, &a.system).cmp(&(b.several_nodes, &b.system)));
    scores
}
