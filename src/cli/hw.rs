//! `trainyard hw`: the catalogue and where its figures come from.

use std::fmt::Write as _;
use std::io::Write;

use clap::{Args, Subcommand};
use comfy_table::{ContentArrangement, Table, presets};

use crate::error::{Error, Result, nearest_names};
use crate::hardware::{Catalogue, CatalogueItem, Shelf, for_each_figure};
use crate::input::Document;
use crate::units::significant;

use super::{Context, stdout_error};

/// Options of `trainyard hw`.
#[derive(Debug, Args)]
pub struct HwArgs {
    #[command(subcommand)]
    command: HwCommand,
}

#[derive(Debug, Subcommand)]
enum HwCommand {
    /// List what the catalogue has.
    List {
        /// Only one kind of thing.
        #[arg(value_enum)]
        kind: Option<ShelfName>,
    },
    /// Show one thing with value, unit, kind, source and date of every figure.
    Show {
        /// Name or alias.
        name: String,
    },
}

/// A kind of thing in the catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ShelfName {
    Accelerators,
    Nodes,
    Fabrics,
    Stacks,
    Models,
    Prices,
    Grids,
}

/// Name, title, aliases and document of a thing, whatever its kind.
struct Listed<'a> {
    shelf: &'static str,
    what: &'static str,
    name: &'a str,
    title: &'a str,
    aliases: &'a [String],
    document: &'a Document,
}

fn listed<T: CatalogueItem>(shelf: &Shelf<T>) -> impl Iterator<Item = Listed<'_>> {
    shelf.values().map(|entry| Listed {
        shelf: T::FOLDER,
        what: T::WHAT,
        name: entry.item.name(),
        title: entry.item.title(),
        aliases: entry.item.aliases(),
        document: &entry.document,
    })
}

fn everything(catalogue: &Catalogue) -> Vec<Listed<'_>> {
    listed(&catalogue.accelerators)
        .chain(listed(&catalogue.nodes))
        .chain(listed(&catalogue.fabrics))
        .chain(listed(&catalogue.stacks))
        .chain(listed(&catalogue.models))
        .chain(listed(&catalogue.prices))
        .chain(listed(&catalogue.grids))
        .collect()
}

/// Runs the command.
///
/// # Errors
/// The catalogue is wrong, or nothing has the name.
pub fn run(args: &HwArgs, context: &Context, out: &mut dyn Write) -> Result<()> {
    let catalogue = context.catalogue()?;
    let text = match &args.command {
        HwCommand::List { kind } => list(&catalogue, *kind),
        HwCommand::Show { name } => show(&catalogue, name)?,
    };
    out.write_all(text.as_bytes()).map_err(stdout_error)
}

fn list(catalogue: &Catalogue, kind: Option<ShelfName>) -> String {
    let wanted = kind.map(|kind| match kind {
        ShelfName::Accelerators => "accelerators",
        ShelfName::Nodes => "nodes",
        ShelfName::Fabrics => "fabrics",
        ShelfName::Stacks => "stacks",
        ShelfName::Models => "models",
        ShelfName::Prices => "prices",
        ShelfName::Grids => "grids",
    });
    let mut text = String::new();
    let mut shelf = "";
    let all = everything(catalogue);
    let width = all.iter().map(|item| item.name.len()).max().unwrap_or(0);
    for item in all.iter().filter(|item| wanted.is_none_or(|wanted| wanted == item.shelf)) {
        if item.shelf != shelf {
            shelf = item.shelf;
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}{shelf}");
        }
        let _ = writeln!(text, "  {:width$}  {}", item.name, item.title);
    }
    text
}

fn show(catalogue: &Catalogue, name: &str) -> Result<String> {
    let all = everything(catalogue);
    let wanted = name.to_lowercase();
    let found: Vec<&Listed<'_>> = all
        .iter()
        .filter(|item| {
            item.name.to_lowercase() == wanted
                || item.aliases.iter().any(|alias| alias.to_lowercase() == wanted)
        })
        .collect();
    if found.is_empty() {
        return Err(Error::UnknownName {
            what: "thing in the catalogue",
            name: name.to_owned(),
            nearest: nearest_names(
                name,
                all.iter().flat_map(|item| {
                    std::iter::once(item.name).chain(item.aliases.iter().map(String::as_str))
                }),
            ),
        });
    }
    Ok(found.into_iter().map(describe).collect::<Vec<_>>().join("\n"))
}

