//! Building blocks of the page: style, escaping, bars, tables.

use std::fmt::Write;

/// The page is one file: no script, no font, no request.
pub const STYLE: &str = r#"
:root {
  color-scheme: light dark;
  --page: #f9f9f7; --surface: #ffffff; --ink: #0b0b0b; --ink-2: #52514e; --muted: #85837d;
  --line: #e1e0d9; --axis: #c3c2b7;
  --compute: #2a78d6; --communication: #eb6834; --memory: #1baf7a; --idle: #e6e5df;
  --launch: #eda100; --host: #4a3aa7; --gap: #b8b6ad; --overlap: #9ec5f4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0d0d0d; --surface: #1a1a19; --ink: #ffffff; --ink-2: #c3c2b7; --muted: #96948c;
    --line: #2c2c2a; --axis: #45453f;
    --compute: #3987e5; --communication: #d95926; --memory: #199e70; --idle: #33332f;
    --launch: #c98500; --host: #9085e9; --gap: #62615a; --overlap: #184f95;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 17px; margin: 40px 0 4px; }
.lead, .note { color: var(--ink-2); margin: 0 0 12px; max-width: 78ch; }
.note { font-size: 13px; }
section { background: var(--surface); border: 1px solid var(--line); border-radius: 8px;
  padding: 16px 20px; margin: 12px 0 0; overflow-x: auto; }
ul.findings { margin: 0; padding-left: 20px; }
ul.findings li { margin: 4px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 20px 0 0; }
.tile { background: var(--surface); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 16px; }
.tile b { display: block; font-size: 22px; line-height: 1.25; font-weight: 600; white-space: nowrap; }
.tile span { color: var(--ink-2); font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--ink-2); font-size: 12.5px;
  border-bottom: 1px solid var(--axis); padding: 4px 10px 6px; white-space: nowrap; vertical-align: bottom; }
td { padding: 5px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
td.n, th.n { text-align: right; }
td.name { white-space: normal; overflow-wrap: anywhere; min-width: 22ch;
  font: 12.5px/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
td.bar { width: 130px; min-width: 90px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 10px; padding: 0;
  list-style: none; color: var(--ink-2); font-size: 13px; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
svg { display: block; width: 100%; height: auto; }
svg text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink-2); }
svg text.strong { fill: var(--ink); font-weight: 600; }
.compute { fill: var(--compute); } .communication { fill: var(--communication); }
.memory { fill: var(--memory); } .idle { fill: var(--idle); } .launch { fill: var(--launch); }
.host { fill: var(--host); } .gap { fill: var(--gap); } .track { fill: var(--idle); opacity: .45; }
.rule { stroke: var(--line); } .axis { stroke: var(--axis); }
i.compute { background: var(--compute); } i.communication { background: var(--communication); }
i.memory { background: var(--memory); } i.idle { background: var(--idle); }
i.launch { background: var(--launch); } i.host { background: var(--host); }
i.gap { background: var(--gap); }
details > summary { cursor: pointer; color: var(--ink-2); margin: 8px 0; }
footer { color: var(--muted); font-size: 12.5px; margin-top: 32px; }
"#;

/// Text that is safe inside an element or attribute.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

/// A coloured key of parts.
pub fn legend(parts: &[(&str, &str)]) -> String {
    let mut text = String::from("<ul class=\"legend\">");
    for (class, label) in parts {
        let _ = write!(text, "<li><i class=\"{class}\"></i>{}</li>", escape(label));
    }
    text.push_str("</ul>\n");
    text
}

/// A column of a table.
#[derive(Clone, Copy)]
pub enum Column<'a> {
    /// Text.
    Text(&'a str),
    /// A long name in a fixed-width font.
    Name(&'a str),
    /// Right-aligned.
    Number(&'a str),
    /// A bar of a share; the cell text is a number between 0 and 1, then a colour class.
    Bar(&'a str),
}

/// A table. Cells are plain text; those of [`Column::Name`] may carry a tooltip behind a tab.
pub fn table(columns: &[Column<'_>], rows: &[Vec<String>]) -> String {
    let mut text = String::from("<table><thead><tr>");
    for column in columns {
        let (class, title) = match column {
            Column::Text(title) | Column::Name(title) | Column::Bar(title) => ("", title),
            Column::Number(title) => (" class=\"n\"", title),
        };
        let _ = write!(text, "<th{class}>{}</th>", escape(title));
    }
    text.push_str("</tr></thead><tbody>\n");
    for row in rows {
        text.push_str("<tr>");
        for (column, cell) in columns.iter().zip(row) {
            let _ = match column {
                Column::Text(_) => write!(text, "<td>{}</td>", escape(cell)),
                Column::Number(_) => write!(text, "<td class=\"n\">{}</td>", escape(cell)),
                Column::Name(_) => {
                    let (shown, full) = cell.split_once('\t').unwrap_or((cell, cell));
                    write!(
                        text,
                        "<td class=\"name\" title=\"{}\">{}</td>",
                        escape(full),
                        escape(shown)
                    )
                }
                Column::Bar(_) => {
                    let (share, class) = cell.split_once(' ').unwrap_or((cell, "compute"));
                    let share: f64 = share.parse().unwrap_or(0.0);
                    let width = (100.0 * share).clamp(0.0, 100.0);
                    write!(
                        text,
                        "<td class=\"bar\"><svg viewBox=\"0 0 100 8\" preserveAspectRatio=\"none\" \
                         height=\"8\" style=\"height:8px\"><rect class=\"{}\" width=\"{width:.2}\" \
                         height=\"8\" rx=\"1\"/></svg></td>",
                        escape(class)
                    )
                }
            };
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</tbody></table>\n");
    text
}

/// A row of a stacked bar chart.
pub struct Stack {
    /// Label in front.
    pub label: String,
    /// Text behind.
    pub after: String,
    /// Colour class, amount and tooltip of each part.
    pub parts: Vec<(&'static str, i64, String)>,
}

const LABEL: f64 = 130.0;
const AFTER: f64 = 120.0;
const WIDTH: f64 = 1120.0;
const ROW: f64 = 24.0;

/// Stacked bars on one scale; `whole` is the amount of the full width.
pub fn stacks(rows: &[Stack], whole: i64) -> String {
    let height = rows.len() as f64 * ROW + 4.0;
    let mut text = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n");
    let scale = (WIDTH - LABEL - AFTER) / (whole.max(1) as f64);
    for (index, row) in rows.iter().enumerate() {
        let y = index as f64 * ROW + 3.0;
        let _ = write!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LABEL - 10.0,
            y + 13.0,
            escape(&row.label)
        );
        let mut x = LABEL;
        for (class, amount, tip) in &row.parts {
            let width = (*amount).max(0) as f64 * scale;
            if width <= 0.0 {
                continue;
            }
            // A hairline of the surface between parts keeps neighbours apart.
            let shown = if width > 3.0 { width - 1.0 } else { width };
            let _ = write!(
                text,
                "<rect class=\"{class}\" x=\"{x:.2}\" y=\"{y:.1}\" width=\"{shown:.2}\" \
                 height=\"18\"><title>{}</title></rect>",
                escape(tip)
            );
            x += width;
        }
        let _ = writeln!(
            text,
            "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x + 8.0,
            y + 13.0,
            escape(&row.after)
        );
    }
    text.push_str("</svg>\n");
    text
}
