//! TOML documents with positions: the one way text becomes typed input.
//!
//! A [`Document`] remembers where every key stands, takes `--set key=value` overrides, and decodes
//! into serde types. Whatever goes wrong (syntax, an unknown key, a wrong type, a negative or
//! non-finite number, a rule checked later) is reported at file, line and column, with the nearest
//! valid name.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

use crate::error::{Error, InputError, Result, nearest_names};

/// A parsed TOML document that knows where its keys are.
#[derive(Clone, Debug)]
pub struct Document {
    origin: String,
    text: String,
    table: toml::Table,
    spans: BTreeMap<String, Range<usize>>,
    overrides: BTreeSet<String>,
}

/// Bytes of the largest input that is read whole; a network of 16,384 nodes written out has a tenth.
const MOST_BYTES: u64 = 64 << 20;

/// Reads a text file; `expected` says what it should be, for messages.
///
/// # Errors
/// The file is missing, a directory, not UTF-8, or too large to be what is expected.
pub fn read_text(path: &Path, expected: &str) -> Result<String> {
    let plain = |message: &str, hint: Option<&str>| InputError {
        origin: path.display().to_string(),
        message: message.into(),
        hint: hint.map(Into::into),
        ..InputError::default()
    };
    if path.is_dir() {
        let message = format!("is a directory, and {expected} is expected");
        return Err(plain(&message, Some("name a file in it")).into());
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|e| Error::io("read", path, e))?;
    if bytes.len() as u64 > MOST_BYTES {
        let message =
            format!("is larger than {} MiB, and {expected} is expected", MOST_BYTES >> 20);
        return Err(plain(&message, None).into());
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = e.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
        plain(
            &format!("is not UTF-8 text (first invalid byte at offset {at}, line {line})"),
            Some("save the file as UTF-8"),
        )
        .into()
    })
}

