//! The report on accuracy as Markdown. Nothing in it depends on the clock or the machine.

use std::fmt::Write as _;

use crate::error::Result;
use crate::hardware::Catalogue;
use crate::input::Document;
use crate::outcome::{Options, simulate};
use crate::scenario::resolve;
use crate::validate::statistics::{Case, NOISE, kendall_tau, memory_errors};
use crate::validate::{
    Errors, Outcome, Predictor, Row, STEPS, Score, Study, Target, quantile, scores,
};

/// What a report says about how it was made.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The command, as one would type it.
    pub command: String,
    /// Tables: name and hash.
    pub tables: Vec<(String, String)>,
    /// Hash of the catalogue.
    pub catalogue: String,
    /// Errors of halves of families of one source: family, rows scored, errors.
    pub halves: Vec<(String, usize, Option<Errors>)>,
}

/// One hash over all files of a catalogue, in the order of kinds and names.
#[must_use]
pub fn catalogue_hash(catalogue: &Catalogue) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |name: &str, document: &Document| {
        hasher.update(name.as_bytes());
        hasher.update(&[0]);
        hasher.update(document.text().as_bytes());
        hasher.update(&[0]);
    };
    macro_rules! shelves {
        ($($shelf:ident),*) => {
            $(for (name, entry) in &catalogue.$shelf {
                add(&format!("{}/{name}", stringify!($shelf)), &entry.document);
            })*
        };
    }
    shelves!(
        accelerators,
        nodes,
        fabrics,
        stacks,
        prices,
        grids,
        models,
        collectives,
        transports,
        harnesses
    );
    short(&hasher.finalize())
}

/// The start of a hash, enough to tell files apart.
#[must_use]
pub fn short(hash: &blake3::Hash) -> String {
    hash.to_hex().chars().take(16).collect()
}

fn percent(value: f64) -> String {
    format!("{:.1}", value * 100.0)
}

fn signed(value: f64) -> String {
    format!("{:+.1}", value * 100.0)
}

fn cells(errors: Option<&Errors>) -> String {
    errors.map_or_else(
        || "- | - | - | -".to_owned(),
        |e| {
            let (mape, median) = (percent(e.mape), percent(e.median));
            format!("{mape} | {median} | {} | {}", percent(e.p90), signed(e.bias))
        },
    )
}

fn tau_text(tau: Option<f64>) -> String {
    tau.map_or_else(|| "-".to_owned(), |tau| format!("{tau:.2}"))
}

fn met(target: &Target) -> &'static str {
    match target.met {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "-",
    }
}

/// The report.
///
/// # Errors
/// A row that was predicted before cannot be predicted again.
pub fn validation_markdown(
    study: &Study<'_>,
    catalogue: &Catalogue,
    origin: &Origin,
    listed: &dyn Fn(&Outcome) -> bool,
) -> Result<String> {
    let mut text = String::new();
    heading(&mut text, study, origin);
    targets(&mut text, &study.targets());
    text.push_str("\n![Predicted against measured rates](validation-scatter.svg)\n");
    text.push_str("\n## By family and source\n\n");
    text.push_str(
        "Errors of the step time in %, over bases; rows that a figure was fitted on, and the rest \
         of their base,\nare left out. The null model predicts the median of 6 x parameters x \
         tokens/s of the other bases of the\nfamily and number format.\n\n",
    );
    score_table(&mut text, &scores(study.outcomes));
    text.push_str("\n## Leaving the source out\n\n");
    match study.left_out {
        Some(outcomes) => {
            text.push_str(
                "Every source is predicted with stacks refitted without it; a stack that has no \
                 other rows takes\nits parent's figures, or goes back to its priors. All rows \
                 count. Kernels and collectives are\nfitted on isolated measurements and stay.\n\n",
            );
            score_table(&mut text, &scores(outcomes));
            halves(&mut text, origin);
        }
        None => text.push_str("Not computed: add `--leave-one-source-out`.\n"),
    }
    named(&mut text, study);
    megascale(&mut text, study);
    plans(&mut text, study);
    sweep_table(&mut text, study);
    ratio_table(&mut text, study);
    memory(&mut text, study);
    worst(&mut text, study, catalogue, listed)?;
    Ok(text)
}

