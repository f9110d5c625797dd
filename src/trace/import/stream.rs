//! Walks JSON of a known shape in a moving window: containers are entered or skipped by path, and
//! only the values that a reader wants are ever held.

use std::io::Read;

use super::json::{Stop, Window, unescape};

/// What a reader wants with a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Look inside: an object or an array.
    Enter,
    /// The whole text of the value (at most [`super::json::LARGEST_VALUE`]).
    Whole,
    /// Nothing.
    Skip,
}

/// A reader of JSON by path. Array elements have the path of their array followed by `[]`.
pub trait Visitor {
    /// What to do with the value at a path.
    fn want(&mut self, path: &[String]) -> Want;
    /// Takes a wanted value; `at` is its byte offset.
    fn value(&mut self, path: &[String], text: &[u8], at: u64);
    /// Called where a value could not be read.
    fn damaged(&mut self, at: u64);
}

/// Containers inside containers end here.
const DEEPEST: usize = 16;

/// How a walk ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// At the end of the text.
    Complete,
    /// Inside a value: at this byte, with this many bytes of something incomplete, and why.
    Truncated(u64, u64, String),
}

/// Walks one JSON value.
pub fn walk(reader: impl Read, visitor: &mut dyn Visitor) -> End {
    let mut window = Window::new(reader);
    window.refill();
    if window.bytes().starts_with(b"\xef\xbb\xbf") {
        window.consume(3);
    }
    let mut path = Vec::new();
    match value(&mut window, &mut path, visitor) {
        Ok(()) => End::Complete,
        Err(()) => {
            let left = window.bytes().len() as u64;
            let cause = window.failure.clone().unwrap_or_default();
            End::Truncated(window.offset() + left, left, cause)
        }
    }
}

/// One value. `Err` means that nothing more can be read.
fn value<R: Read>(
    window: &mut Window<R>,
    path: &mut Vec<String>,
    visitor: &mut dyn Visitor,
) -> Result<(), ()> {
    let first = window.peek().ok_or(())?;
    let at = window.offset();
    let want = if path.len() >= DEEPEST { Want::Skip } else { visitor.want(path) };
    match (want, first) {
        (Want::Enter, b'{') => object(window, path, visitor),
        (Want::Enter, b'[') => array(window, path, visitor),
        (Want::Whole, _) => {
            let taken = window.scan(|cursor| {
                let raw = cursor.value()?;
                visitor.value(path, raw.text, at);
                Ok(())
            });
            match taken {
                Ok(()) => Ok(()),
                Err(Stop::Incomplete) if window.ended() => Err(()),
                Err(Stop::Incomplete) => {
                    visitor.damaged(at);
                    window.skip_value().map_err(|_| ())
                }
                Err(Stop::Malformed) => {
                    visitor.damaged(at);
                    Ok(())
                }
            }
        }
        _ => window.skip_value().or_else(|stop| match stop {
            Stop::Incomplete => Err(()),
            Stop::Malformed => {
                visitor.damaged(at);
                window.consume(1);
                Ok(())
            }
        }),
    }
}

fn object<R: Read>(
    window: &mut Window<R>,
    path: &mut Vec<String>,
    visitor: &mut dyn Visitor,
) -> Result<(), ()> {
    window.consume(1);
    loop {
        match window.peek().ok_or(())? {
            b'}' => {
                window.consume(1);
                return Ok(());
            }
            b',' => window.consume(1),
            b'"' => {
                let mut key = String::new();
                let scanned = window.scan(|cursor| {
                    if let Some(text) = cursor.key()? {
                        key = unescape(&text[..text.len().min(128)]);
                    }
                    Ok(())
                });
                match scanned {
                    Ok(()) => {
                        path.push(key);
                        let done = value(window, path, visitor);
                        path.pop();
                        done?;
                    }
                    Err(Stop::Malformed) => visitor.damaged(window.offset()),
                    Err(Stop::Incomplete) => return Err(()),
                }
            }
            _ => {
                visitor.damaged(window.offset());
                window.consume(1);
            }
        }
    }
}

fn array<R: Read>(
    window: &mut Window<R>,
    path: &mut Vec<String>,
    visitor: &mut dyn Visitor,
) -> Result<(), ()> {
    window.consume(1);
    path.push("[]".into());
    loop {
        match window.peek() {
            None => {
                path.pop();
                return Err(());
            }
            Some(b']') => {
                window.consume(1);
                path.pop();
                return Ok(());
            }
            Some(b',') => window.consume(1),
            Some(b'}' | b':') => {
                visitor.damaged(window.offset());
                window.consume(1);
            }
            Some(_) => {
                if value(window, path, visitor).is_err() {
                    path.pop();
                    return Err(());
                }
            }
        }
    }
}
