//! The inputs of the fuzz target, checked without libFuzzer: `scripts/fuzz cli` finds new ones.

#[path = "../../fuzz/checks/cli.rs"]
mod cli;

#[test]
fn every_command_line_of_the_corpus_is_understood_or_refused() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/cli");
    let mut files = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        println!("{}", file.display());
        cli::check(&std::fs::read(&file).unwrap());
        files += 1;
    }
    assert!(files > 4, "the corpus is there");
}
