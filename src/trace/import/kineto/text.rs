//! What is kept of the text of an event: names, shapes and types, each distinct one once.

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use super::super::json::Raw;
use super::text_of;
use crate::trace::names::{NameId, Names};
use crate::trace::redact;

/// Longest shape text that is kept; longer ones are lists of hundreds of tensors.
const LONGEST_SHAPE: usize = 2048;

/// Operand types that may be kept; anything else in the list becomes `?`.
const TYPES: [&str; 38] = [
    "",
    "float",
    "double",
    "int",
    "long",
    "long int",
    "bool",
    "short",
    "short int",
    "half",
    "signed char",
    "unsigned char",
    "char",
    "c10::BFloat16",
    "c10::Half",
    "BFloat16",
    "Half",
    "Float",
    "Double",
    "Int",
    "Long",
    "Bool",
    "Byte",
    "Scalar",
    "ScalarList",
    "Tensor",
    "TensorList",
    "GenericList",
    "Device",
    "Generator",
    "Stream",
    "Dict",
    "Tuple",
    "None",
    "c10::Float8_e4m3fn",
    "c10::Float8_e5m2",
    "c10::complex<float>",
    "String",
];

/// What raw text became, for text that is not stored as it stands.
#[derive(Default)]
pub struct Texts {
    /// Names that are escaped or redacted.
    rewritten: HashMap<Box<[u8]>, NameId, FixedState>,
    shapes: HashMap<Box<[u8]>, NameId, FixedState>,
    types: HashMap<Box<[u8]>, NameId, FixedState>,
    /// Names in which something that looks like a secret was replaced.
    pub redacted: u64,
}

impl Texts {
    /// The name of an event, without what looks like a secret.
    pub fn name(&mut self, names: &mut Names, raw: Raw<'_>) -> NameId {
        if !raw.escaped
            && let Some(id) = names.find(raw.text)
        {
            return id;
        }
        if let Some(id) = self.rewritten.get(raw.text) {
            return *id;
        }
        let text = text_of(raw);
        let clean = redact::scrub(&text);
        let id = names.intern(&clean);
        if clean.len() != text.len() || clean != text {
            self.redacted += 1;
        }
        if clean.as_bytes() != raw.text {
            self.rewritten.insert(raw.text.into(), id);
        }
        id
    }

    /// Input dimensions: digits and brackets only.
    pub fn shape(&mut self, names: &mut Names, raw: &[u8]) -> NameId {
        if raw.len() <= 2 {
            return NameId::EMPTY;
        }
        if let Some(id) = self.shapes.get(raw) {
            return *id;
        }
        let text: String = raw
            .iter()
            .filter(|b| !b.is_ascii_whitespace())
            .map(|b| char::from(*b))
            .take(LONGEST_SHAPE + 1)
            .collect();
        let kept = text.len() <= LONGEST_SHAPE
            && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'[' | b']' | b',' | b'-'))
            && text.bytes().any(|b| b.is_ascii_digit());
        let id = if kept { names.intern(&text) } else { NameId::EMPTY };
        self.shapes.insert(raw.into(), id);
        id
    }

    /// Input types: known ones only.
    pub fn types(&mut self, names: &mut Names, raw: &[u8]) -> NameId {
        if raw.len() <= 2 || raw.len() > LONGEST_SHAPE {
            return NameId::EMPTY;
        }
        if let Some(id) = self.types.get(raw) {
            return *id;
        }
        let items: Vec<&str> = serde_json::from_slice::<Vec<&str>>(raw).unwrap_or_default();
        let known: Vec<&str> = items
            .iter()
            .map(|item| TYPES.into_iter().find(|known| known == item).unwrap_or("?"))
            .collect();
        let id = if known.iter().all(|item| item.is_empty()) {
            NameId::EMPTY
        } else {
            names.intern(&format!("[{}]", known.join(",")))
        };
        self.types.insert(raw.into(), id);
        id
    }
}

/// Split sizes; nothing where they are even.
pub fn splits(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let kept = text.len() > 2
        && text.len() <= LONGEST_SHAPE
        && text.bytes().all(|b| b.is_ascii_digit() || b"[], .".contains(&b));
    kept.then(|| text.replace(' ', ""))
}
