//! Predicted against measured rates as a drawing, readable on light and on dark pages.

use plotters::coord::Shift;
use plotters::prelude::*;

use crate::error::{Error, Result};
use crate::validate::statistics::Case;

const SIZE: (u32, u32) = (900, 720);
/// What is drawn in this colour follows the page: dark on light pages, light on dark ones.
const INK: RGBColor = RGBColor(0x24, 0x29, 0x2f);
const FAINT: RGBColor = RGBColor(0xd0, 0xd7, 0xde);
const PAPER: RGBColor = RGBColor(0xff, 0xff, 0xfe);
const BAND: RGBColor = RGBColor(0xb4, 0xcd, 0xea);

/// Style that swaps the colours above where the page is dark.
const STYLE: &str = "<style>@media (prefers-color-scheme: dark){\
text,[fill=\"#24292F\"]{fill:#e6edf3}[stroke=\"#24292F\"]{stroke:#e6edf3}\
[stroke=\"#D0D7DE\"]{stroke:#3d444d}[fill=\"#FFFFFE\"]{fill:#0d1117}\
[fill=\"#B4CDEA\"]{fill:#2d4f77}}</style>";

/// Colour and shape per family; both differ, so that neither alone has to be told apart.
const MARKS: [(RGBColor, Mark); 7] = [
    (RGBColor(0x21, 0x86, 0xd6), Mark::Circle),
    (RGBColor(0xe0, 0x7b, 0x1a), Mark::Square),
    (RGBColor(0x2f, 0xa1, 0x5a), Mark::Up),
    (RGBColor(0xd6, 0x4a, 0x7b), Mark::Cross),
    (RGBColor(0x8a, 0x63, 0xd2), Mark::Down),
    (RGBColor(0xb0, 0x8b, 0x00), Mark::Diamond),
    (RGBColor(0x6e, 0x77, 0x81), Mark::Circle),
];

#[derive(Clone, Copy)]
enum Mark {
    Circle,
    Square,
    Up,
    Down,
    Diamond,
    Cross,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn broken(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("cannot draw: {error}"))
}

fn draw(area: &Area<'_>, at: (i32, i32), colour: RGBColor, mark: Mark) -> Result<()> {
    let (x, y) = at;
    let r = 4;
    let style = colour.mix(0.75).filled();
    let polygon = |points: &[(i32, i32)]| {
        let points: Vec<(i32, i32)> = points.iter().map(|(dx, dy)| (x + dx, y + dy)).collect();
        area.draw(&Polygon::new(points, style)).map_err(broken)
    };
    match mark {
        Mark::Circle => area.draw(&Circle::new(at, r, style)).map_err(broken),
        Mark::Square => polygon(&[(-r, -r), (r, -r), (r, r), (-r, r)]),
        Mark::Up => polygon(&[(0, -r - 1), (r + 1, r), (-r - 1, r)]),
        Mark::Down => polygon(&[(0, r + 1), (r + 1, -r), (-r - 1, -r)]),
        Mark::Diamond => polygon(&[(0, -r - 2), (r + 1, 0), (0, r + 2), (-r - 1, 0)]),
        Mark::Cross => {
            [((-r, -r), (r, r)), ((-r, r), (r, -r))].into_iter().try_for_each(|(a, b)| {
                let line = vec![(x + a.0, y + a.1), (x + b.0, y + b.1)];
                area.draw(&PathElement::new(line, colour.stroke_width(2))).map_err(broken)
            })
        }
    }
}

/// Decade's marks: 1, 2 and 5 times powers of ten between two numbers.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    (-6..9)
        .flat_map(|power| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(power)))
        .filter(|tick| (low..=high).contains(tick))
        .collect()
}

fn tick_label(value: f64) -> String {
    if value >= 1000.0 { format!("{}k", value / 1000.0) } else { format!("{value}") }
}

