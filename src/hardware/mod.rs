//! The hardware catalogue: typed, sourced, embedded in the binary.
//!
//! `hw-models/` holds one TOML file per thing. The files are compiled into the binary;
//! [`Catalogue::load`] adds or replaces entries from a directory of the same layout, so that a new
//! accelerator, node, fabric, stack, price sheet or grid is one file and no code. This module and
//! [`crate::input`] are the only ones that read those files.

mod check;
mod collectives;
mod figure;
mod kernels;
pub mod measured;
mod stack;
mod types;

use std::collections::BTreeMap;
use std::path::Path;

use include_dir::{Dir, include_dir};
use serde::de::DeserializeOwned;

pub use collectives::*;
pub use figure::{Curve, Figure, Kind, Source};
pub use kernels::*;
pub use stack::*;
pub use types::*;

use crate::error::{Error, Result, nearest_names};
use crate::input::Document;
use crate::workload::ModelFile;

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/hw-models");

/// A kind of catalogue entry: its folder, how to name and decode it.
pub trait CatalogueItem: DeserializeOwned {
    /// Folder below `hw-models/`.
    const FOLDER: &'static str;
    /// What it is called in messages.
    const WHAT: &'static str;
    /// Catalogue name.
    fn name(&self) -> &str;
    /// Full name for people.
    fn title(&self) -> &str;
    /// Other names.
    fn aliases(&self) -> &[String] {
        &[]
    }
    /// Checks numbers beyond their types.
    ///
    /// # Errors
    /// A key and what is wrong with it.
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        Ok(())
    }
}

macro_rules! catalogue_item {
    ($type:ident, $folder:literal, $what:literal $(, $aliases:ident)? $(; $check:path)?) => {
        impl CatalogueItem for $type {
            const FOLDER: &'static str = $folder;
            const WHAT: &'static str = $what;
            fn name(&self) -> &str {
                &self.name
            }
            fn title(&self) -> &str {
                &self.title
            }
            $(fn aliases(&self) -> &[String] {
                &self.$aliases
            })?
            $(fn check(&self) -> Result<(), check::Problem> {
                $check(self)
            })?
        }
    };
}

catalogue_item!(Accelerator, "accelerators", "accelerator", aliases; check::accelerator);
catalogue_item!(Node, "nodes", "node", aliases; check::node);
catalogue_item!(Fabric, "fabrics", "fabric", aliases; check::fabric);
catalogue_item!(Stack, "stacks", "software stack", aliases; check::stack);
catalogue_item!(PriceSheet, "prices", "price sheet");
catalogue_item!(Grid, "grids", "grid", aliases);
catalogue_item!(ModelFile, "models", "model", aliases);
catalogue_item!(CollectiveLibrary, "collectives", "collective library", aliases);
catalogue_item!(Transport, "transports", "transport", aliases);
catalogue_item!(Harness, "harnesses", "measuring program");

/// An entry and the document it was read from.
#[derive(Clone, Debug)]
pub struct Entry<T> {
    /// The typed entry.
    pub item: T,
    /// Its file, for provenance and for messages.
    pub document: Document,
}

impl<T: CatalogueItem> Entry<T> {
    /// Decodes and checks a document.
    ///
    /// # Errors
    /// A key is wrong, a number makes no sense, or a figure names a source the file does not have.
    pub fn new(document: Document) -> Result<Self> {
        let item: T = document.decode()?;
        item.check().map_err(|(key, message)| document.error_at(key, message, None))?;
        check_sources(&document)?;
        Ok(Self { item, document })
    }
}

/// All entries of one kind, by name.
pub type Shelf<T> = BTreeMap<String, Entry<T>>;

/// Everything the simulator knows about machines, software, prices and grids.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// Devices.
    pub accelerators: Shelf<Accelerator>,
    /// Servers.
    pub nodes: Shelf<Node>,
    /// Networks between nodes.
    pub fabrics: Shelf<Fabric>,
    /// Training frameworks.
    pub stacks: Shelf<Stack>,
    /// Dated prices.
    pub prices: Shelf<PriceSheet>,
    /// Electricity grids.
    pub grids: Shelf<Grid>,
    /// Model presets.
    pub models: Shelf<ModelFile>,
    /// Collective libraries by accelerator architecture.
    pub collectives: Shelf<CollectiveLibrary>,
    /// Ways out of a node.
    pub transports: Shelf<Transport>,
    /// Measuring programs.
    pub harnesses: Shelf<Harness>,
}

