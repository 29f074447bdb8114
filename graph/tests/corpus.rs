//! The inputs of the fuzz targets, checked without libFuzzer: `scripts/fuzz` finds new ones.

#[path = "../../fuzz/checks/external.rs"]
mod external;
#[path = "../../fuzz/checks/onnx.rs"]
mod onnx;

use std::path::{Path, PathBuf};

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 4, "the corpus is there");
    files
}

#[test]
fn every_model_of_the_corpus_is_planned_or_refused() {
    let files: Vec<_> = ["fuzz/corpus/onnx", "attacks"].into_iter().flat_map(files).collect();
    for file in &files {
        println!("{}", file.display());
        let bytes = std::fs::read(file).unwrap();
        onnx::check(&bytes);
        // Also where it ends early or one byte is another: cheap, and what fuzzers begin with.
        for cut in (0..bytes.len()).step_by(bytes.len() / 16 + 1) {
            onnx::check(&bytes[..cut]);
            let mut flipped = bytes.clone();
            flipped[cut] ^= 0x55;
            onnx::check(&flipped);
        }
    }
}

#[test]
fn external_data_of_the_corpus_is_read_from_the_models_folder_or_refused() {
    for file in files("fuzz/corpus/external") {
        println!("{}", file.display());
        external::check(&std::fs::read(file).unwrap());
    }
}
