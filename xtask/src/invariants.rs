//! Keeps docs/verification.md in step with the code: what it says of each invariant is there, and what is there it says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::mutants;
use crate::process::root;
use crate::suite::{Check, rust_files};

const PAGE: &str = "docs/verification.md";
/// A row whose invariant has no code yet says so in these words.
const NOT_BUILT: &str = "not built yet";

/// A row of the page's table.
struct Row {
    kept_by: String,
    checks: Vec<String>,
    mutants: Vec<String>,
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// `| INV-n | promise | kept by | checks | mutants |`
fn table(page: &str) -> BTreeMap<String, Row> {
    let rows = page.lines().filter(|line| line.starts_with("| INV-")).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{PAGE}: {line}");
        let row = Row { kept_by: cells[2].into(), checks: quoted(cells[3]), mutants: quoted(cells[4]) };
        (cells[0].trim_start_matches('|').trim().to_owned(), row)
    });
    rows.collect()
}

/// Every `INV-n` that some Rust file outside of xtask names.
fn named_in_code(root: &Path) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for folder in ["core", "cpu", "sim", "graph", "streampool", "conformance", "cli", "npz"] {
        for file in rust_files(&root.join(folder)) {
            let source = fs::read_to_string(&file).unwrap();
            for (at, _) in source.match_indices("INV-") {
                let digits: String = source[at + 4..].chars().take_while(char::is_ascii_digit).collect();
                if !digits.is_empty() {
                    names.insert(format!("INV-{digits}"), file.display().to_string());
                }
            }
        }
    }
    names
}

#[test]
fn the_page_and_the_code_name_the_same() {
    let root = root();
    let page = fs::read_to_string(root.join(PAGE)).unwrap();
    let table = table(&page);
    for n in 1..=14 {
        assert!(table.contains_key(&format!("INV-{n}")), "INV-{n} is not in {PAGE}");
    }
    for (name, file) in named_in_code(&root) {
        let row = table.get(&name).unwrap_or_else(|| panic!("{name} is named in {file}, not in {PAGE}"));
        assert!(
            !row.checks.is_empty(),
            "{name} is named in {file}, and {PAGE} names no check that guards it"
        );
    }
    let mutants = mutants::read(&root).unwrap();
    let mut told = BTreeSet::new();
    for (name, row) in &table {
        for file in quoted(&row.kept_by).iter().filter(|text| text.contains('/')) {
            assert!(root.join(file).exists(), "{PAGE}, {name}: there is no {file}");
        }
        for check in &row.checks {
            Check::parse(check, &root).unwrap_or_else(|e| panic!("{PAGE}, {name}: {e}"));
        }
        if !row.kept_by.contains(NOT_BUILT) {
            assert!(!quoted(&row.kept_by).is_empty(), "{PAGE}, {name}: which code keeps it?");
            assert!(!row.checks.is_empty(), "{PAGE}, {name}: no check");
        }
        for mutant in &row.mutants {
            let planted = mutants.iter().find(|m| m.name == *mutant);
            let planted = planted.unwrap_or_else(|| panic!("{PAGE}, {name}: there is no mutant {mutant}"));
            assert_eq!(planted.breaks, *name, "{mutant}");
            assert!(told.insert(mutant.clone()), "{PAGE}: {mutant} twice");
        }
    }
    for mutant in &mutants {
        assert!(told.contains(&mutant.name), "{} is not in {PAGE}, row {}", mutant.name, mutant.breaks);
        // What catches a fault that breaks an invariant guards it.
        let guards =
            mutant.caught_by.iter().any(|check| table[&mutant.breaks].checks.contains(&check.to_string()));
        assert!(guards, "{PAGE}, {}: none of the checks that catch {} is named", mutant.breaks, mutant.name);
    }
}