fn heading(text: &mut String, study: &Study<'_>, origin: &Origin) {
    let cases = study.cases();
    let _ = write!(
        text,
        "# Predicted against measured\n\n\
         Made by `{}` with trainyard {}; do not edit. Catalogue {}.\n\n",
        origin.command,
        env!("CARGO_PKG_VERSION"),
        origin.catalogue
    );
    text.push_str("| table | blake3 |\n|---|---|\n");
    for (name, hash) in &origin.tables {
        let _ = writeln!(text, "| {name} | {hash} |");
    }
    let _ = write!(
        text,
        "\n{} rows were read; {} of them may be scored and were predicted. An error is predicted \
         over measured step\ntime, less one: below zero is too fast. Rows that are one \
         configuration at several scales (a *base*)\ncount once where errors are over bases. \
         Measured columns do not reach the predictor.\n",
        study.rows.len(),
        cases.len()
    );
}

fn targets(text: &mut String, targets: &[Target]) {
    text.push_str("\n## Targets\n\nGoals in brackets. Figures leave fitted rows out.\n\n");
    text.push_str("| what | target | figure | met |\n|---|---|---|---|\n");
    for target in targets {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} |",
            target.what,
            target.limit,
            target.figure,
            met(target)
        );
    }
    text.push_str(
        "\n`held` below is the share of rows whose measured step lies in the 90 % interval of its \
         prediction, `+-`\nthe median of half its width, both in %.\n",
    );
}

fn score_table(text: &mut String, scores: &[Score]) {
    text.push_str(
        "| family / source | rows | bases | covered | fitted | MAPE | median | p90 | bias | null \
         median | null p90 | held | +- |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for score in scores {
        let name = if score.source.is_empty() {
            format!("**{}**", score.family)
        } else {
            score.source.clone()
        };
        let coverage = score.coverage().map_or_else(
            || "-".to_owned(),
            |share| format!("{} of {} ({:.0} %)", score.covered, score.scoreable, share * 100.0),
        );
        let null = score.null.map_or_else(
            || "- | -".to_owned(),
            |null| format!("{} | {}", percent(null.median), percent(null.p90)),
        );
        let held = score.intervals.map_or_else(
            || "- | -".to_owned(),
            |i| format!("{} | {}", percent(i.held), percent(i.half_width)),
        );
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {coverage} | {} | {} | {null} | {held} |",
            score.rows,
            score.errors.map_or(0, |e| e.bases),
            score.fitted,
            cells(score.errors.as_ref())
        );
    }
}

fn halves(text: &mut String, origin: &Origin) {
    if origin.halves.is_empty() {
        return;
    }
    text.push_str(
        "\nFamilies that have one source here are also split in two, by model (by scale where \
         there is one model):\nfitted on one half, scored on the other, both ways.\n\n\
         | family | rows scored | MAPE | median | p90 | bias |\n|---|---|---|---|---|---|\n",
    );
    for (family, rows, errors) in &origin.halves {
        let _ = writeln!(text, "| {family} | {rows} | {} |", cells(errors.as_ref()));
    }
}

fn named(text: &mut String, study: &Study<'_>) {
    text.push_str(
        "\n## Named tables\n\nErrors over rows, in %. Other tools with one fixed set of constants \
         each, mean absolute error, from\nthe notes that came with the rows.\n\n\
         | table | rows | fitted | MAPE | median | p90 | bias | MAPE, source left out | other \
         tools |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for group in study.named() {
        let left_out = group.left_out.map_or_else(|| "-".to_owned(), |e| percent(e.mape));
        let others = if group.others.is_empty() { "-" } else { group.others };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {left_out} | {others} |",
            group.name,
            group.rows,
            group.fitted,
            cells(group.errors.as_ref())
        );
    }
}