impl Catalogue {
    /// The embedded catalogue, and on top of it the files of `overlay`, a directory of the layout
    /// of `hw-models/`. A file of the same `name` replaces an entry; others are added.
    ///
    /// # Errors
    /// A file cannot be read or decoded, a figure names a source the file does not have, a node
    /// names an accelerator that does not exist, or two files claim one name.
    pub fn load(overlay: Option<&Path>) -> Result<Self> {
        let mut catalogue = Self::default();
        catalogue.add_layer(&embedded_documents()?)?;
        if let Some(directory) = overlay {
            catalogue.add_layer(&directory_documents(directory)?)?;
        }
        for entry in catalogue.nodes.values() {
            if let Err(error) = catalogue.accelerator(&entry.item.accelerator) {
                let text = error.to_string();
                let (message, hint) = text.split_once("\n  help: ").unwrap_or((&text, ""));
                let hint = (!hint.is_empty()).then(|| hint.to_owned());
                return Err(entry.document.error_at("accelerator", message, hint));
            }
        }
        Ok(catalogue)
    }

    fn add_layer(&mut self, documents: &[(String, Document)]) -> Result<()> {
        add(&mut self.accelerators, documents)?;
        add(&mut self.nodes, documents)?;
        add(&mut self.fabrics, documents)?;
        add(&mut self.stacks, documents)?;
        add(&mut self.prices, documents)?;
        add(&mut self.grids, documents)?;
        add(&mut self.models, documents)?;
        add(&mut self.collectives, documents)?;
        add(&mut self.transports, documents)?;
        add(&mut self.harnesses, documents)?;
        Ok(())
    }

    /// Looks up an accelerator by name or alias.
    ///
    /// # Errors
    /// There is none; the message offers the nearest names.
    pub fn accelerator(&self, name: &str) -> Result<&Accelerator> {
        find(&self.accelerators, name)
    }
    /// Looks up a node by name or alias.
    ///
    /// # Errors
    /// As for [`Self::accelerator`].
    pub fn node(&self, name: &str) -> Result<&Node> {
        find(&self.nodes, name)
    }
    /// Looks up a fabric by name or alias.
    ///
    /// # Errors
    /// As for [`Self::accelerator`].
    pub fn fabric(&self, name: &str) -> Result<&Fabric> {
        find(&self.fabrics, name)
    }
    /// Looks up a software stack by name or alias.
    ///
    /// # Errors
    /// As for [`Self::accelerator`].
    pub fn stack(&self, name: &str) -> Result<&Stack> {
        find(&self.stacks, name)
    }
    /// Looks up a price sheet by name.
    ///
    /// # Errors
    /// As for [`Self::accelerator`].
    pub fn prices(&self, name: &str) -> Result<&PriceSheet> {
        find(&self.prices, name)
    }
    /// Looks up a grid by name or alias.
    ///
    /// # Errors
    /// As for [`Self::accelerator`].
    pub fn grid(&self, name: &str) -> Result<&Grid> {
        find(&self.grids, name)
    }
    /// Looks up a model preset by name or alias.
    ///
    /// # Errors
    /// As for [`Self::accelerator`].
    pub fn model(&self, name: &str) -> Result<&ModelFile> {
        find(&self.models, name)
    }
    /// Looks up a collective library by name or alias.
    ///
    /// # Errors
    /// As for [`Self::accelerator`].
    pub fn collective_library(&self, name: &str) -> Result<&CollectiveLibrary> {
        find(&self.collectives, name)
    }
    /// The collective library of an accelerator, and the accelerator's links in its terms: that of
    /// the wanted generation, or the other where there is only one. `None` where the catalogue has
    /// no constants for the accelerator.
    #[must_use]
    pub fn library_of(
        &self,
        accelerator: &str,
        generation: LibraryGeneration,
    ) -> Option<(&CollectiveLibrary, &DeviceLinks)> {
        self.collectives
            .values()
            .filter_map(|entry| {
                let named = |d: &&DeviceLinks| d.accelerators.iter().any(|a| a == accelerator);
                entry.item.devices.iter().find(named).map(|device| (&entry.item, device))
            })
            .min_by_key(|(library, _)| library.legacy != (generation == LibraryGeneration::Legacy))
    }
    /// The current collective library of an accelerator architecture (`hopper`, `cdna3`, ...).
    ///
    /// # Errors
    /// There is none; the message offers the nearest architectures.
    pub fn library_for_architecture(&self, architecture: &str) -> Result<&CollectiveLibrary> {
        self.collectives
            .values()
            .map(|entry| &entry.item)
            .filter(|item| item.architecture == architecture)
            .min_by_key(|item| item.legacy)
            .ok_or_else(|| Error::UnknownName {
                what: "collective library for architecture",
                name: architecture.to_owned(),
                nearest: nearest_names(
                    architecture,
                    self.collectives.values().map(|e| e.item.architecture.as_str()),
                ),
            })
    }
    /// Looks up a transport by name or alias.
    ///
    /// # Errors
    /// As for [`Self::accelerator`].
    pub fn transport(&self, name: &str) -> Result<&Transport> {
        find(&self.transports, name)
    }
}

