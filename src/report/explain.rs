//! A waterfall as text.

use std::fmt::Write as _;

use crate::outcome::Waterfall;
use crate::units::{Seconds, human_time};

use super::time_range;

/// Columns of the bars.
const WIDTH: usize = 28;

/// A bar from one share of the width to another.
fn bar(from: f64, to: f64, full: f64) -> String {
    let column = |share: f64| (share / full * WIDTH as f64).clamp(0.0, WIDTH as f64);
    let (low, high) = (column(from.min(to)), column(from.max(to)));
    let start = (low.floor() as usize).min(WIDTH - 1);
    let cells = ((high - low).round() as usize).min(WIDTH - start);
    // Something is there, if only a sliver.
    let mark = if cells == 0 { "▏".to_owned() } else { "█".repeat(cells) };
    format!("{}{mark}", " ".repeat(start))
}

fn signed(seconds: f64) -> String {
    let sign = if seconds < 0.0 { "-" } else { "+" };
    format!("{sign}{}", human_time(Seconds(seconds.abs())))
}

/// The answer to `trainyard explain` as text of at most 100 columns.
#[must_use]
pub fn explain_text(waterfall: &Waterfall) -> String {
    let mut t = String::new();
    let step = waterfall.step_s;
    let full = waterfall.measured_s.map_or(step, |measured| measured.max(step));
    let _ = writeln!(t, "{}\n", waterfall.name);
    let _ = writeln!(
        t,
        "{:35} {:>9} {:>7}   {:WIDTH$}   {:>13}",
        "From the roofline to the step", "time", "share", "", "without it"
    );
    let mut at = 0.0;
    for (i, term) in waterfall.terms.iter().enumerate() {
        let next = at + term.seconds;
        let buys = term.saves_s.map_or_else(
            || if i == 0 { String::new() } else { "-".to_owned() },
            |saved| {
                // Below one in two thousand the replay's own tolerance decides.
                if saved.abs() < 5e-4 * step { "no change".to_owned() } else { signed(-saved) }
            },
        );
        let time = human_time(Seconds(term.seconds.abs()));
        let _ = writeln!(
            t,
            "{}{:33} {:>9} {:>5.1} %   {:WIDTH$}   {buys:>13}",
            match (i, term.seconds < 0.0) {
                (0, _) => "  ",
                (_, true) => "- ",
                _ => "+ ",
            },
            term.label,
            time,
            term.share.abs() * 100.0,
            bar(at, next, full),
        );
        at = next;
    }
    let _ = writeln!(
        t,
        "= {:33} {:>9} {:>5.1} %   {}",
        "predicted step",
        human_time(Seconds(step)),
        100.0,
        bar(0.0, step, full),
    );
    let _ = writeln!(t, "  {:33} {:>9}", "  90 % interval", time_range(waterfall.interval_90));
    if let (Some(measured), Some(rest)) = (waterfall.measured_s, waterfall.unexplained_s) {
        let _ = writeln!(
            t,
            "{} {:33} {:>9} {:>5.1} %   {}",
            if rest < 0.0 { "-" } else { "+" },
            "unexplained",
            human_time(Seconds(rest.abs())),
            rest.abs() / step * 100.0,
            bar(step, measured, full)
        );
        let inside =
            (waterfall.interval_90.low_s..=waterfall.interval_90.high_s).contains(&measured);
        let _ = writeln!(
            t,
            "= {:33} {:>9} {:>5.1} %   {:WIDTH$}   {}",
            "measured step",
            human_time(Seconds(measured)),
            measured / step * 100.0,
            bar(0.0, measured, full),
            if inside { "in interval" } else { "outside" }
        );
    }
    t.push_str(
        "\nTerms are means over ranks and add up to the step. Without it: the change of the step, \
         simulated\nagain with that term alone gone; terms hide each other, so it is not the \
         term's size. How:\n",
    );
    for term in &waterfall.terms {
        if let Some(how) = term.removed_by {
            let _ = writeln!(t, "  {:33} {how}", term.label);
        }
    }
    for warning in &waterfall.warnings {
        for (i, line) in super::wrapped(&format!("warning: {warning}"), 96).iter().enumerate() {
            let _ = writeln!(t, "{}{line}", if i == 0 { "" } else { "    " });
        }
    }
    t
}
