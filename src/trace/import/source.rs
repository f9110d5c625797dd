//! From a path to streams of text: plain files, compressed files, and archives of ranks.
//!
//! What a file is, is decided by its first bytes and not by its name. Nothing is unpacked to disk
//! or held as a whole.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use super::recognise::{Format, What, recognise};
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

/// One trace and where it was found.
pub struct Member<'a> {
    /// What it is.
    pub format: Format,
    /// Its path, where it is a file of its own and not packed.
    pub path: Option<&'a Path>,
    /// Folders inside the archive, `/`-separated; empty outside archives.
    pub folder: String,
    /// File name without folders.
    pub file: String,
    /// Its bytes.
    pub reader: Box<dyn Read + 'a>,
}

/// Passes every trace in the file to `found`, and says of the others what they are.
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
    let mut walk = Walk { found, other, path };
    walk.stream(BufReader::with_capacity(64 << 10, file), "", &name, 0);
    Ok(())
}

struct Walk<'f> {
    found: &'f mut dyn FnMut(Member<'_>),
    other: &'f mut dyn FnMut(String, String),
    path: &'f Path,
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
            What::Trace(format) => (self.found)(Member {
                format,
                path: (depth == 0).then_some(self.path),
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
    for ending in [".gz", ".zst", ".json", ".csv", ".et", ".sqlite", ".db", ".parquet", ".pt.trace"]
    {
        name = name.strip_suffix(ending).unwrap_or(name);
    }
    name
}

/// Files that profilers write beside their traces.
const BESIDE: [&str; 6] = [
    "analysis.db",
    "communication.json",
    "communication_matrix.json",
    "config.json",
    "profiler_info",
    "profiler_metadata.json",
];

/// Whether a file found in a folder has the name of a trace.
#[must_use]
pub fn looks_like_trace(file: &str) -> bool {
    let lower = file.to_ascii_lowercase();
    if lower.starts_with('.') || BESIDE.iter().any(|name| lower.starts_with(name)) {
        return false;
    }
    let name = [".gz", ".zst"].iter().find_map(|packed| lower.strip_suffix(packed));
    let name = name.unwrap_or(&lower);
    [".json", ".tar", ".tgz", ".et", ".sqlite", ".db", ".parquet", "_trace.csv"]
        .iter()
        .any(|ending| name.ends_with(ending))
        || name == "kernel_details.csv"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stems_lose_their_packing() {
        assert_eq!(stem("a.pt.trace.json.gz"), "a");
        assert_eq!(stem("rank-0.x.json"), "rank-0.x");
    }
}
