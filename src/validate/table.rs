//! Reads validation tables: comma-separated text with a header. Whatever is wrong with a cell is
//! reported with row, line and column, and the other rows are read.

use std::collections::BTreeMap;

use crate::error::nearest_names;

use super::row::{COLUMNS, Labels, MORE_COLUMNS, Measured, NEEDED_COLUMNS, Row, RowSpec};

/// Longest cell that is read. The longest in the committed files has some 600 bytes.
const LONGEST_CELL: usize = 64 * 1024;
/// Rows of one or more files, and what was wrong with them.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// All rows, in the order of the files.
    pub rows: Vec<Row>,
    /// Messages with file, row and column.
    pub problems: Vec<String>,
    ids: BTreeMap<String, String>,
}

impl Tables {
    /// Adds the rows of a text; `origin` names it in messages.
    pub fn add_bytes(&mut self, origin: &str, bytes: &[u8]) {
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            self.problems.push(format!("{origin}: is UTF-16 text; save it as UTF-8"));
            return;
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut reader = csv::ReaderBuilder::new()
            .flexible(true)
            .has_headers(false)
            .trim(csv::Trim::All)
            .from_reader(bytes);
        let mut record = csv::ByteRecord::new();
        let columns = match reader.read_byte_record(&mut record) {
            Ok(true) => match self.header(origin, &record) {
                Some(columns) => columns,
                None => return,
            },
            Ok(false) => {
                let wanted = "a header line with the columns id, accelerator, n_devices, ...";
                self.problems.push(format!("{origin}: row 0: the file is empty; {wanted}"));
                return;
            }
            Err(error) => {
                self.problems.push(format!("{origin}: row 0: {error}"));
                return;
            }
        };
        let mut number = 0;
        loop {
            match reader.read_byte_record(&mut record) {
                Ok(false) => break,
                Ok(true) => {}
                Err(error) => {
                    self.problems.push(format!("{origin}: after row {number}: {error}"));
                    break;
                }
            }
            if record.iter().all(<[u8]>::is_empty) {
                continue;
            }
            number += 1;
            let line = record.position().map_or(0, csv::Position::line);
            self.record(origin, &columns, &record, number, line);
        }
        if number == 0 {
            self.problems.push(format!("{origin}: row 1: no rows under the header"));
        }
    }

    /// Column names of a header, or nothing where it is none.
    fn header(&mut self, origin: &str, record: &csv::ByteRecord) -> Option<Vec<String>> {
        let names: Vec<String> = record
            .iter()
            .map(|cell| {
                let cell = &cell[..cell.len().min(200)];
                String::from_utf8_lossy(cell).trim().trim_start_matches('\u{feff}').to_lowercase()
            })
            .collect();
        let known: Vec<&str> = COLUMNS.iter().chain(&MORE_COLUMNS).copied().collect();
        if !names.iter().any(|name| known.contains(&name.as_str())) {
            let separated = ["\t", ";"]
                .iter()
                .any(|mark| names.iter().any(|name| name.split(mark).any(|n| known.contains(&n))));
            let hint = if separated {
                "columns must be separated by commas"
            } else {
                "the first line must name the columns: id, accelerator, n_devices, ..."
            };
            self.problems.push(format!("{origin}: row 0: no known column in the header; {hint}"));
            return None;
        }
        let missing: Vec<&str> =
            NEEDED_COLUMNS.into_iter().filter(|c| !names.iter().any(|name| name == c)).collect();
        if !missing.is_empty() {
            self.problems.push(format!(
                "{origin}: row 0: missing columns: {} (read as empty)",
                missing.join(", ")
            ));
        }
        for (i, name) in names.iter().enumerate() {
            if names[..i].contains(name) && !name.is_empty() {
                let column = i + 1;
                self.problems.push(format!(
                    "{origin}: row 0, column {column}: `{name}` stands there twice; the first one \
                     is read"
                ));
            }
            if !known.contains(&name.as_str())
                && let Some(near) = nearest_names(name, missing.iter().copied()).first()
            {
                self.problems.push(format!(
                    "{origin}: row 0, column {}: unknown column `{name}`; did you mean `{near}`?",
                    i + 1
                ));
            }
        }
        Some(names)
    }

