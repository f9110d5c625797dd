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

/// Where a file is written until it is whole, and what becomes of it then.
#[derive(Debug)]
pub struct Target {
    /// To be written to.
    pub written: PathBuf,
    /// What it is renamed to when it is whole; nothing for pipes and devices, which are written to
    /// as they are.
    renamed: Option<PathBuf>,
}

impl Target {
    /// The place to write what is to stand at a path; links are followed.
    ///
    /// # Errors
    /// No file can be written there; see [`check_target`].
    pub fn of(path: &Path) -> Result<Self> {
        check_target(path)?;
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if path.exists() && !path.is_file() {
            return Ok(Self { written: path, renamed: None });
        }
        // Of this process, so that neither another one nor a user's file is in the way.
        let mut name: OsString = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.partial", std::process::id()));
        Ok(Self { written: path.with_file_name(name), renamed: Some(path) })
    }

    /// Puts the file into its place, or takes it away where it could not be written.
    ///
    /// # Errors
    /// That of writing, or the file cannot be renamed.
    pub fn finish(self, written: Result<()>) -> Result<()> {
        let Some(path) = self.renamed else { return written };
        let written = written.and_then(|()| {
            std::fs::rename(&self.written, &path).map_err(|e| Error::io("write", &path, e))
        });
        if written.is_err() {
            // The first error is the one that matters.
            let _ = std::fs::remove_file(&self.written);
        }
        written
    }
}

/// Writes a file under a temporary name and renames it, so that nobody ever sees half a file. What
/// was there stays if that fails, and nothing else is left behind. Pipes and devices are written to
/// as they are.
///
/// # Errors
/// The path is a directory or in one that is not there, or the file cannot be written.
pub fn write_file(path: &Path, contents: &[u8]) -> Result<()> {
    let target = Target::of(path)?;
    let written =
        std::fs::write(&target.written, contents).map_err(|e| Error::io("write", path, e));
    target.finish(written)
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

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_devices_stay_devices() {
        use std::os::unix::fs::{FileTypeExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::write(&real, b"old").unwrap();
        symlink(&real, &link).unwrap();
        write_file(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&real).unwrap(), b"new");
        assert!(link.is_symlink());
        // Nobody else's file is taken for ours.
        let others = folder.path().join("real.partial");
        std::fs::write(&others, b"kept").unwrap();
        write_file(&real, b"newer").unwrap();
        assert_eq!(std::fs::read(&others).unwrap(), b"kept");
        write_file(Path::new("/dev/null"), b"gone").unwrap();
        assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    }
}
