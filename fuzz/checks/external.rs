//! Any location, offset and length of external data, with any file beside the model: a typed error, or bytes of a file in the model's own
//! folder, never of one outside.

use std::path::{Path, PathBuf};

use streampool_graph::{LoadOptions, Model};

/// `location \n offset \n length \n bytes of data.bin`.
pub(crate) fn check(data: &[u8]) {
    let mut parts = data.splitn(4, |byte| *byte == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    let (location, offset, length, contents) = (next(), next(), next(), next());
    let folder = folder();
    std::fs::write(folder.join("data.bin"), contents).expect("the temporary folder is there");
    let model = folder.join("model.onnx");
    std::fs::write(&model, onnx(location, offset, length)).expect("the temporary folder is there");
    match Model::load(&model, &LoadOptions::default()) {
        Ok(loaded) => {
            assert_eq!(loaded.weight_bytes(), 8);
            // What was read lies in the folder, whatever the name says.
            let location = std::str::from_utf8(location).expect("ONNX's texts are UTF-8");
            let real = folder.join(location).canonicalize().expect("it was read");
            let inside = folder.canonicalize().expect("the temporary folder is there");
            assert!(real.starts_with(inside), "{} is outside of the model's folder", real.display());
        }
        Err(error) => assert!(!error.is_internal(), "a file is never the library's fault: {error}"),
    }
}

/// A folder of this process and thread, with a file outside of it that must not be read, and links to it.
fn folder() -> PathBuf {
    let name = format!("streampool-external-{}-{:?}", std::process::id(), std::thread::current().id());
    let outside = std::env::temp_dir().join(name.replace(['(', ')'], ""));
    let folder = outside.join("model");
    if !folder.exists() {
        std::fs::create_dir_all(folder.join("below")).expect("a temporary folder can be made");
        for file in [outside.join("secret.bin"), folder.join("below/weights.bin")] {
            std::fs::write(file, [1_u8; 64]).expect("a temporary file can be written");
        }
        link(&outside.join("secret.bin"), &folder.join("link.bin"));
    }
    folder
}

#[cfg(unix)]
fn link(to: &Path, at: &Path) {
    std::os::unix::fs::symlink(to, at).expect("a link can be made");
}

#[cfg(not(unix))]
fn link(_to: &Path, _at: &Path) {}

/// `y = w` with two floats `w` in external data. Field numbers are those of onnx.proto.
fn onnx(location: &[u8], offset: &[u8], length: &[u8]) -> Vec<u8> {
    let entry = |key: &[u8], value: &[u8]| bytes(13, &[bytes(1, key), bytes(2, value)].concat());
    let mut weight =
        [int(1, 2), int(2, 1), bytes(8, b"w"), int(14, 1), entry(b"location", location)].concat();
    for (key, value) in [(b"offset", offset), (b"length", length)] {
        if !value.is_empty() {
            weight.extend(entry(key, value));
        }
    }
    let node = [bytes(1, b"w"), bytes(2, b"y"), bytes(4, b"Identity")].concat();
    let shape = bytes(2, &bytes(1, &int(1, 2)));
    let output = [bytes(1, b"y"), bytes(2, &bytes(1, &[int(1, 1), shape].concat()))].concat();
    let graph = [bytes(1, &node), bytes(2, b"g"), bytes(5, &weight), bytes(12, &output)].concat();
    [int(1, 8), bytes(7, &graph), bytes(8, &[bytes(1, b""), int(2, 17)].concat())].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn int(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}
