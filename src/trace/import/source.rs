//! From a path to streams of text: plain files, compressed files, and archives of ranks.
//!
//! What a file is, is decided by its first bytes and not by its name. Nothing is unpacked to disk
//! or held as a whole.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// How much of a stream is looked at to tell what it is.
const HEAD: usize = 4096;
/// Archives inside compressed files inside archives end here.
const DEEPEST: usize = 4;

/// A stream whose beginning has been read ahead.
pub struct Peeked<R> {
    head: Vec<u8>,
    passed: usize,
    inner: R,
}

impl<R: Read> Peeked<R> {
    fn new(mut inner: R) -> io::Result<Self> {
        let mut head = vec![0; HEAD];
        let mut filled = 0;
        while filled < HEAD {
            match inner.read(&mut head[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // What came before the damage may still tell what it is.
                Err(_) if filled > 0 => break,
                Err(e) => return Err(e),
            }
        }
        head.truncate(filled);
        Ok(Self { head, passed: 0, inner })
    }
}

impl<R: Read> Read for Peeked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = &self.head[self.passed..];
        if left.is_empty() {
            return self.inner.read(buffer);
        }
        let count = left.len().min(buffer.len());
        buffer[..count].copy_from_slice(&left[..count]);
        self.passed += count;
        Ok(count)
    }
}

/// What a stream turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Gzip,
    Zstd,
    Tar,
    Json,
    /// Recognised and not supported, or not recognised; the text completes "FILE: ...".
    Other(&'static str),
}

fn recognise(head: &[u8]) -> What {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let begins = |key: &str| {
        let after = text.strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
        after.is_some_and(|rest| rest.starts_with(key.as_bytes()))
    };
    match head {
        [0x1f, 0x8b, ..] => What::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => What::Zstd,
        _ if head.get(257..262) == Some(b"ustar") => What::Tar,
        _ if head.starts_with(b"SQLite format 3\0") => {
            What::Other("is an SQLite database (Nsight Systems or Ascend), which is not read yet")
        }
        _ if head.starts_with(b"PAR1") => What::Other("is a Parquet file, which is not read yet"),
        _ if head.starts_with(b"PK\x03\x04") => {
            What::Other("is a zip archive; unpack it or pack it as .tar.gz")
        }
        _ if begins("\"rocprofiler-sdk-tool\"") => {
            What::Other("is native rocprofv3 JSON, which is not read yet")
        }
        _ if begins("\"schema\"") => What::Other(
            "is a PyTorch execution trace (operators without times on a device), which is not read yet",
        ),
        _ if head.is_empty() => What::Other("is empty"),
        _ if matches!(text.first(), Some(b'{' | b'[')) => What::Json,
        _ => What::Other("is no trace format that is known"),
    }
}

/// One JSON stream and where it was found.
pub struct Member<'a> {
    /// Folders inside the archive, `/`-separated; empty outside archives.
    pub folder: String,
    /// File name without folders.
    pub file: String,
    /// Its text.
    pub reader: Box<dyn Read + 'a>,
}

/// Passes every JSON stream in the file to `found`, and says of the others what they are.
///
/// # Errors
/// The file cannot be opened or read at all.
pub fn visit(
    path: &Path,
    found: &mut dyn FnMut(Member<'_>),
    other: &mut dyn FnMut(String, String),
) -> Result<()> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut walk = Walk { found, other };
    walk.stream(BufReader::with_capacity(64 << 10, file), "", &name, 0);
    Ok(())
}

struct Walk<'f> {
    found: &'f mut dyn FnMut(Member<'_>),
    other: &'f mut dyn FnMut(String, String),
}