    fn record(
        &mut self,
        origin: &str,
        columns: &[String],
        record: &csv::ByteRecord,
        row: u64,
        line: u64,
    ) {
        let place = if line == row + 1 {
            format!("{origin}: row {row}")
        } else {
            format!("{origin}: row {row} (line {line})")
        };
        let mut cells = Cells {
            columns,
            record,
            place: place.clone(),
            fatal: Vec::new(),
            remarks: Vec::new(),
            minor: Vec::new(),
        };
        if record.len() != columns.len() {
            let hint = if record.len() > columns.len() {
                "is there a comma or a thousand separator outside of quotes?"
            } else {
                "are cells missing at its end?"
            };
            cells.fatal.push(format!(
                "{place}, column {}: {} cells, and the header has {}; {hint}",
                record.len().min(columns.len()),
                record.len(),
                columns.len()
            ));
        }
        let mut id = cells.text("id");
        let spec = cells.spec();
        let measured = Measured {
            step_seconds: cells.measured("step_time_s"),
            tokens_per_second_per_device: cells.measured("tokens_per_s_per_device"),
            memory_gb: cells.shown("memory_gb"),
            mfu_percent: cells.shown("mfu"),
        };
        let kind = cells.text("row_kind");
        let scoreable = cells.text("scoreable");
        let family = cells.text("family");
        let source_group = cells.text("source_group");
        let base = cells.text("base");
        // Columns that nothing reads are only checked for size.
        cells.check_sizes();

        if id.is_empty() {
            id = format!("row-{row}");
            self.problems.push(format!("{place}, column `id`: is empty; called `{id}`"));
        }
        if let Some(first) = self.ids.get(&id) {
            cells.fatal.push(format!("{place}, column `id`: `{id}` is also the id of {first}"));
        } else {
            self.ids.insert(id.clone(), place.clone());
        }
        self.problems.extend(cells.fatal.iter().cloned());
        self.problems.append(&mut cells.minor);
        let spec = if cells.fatal.is_empty() {
            Ok(RowSpec { remarks: cells.remarks, ..spec })
        } else {
            Err(cells.fatal.join("; "))
        };
        let yes = |text: &str| matches!(text.to_lowercase().as_str(), "yes" | "true" | "1");
        self.rows.push(Row {
            labels: Labels {
                base: if base.is_empty() { id.clone() } else { base },
                id,
                origin: origin.to_owned(),
                row,
                line,
                family,
                source_group,
                scored: kind == "measured" && yes(&scoreable),
            },
            spec,
            measured,
        });
    }
}

/// The cells of one record by column name.
struct Cells<'a> {
    columns: &'a [String],
    record: &'a csv::ByteRecord,
    place: String,
    /// What makes the row unreadable.
    fatal: Vec<String>,
    /// What does not.
    minor: Vec<String>,
    remarks: Vec<String>,
}