fn find<'a, T: CatalogueItem>(shelf: &'a Shelf<T>, name: &str) -> Result<&'a T> {
    let wanted = name.to_lowercase();
    shelf
        .get(&wanted)
        .or_else(|| {
            shelf.values().find(|e| e.item.aliases().iter().any(|a| a.to_lowercase() == wanted))
        })
        .map(|entry| &entry.item)
        .ok_or_else(|| Error::UnknownName {
            what: T::WHAT,
            name: name.to_owned(),
            nearest: nearest_names(
                name,
                shelf.values().flat_map(|e| {
                    std::iter::once(e.item.name())
                        .chain(e.item.aliases().iter().map(String::as_str))
                }),
            ),
        })
}

fn add<T: CatalogueItem>(shelf: &mut Shelf<T>, documents: &[(String, Document)]) -> Result<()> {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for (folder, document) in documents.iter().filter(|(folder, _)| folder == T::FOLDER) {
        debug_assert_eq!(folder, T::FOLDER);
        let entry: Entry<T> = Entry::new(document.clone())?;
        let name = entry.item.name().to_lowercase();
        if let Some(other) = seen.insert(name.clone(), document.origin().to_owned()) {
            return Err(document.error_at(
                "name",
                &format!("`{name}` is already the name of {other}"),
                None,
            ));
        }
        shelf.insert(name, entry);
    }
    Ok(())
}

/// Every figure's `source` must be a key of the file's `[sources]` table.
fn check_sources(document: &Document) -> Result<()> {
    let sources = document.table().get("sources").and_then(toml::Value::as_table);
    let known: Vec<&str> =
        sources.map(|table| table.keys().map(String::as_str).collect()).unwrap_or_default();
    let mut problem = None;
    for_each_figure(document.table(), &mut |path, table| {
        if let Some(source) = table.get("source").and_then(toml::Value::as_str)
            && !known.contains(&source)
            && problem.is_none()
        {
            problem = Some((format!("{path}.source"), source.to_owned()));
        }
    });
    match problem {
        None => Ok(()),
        Some((path, source)) => Err(document.error_at(
            &path,
            &format!("source `{source}` is not in [sources]"),
            nearest_names(&source, known.into_iter())
                .first()
                .map(|near| format!("did you mean `{near}`?")),
        )),
    }
}

/// Calls `visit` with the dotted path and table of every figure and curve of a document.
pub fn for_each_figure(table: &toml::Table, visit: &mut dyn FnMut(&str, &toml::Table)) {
    fn walk(value: &toml::Value, path: &str, visit: &mut dyn FnMut(&str, &toml::Table)) {
        match value {
            toml::Value::Table(table)
                if table.contains_key("kind") && table.contains_key("source") =>
            {
                visit(path, table);
            }
            toml::Value::Table(table) => {
                for (key, value) in table {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                    walk(value, &path, visit);
                }
            }
            toml::Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    walk(item, &format!("{path}[{i}]"), visit);
                }
            }
            _ => {}
        }
    }
    for (key, value) in table {
        walk(value, key, visit);
    }
}

fn embedded_documents() -> Result<Vec<(String, Document)>> {
    let mut documents = Vec::new();
    for folder in EMBEDDED.dirs() {
        let name = folder.path().to_string_lossy().into_owned();
        let mut files: Vec<_> = folder.files().collect();
        files.sort_by_key(|file| file.path());
        for file in files.into_iter().filter(|f| f.path().extension().is_some_and(|e| e == "toml"))
        {
            let text = file.contents_utf8().ok_or_else(|| {
                Error::Internal(format!("{} is not UTF-8", file.path().display()))
            })?;
            let origin = format!("embedded:hw-models/{}", file.path().display());
            documents.push((name.clone(), Document::parse(&origin, text.to_owned())?));
        }
    }
    Ok(documents)
}

fn directory_documents(directory: &Path) -> Result<Vec<(String, Document)>> {
    const FOLDERS: [&str; 10] = [
        Accelerator::FOLDER,
        Node::FOLDER,
        Fabric::FOLDER,
        Stack::FOLDER,
        PriceSheet::FOLDER,
        Grid::FOLDER,
        ModelFile::FOLDER,
        CollectiveLibrary::FOLDER,
        Transport::FOLDER,
        Harness::FOLDER,
    ];
    let read = |path: &Path| -> Result<Vec<std::path::PathBuf>> {
        let mut entries = std::fs::read_dir(path)
            .and_then(|entries| {
                entries.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>()
            })
            .map_err(|e| Error::io("read directory", path, e))?;
        entries.sort();
        Ok(entries)
    };
    let mut documents = Vec::new();
    for folder in read(directory)?.into_iter().filter(|path| path.is_dir()) {
        let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if !FOLDERS.contains(&name.as_str()) {
            return Err(Error::UnknownName {
                what: "catalogue folder",
                name,
                nearest: FOLDERS.iter().map(|f| (*f).to_owned()).collect(),
            });
        }
        for file in
            read(&folder)?.into_iter().filter(|f| f.extension().is_some_and(|e| e == "toml"))
        {
            documents.push((name.clone(), Document::read(&file)?));
        }
    }
    Ok(documents)
}
