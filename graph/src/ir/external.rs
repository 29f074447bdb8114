//! Weights beside the model: `external_data`, mapped, never outside the model's folder.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use memmap2::Mmap;
use streampool_core::{Error, Result};

use crate::onnx::StringStringEntryProto;

/// The folder that external data may come from, with the files mapped so far.
#[derive(Debug, Default)]
pub(crate) struct DataFolder {
    root: Option<PathBuf>,
    files: Mutex<HashMap<PathBuf, Bytes>>,
    /// Every file of the model that is mapped.
    maps: Mutex<Vec<Arc<Mmap>>>,
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
        self.maps.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(map.clone());
        Ok(Bytes::from_owner(Mapped(map)))
    }

    /// Tells the system that the files' pages are not needed now. They are read again when they are touched.
    pub(crate) fn release_pages(&self) {
        #[cfg(unix)]
        for map in self.maps.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
            // SAFETY: the map is a read-only view of a file: pages that are dropped are read from the file again, with the same
            // contents. If the system refuses, the pages stay.
            let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
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
        let mut files = self.files.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
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
