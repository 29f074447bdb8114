//! Many arrays by name: `.npz`, a ZIP file of `.npy` files.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;

use streampool_core::op::HostTensor;
use streampool_core::{Error, Result};
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::{Limits, read_npy, write_npy};

/// Named arrays in the file's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Npz {
    /// Names are unique.
    pub arrays: Vec<(String, HostTensor)>,
}

impl Npz {
    /// The array of this name.
    pub fn get(&self, name: &str) -> Option<&HostTensor> {
        self.arrays.iter().find(|(n, _)| n == name).map(|(_, a)| a)
    }

    /// All names, in the file's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.arrays.iter().map(|(n, _)| n.as_str())
    }
}

/// Reads a `.npz` file, or a `.npy` file as one array that has the file's stem as its name.
///
/// # Errors
/// `is_io` if the file cannot be opened, else as [`read_from`]; the text starts with the path.
pub fn read(path: impl AsRef<Path>, limits: Limits) -> Result<Npz> {
    let path = path.as_ref();
    let open = || -> Result<Npz> {
        let file = File::open(path).map_err(|e| Error::io(format!("cannot open: {e}")).caused_by(e))?;
        let mut reader = BufReader::new(file);
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("npy")) {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            return Ok(Npz { arrays: vec![(name, read_npy(&mut reader, limits.total_bytes)?)] });
        }
        read_from(reader, limits)
    };
    open().map_err(|e| e.context(path.display()))
}

/// Reads a `.npz` file.
///
/// # Errors
/// `is_invalid_model` for files that are damaged, truncated, over the limits or name an array twice; `is_unsupported` for pickled
/// (object) arrays, foreign dtypes and encryption; `is_io` if the reader fails. The text names the array.
pub fn read_from(mut from: impl Read + Seek, limits: Limits) -> Result<Npz> {
    let listed = entries(&mut from)?;
    if listed > limits.arrays as u64 {
        return Err(Error::invalid_model(format!("{listed} arrays, at most {} are read", limits.arrays)));
    }
    let mut zip = ZipArchive::new(from).map_err(broken)?;
    if zip.len() as u64 != listed {
        // The reader keeps one entry per name.
        return Err(Error::invalid_model(format!(
            "{listed} entries with {} different names: two arrays have one name, or the directory is damaged",
            zip.len()
        )));
    }
    let mut out = Npz::default();
    let mut left = limits.total_bytes;
    for i in 0..zip.len() {
        let mut entry = zip.by_index(i).map_err(broken)?;
        let member = entry.name().map_err(broken)?.into_owned();
        let Some(name) = member.strip_suffix(".npy") else {
            return Err(Error::invalid_model(format!("'{member}' is not a .npy array")));
        };
        if out.get(name).is_some() {
            return Err(Error::invalid_model(format!("two arrays are called '{name}'")));
        }
        let array = read_npy(&mut entry, left).map_err(|e| e.context(format_args!("array '{name}'")))?;
        left -= array.bytes().len();
        out.arrays.push((name.to_owned(), array));
    }
    Ok(out)
}

/// Writes a `.npz` file that `numpy.load` reads, by way of a temporary file beside it: it is whole or not there.
///
/// # Errors
/// `is_io` with the path; `is_invalid_argument` for a name given twice.
pub fn write<'a>(
    path: impl AsRef<Path>,
    arrays: impl IntoIterator<Item = (&'a str, &'a HostTensor)>,
) -> Result<()> {
    let path = path.as_ref();
    let partial = path.with_extension(format!("partial-{}", std::process::id()));
    let all = || -> Result<()> {
        let io = |e: std::io::Error| Error::io(format!("cannot write: {e}")).caused_by(e);
        let mut file = BufWriter::new(File::create(&partial).map_err(io)?);
        write_to(&mut file, arrays)?;
        file.flush().map_err(io)?;
        std::fs::rename(&partial, path).map_err(io)
    };
    all().map_err(|e| {
        let _ = std::fs::remove_file(&partial);
        e.context(path.display())
    })
}

/// Writes a `.npz` file. Entries are compressed and carry no time stamps: equal arrays give equal bytes.
///
/// # Errors
/// As [`write()`].
pub fn write_to<'a>(
    to: impl Write + Seek,
    arrays: impl IntoIterator<Item = (&'a str, &'a HostTensor)>,
) -> Result<()> {
    let mut zip = ZipWriter::new(to);
    for (name, array) in arrays {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(1))
            .last_modified_time(zip::DateTime::default())
            .large_file(array.bytes().len() >= (u32::MAX / 2) as usize);
        zip.start_file(format!("{name}.npy"), options).map_err(|e| match e {
            ZipError::InvalidArchive(text) => {
                Error::invalid_argument(format!("array '{name}' cannot be added: {text}"))
            }
            e => Error::io(format!("cannot write array '{name}': {e}")).caused_by(e),
        })?;
        write_npy(&mut zip, array).map_err(|e| e.context(format_args!("array '{name}'")))?;
    }
    zip.finish().map_err(|e| Error::io(format!("cannot write: {e}")).caused_by(e))?;
    Ok(())
}

fn broken(e: ZipError) -> Error {
    match e {
        ZipError::Io(e) => crate::header::damaged(e),
        ZipError::UnsupportedArchive(text) => Error::unsupported(format!("this kind of ZIP file: {text}")),
        e => Error::invalid_model(format!("not a whole .npz (ZIP) file: {e}")).caused_by(e),
    }
}

/// How many entries the ZIP directory's end record counts (PKWARE APPNOTE 4.3.14 to 4.3.16). Leaves the reader at its start.
fn entries(from: &mut (impl Read + Seek)) -> Result<u64> {
    let io = crate::header::damaged;
    let length = from.seek(SeekFrom::End(0)).map_err(io)?;
    // The record is 22 bytes and a comment of at most 65,535; before it may lie the 20-byte locator of its 64-bit form.
    let tail_at = length.saturating_sub(22 + 65_535 + 20);
    from.seek(SeekFrom::Start(tail_at)).map_err(io)?;
    let mut tail = Vec::new();
    from.read_to_end(&mut tail).map_err(io)?;
    let found = (0..tail.len().saturating_sub(21)).rev().find(|&i| {
        tail[i..].starts_with(b"PK\x05\x06")
            && i + 22 + u16::from_le_bytes([tail[i + 20], tail[i + 21]]) as usize == tail.len()
    });
    let Some(at) = found else {
        return Err(Error::invalid_model(
            "not a whole .npz (ZIP) file: its directory is missing; was it truncated?",
        ));
    };
    let mut count = u64::from(u16::from_le_bytes([tail[at + 10], tail[at + 11]]));
    if count == 0xffff
        && let Some(locator) = at.checked_sub(20).map(|i| &tail[i..at])
        && locator.starts_with(b"PK\x06\x07")
    {
        let mut offset = [0; 8];
        offset.copy_from_slice(&locator[8..16]);
        let mut record = [0; 40];
        from.seek(SeekFrom::Start(u64::from_le_bytes(offset))).map_err(io)?;
        from.read_exact(&mut record).map_err(io)?;
        let mut n = [0; 8];
        n.copy_from_slice(&record[32..40]);
        count = u64::from_le_bytes(n);
    }
    from.seek(SeekFrom::Start(0)).map_err(io)?;
    Ok(count)
}