/// Draws the cases; an SVG document.
///
/// # Errors
/// The drawing library fails.
pub fn scatter_svg(cases: &[Case<'_>]) -> Result<String> {
    let mut families: Vec<&str> = cases.iter().map(|case| case.outcome.family.as_str()).collect();
    families.sort_unstable();
    families.dedup();
    let values: Vec<f64> = cases
        .iter()
        .flat_map(|case| [case.rates.0, case.rates.1])
        .filter(|value| value.is_finite() && *value > 0.0)
        .collect();
    let low = values.iter().copied().fold(f64::INFINITY, f64::min).clamp(1e-6, 1e8) / 1.2;
    let high = values.iter().copied().fold(0.0, f64::max).clamp(1e-5, 1e9) * 1.2;
    let (left, right, top, bottom) = (90, 710, 30, 650);
    let part = |value: f64| (value / low).ln() / (high / low).ln();
    let x = |value: f64| left + (part(value) * f64::from(right - left)).round() as i32;
    let y = |value: f64| bottom - (part(value) * f64::from(bottom - top)).round() as i32;

    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&PAPER).map_err(broken)?;
        let text = |size: u32| ("sans-serif", size).into_font().color(&INK);
        // Ten percent to either side, within the frame.
        let band = vec![
            (x(low), y(low)),
            (x(low * 1.1), y(low)),
            (x(high), y(high / 1.1)),
            (x(high), y(high)),
            (x(high / 1.1), y(high)),
            (x(low), y(low * 1.1)),
        ];
        area.draw(&Polygon::new(band, BAND.filled())).map_err(broken)?;
        for tick in ticks(low, high) {
            for line in
                [vec![(x(tick), top), (x(tick), bottom)], vec![(left, y(tick)), (right, y(tick))]]
            {
                area.draw(&PathElement::new(line, FAINT.stroke_width(1))).map_err(broken)?;
            }
            let label = tick_label(tick);
            let wide = label.len() as i32 * 7;
            area.draw(&Text::new(label.clone(), (x(tick) - wide / 2, bottom + 8), text(13)))
                .map_err(broken)?;
            area.draw(&Text::new(label, (left - 8 - wide, y(tick) - 7), text(13)))
                .map_err(broken)?;
        }
        let diagonal = vec![(x(low), y(low)), (x(high), y(high))];
        area.draw(&PathElement::new(diagonal, INK.stroke_width(1))).map_err(broken)?;
        let frame = [(left, top), (right, bottom)];
        area.draw(&Rectangle::new(frame, INK.stroke_width(1))).map_err(broken)?;
        for (n, family) in families.iter().enumerate() {
            let (colour, mark) = MARKS[n % MARKS.len()];
            let of: Vec<&Case<'_>> = cases.iter().filter(|c| c.outcome.family == *family).collect();
            for case in &of {
                if case.rates.0 > 0.0 && case.rates.1 > 0.0 {
                    draw(&area, (x(case.rates.1), y(case.rates.0)), colour, mark)?;
                }
            }
            let at = (right + 20, top + 14 + 24 * n as i32);
            draw(&area, at, colour, mark)?;
            let label = format!("{family} ({})", of.len());
            area.draw(&Text::new(label, (at.0 + 12, at.1 - 7), text(13))).map_err(broken)?;
        }
        let below = "measured, tokens/s per device";
        area.draw(&Text::new(below, ((left + right) / 2 - 90, bottom + 34), text(15)))
            .map_err(broken)?;
        let turned = text(15).transform(FontTransform::Rotate270);
        let beside = "predicted, tokens/s per device";
        area.draw(&Text::new(beside, (20, (top + bottom) / 2 + 95), turned)).map_err(broken)?;
        let note = "band: 10 % to either side";
        area.draw(&Text::new(note, (left + 12, top + 10), text(13))).map_err(broken)?;
        area.present().map_err(broken)?;
    }
    // The style goes behind the opening tag.
    let open = svg.find("<svg").and_then(|start| svg[start..].find('>').map(|end| start + end + 1));
    if let Some(open) = open {
        svg.insert_str(open, &format!("\n{STYLE}"));
    }
    Ok(svg)
}
