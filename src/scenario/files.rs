//! Files that a scenario names, and their place in the result.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::input::{Document, read_text};

/// A file that a scenario names and a result depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// Kind: `topology`, `placement`, `bandwidth matrix`.
    pub kind: &'static str,
    /// As the scenario names it.
    pub name: String,
    /// Where it was read from.
    pub origin: String,
    /// Its text.
    pub text: String,
}

/// Reads what a scenario names, relative to the scenario's own file.
#[derive(Debug)]
pub(super) struct Files<'a> {
    folder: &'a Path,
    read: Vec<NamedFile>,
}

impl<'a> Files<'a> {
    /// Files next to a scenario.
    pub(super) fn beside(scenario: &'a Document) -> Self {
        let folder = Path::new(scenario.origin()).parent().unwrap_or(Path::new(""));
        Self { folder, read: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn keep(&mut self, kind: &'static str, name: &str, text: String) {
        let origin = self.path(name).display().to_string();
        self.read.push(NamedFile { kind, name: name.to_owned(), origin, text });
    }

    /// A TOML file.
    ///
    /// # Errors
    /// It cannot be read or is no TOML.
    pub(super) fn document(&mut self, kind: &'static str, name: &str) -> Result<Document> {
        let document = Document::read(&self.path(name))?;
        self.keep(kind, name, document.text().to_owned());
        Ok(document)
    }

    /// A table.
    ///
    /// # Errors
    /// It cannot be read or is no text.
    pub(super) fn table(&mut self, kind: &'static str, name: &str) -> Result<NamedFile> {
        let text = read_text(&self.path(name), "a CSV file")?;
        self.keep(kind, name, text);
        let last = self.read.last().cloned();
        last.ok_or_else(|| crate::error::Error::Internal("a file was read and is gone".into()))
    }

    /// All files that were read.
    pub(super) fn into_read(self) -> Vec<NamedFile> {
        self.read
    }
}