fn megascale(text: &mut String, study: &Study<'_>) {
    let ratios = study.megascale();
    if !ratios.is_empty() {
        text.push_str(
            "\n### MegaScale over Megatron-LM (table 2)\n\n\
             | devices | speed-up measured | predicted | error, % |\n|---|---|---|---|\n",
        );
        for (devices, predicted, measured) in ratios {
            let error = signed(predicted / measured - 1.0);
            let _ = writeln!(text, "| {devices} | {measured:.3} | {predicted:.3} | {error} |");
        }
    }
    if study.ablation.len() == STEPS.len() {
        text.push_str(
            "\n### Ablation of MegaScale (table 3)\n\nMFU in %, by the paper's count of FLOPs. The \
             stack starts as the Megatron-LM of 2023 and takes over\nMegaScale's figures step by \
             step.\n\n\
             | step | measured | predicted | step measured | step predicted |\n\
             |---|---|---|---|---|\n",
        );
        let mut before: Option<(f64, Option<f64>)> = None;
        for step in &study.ablation {
            let gain =
                before.map_or_else(String::new, |(m, _)| format!("{:+.1}", step.measured - m));
            let predicted_gain = before
                .and_then(|(_, p)| Some(step.predicted? - p?))
                .map_or_else(String::new, |gain| format!("{gain:+.1}"));
            let predicted = step.predicted.map_or_else(|| "-".to_owned(), |p| format!("{p:.1}"));
            let _ = writeln!(
                text,
                "| {} | {:.1} | {predicted} | {gain} | {predicted_gain} |",
                step.name, step.measured
            );
            before = Some((step.measured, step.predicted));
        }
    }
}

fn plans(text: &mut String, study: &Study<'_>) {
    let choices = study.choices();
    text.push_str(
        "\n## Choosing a plan\n\nGroups of three or more measured plans of one model, devices, \
         batch, sequence length, format and framework.\nRegret: the measured time of the plan \
         predicted best over that of the best, less one. Tau: Kendall's,\nover the pairs that \
         differ by more than 1 % as measured.\n\n\
         | source | group | plans | regret, % | tau |\n|---|---|---|---|---|\n",
    );
    for choice in &choices {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            choice.group.source,
            choice.group.name,
            choice.group.points.len(),
            percent(choice.regret),
            tau_text(choice.tau)
        );
    }
    let regrets: Vec<f64> = choices.iter().map(|choice| choice.regret).collect();
    if !regrets.is_empty() {
        let _ = writeln!(
            text,
            "\n{} groups: mean regret {} %, worst {} %. Other tools on vTrain's rows: 0 to 4.5 %.",
            regrets.len(),
            percent(regrets.iter().sum::<f64>() / regrets.len() as f64),
            percent(regrets.iter().copied().fold(0.0, f64::max))
        );
    }
}

fn sweep_table(text: &mut String, study: &Study<'_>) {
    let _ = write!(
        text,
        "\n## Order within sweeps\n\nRows that differ in one thing. Rates per device are ordered; \
         pairs measured within {:.0} % are not counted.\n\n\
         | what varies | source | sweeps | points | mean tau | pooled tau | sweeps at 0.9 or more \
         |\n|---|---|---|---|---|---|---|\n",
        NOISE * 100.0
    );
    for sweeps in study.sweeps() {
        let mut sources: Vec<&str> = sweeps.groups.iter().map(|g| g.source.as_str()).collect();
        sources.sort_unstable();
        sources.dedup();
        for source in sources {
            let mut of = sweeps.clone();
            of.groups.retain(|group| group.source == source);
            let points: usize = of.groups.iter().map(|group| group.points.len()).sum();
            let good = of
                .groups
                .iter()
                .filter(|g| kendall_tau(&g.points, NOISE).is_some_and(|tau| tau >= 0.9))
                .count();
            let _ = writeln!(
                text,
                "| {} | {source} | {} | {points} | {} | {} | {good} |",
                of.kind,
                of.groups.len(),
                tau_text(of.mean_tau()),
                tau_text(of.pooled_tau())
            );
        }
    }
}

