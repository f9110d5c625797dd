//! What the devices did over time, one band per rank, as inline SVG.

use std::fmt::Write;

use super::page::escape;
use crate::trace::align::common_ns;
use crate::trace::analysis::{Intervals, PathStep};
use crate::trace::model::RankTrace;

const LABEL: f64 = 70.0;
const WIDTH: f64 = 1120.0;
/// Columns in which time is collected.
const COLUMNS: usize = 1000;
/// Height of a lane; a few ranks get more room than many.
const LANES: [(usize, f64); 3] = [(1, 18.0), (4, 12.0), (usize::MAX, 9.0)];
const TOP: f64 = 20.0;
/// Steps of opacity: how much of a column is busy.
const LEVELS: usize = 5;

/// Busy time of a rank, ns since the earliest rank began.
pub struct Band {
    /// Position of the rank in the trace.
    pub position: usize,
    /// Label.
    pub rank: u32,
    compute: Intervals,
    communication: Intervals,
    memory: Intervals,
}

/// The bands of some ranks of a trace.
pub fn bands(ranks: &[RankTrace], most: usize) -> Vec<Band> {
    let first = ranks.iter().map(|rank| common_ns(rank, 0)).min().unwrap_or(0);
    ranks
        .iter()
        .enumerate()
        .take(most)
        .map(|(position, rank)| {
            let shift = common_ns(rank, 0).saturating_sub(first);
            let mut parts = [Vec::new(), Vec::new(), Vec::new()];
            for event in rank.events.iter().filter(|event| event.kind.is_device()) {
                let lane = match (event.kind.is_memory(), event.communicates) {
                    (true, _) => 2,
                    (false, true) => 1,
                    (false, false) => 0,
                };
                let at = |ns: i64| ns.saturating_add(shift);
                parts[lane].push((at(event.start_ns), at(event.end_ns())));
            }
            let [compute, communication, memory] = parts.map(Intervals::union_of);
            Band { position, rank: rank.header.rank, compute, communication, memory }
        })
        .collect()
}

/// A mark on the time axis: where, and what it is called.
pub type Mark = (i64, String);

/// Draws `[start, end)`; `path` is the critical path.
pub fn timeline(bands: &[Band], path: &[PathStep], marks: &[Mark], start: i64, end: i64) -> String {
    let lane_height =
        LANES.iter().find(|(most, _)| bands.len() <= *most).map_or(9.0, |(_, height)| *height);
    let band_height = 3.0 * lane_height + 21.0;
    let height = TOP + bands.len() as f64 * band_height + 22.0;
    let mut text = format!("<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\">\n");
    let span = end.saturating_sub(start).max(1);
    let x = |at: i64| LABEL + (at - start) as f64 / span as f64 * (WIDTH - LABEL);
    let mut last_label = f64::MIN;
    for (at, label) in marks.iter().filter(|(at, _)| (start..end).contains(at)) {
        let at = x(*at);
        let _ = write!(
            text,
            "<line class=\"axis\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"12\" y2=\"{:.0}\"/>",
            height - 20.0
        );
        if at - last_label > 60.0 {
            let _ = write!(text, "<text x=\"{:.1}\" y=\"10\">{}</text>", at + 3.0, escape(label));
            last_label = at;
        }
    }
    for (index, band) in bands.iter().enumerate() {
        let y = TOP + index as f64 * band_height;
        let _ = writeln!(
            text,
            "<text class=\"strong\" x=\"0\" y=\"{:.1}\">rank {}</text>",
            y + 1.5 * lane_height + 4.0,
            band.rank
        );
        let lanes = [
            ("compute", &band.compute),
            ("communication", &band.communication),
            ("memory", &band.memory),
        ];
        for (lane, (class, busy)) in lanes.into_iter().enumerate() {
            let top = y + lane as f64 * lane_height;
            draw(&mut text, class, busy, start, span, (top, lane_height - 1.5));
        }
        critical(&mut text, band.position, path, start, end, &x, y + 3.0 * lane_height + 2.0);
    }
    // The axis: five even divisions, in milliseconds from the beginning of what is shown.
    let bottom = height - 18.0;
    let _ = write!(
        text,
        "<line class=\"axis\" x1=\"{LABEL}\" x2=\"{WIDTH}\" y1=\"{bottom:.1}\" y2=\"{bottom:.1}\"/>"
    );
    for tick in 0..=5_i64 {
        let at = LABEL + tick as f64 / 5.0 * (WIDTH - LABEL);
        let anchor = if tick == 0 {
            "start"
        } else if tick == 5 {
            "end"
        } else {
            "middle"
        };
        let value = crate::units::significant(span as f64 * tick as f64 / 5.0 / 1e6, 3);
        let _ = write!(
            text,
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{value} ms</text>",
            bottom + 14.0
        );
    }
    text.push_str("</svg>\n");
    text
}

/// One lane: columns of the same level that touch become one rectangle.
fn draw(
    text: &mut String,
    class: &str,
    busy: &Intervals,
    start: i64,
    span: i64,
    (y, high): (f64, f64),
) {
    let _ = write!(
        text,
        "<rect class=\"track\" x=\"{LABEL}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
        WIDTH - LABEL,
        high
    );
    let edge = |column: usize| start + (i128::from(span) * column as i128 / COLUMNS as i128) as i64;
    let level = |column: usize| {
        let (from, to) = (edge(column), edge(column + 1));
        let inside = busy.length_in(from, to);
        if inside == 0 {
            return 0;
        }
        let share = inside as f64 / (to - from).max(1) as f64;
        ((share * LEVELS as f64).ceil() as usize).clamp(1, LEVELS)
    };
    let width = (WIDTH - LABEL) / COLUMNS as f64;
    let mut paths = vec![String::new(); LEVELS + 1];
    let mut column = 0;
    while column < COLUMNS {
        let here = level(column);
        let from = column;
        while column < COLUMNS && level(column) == here {
            column += 1;
        }
        if here > 0 {
            let x = LABEL + from as f64 * width;
            let _ = write!(
                paths[here],
                "M{x:.1} {y:.1}h{:.1}v{:.1}H{x:.1}z",
                (column - from) as f64 * width,
                high
            );
        }
    }
    for (here, path) in paths.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
        // Even the shortest kernel stays visible.
        let opacity = 0.25 + 0.75 * here as f64 / LEVELS as f64;
        let _ = writeln!(text, "<path class=\"{class}\" opacity=\"{opacity:.2}\" d=\"{path}\"/>");
    }
}

/// The stretches of the critical path on one rank.
fn critical(
    text: &mut String,
    position: usize,
    path: &[PathStep],
    start: i64,
    end: i64,
    x: &dyn Fn(i64) -> f64,
    y: f64,
) {
    let mut merged: Vec<(&'static str, f64, f64)> = Vec::new();
    for step in path.iter().filter(|step| step.rank == position) {
        let (from, to) = (step.start_ns.max(start), step.end_ns.min(end));
        if to <= from {
            continue;
        }
        let (from, to) = (x(from), x(to));
        match merged.last_mut() {
            // What is narrower than a pixel joins its neighbour.
            Some((class, _, last))
                if from - *last < 0.3 && (*class == step.part.name() || to - from < 0.5) =>
            {
                *last = to;
            }
            _ => merged.push((step.part.name(), from, to)),
        }
    }
    for (class, from, to) in merged {
        let _ = write!(
            text,
            "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"4\"/>",
            (to - from).max(0.4)
        );
    }
    text.push('\n');
}
