//! Arrangements of switches that fabric files name: the generators that build networks between
//! servers, with what else a step has to know of them.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::{Generator, REGISTRY, Values};
use crate::error::Result;
use crate::hardware::{Fabric, Node};

/// From a generator's defaults, a fabric, its nodes and their number to the values to build it with
/// and the number of nodes or domains.
pub type ValuesOfFabric = fn(Values, &Fabric, &Node, u32) -> Result<(Values, u32)>;

/// A network of a generator as fabric files name it.
#[derive(Debug)]
pub struct ForFabrics {
    /// Word in fabric files.
    pub name: &'static str,
    /// What it is, for people and the schema.
    pub about: &'static str,
    /// Cards of equal index of the nodes of a group share a leaf, so traffic between them stays low.
    pub rails: bool,
    /// Rails are joined, so that traffic between them need not change rail inside a domain.
    pub joins_rails: bool,
    /// Oversubscription of a fabric narrows it.
    pub tapers: bool,
    /// Its halves are joined by a wide-area line, which groups share and whose latency shows.
    pub line: bool,
    /// The generator's parameters for a fabric with so many nodes, and the number of nodes (or
    /// domains) to build it with.
    pub values: ValuesOfFabric,
}

/// How the switches of a fabric are arranged.
#[derive(Clone, Copy)]
pub struct Arrangement {
    /// What builds it.
    pub generator: &'static Generator,
    /// What distinguishes it from other networks of that generator.
    pub is: &'static ForFabrics,
}

impl Arrangement {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        REGISTRY
            .iter()
            .flat_map(|generator| generator.fabrics.iter().map(move |is| Self { generator, is }))
    }

    /// What stands for a network from a file, whose graph says everything else: nothing of an
    /// arrangement comes on top of it.
    #[must_use]
    pub fn of_files() -> Self {
        Self { generator: &super::clos::GENERATOR, is: &super::clos::GENERATOR.fabrics[0] }
    }

    /// The one of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().find(|one| one.is.name == name)
    }
}

impl PartialEq for Arrangement {
    fn eq(&self, other: &Self) -> bool {
        self.is.name == other.is.name
    }
}

impl Eq for Arrangement {}

impl fmt::Debug for Arrangement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.is.name)
    }
}

impl<'de> Deserialize<'de> for Arrangement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::named(&name).ok_or_else(|| {
            // As serde words it for an enumeration, which is what names the nearest.
            let known: Vec<String> = Self::all().map(|one| format!("`{}`", one.is.name)).collect();
            de::Error::custom(format!(
                "unknown variant `{name}`, expected one of {}",
                known.join(", ")
            ))
        })
    }
}

impl JsonSchema for Arrangement {
    fn schema_name() -> Cow<'static, str> {
        "Topology".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<Schema> = Self::all()
            .map(|one| {
                json_schema!({
                    "description": one.is.about,
                    "type": "string",
                    "const": one.is.name,
                })
            })
            .collect();
        json_schema!({
            "description": "How the switches of a fabric are arranged.",
            "oneOf": words,
        })
    }
}
