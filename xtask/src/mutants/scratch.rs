//! A copy of the source in which faults are planted.

use std::fs;
use std::path::{Path, PathBuf};

use super::Mutant;

/// The copy. Kept from run to run, so that only what changed is built anew.
pub(super) struct Scratch {
    from: PathBuf,
    to: PathBuf,
}

/// What is no source: not copied, not looked into.
const LEFT_OUT: [&str; 6] = ["target", ".git", ".cache", ".venv", "__pycache__", "node_modules"];

impl Scratch {
    /// Makes the copy equal to the source. Files that are the same are not written, or cargo would build them anew.
    pub(super) fn new(from: &Path, to: &Path) -> Result<Self, String> {
        sync(from, to).map_err(|e| format!("copying {} to {}: {e}", from.display(), to.display()))?;
        Ok(Self { from: from.to_path_buf(), to: to.to_path_buf() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.to
    }

    /// Puts the fault into the copy.
    pub(super) fn plant(&self, mutant: &Mutant) -> Result<(), String> {
        let (_, mutated) = mutant.applied(&self.from)?;
        self.write(mutant, &mutated)
    }

    /// Takes it out again.
    pub(super) fn restore(&self, mutant: &Mutant) -> Result<(), String> {
        let (original, _) = mutant.applied(&self.from)?;
        self.write(mutant, &original)
    }

    fn write(&self, mutant: &Mutant, text: &str) -> Result<(), String> {
        fs::write(self.to.join(&mutant.file), text).map_err(|e| format!("{}: {e}", mutant.file))
    }
}

fn sync(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        let source = from.join(entry.file_name());
        // Also where a file has become a folder or the other way round.
        if entry.file_type()?.is_dir() && !source.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else if !entry.file_type()?.is_dir() && !source.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (name, source) = (entry.file_name(), entry.path());
        if LEFT_OUT.iter().any(|left_out| name == *left_out) {
            continue;
        }
        let copy = to.join(&name);
        if source.is_dir() {
            sync(&source, &copy)?;
        } else if source.is_file() && fs::read(&copy).ok() != Some(fs::read(&source)?) {
            fs::copy(&source, &copy)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_follows_its_source_and_touches_nothing_that_is_the_same() {
        let place = std::env::temp_dir().join(format!("streampool-scratch-{}", std::process::id()));
        let (from, to) = (place.join("from"), place.join("to"));
        for folder in ["a/b", "target", "gone"] {
            fs::create_dir_all(from.join(folder)).unwrap();
        }
        for (file, text) in [("a/b/x", "1"), ("a/y", "2"), ("target/z", "3"), ("gone/w", "4")] {
            fs::write(from.join(file), text).unwrap();
        }
        Scratch::new(&from, &to).unwrap();
        let read = |file: &str| fs::read_to_string(to.join(file)).ok();
        assert_eq!(
            (read("a/b/x"), read("gone/w"), read("target/z")),
            (Some("1".into()), Some("4".into()), None)
        );
        let modified = || fs::metadata(to.join("a/y")).unwrap().modified().unwrap();
        let before = modified();
        fs::write(to.join("a/b/x"), "a fault").unwrap();
        fs::remove_dir_all(from.join("gone")).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        Scratch::new(&from, &to).unwrap();
        assert_eq!((read("a/b/x"), read("gone/w")), (Some("1".into()), None));
        assert_eq!(modified(), before, "written though it was the same");
        fs::remove_dir_all(&place).unwrap();
    }
}