impl Cells<'_> {
    fn raw(&self, name: &str) -> &[u8] {
        self.columns
            .iter()
            .position(|column| column == name)
            .and_then(|i| self.record.get(i))
            .unwrap_or_default()
    }

    fn text(&mut self, name: &str) -> String {
        let raw = self.raw(name);
        if raw.len() > LONGEST_CELL {
            let message = format!(
                "{}, column `{name}`: a cell of {} bytes (at most {LONGEST_CELL}); is a quote \
                 left open?",
                self.place,
                raw.len()
            );
            if !self.fatal.contains(&message) {
                self.fatal.push(message);
            }
            return String::new();
        }
        match std::str::from_utf8(raw) {
            Ok(text) => text.trim().to_owned(),
            Err(_) => {
                let text = String::from_utf8_lossy(raw).trim().to_owned();
                self.minor.push(format!("{}, column `{name}`: is not UTF-8 text", self.place));
                text
            }
        }
    }

    fn check_sizes(&mut self) {
        for (i, cell) in self.record.iter().enumerate() {
            if cell.len() > LONGEST_CELL {
                let column =
                    self.columns.get(i).map_or_else(|| (i + 1).to_string(), |c| format!("`{c}`"));
                let start = format!("{}, column {column}: a cell of", self.place);
                if !self.fatal.iter().any(|message| message.starts_with(&start)) {
                    self.minor.push(format!("{start} {} bytes is not read", cell.len()));
                }
            }
        }
    }

    fn number(&mut self, name: &str) -> Option<f64> {
        let text = self.text(name);
        if text.is_empty() {
            return None;
        }
        match number(&text) {
            Ok((value, plain)) => {
                if !plain {
                    self.remarks.push(format!("{name} `{text}` read as {value}"));
                }
                Some(value)
            }
            Err(why) => {
                self.fatal.push(format!("{}, column `{name}`: {why}", self.place));
                None
            }
        }
    }

    fn count(&mut self, name: &str, most: u32) -> Option<u32> {
        let value = self.number(name)?;
        if value.fract() == 0.0 && value >= 1.0 && value <= f64::from(most) {
            return Some(value as u32);
        }
        // Sources write 0 for "not used".
        if value != 0.0 {
            self.fatal.push(format!(
                "{}, column `{name}`: `{value}` is not a whole number from 1 to {most}",
                self.place
            ));
        } else {
            self.remarks.push(format!("{name} 0 read as not stated"));
        }
        None
    }

    /// A figure that is shown beside predictions and not scored: a plain positive number or none.
    fn shown(&self, name: &str) -> Option<f64> {
        let text = std::str::from_utf8(self.raw(name)).ok()?.trim();
        text.parse::<f64>().ok().filter(|value| value.is_finite() && *value > 0.0)
    }

    /// A measured value; a bad one costs the score, not the prediction.
    fn measured(&mut self, name: &str) -> Option<f64> {
        let text = self.text(name);
        if text.is_empty() {
            return None;
        }
        match number(&text) {
            Ok((value, _)) if value > 0.0 => Some(value),
            Ok(_) => None,
            Err(why) => {
                self.minor.push(format!("{}, column `{name}`: {why}; not scored", self.place));
                None
            }
        }
    }

    fn truth(&mut self, name: &str) -> Option<bool> {
        let text = self.text(name).to_lowercase();
        let first = text.split([' ', '(', ';', ',']).next().unwrap_or_default();
        match first {
            "" => None,
            "yes" | "true" | "on" | "1" | "y" => Some(true),
            "no" | "false" | "off" | "0" | "n" | "none" => Some(false),
            _ => {
                let message = format!(
                    "{}, column `{name}`: `{}` is neither yes nor no",
                    self.place,
                    cut(&text)
                );
                self.fatal.push(message);
                None
            }
        }
    }

    fn spec(&mut self) -> RowSpec {
        RowSpec {
            accelerator: self.text("accelerator"),
            nodes: self.text("nodes_x_gpus_per_node"),
            devices: self.count("n_devices", 4_000_000),
            intra: self.text("interconnect_intra"),
            inter: self.text("interconnect_inter"),
            model: self.text("model"),
            model_key: self.text("model_key"),
            layers: self.count("n_layers", 10_000),
            hidden: self.count("d_model", 1_000_000),
            heads: self.count("n_heads", 100_000),
            kv_heads: self.count("n_kv_heads", 100_000),
            ffn_hidden: self.count("d_ff", 10_000_000),
            vocab: self.count("vocab", 10_000_000),
            sequence: self.count("seq_len", 100_000_000),
            parameters: self.number("n_params"),
            experts: self.count("moe_experts", 100_000),
            top_k: self.count("moe_topk", 100_000),
            precision: self.text("precision"),
            tensor: self.count("tp", 1_000_000),
            pipeline: self.count("pp", 10_000),
            chunks: self.count("vpp", 10_000),
            context: self.count("cp", 1_000_000),
            expert: self.count("ep", 1_000_000),
            data: self.count("dp", 4_000_000),
            sharding: self.text("zero_stage_or_fsdp"),
            sequence_parallel: self.truth("sequence_parallel"),
            recompute: self.text("recompute"),
            attention: self.text("attention"),
            micro_batch: self.count("micro_batch", 10_000_000),
            global_batch: self.count("global_batch", 100_000_000),
            framework: self.text("framework"),
            options: options(&self.text("options")),
            adapters: says_lora(&self.text("source")) || says_lora(&self.text("options")),
            date: self.text("release_or_date"),
            remarks: Vec::new(),
        }
    }
}

