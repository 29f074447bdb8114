//! The inputs of the fuzz target, checked without libFuzzer: `scripts/fuzz npz` finds new ones.

#[path = "../../fuzz/checks/npz.rs"]
mod npz;

#[test]
fn every_file_of_the_corpus_is_read_or_refused() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/npz");
    let mut files = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        println!("{}", file.display());
        let bytes = std::fs::read(&file).unwrap();
        npz::check(&bytes);
        for cut in (0..bytes.len()).step_by(bytes.len() / 64 + 1) {
            npz::check(&bytes[..cut]);
            let mut flipped = bytes.clone();
            flipped[cut] ^= 0x55;
            npz::check(&flipped);
        }
        files += 1;
    }
    assert!(files > 4, "the corpus is there");
}