fn ratio_table(text: &mut String, study: &Study<'_>) {
    text.push_str(
        "\n## Two accelerators, one model and stack\n\nRatio of rates, predicted over \
         measured.\n\n| pair | configurations | median error, % | p90, % | bias, % |\n\
         |---|---|---|---|---|\n",
    );
    for (title, ratios) in study.ratios() {
        let errors: Vec<(f64, f64)> =
            ratios.iter().map(|ratio| (ratio.error().abs(), ratio.error())).collect();
        let line = Errors::of(&errors).map_or_else(
            || "- | - | -".to_owned(),
            |e| format!("{} | {} | {}", percent(e.median), percent(e.p90), signed(e.bias)),
        );
        let _ = writeln!(text, "| {title} | {} | {line} |", ratios.len());
    }
}

fn memory(text: &mut String, study: &Study<'_>) {
    text.push_str(
        "\n## Memory\n\nPeak per device against what a driver tool showed, over all predicted rows \
         that state it, in %. Sources\nmix GB and GiB (7 %).\n\n\
         | source | rows | median error | p90 | bias |\n|---|---|---|---|---|\n",
    );
    for (source, errors) in memory_errors(study.outcomes) {
        let absolute: Vec<f64> = errors.iter().map(|e| e.abs()).collect();
        let bias = errors.iter().sum::<f64>() / errors.len() as f64;
        let _ = writeln!(
            text,
            "| {source} | {} | {} | {} | {} |",
            errors.len(),
            percent(quantile(&absolute, 0.5)),
            percent(quantile(&absolute, 0.9)),
            signed(bias)
        );
    }
}

/// Seconds of a step by account, the largest first, with the row's own batch.
fn accounts(row: &Row, catalogue: &Catalogue) -> Result<Vec<(String, f64)>> {
    let predictor = Predictor::new(catalogue);
    let Some(Ok(scenario)) = row.spec.as_ref().ok().map(|spec| predictor.scenario(spec)) else {
        return Ok(Vec::new());
    };
    let setup = resolve(&Document::parse("scenario of the row", scenario)?, catalogue)?;
    let result = simulate(&setup, catalogue, Options::default())?;
    let total = result.step.seconds;
    let mut parts: Vec<(String, f64)> = result
        .step
        .breakdown
        .into_iter()
        .map(|(account, seconds)| (account, seconds / total))
        .collect();
    parts.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok(parts)
}

fn configuration(row: &Row) -> String {
    let Ok(spec) = &row.spec else { return String::new() };
    let mut text = format!(
        "{} on {} x {}, {}",
        if spec.model.is_empty() { &spec.model_key } else { &spec.model },
        spec.devices.unwrap_or(0),
        spec.accelerator,
        spec.framework
    );
    for (name, value) in [
        ("sequence", spec.sequence),
        ("tp", spec.tensor),
        ("pp", spec.pipeline),
        ("chunks", spec.chunks),
        ("cp", spec.context),
        ("ep", spec.expert),
        ("micro-batch", spec.micro_batch),
        ("batch", spec.global_batch),
    ] {
        if let Some(value) = value {
            let _ = write!(text, ", {name} {value}");
        }
    }
    for stated in [&spec.precision, &spec.sharding] {
        if !stated.is_empty() {
            let _ = write!(text, ", {stated}");
        }
    }
    text
}

fn measured_seconds(case: &Outcome, error: f64) -> Option<(f64, f64)> {
    let predicted = case.prediction.step_s?;
    Some((predicted, predicted / (1.0 + error)))
}