impl Walk<'_> {
    fn stream(&mut self, reader: impl Read, folder: &str, name: &str, depth: usize) {
        let label = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        if depth > DEEPEST {
            (self.other)(label, "is packed too deep".into());
            return;
        }
        let peeked = match Peeked::new(reader) {
            Ok(peeked) => peeked,
            Err(e) => {
                (self.other)(label, format!("cannot be read: {e}"));
                return;
            }
        };
        match recognise(&peeked.head) {
            What::Gzip => {
                let inner: Box<dyn Read + '_> = Box::new(flate2::read::MultiGzDecoder::new(peeked));
                self.stream(inner, folder, strip(name, &[".gz", ".tgz"]), depth + 1);
            }
            What::Zstd => match zstd::stream::read::Decoder::new(peeked) {
                Ok(decoder) => {
                    let inner: Box<dyn Read + '_> = Box::new(decoder);
                    self.stream(inner, folder, strip(name, &[".zst"]), depth + 1);
                }
                Err(e) => (self.other)(label, format!("cannot be read: {e}")),
            },
            What::Tar => self.archive(peeked, folder, strip(name, &[".tar"]), depth),
            What::Json => (self.found)(Member {
                folder: folder.to_owned(),
                file: name.to_owned(),
                reader: Box::new(peeked),
            }),
            What::Other(why) => (self.other)(label, why.to_owned()),
        }
    }

    fn archive(&mut self, reader: impl Read, folder: &str, stem: &str, depth: usize) {
        let mut archive = tar::Archive::new(reader);
        let label = join(folder, stem);
        let entries = match archive.entries() {
            Ok(entries) => entries,
            Err(e) => {
                (self.other)(label, format!("cannot be read: {e}"));
                return;
            }
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) => {
                    (self.other)(label.clone(), format!("the archive is damaged: {e}"));
                    return;
                }
            };
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = entry.path().map(|p| p.into_owned()).unwrap_or_else(|_| PathBuf::from("?"));
            let mut folders: Vec<String> = path
                .parent()
                .into_iter()
                .flat_map(Path::components)
                .filter_map(|part| match part {
                    std::path::Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
                    _ => None,
                })
                .collect();
            // `run.tar.gz` usually holds one folder called `run`.
            if folders.first().is_some_and(|first| first == stem) {
                folders.remove(0);
            }
            let inner = folders.iter().fold(label.clone(), |path, part| join(&path, part));
            let file = path.file_name().map(|n| n.to_string_lossy().into_owned());
            let file = file.unwrap_or_default();
            if file.starts_with("._") || file.is_empty() {
                continue;
            }
            let boxed: Box<dyn Read + '_> = Box::new(entry);
            self.stream(boxed, &inner, &file, depth + 1);
        }
    }
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

fn strip<'a>(name: &'a str, endings: &[&str]) -> &'a str {
    endings.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}

/// File name without the endings that say what it is packed in.
#[must_use]
pub fn stem(file: &str) -> &str {
    let mut name = file;
    for ending in [".gz", ".zst", ".json", ".pt.trace"] {
        name = name.strip_suffix(ending).unwrap_or(name);
    }
    name
}

/// Whether a file found in a folder has the name of a trace.
#[must_use]
pub fn looks_like_trace(file: &str) -> bool {
    let lower = file.to_ascii_lowercase();
    !lower.starts_with('.')
        && [".json", ".json.gz", ".json.zst", ".tar", ".tar.gz", ".tgz", ".tar.zst"]
            .iter()
            .any(|ending| lower.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_their_first_bytes() {
        assert_eq!(recognise(b"\x1f\x8b\x08"), What::Gzip);
        assert_eq!(recognise(b"\xef\xbb\xbf \n {"), What::Json);
        assert_eq!(recognise(b"[]"), What::Json);
        assert!(matches!(recognise(b"SQLite format 3\0..."), What::Other(_)));
        assert!(matches!(recognise(b"{ \"rocprofiler-sdk-tool\": ["), What::Other(_)));
        assert!(matches!(recognise(b"hello"), What::Other(_)));
        assert!(matches!(recognise(b""), What::Other(_)));
    }

    #[test]
    fn stems_lose_their_packing() {
        assert_eq!(stem("a.pt.trace.json.gz"), "a");
        assert_eq!(stem("rank-0.x.json"), "rank-0.x");
    }
}
