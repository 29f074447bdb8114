//! Any location, offset and length of external data, with any file beside the model: a typed error, or bytes of a file in the model's own
//! folder, never of one outside.

#[path = "../../cli/src/message.rs"]
mod message;

use std::path::{Path, PathBuf};

use message::Message;
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
    let new = Message::default;
    let mut weight = new().int(1, 2).int(2, 1).str(8, "w").int(14, 1);
    for (key, value) in [("location", location), ("offset", offset), ("length", length)] {
        if key == "location" || !value.is_empty() {
            weight = weight.message(13, &new().str(1, key).bytes(2, value));
        }
    }
    let node = new().str(1, "w").str(2, "y").str(4, "Identity");
    let shape = new().message(1, &new().int(1, 2));
    let output = new().str(1, "y").message(2, &new().message(1, &new().int(1, 1).message(2, &shape)));
    let graph = new().message(1, &node).str(2, "g").message(5, &weight).message(12, &output);
    new().int(1, 8).message(7, &graph).message(8, &new().str(1, "").int(2, 17)).0
}
