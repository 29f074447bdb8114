//! Weights beside the model: `external_data`, mapped, never outside the model's folder.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use memmap2::Mmap;
use streampool_core::op::Pages;
use streampool_core::{Error, Result};

use crate::onnx::StringStringEntryProto;

/// The folder that external data may come from, with the files mapped so far.
#[derive(Debug, Default)]
pub(crate) struct DataFolder {
    root: Option<PathBuf>,
    files: Mutex<HashMap<PathBuf, Bytes>>,
    maps: Arc<Maps>,
}

/// Every file of the model that is mapped.
#[derive(Debug, Default)]
struct Maps(Mutex<Vec<Arc<Mmap>>>);

impl Maps {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Mmap>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages for Maps {
    fn release(&self, data: &[u8]) {
        #[cfg(unix)]
        for map in self.lock().iter() {
            let (all, part) = (map.as_ptr_range(), data.as_ptr_range());
            if all.start <= part.start && part.end <= all.end {
                let offset = part.start.addr() - all.start.addr();
                // SAFETY: the map is a read-only view of a file: pages that are dropped are read from the file again, with the same
                // contents, also those that neighbours share. If the system refuses, the pages stay.
                let _ = unsafe {
                    map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, data.len())
                };
            }
        }
        #[cfg(not(unix))]
        let _ = data;
    }
}

/// Lets `Bytes` share a mapping with the folder that made it.
struct Mapped(Arc<Mmap>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Maps a whole file for reading.
fn map_file(path: &Path) -> Result<Option<Arc<Mmap>>> {
    let cannot = |e: std::io::Error| Error::io(format!("cannot read '{}': {e}", path.display())).caused_by(e);
    let file = File::open(path).map_err(cannot)?;
    let meta = file.metadata().map_err(cannot)?;
    if !meta.is_file() {
        return Err(Error::io(format!("cannot read '{}': it is not a file", path.display())));
    }
    if meta.len() == 0 {
        return Ok(None);
    }
    // SAFETY: the map is private and read only. Like every mapped reader we rely on nobody truncating the file while it is in
    // use; the documentation of `Model::load` says so, and `Model::from_bytes` is the way around it.
    let map = unsafe { Mmap::map(&file) }.map_err(cannot)?;
    Ok(Some(Arc::new(map)))
}

impl DataFolder {
    /// For models from memory: any external data is refused.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// The folder of the model file at `path`.
    pub(crate) fn of(path: &Path) -> Self {
        let root = match path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_path_buf(),
            _ => PathBuf::from("."),
        };
        Self { root: Some(root), ..Self::default() }
    }

    /// Maps a whole file for reading.
    pub(crate) fn map(&self, path: &Path) -> Result<Bytes> {
        let Some(map) = map_file(path)? else {
            return Ok(Bytes::new());
        };
        self.maps.lock().push(map.clone());
        Ok(Bytes::from_owner(Mapped(map)))
    }

    /// Lets go of the pages of tensors in the mapped files.
    pub(crate) fn pages(&self) -> Arc<dyn Pages> {
        self.maps.clone()
    }

    /// Tells the system that the files' pages are not needed now. They are read again when they are touched.
    pub(crate) fn release_pages(&self) {
        let maps = self.maps.lock().clone();
        for map in maps {
            self.maps.release(&map);
        }
    }

    /// The bytes that `entries` (`location`, `offset`, `length`) point to; `wanted` many if no length is given.
    pub(crate) fn read(&self, entries: &[StringStringEntryProto], wanted: usize) -> Result<Bytes> {
        let find = |key: &str| entries.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let number = |key: &str| -> Result<Option<usize>> {
            find(key)
                .map(|v| {
                    v.parse::<usize>().map_err(|_| {
                        Error::invalid_model(format!(
                            "external data has the {key} '{v}', which is not a size"
                        ))
                    })
                })
                .transpose()
        };
        let location = find("location")
            .ok_or_else(|| Error::invalid_model("external data without a 'location' (which file)"))?;
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(wanted);
        if length != wanted {
            return Err(Error::invalid_model(format!(
                "external data of '{location}' has the length {length}, the tensor's type needs {wanted} bytes"
            )));
        }
        let file = self.open(location)?;
        let end = offset.checked_add(length).filter(|&end| end <= file.len()).ok_or_else(|| {
            Error::invalid_model(format!(
                "external data wants bytes {offset}..{offset}+{length} of '{location}', the file has {}",
                file.len()
            ))
        })?;
        Ok(file.slice(offset..end))
    }

    fn open(&self, location: &str) -> Result<Bytes> {
        let Some(root) = &self.root else {
            return Err(Error::invalid_model(format!(
                "external data in '{location}', but a model given as bytes has no folder; load it from its file"
            )));
        };
        let refuse = |why: &str| {
            Error::invalid_model(format!(
                "external data at '{location}' is refused: {why}; it must lie in the model's folder"
            ))
        };
        let relative = Path::new(location);
        if location.contains('\\') || location.contains('\0') {
            return Err(refuse("the path has a backslash or a null character"));
        }
        for part in relative.components() {
            match part {
                Component::Normal(_) | Component::CurDir => {}
                Component::ParentDir => return Err(refuse("the path goes up by '..'")),
                Component::RootDir | Component::Prefix(_) => return Err(refuse("the path is absolute")),
            }
        }
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = files.get(relative) {
            return Ok(bytes.clone());
        }
        let cannot = |e: std::io::Error| {
            Error::invalid_model(format!("external data file '{location}' cannot be opened: {e}"))
                .caused_by(e)
        };
        // Links are followed by the system, so what counts is where the path really ends.
        let folder = root.canonicalize().map_err(cannot)?;
        let path = folder.join(relative).canonicalize().map_err(cannot)?;
        if !path.starts_with(&folder) {
            return Err(refuse("it is a link that leads out of the folder"));
        }
        let bytes = self.map(&path).map_err(|e| Error::invalid_model(e.to_string()))?;
        files.insert(relative.to_path_buf(), bytes.clone());
        Ok(bytes)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Resident kibibytes of the mapping that holds `at`, as the system counts them.
    fn resident(at: *const u8) -> usize {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let word = line.split(' ').next().unwrap();
            if let Some((from, to)) = word.split_once('-') {
                let address = |s| usize::from_str_radix(s, 16).unwrap();
                inside = (address(from)..address(to)).contains(&at.addr());
            } else if inside && word == "Rss:" {
                return line.split_whitespace().nth(1).unwrap().parse().unwrap();
            }
        }
        panic!("{at:p} is not mapped");
    }

    #[test]
    fn released_pages_leave_memory_and_read_the_same_again() {
        let path = std::env::temp_dir().join(format!("streampool-pages-{}", std::process::id()));
        let written: Vec<u8> =
            (0..4 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::write(&path, &written).unwrap();
        let folder = DataFolder::of(&path);
        let bytes = folder.map(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(bytes, written);
        let before = resident(bytes.as_ptr());
        assert!(before >= 4096, "{before} KiB");
        let middle = bytes.slice(1 << 20..3 << 20);
        folder.pages().release(&middle);
        let after = resident(bytes.as_ptr());
        assert!(after <= before - 2048, "{before} KiB, then {after} KiB");
        folder.pages().release(&written);
        assert_eq!(resident(bytes.as_ptr()), after, "bytes of another owner are left alone");
        assert_eq!(bytes, written);
    }
}