impl Document {
    /// Reads a file.
    ///
    /// # Errors
    /// The file is missing, a directory, not UTF-8, or not TOML.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(&path.display().to_string(), read_text(path, "a TOML file")?)
    }

    /// Parses text; `origin` names it in messages.
    ///
    /// # Errors
    /// The text is not TOML, or holds a number that is not finite or is negative.
    pub fn parse(origin: &str, text: String) -> Result<Self> {
        let document = Self::parse_unchecked(origin, text)?;
        document.check_numbers(&toml::Value::Table(document.table.clone()), "")?;
        Ok(document)
    }

    /// Reads a file whose parts are decoded one by one with [`Self::decode_at`], which also checks
    /// their numbers: what is wrong with one part says nothing of the others.
    ///
    /// # Errors
    /// The file is missing, a directory, not UTF-8, or not TOML.
    pub fn read_in_parts(path: &Path) -> Result<Self> {
        Self::parse_unchecked(&path.display().to_string(), read_text(path, "a TOML file")?)
    }

    fn parse_unchecked(origin: &str, text: String) -> Result<Self> {
        let text = text.strip_prefix('\u{feff}').map_or(text.clone(), ToOwned::to_owned);
        let syntax_error = |e: &toml::de::Error| {
            let position = e.span().map(|span| line_column(&text, span.start));
            InputError {
                origin: origin.to_owned(),
                position,
                line_text: position.map(|p| line_text(&text, p.0)),
                message: e.message().trim().replace('\n', "; "),
                ..InputError::default()
            }
        };
        let table: toml::Table = toml::from_str(&text).map_err(|e| syntax_error(&e))?;
        let tree = DeTable::parse(&text).map_err(|e| syntax_error(&e))?;
        let mut spans = BTreeMap::new();
        collect_spans(tree.get_ref(), "", &mut spans);
        Ok(Self { origin: origin.to_owned(), text, table, spans, overrides: BTreeSet::new() })
    }

    /// Where the document comes from.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The text as read, before overrides.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The whole table, after overrides.
    #[must_use]
    pub fn table(&self) -> &toml::Table {
        &self.table
    }

    /// Applies `key.path=value`. The value is read as TOML, and as a plain string where it is not.
    ///
    /// # Errors
    /// There is no `=`, the key is empty, or the path runs through a value that is no table.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let error = |message: String, hint: Option<String>| InputError {
            origin: format!("--set {assignment}"),
            message,
            hint,
            ..InputError::default()
        };
        let Some((path, raw)) = assignment.split_once('=') else {
            return Err(error(
                "has no `=`".into(),
                Some("write --set plan.tensor_parallel=8".into()),
            )
            .into());
        };
        let path = path.trim();
        let keys: Vec<&str> = path.split('.').map(str::trim).collect();
        if keys.iter().any(|key| key.is_empty()) {
            return Err(error("has an empty key".into(), None).into());
        }
        // Dropping a table is recursive; no file of ours is nested half as deep.
        if keys.len() > 16 {
            return Err(InputError {
                origin: "--set".into(),
                message: format!("a key of {} levels is too deep", keys.len()),
                ..InputError::default()
            }
            .into());
        }
        let raw = raw.trim();
        let value = toml::from_str::<toml::Table>(&format!("value = {raw}"))
            .ok()
            .and_then(|mut table| table.remove("value"))
            .unwrap_or_else(|| toml::Value::String(raw.to_owned()));
        let mut table = &mut self.table;
        for (depth, key) in keys[..keys.len() - 1].iter().enumerate() {
            let entry = table
                .entry((*key).to_owned())
                .or_insert_with(|| toml::Value::Table(toml::Table::new()));
            match entry {
                toml::Value::Table(inner) => table = inner,
                other => {
                    return Err(error(
                        format!(
                            "`{}` is a {}, not a table",
                            keys[..=depth].join("."),
                            other.type_str()
                        ),
                        None,
                    )
                    .into());
                }
            }
        }
        table.insert(keys[keys.len() - 1].to_owned(), value.clone());
        self.overrides.insert(path.to_owned());
        self.check_numbers(&value, path)
    }

    /// Decodes the document into a typed value.
    ///
    /// # Errors
    /// A key is unknown or missing, or a value has the wrong type; the message has its place.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        self.decoded("", toml::Value::Table(self.table.clone()))
    }

    /// Checks the numbers of a part of the document, and decodes it.
    ///
    /// # Errors
    /// As for [`Self::decode`], or a number is not finite or is negative.
    pub fn decode_at<T: DeserializeOwned>(&self, key: &str, part: &toml::Value) -> Result<T> {
        self.check_numbers(part, key)?;
        self.decoded(key, part.clone())
    }

    fn decoded<T: DeserializeOwned>(&self, key: &str, value: toml::Value) -> Result<T> {
        serde_path_to_error::deserialize(value).map_err(|e| {
            let path = match e.path().to_string() {
                path if path == "." => key.to_owned(),
                path => join(key, &path),
            };
            self.explain(&path, &e.inner().to_string())
        })
    }

    /// An error at a key; the nearest enclosing key that stands in the text gives the position.
    #[must_use]
    pub fn error_at(&self, key: &str, message: &str, hint: Option<String>) -> Error {
        let mut error = InputError {
            origin: self.origin.clone(),
            key: (!key.is_empty()).then(|| key.to_owned()),
            message: message.to_owned(),
            hint,
            ..InputError::default()
        };
        if self.overrides.iter().any(|o| o == key || key.starts_with(&format!("{o}."))) {
            error.origin = format!("--set (over {})", self.origin);
            return error.into();
        }
        if let Some(position) = self.position(key) {
            error.position = Some(position);
            error.line_text = Some(line_text(&self.text, position.0));
        }
        error.into()
    }

    /// One-based line and column of a key, or of the nearest enclosing one that stands in the text.
    #[must_use]
    pub fn position(&self, key: &str) -> Option<(usize, usize)> {
        let mut probe = key;
        loop {
            if let Some(span) = self.spans.get(probe) {
                return Some(line_column(&self.text, span.start));
            }
            probe = &probe[..probe.rfind(['.', '['])?];
        }
    }

    /// Turns a serde message at a path into a message for people.
    fn explain(&self, path: &str, message: &str) -> Error {
        // The parser adds lines that repeat the path.
        let kept: Vec<&str> =
            message.trim().lines().filter(|line| !line.starts_with("in `")).collect();
        let message = &kept.join("\n");
        for (prefix, what) in [("unknown field `", "key"), ("unknown variant `", "value")] {
            if let Some(rest) = message.strip_prefix(prefix) {
                let quoted: Vec<&str> = rest.split('`').collect();
                let name = quoted[0];
                let valid: Vec<&str> = quoted.iter().skip(2).step_by(2).copied().collect();
                let key = match what {
                    "key" if !path.ends_with(name) => join(path, name),
                    _ => path.to_owned(),
                };
                let nearest = nearest_names(name, valid.iter().copied());
                let hint = match nearest.first() {
                    Some(best) => {
                        format!("did you mean `{best}`? (valid here: {})", valid.join(", "))
                    }
                    None if valid.is_empty() => "no key is valid here".to_owned(),
                    None => format!("valid here: {}", valid.join(", ")),
                };
                return self.error_at(&key, &format!("unknown {what} `{name}`"), Some(hint));
            }
        }
        if let Some(rest) = message.strip_prefix("missing field `") {
            let name = rest.split('`').next().unwrap_or_default();
            return self.error_at(path, &format!("required key `{name}` is missing"), None);
        }
        // Types by the names that people use.
        let message = &[
            ("expected f64", "expected a number"),
            ("expected u32", "expected a whole number up to 4,294,967,295"),
            ("expected u64", "expected a whole number"),
            ("expected a sequence", "expected a list"),
            ("expected a map", "expected a table"),
            ("expected a boolean", "expected true or false"),
        ]
        .iter()
        .fold(message.to_owned(), |text, (from, to)| text.replace(from, to));
        let message = match message.find("expected struct ") {
            Some(at) => format!("{}expected a table", &message[..at]),
            None => message.clone(),
        };
        let message = message.as_str();
        // Messages of our own types carry their hint after a line break.
        match message.split_once('\n') {
            Some((head, hint)) => self.error_at(path, head, Some(hint.trim().to_owned())),
            None => self.error_at(path, message, None),
        }
    }

    /// No input of ours is ever negative or non-finite; find the first that is.
    fn check_numbers(&self, value: &toml::Value, path: &str) -> Result<()> {
        match value {
            toml::Value::Float(x) if !x.is_finite() => {
                Err(self.error_at(path, &format!("`{x}` is not a finite number"), None))
            }
            toml::Value::Float(x) if *x < 0.0 => {
                Err(self.error_at(path, &format!("`{x}` is negative"), None))
            }
            toml::Value::Integer(x) if *x < 0 => {
                Err(self.error_at(path, &format!("`{x}` is negative"), None))
            }
            toml::Value::Array(items) => items
                .iter()
                .enumerate()
                .try_for_each(|(i, item)| self.check_numbers(item, &format!("{path}[{i}]"))),
            toml::Value::Table(table) => {
                table.iter().try_for_each(|(key, item)| self.check_numbers(item, &join(path, key)))
            }
            _ => Ok(()),
        }
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn collect_spans(table: &DeTable<'_>, path: &str, spans: &mut BTreeMap<String, Range<usize>>) {
    for (key, value) in table {
        let key_path = join(path, key.get_ref());
        spans.insert(key_path.clone(), key.span());
        collect_value_spans(value.get_ref(), &key_path, spans);
    }
}

fn collect_value_spans(
    value: &DeValue<'_>,
    path: &str,
    spans: &mut BTreeMap<String, Range<usize>>,
) {
    match value {
        DeValue::Table(table) => collect_spans(table, path, spans),
        DeValue::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                let item_path = format!("{path}[{i}]");
                spans.insert(item_path.clone(), item.span());
                collect_value_spans(item.get_ref(), &item_path, spans);
            }
        }
        _ => {}
    }
}

