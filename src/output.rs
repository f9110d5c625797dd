//! Files that are written whole or not at all.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Refuses a path at which no file can be written: a directory, or one in a folder that is not
/// there. To be asked before long work, so that its result is not lost.
///
/// # Errors
/// It is such a path.
pub fn check_target(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::Missing(format!(
            "{} is a directory, and a file is to be written\n  help: name a file in it",
            path.display()
        )));
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => {
            Err(Error::Missing(format!("there is no directory {}", parent.display())))
        }
        _ => Ok(()),
    }
}

/// Name under which a file is written until it is whole.
#[must_use]
pub fn partial(path: &Path) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

/// Writes a file under a temporary name and renames it, so that nobody ever sees half a file. What
/// was there stays if that fails, and nothing else is left behind.
///
/// # Errors
/// The path is a directory or in one that is not there, or the file cannot be written.
pub fn write_file(path: &Path, contents: &[u8]) -> Result<()> {
    check_target(path)?;
    let partial = partial(path);
    let written = std::fs::write(&partial, contents)
        .map_err(|e| Error::io("write", path, e))
        .and_then(|()| std::fs::rename(&partial, path).map_err(|e| Error::io("write", path, e)));
    if written.is_err() {
        // The first error is the one that matters.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_behind_where_a_file_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().join("taken");
        std::fs::create_dir(&here).unwrap();
        let message = write_file(&here, b"x").unwrap_err().to_string();
        assert!(message.contains("taken is a directory"), "{message}");
        let message = write_file(&folder.path().join("no/file"), b"x").unwrap_err().to_string();
        assert!(message.contains("there is no directory"), "{message}");
        let names = || std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names(), 1);
        write_file(&folder.path().join("file"), b"one").unwrap();
        write_file(&folder.path().join("file"), b"two").unwrap();
        assert_eq!(std::fs::read(folder.path().join("file")).unwrap(), b"two");
        assert_eq!(names(), 2);
    }
}