/// Whether a text has the word `LoRA`.
fn says_lora(text: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric()).any(|word| word.eq_ignore_ascii_case("lora"))
}

/// `key=value;key=value`; a key alone stands for `yes`.
fn options(text: &str) -> Vec<(String, String)> {
    text.split(';')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, "yes"));
            (key.trim().to_lowercase(), value.trim().to_lowercase())
        })
        .collect()
}

/// A number, and whether it is written plainly. Thousand separators (`1,024`, `1 024`, `1_024`,
/// `1'024`) are taken out where every group has three digits.
fn number(text: &str) -> Result<(f64, bool), String> {
    let wrong = || Err(format!("`{}` is not a number", cut(text)));
    if text.len() > 64 {
        return wrong();
    }
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+'))
        || (text.contains(['e', 'E']) && text.bytes().all(|b| b.is_ascii_graphic()))
        || text.starts_with('-');
    if plain {
        return match text.parse::<f64>() {
            Ok(value) if !value.is_finite() => {
                Err(format!("`{}` is not a finite number", cut(text)))
            }
            Ok(value) if value < 0.0 => Err(format!("`{}` is negative", cut(text))),
            Ok(value) => Ok((value, true)),
            Err(_) => wrong(),
        };
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let groups: Vec<&str> =
        whole.split([',', '_', '\'', ' ', '\u{a0}', '\u{2009}', '\u{202f}', '’']).collect();
    let grouped = groups.len() > 1
        && (1..=3).contains(&groups[0].len())
        && groups.iter().all(|group| digits(group))
        && groups[1..].iter().all(|group| group.len() == 3)
        && (fraction.is_empty() || digits(fraction));
    if !grouped {
        return wrong();
    }
    match format!("{}.{}", groups.concat(), if fraction.is_empty() { "0" } else { fraction })
        .parse::<f64>()
    {
        Ok(value) => Ok((value, false)),
        Err(_) => wrong(),
    }
}

/// The start of a text, for messages.
pub(super) fn cut(text: &str) -> String {
    const SHOWN: usize = 80;
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    text.chars().take(SHOWN).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_and_without_separators() {
        assert_eq!(number("4096"), Ok((4096.0, true)));
        assert_eq!(number("1.5e3"), Ok((1500.0, true)));
        assert_eq!(number("1e-3"), Ok((0.001, true)));
        assert_eq!(number("1,024"), Ok((1024.0, false)));
        assert_eq!(number("12 345 678.5"), Ok((12_345_678.5, false)));
        for bad in
            ["1,02", "1,0245", "x", "8x", "nan", "inf", "-3", "1e999", ",024", "1.2.3", "1,024,5"]
        {
            assert!(number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn options_are_key_value_pairs() {
        assert_eq!(
            options("Compile=Yes; float8 = rowwise;;mtp"),
            [("compile", "yes"), ("float8", "rowwise"), ("mtp", "yes")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
        );
    }
}