/// One-based line and column (in characters) of a byte offset.
fn line_column(text: &str, offset: usize) -> (usize, usize) {
    let offset = offset.min(text.len());
    let before = &text[..text.floor_char_boundary(offset)];
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (line, column)
}

fn line_text(text: &str, line: usize) -> String {
    text.lines().nth(line - 1).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        tensor_parallel: u32,
        #[serde(default)]
        schedule: Schedule,
    }
    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Schedule {
        #[default]
        Gpipe,
        Interleaved,
    }
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Outer {
        plan: Inner,
    }

    fn fails(text: &str) -> String {
        match Document::parse("t.toml", text.to_owned()).and_then(|d| d.decode::<Outer>()) {
            Ok(_) => panic!("accepted: {text}"),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn unknown_key_names_place_and_nearest() {
        let message = fails("[plan]\ntensor_parallel = 8\ntensor_paralel = 8\n");
        assert!(message.starts_with("t.toml:3:1: plan.tensor_paralel: unknown key"), "{message}");
        assert!(message.contains("did you mean `tensor_parallel`"), "{message}");
    }

    #[test]
    fn unknown_value_names_nearest() {
        let message = fails("[plan]\ntensor_parallel = 8\nschedule = \"interleave\"\n");
        assert!(message.contains("t.toml:3:1"), "{message}");
        assert!(message.contains("did you mean `interleaved`"), "{message}");
    }

    #[test]
    fn numbers_that_make_no_sense() {
        assert!(fails("[plan]\ntensor_parallel = nan\n").contains("not a finite number"));
        assert!(fails("[plan]\ntensor_parallel = -2\n").contains("t.toml:2:1"));
    }

    #[test]
    fn syntax_errors_have_a_place() {
        assert!(fails("[plan]\ntensor_parallel = = 2\n").contains("t.toml:2:"));
    }

    #[test]
    fn overrides_are_named_as_such() {
        let mut document =
            Document::parse("t.toml", "[plan]\ntensor_parallel = 8\n".into()).unwrap();
        document.set("plan.tensor_parallel=4").unwrap();
        assert_eq!(document.decode::<Outer>().unwrap().plan.tensor_parallel, 4);
        document.set("plan.tensor_parallel=many").unwrap();
        let message = document.decode::<Outer>().unwrap_err().to_string();
        assert!(message.starts_with("--set"), "{message}");
        assert!(document.set("plan.tensor_parallel").is_err());
        assert!(document.set("plan.tensor_parallel.x=1").is_err());
    }
}