fn worst(
    text: &mut String,
    study: &Study<'_>,
    catalogue: &Catalogue,
    listed: &dyn Fn(&Outcome) -> bool,
) -> Result<()> {
    text.push_str(
        "\n## The ten worst rows\n\nOne per base, none that a figure was fitted on, of the tables \
         that come with trainyard. Shares are of the\npredicted step.\n",
    );
    for (i, error) in study.worst(10, listed) {
        let (row, outcome) = (&study.rows[i], &study.outcomes[i]);
        let p = &outcome.prediction;
        let Some((predicted, measured)) = measured_seconds(outcome, error) else { continue };
        let parts: Vec<String> = accounts(row, catalogue)?
            .iter()
            .take(5)
            .map(|(account, share)| format!("{} {:.0} %", account.replace('_', " "), share * 100.0))
            .collect();
        let _ = write!(
            text,
            "\n### {}: {} %\n\n{} ({}). Predicted {predicted:.3} s, measured {measured:.3} s.\n\n",
            row.labels.id,
            signed(error),
            configuration(row),
            row.labels.source_group
        );
        let _ = writeln!(text, "- Largest accounts: {}.", parts.join(", "));
        let list = |items: &[String]| {
            if items.is_empty() { "nothing".to_owned() } else { items.join("; ") }
        };
        let _ = writeln!(text, "- Assumed: {}.", list(&p.assumed));
        let beyond: Vec<String> =
            p.extrapolated.iter().map(|why| why.replace("extrapolated: ", "")).collect();
        let _ = writeln!(text, "- Extrapolated: {}.", list(&beyond));
        if let (Some(needed), Some(there)) = (p.memory_gb, p.capacity_gb) {
            let verdict = if needed > there { "does not fit" } else { "fits" };
            let shown = outcome
                .measured
                .memory_gb
                .map_or_else(String::new, |gb| format!("; a driver tool showed {gb:.0} GB"));
            let _ = writeln!(
                text,
                "- Memory: {needed:.1} of {there:.1} GB predicted, {verdict}{shown}."
            );
        }
    }
    Ok(())
}

/// The statistics of a report in short, for a terminal.
#[must_use]
pub fn statistics_text(study: &Study<'_>) -> String {
    let mut text = String::new();
    let named = study.named();
    if !named.is_empty() {
        text.push_str("\nnamed tables (rows; % over rows that nothing was fitted on)\n");
        let head = ["MAPE", "median", "p90", "bias"];
        let _ = write!(text, "  {:<32} {:>4}", "", "rows");
        let _ = writeln!(text, "{}", head.map(|name| format!(" {name:>6}")).concat());
        for group in &named {
            let _ = write!(text, "  {:<32} {:>4}", group.name, group.rows);
            let figures = cells(group.errors.as_ref());
            let line: String = figures.split(" | ").map(|cell| format!(" {cell:>6}")).collect();
            let _ = writeln!(text, "{line}  {}", group.others);
        }
    }
    let choices = study.choices();
    if !choices.is_empty() {
        text.push_str("\nchoosing a plan (plans, regret in %, Kendall's tau)\n");
        for choice in &choices {
            let name = format!("{}: {}", choice.group.source, choice.group.name);
            let name: String = name.chars().take(56).collect();
            let _ = writeln!(
                text,
                "  {name:<56} {:>3} {:>6} {:>6}",
                choice.group.points.len(),
                percent(choice.regret),
                tau_text(choice.tau)
            );
        }
    }
    let sweeps: Vec<_> = study.sweeps().into_iter().filter(|s| !s.groups.is_empty()).collect();
    if !sweeps.is_empty() {
        text.push_str("\norder within sweeps (sweeps, Kendall's tau: mean, pooled)\n");
        for sweep in &sweeps {
            let _ = writeln!(
                text,
                "  {:<32} {:>4} {:>6} {:>6}",
                sweep.kind,
                sweep.groups.len(),
                tau_text(sweep.mean_tau()),
                tau_text(sweep.pooled_tau())
            );
        }
    }
    text.push_str("\ntargets\n");
    for target in study.targets().iter().filter(|target| target.met.is_some()) {
        let verdict = if target.met == Some(true) { "met" } else { "not met" };
        let _ = writeln!(
            text,
            "  {:<58} {:<18} {verdict} ({})",
            target.what, target.figure, target.limit
        );
    }
    text
}

/// The cases that may be drawn.
#[must_use]
pub fn drawn<'a>(study: &'a Study<'_>, listed: &dyn Fn(&Outcome) -> bool) -> Vec<Case<'a>> {
    study.cases().into_iter().filter(|case| listed(case.outcome)).collect()
}
