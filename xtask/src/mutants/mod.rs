//! `cargo xtask mutants`: plants single-line faults in a copy of the source and shows which check catches each.
//!
//! `verify/mutants.toml` lists the faults. A fault names the checks that must catch it, **every one of them**: a check that
//! is only thought to guard a line does not count. What does not build, a fault whose text is not in the source any more,
//! and a check that fails without the fault are failures, too.

mod list;
mod scratch;
mod table;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

pub(crate) use list::{LIST, Mutant, read};
use table::{Row, markdown};

use crate::process::{root, write_whole};
use crate::suite::{Check, Mode, Runner, SUITES, Suite, tally};
use scratch::Scratch;

/// `cargo xtask mutants`
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only mutants whose names contain this (several: any of them).
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// A handful: those marked `quick`.
    #[arg(long)]
    quick: bool,
    /// Run all tests of the core on each mutant, not only those named, and list which of them fail. Takes minutes a mutant.
    #[arg(long)]
    survey: bool,
    /// Only list the mutants, and see that each applies and each check exists.
    #[arg(long)]
    list: bool,
    /// Write the table there as JSON.
    #[arg(long, value_name = "FILE", default_value = "target/mutants/mutants.json")]
    json: PathBuf,
    /// Seconds that the tests of one check may take on a mutant; more counts as caught, for it hangs.
    #[arg(long, default_value_t = 60)]
    limit: u64,
}

/// Runs the task. True if all were caught.
pub(crate) fn run(options: &Options) -> Result<bool, String> {
    let root = root();
    let mutants = read(&root)?;
    let chosen: Vec<&Mutant> = mutants
        .iter()
        .filter(|m| options.only.is_empty() || options.only.iter().any(|name| m.name.contains(name.as_str())))
        .filter(|m| !options.quick || m.quick)
        .collect();
    if chosen.is_empty() {
        return Err(format!("no mutant of {LIST} is meant: {:?}", options.only));
    }
    if options.list {
        for mutant in &chosen {
            mutant.applied(&root)?;
            println!("{:45} {}:{}", mutant.name, mutant.file, mutant.line(&root)?);
        }
        println!("{} mutants, all apply; every check exists", chosen.len());
        return Ok(true);
    }
    let rows = if options.survey { survey(&chosen, options)? } else { check(&chosen, options)? };
    println!("{}", markdown(&rows));
    let caught = rows.iter().filter(|row| row.caught).count();
    let text = serde_json::json!({ "mutants": rows.len(), "caught": caught, "rows": rows });
    let text = serde_json::to_string_pretty(&text).map_err(|e| e.to_string())?;
    write_whole(&root.join(&options.json), &text)?;
    println!("{caught} of {} caught; {}", rows.len(), options.json.display());
    Ok(caught == rows.len())
}

fn bar(length: usize) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {wide_msg}").expect("a valid template");
    ProgressBar::new(length as u64).with_style(style)
}

/// A line above the bar; where there is no bar, all lines, for a log.
fn say(bar: &ProgressBar, line: &str) {
    if bar.is_hidden() { println!("{line}") } else { bar.println(line) }
}

/// The scratch copy and what builds in it.
fn prepare() -> Result<(Scratch, Runner), String> {
    let root = root();
    let place = root.join("target").join("mutants");
    let scratch = Scratch::new(&root, &place.join("source"))?;
    let mut runner = Runner::new(scratch.path().to_path_buf(), place.join("build"), place.join("logs"), true);
    // A counter-example that a fault gave is no regression.
    runner.environment.push(("PROPTEST_DISABLE_FAILURE_PERSISTENCE".into(), "1".into()));
    Ok((scratch, runner))
}