fn describe(item: &Listed<'_>) -> String {
    let mut text = format!("{} ({} {})\n", item.title, item.what, item.name);
    if !item.aliases.is_empty() {
        let _ = writeln!(text, "also: {}", item.aliases.join(", "));
    }
    let _ = writeln!(text, "file: {}\n", item.document.origin());
    let plain = settings(item.document.table(), "");
    if !plain.is_empty() {
        let width = plain.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
        for (key, value) in plain {
            let _ = writeln!(text, "  {key:width$}  {value}");
        }
        text.push('\n');
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["figure", "value", "range", "kind", "source", "date"]);
    let mut rows = 0;
    let mut notes = Vec::new();
    for_each_figure(item.document.table(), &mut |path, figure| {
        rows += 1;
        let get = |key: &str| figure.get(key).and_then(toml::Value::as_str).unwrap_or_default();
        let number = |key: &str| {
            figure.get(key).and_then(|v| v.as_float().or(v.as_integer().map(|i| i as f64)))
        };
        let value = match number("value") {
            Some(value) => format!("{} {}", compact(value), get("unit")),
            None => curve_text(figure),
        };
        let range = match (number("low"), number("high")) {
            (Some(low), Some(high)) => format!("{} to {}", compact(low), compact(high)),
            _ => String::new(),
        };
        let date = match get("date") {
            "" => source_field(item.document, get("source"), "date"),
            date => date.to_owned(),
        };
        table.add_row([
            path.to_owned(),
            value,
            range,
            get("kind").to_owned(),
            get("source").to_owned(),
            date,
        ]);
        for key in ["fit_set", "note"] {
            if !get(key).is_empty() {
                notes.push(format!("  {path}: {}", get(key)));
            }
        }
    });
    if rows > 0 {
        let _ = writeln!(text, "{table}");
    }
    if !notes.is_empty() {
        let _ = writeln!(text, "\nnotes\n{}", notes.join("\n"));
    }
    let _ = writeln!(text, "\nsources");
    if let Some(sources) = item.document.table().get("sources").and_then(toml::Value::as_table) {
        for (key, source) in sources {
            let field =
                |name: &str| source.get(name).and_then(toml::Value::as_str).unwrap_or_default();
            let verified = source.get("verified").and_then(toml::Value::as_bool) == Some(true);
            let mark = if verified { "" } else { " [not verified]" };
            let _ = writeln!(text, "  {key}: {} ({}){mark}", field("citation"), field("date"));
        }
    }
    text
}

fn source_field(document: &Document, source: &str, field: &str) -> String {
    document
        .table()
        .get("sources")
        .and_then(|sources| sources.get(source))
        .and_then(|source| source.get(field))
        .and_then(toml::Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn curve_text(figure: &toml::Table) -> String {
    let points = figure.get("points").and_then(toml::Value::as_array);
    let number = |value: &toml::Value| value.as_float().or(value.as_integer().map(|i| i as f64));
    let text: Vec<String> = points
        .into_iter()
        .flatten()
        .filter_map(|pair| {
            let pair = pair.as_array()?;
            Some(format!("{}: {}", compact(number(pair.first()?)?), compact(number(pair.get(1)?)?)))
        })
        .collect();
    let field = |name: &str| figure.get(name).and_then(toml::Value::as_str).unwrap_or_default();
    format!("{} by {}: {}", field("y"), field("x"), text.join(", "))
}

/// Settings that are no figures: names, counts and switches.
fn settings(table: &toml::Table, path: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (key, value) in table {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            _ if ["name", "title", "aliases", "sources"].contains(&path.as_str()) => {}
            toml::Value::Table(inner)
                if inner.contains_key("kind") && inner.contains_key("source") => {}
            toml::Value::Table(inner) => all.extend(settings(inner, &path)),
            toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {}
            toml::Value::String(text) => all.push((path, text.clone())),
            other => all.push((path, other.to_string())),
        }
    }
    all
}

fn compact(value: f64) -> String {
    if value != 0.0 && !(1e-3..1e6).contains(&value.abs()) {
        format!("{value:.3e}")
    } else {
        let text = significant(value, 4);
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text
        }
    }
}