/// Runs on each mutant the checks that it names.
fn check(mutants: &[&Mutant], options: &Options) -> Result<Vec<Row>, String> {
    let (scratch, mut runner) = prepare()?;
    let bar = bar(mutants.len() + 1);
    let limit = Duration::from_secs(options.limit);

    // Without a fault all of them pass, or to fail would say nothing.
    bar.set_message("the checks without a fault");
    let checks: BTreeSet<&Check> = mutants.iter().flat_map(|m| &m.caught_by).collect();
    let suites: BTreeSet<&'static Suite> = checks.iter().map(|check| check.suite).collect();
    runner.build(&suites.iter().copied().collect::<Vec<_>>())?;
    for suite in &suites {
        let tests: Vec<&str> = checks.iter().filter(|c| c.suite == *suite).map(|c| c.test.as_str()).collect();
        let ended = runner.run(suite, &tests, limit * tests.len() as u32)?;
        let passed = tally(&ended.stdout).passed;
        if !ended.success() || passed != tests.len() {
            return Err(format!(
                "without any fault, {passed} of the {} checks of {} that mutants name pass ({}): {}\n{}",
                tests.len(),
                suite.name,
                ended.verdict(),
                tests.join(", "),
                ended.tail(30)
            ));
        }
    }
    bar.inc(1);

    let verdict = |row: &Row| {
        (!row.caught || bar.is_hidden())
            .then(|| format!("{:5.1} s  {}: {}", row.seconds, row.name, row.verdict()))
    };
    each(mutants, &scratch, &bar, verdict, |mutant, row| {
        for check in &mutant.caught_by {
            // The cheap builds come first in the list; each is built when it is needed.
            match runner.build(&[check.suite]) {
                Ok(_) => {
                    let ended = runner.run(check.suite, &[&check.test], limit)?;
                    let how = if ended.timed_out { "hangs" } else { "fails" };
                    row.add(check, (!ended.success()).then_some(how));
                }
                Err(e) => row.broken(&e),
            }
        }
        Ok(())
    })
}

/// Runs on each mutant everything of the core, to find which checks catch it.
fn survey(mutants: &[&Mutant], options: &Options) -> Result<Vec<Row>, String> {
    let (scratch, mut runner) = prepare()?;
    let bar = bar(mutants.len());
    let limit = Duration::from_secs(options.limit);
    let of_core: Vec<&'static Suite> =
        SUITES.iter().filter(|s| s.package == "streampool-core" && s.mode != Mode::Shuttle).collect();
    let noticed_by = |row: &Row| {
        let found: Vec<_> = row.checks.iter().map(|(check, _)| check.as_str()).collect();
        Some(format!("{}: {}", row.name, if found.is_empty() { row.verdict() } else { found.join(" ") }))
    };
    each(mutants, &scratch, &bar, noticed_by, |_, row| {
        if let Err(e) = runner.build(&of_core) {
            row.broken(&e);
            return Ok(());
        }
        for suite in &of_core {
            let ended = runner.run(suite, &[], limit)?;
            if ended.success() {
                continue;
            }
            let failed = tally(&ended.stdout).failed;
            let how = if ended.timed_out { "hangs" } else { "fails" };
            if failed.is_empty() {
                row.checks.push((format!("{}::({})", suite.name, ended.verdict()), Some(how.into())));
            }
            for test in failed {
                row.add(&Check { suite, test }, Some(how));
            }
        }
        Ok(())
    })
}

/// Plants each fault in turn, has `test` fill its row, takes the fault out again, and says what `line` says of the row.
fn each(
    mutants: &[&Mutant],
    scratch: &Scratch,
    bar: &ProgressBar,
    line: impl Fn(&Row) -> Option<String>,
    mut test: impl FnMut(&Mutant, &mut Row) -> Result<(), String>,
) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for mutant in mutants {
        bar.set_message(mutant.name.clone());
        let begin = Instant::now();
        let mut row = Row::new(mutant, mutant.line(&root())?);
        scratch.plant(mutant)?;
        test(mutant, &mut row)?;
        scratch.restore(mutant)?;
        row.seconds = begin.elapsed().as_secs_f64();
        row.settle();
        if let Some(line) = line(&row) {
            say(bar, &line);
        }
        rows.push(row);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Contract: at least 40 faults over these parts of the core, each of which still applies, caught by checks that exist.
    #[test]
    fn the_list_covers_the_core_and_fits_the_source() {
        let root = root();
        let mutants = read(&root).unwrap();
        assert!(mutants.len() >= 40, "{}", mutants.len());
        let names: BTreeSet<_> = mutants.iter().map(|m| &m.name).collect();
        assert_eq!(names.len(), mutants.len(), "a name is used twice");
        for part in ["slot/", "lease.rs", "timeline/", "hazard.rs", "memory/", "once.rs", "gate.rs"] {
            let of_part = mutants.iter().filter(|m| m.file.starts_with(&format!("core/src/{part}"))).count();
            assert!(of_part >= 2, "{of_part} mutants of {part}");
        }
        for mutant in &mutants {
            let (before, after) = mutant.applied(&root).unwrap();
            assert_ne!(before, after);
            assert!(!mutant.caught_by.is_empty(), "{} is caught by nothing", mutant.name);
        }
        let quick = mutants.iter().filter(|m| m.quick).count();
        assert!((3..=8).contains(&quick), "a handful is quick, not {quick}");
    }
}
