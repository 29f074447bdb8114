//! Test programs by name. **The one table** that mutants, reports and the documentation's check speak of: a check is
//! `SUITE::TEST`, for example `loom_slot::closing_fails_those_who_wait`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{self, Ended};

/// One test program of one package.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
pub(crate) struct Suite {
    /// How checks name it.
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
    pub(crate) target: Target,
    pub(crate) mode: Mode,
    /// Where its tests are written, from the workspace's root: files, or folders with all below.
    pub(crate) sources: &'static [&'static str],
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
pub(crate) enum Target {
    Lib,
    Test(&'static str),
}

/// What the program is built for.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy)]
pub(crate) enum Mode {
    Plain,
    Loom,
    Shuttle,
}

impl Mode {
    /// Each has a target folder of its own, so that none builds anew what another built.
    fn folder(self, target: &Path) -> PathBuf {
        match self {
            Mode::Plain => target.to_path_buf(),
            Mode::Loom => target.join("loom"),
            Mode::Shuttle => target.join("shuttle"),
        }
    }

    fn flags(self) -> Option<&'static str> {
        match self {
            Mode::Plain => None,
            Mode::Loom => Some("--cfg loom"),
            Mode::Shuttle => Some("--cfg shuttle"),
        }
    }
}

const fn test(
    name: &'static str,
    package: &'static str,
    target: &'static str,
    mode: Mode,
    sources: &'static [&'static str],
) -> Suite {
    Suite { name, package, target: Target::Test(target), mode, sources }
}

const CORE: &str = "streampool-core";
const SIM: &str = "streampool-sim";

/// All of them.
pub(crate) const SUITES: &[Suite] = &[
    Suite { name: "core", package: CORE, target: Target::Lib, mode: Mode::Plain, sources: &["core/src"] },
    test("pool", CORE, "pool", Mode::Plain, &["core/tests/pool.rs"]),
    test("pool_async", CORE, "pool_async", Mode::Plain, &["core/tests/pool_async.rs"]),
    test("pool_ownership", CORE, "pool_ownership", Mode::Plain, &["core/tests/pool_ownership.rs"]),
    test("fork", CORE, "fork", Mode::Plain, &["core/tests/fork.rs"]),
    test("loom_aba", CORE, "loom_aba", Mode::Loom, &["core/tests/loom_aba.rs"]),
    test("loom_binding", CORE, "loom_binding", Mode::Loom, &["core/tests/loom_binding.rs"]),
    test("loom_blocks", CORE, "loom_blocks", Mode::Loom, &["core/tests/loom_blocks.rs"]),
    test("loom_record", CORE, "loom_record", Mode::Loom, &["core/tests/loom_record.rs"]),
    test("loom_system", CORE, "loom_system", Mode::Loom, &["core/tests/loom_system.rs"]),
    test("loom_slot", CORE, "loom_slot", Mode::Loom, &["core/tests/loom_slot.rs"]),
    test("loom_timeline", CORE, "loom_timeline", Mode::Loom, &["core/tests/loom_timeline.rs"]),
    test("loom_memory", CORE, "loom_memory", Mode::Loom, &["core/tests/loom_memory.rs"]),
    test("loom_once", CORE, "loom_once", Mode::Loom, &["core/tests/loom_once.rs"]),
    test("loom_gate", CORE, "loom_gate", Mode::Loom, &["core/tests/loom_gate.rs"]),
    test("loom_turnstile", CORE, "loom_turnstile", Mode::Loom, &["core/tests/loom_turnstile.rs"]),
    test("shuttle_slot", CORE, "shuttle_slot", Mode::Shuttle, &["core/tests/shuttle_slot.rs"]),
    test("shuttle_system", CORE, "shuttle_system", Mode::Shuttle, &["core/tests/shuttle_system.rs"]),
    Suite { name: "sim", package: SIM, target: Target::Lib, mode: Mode::Plain, sources: &["sim/src"] },
    test("sim_schedule", SIM, "schedule", Mode::Plain, &["sim/tests/schedule.rs"]),
    test("sim_memory", SIM, "memory", Mode::Plain, &["sim/tests/memory.rs"]),
    test("sim_faults", SIM, "faults", Mode::Plain, &["sim/tests/faults.rs"]),
    test(
        "sim_conformance",
        SIM,
        "conformance",
        Mode::Plain,
        &["sim/tests/conformance.rs", "conformance/src"],
    ),
    Suite {
        name: "cpu",
        package: "streampool-cpu",
        target: Target::Lib,
        mode: Mode::Plain,
        sources: &["cpu/src"],
    },
    test("scenarios", "streampool", "scenarios", Mode::Plain, &["streampool/tests/scenarios"]),
    test("programs", "streampool", "programs", Mode::Plain, &["streampool/tests/programs"]),
    Suite {
        name: "design",
        package: "streampool-verify",
        target: Target::Lib,
        mode: Mode::Plain,
        sources: &["verify/src"],
    },
    test("facade_fork", "streampool", "fork", Mode::Plain, &["streampool/tests/fork.rs"]),
];

impl Suite {
    pub(crate) fn named(name: &str) -> Option<&'static Suite> {
        SUITES.iter().find(|suite| suite.name == name)
    }

    /// The names of its tests, as the source says: `#[test]` (or an item that a macro makes a test of) followed by `fn NAME`.
    /// Of nested modules only the function's own name.
    pub(crate) fn tests(&self, root: &Path) -> Vec<String> {
        let mut tests = Vec::new();
        for source in self.sources {
            for file in rust_files(&root.join(source)) {
                let text = fs::read_to_string(&file).unwrap_or_default();
                let mut marked = false;
                for line in text.lines().map(str::trim) {
                    if line == "#[test]" {
                        marked = true;
                    } else if let Some(rest) =
                        line.strip_prefix("fn ").or_else(|| line.strip_prefix("pub fn "))
                        && std::mem::take(&mut marked)
                    {
                        tests.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
                    }
                }
            }
        }
        tests
    }
}

/// `file`, or all Rust files below it if it is a folder, in order.
pub(crate) fn rust_files(file: &Path) -> Vec<PathBuf> {
    if !file.is_dir() {
        return vec![file.to_path_buf()];
    }
    let mut entries: Vec<PathBuf> =
        fs::read_dir(file).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    entries
        .iter()
        .filter(|path| path.is_dir() || path.extension().is_some_and(|e| e == "rs"))
        .flat_map(|path| rust_files(path))
        .collect()
}

/// A check: a suite and the path of one of its tests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Check {
    pub(crate) suite: &'static Suite,
    pub(crate) test: String,
}

impl Check {
    /// `SUITE::TEST`.
    ///
    /// # Errors
    /// If there is no such suite, or its source has no test of that name.
    pub(crate) fn parse(text: &str, root: &Path) -> Result<Self, String> {
        let (suite, test) = text.split_once("::").ok_or_else(|| format!("'{text}' is no SUITE::TEST"))?;
        let suite = Suite::named(suite).ok_or_else(|| {
            let names: Vec<_> = SUITES.iter().map(|s| s.name).collect();
            format!("'{text}': there is no suite '{suite}'; there are {}", names.join(", "))
        })?;
        let function = test.rsplit("::").next().unwrap_or(test);
        if !suite.tests(root).iter().any(|name| name == function) {
            return Err(format!("'{text}': {} has no test '{function}'", suite.sources.join(", ")));
        }
        Ok(Self { suite, test: test.to_owned() })
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}::{}", self.suite.name, self.test)
    }
}

/// Builds and runs suites of one source tree.
pub(crate) struct Runner {
    /// The workspace.
    pub(crate) root: PathBuf,
    /// Where it is built.
    pub(crate) target: PathBuf,
    /// What is printed.
    pub(crate) logs: PathBuf,
    /// Profile settings for fast builds instead of fast programs.
    pub(crate) quick_builds: bool,
    /// For the tests.
    pub(crate) environment: Vec<(String, String)>,
    programs: BTreeMap<&'static str, (PathBuf, PathBuf)>,
}

/// A cold build takes a few minutes on two cores, that other work may share.
const BUILD_LIMIT: Duration = Duration::from_secs(1500);

impl Runner {
    pub(crate) fn new(root: PathBuf, target: PathBuf, logs: PathBuf, quick_builds: bool) -> Self {
        Self { root, target, logs, quick_builds, environment: Vec::new(), programs: BTreeMap::new() }
    }

    /// Builds test programs, those of one package and mode at once. Seconds that it took.
    ///
    /// # Errors
    /// If cargo says no: its last lines.
    pub(crate) fn build(&mut self, suites: &[&'static Suite]) -> Result<f64, String> {
        let mut groups: BTreeMap<(&str, Mode), Vec<&'static Suite>> = BTreeMap::new();
        for suite in suites {
            let whole = !self.quick_builds && suite.mode == Mode::Plain;
            groups
                .entry((if whole { "the workspace" } else { suite.package }, suite.mode))
                .or_default()
                .push(suite);
        }
        let mut seconds = 0.0;
        for ((package, mode), suites) in groups {
            let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
            command.current_dir(&self.root).args([
                "test",
                "--no-run",
                "--message-format=json-render-diagnostics",
            ]);
            // With the workspace's features as scripts/test has them, so that its builds are used and not made anew. The Python
            // package is an extension module, which has no interpreter to link to.
            if self.quick_builds || mode != Mode::Plain {
                command.args(["--package", package]);
            } else {
                command.args(["--workspace", "--exclude", "streampool-py"]);
            }
            command.arg("--target-dir").arg(mode.folder(&self.target));
            if mode != Mode::Plain {
                command.arg("--release");
            }
            match mode.flags() {
                Some(flags) => command.env("RUSTFLAGS", flags),
                None if self.quick_builds => command.env_remove("RUSTFLAGS"),
                None => &mut command,
            };
            if self.quick_builds {
                for (key, value) in
                    [("LTO", "off"), ("DEBUG", "0"), ("CODEGEN_UNITS", "16"), ("INCREMENTAL", "true")]
                {
                    command.env(format!("CARGO_PROFILE_RELEASE_{key}"), value);
                }
                command.env("CARGO_PROFILE_DEV_DEBUG", "0");
            }
            for suite in &suites {
                match suite.target {
                    Target::Lib => command.arg("--lib"),
                    Target::Test(name) => command.args(["--test", name]),
                };
            }
            let log = self.logs.join(format!("build-{package}-{mode:?}").to_lowercase().replace(' ', "-"));
            let ended = process::run(&mut command, BUILD_LIMIT, &log)?;
            seconds += ended.seconds;
            if !ended.success() {
                return Err(format!(
                    "building the tests of {package}: {}\n{}",
                    ended.verdict(),
                    ended.tail(30)
                ));
            }
            for suite in suites {
                let program = program_of(suite, &ended.stdout)
                    .ok_or_else(|| format!("cargo built no program for {}", suite.name))?;
                self.programs.insert(suite.name, program);
            }
        }
        Ok(seconds)
    }

    /// Runs tests of a suite that was built: those whose paths are given, or all.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub(crate) fn run(&self, suite: &Suite, tests: &[&str], limit: Duration) -> Result<Ended, String> {
        let (program, folder) =
            self.programs.get(suite.name).ok_or_else(|| format!("{} was not built", suite.name))?;
        let mut command = Command::new(program);
        command.current_dir(folder).arg("--nocapture").args(tests);
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        if !tests.is_empty() {
            command.arg("--exact");
        }
        process::run(&mut command, limit, &self.logs.join(suite.name))
    }
}

/// From cargo's JSON messages: the program and the folder of its package, where tests run.
fn program_of(suite: &Suite, messages: &str) -> Option<(PathBuf, PathBuf)> {
    messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).find_map(
        |message| {
            let target = &message["target"];
            let kind = target["kind"][0].as_str()?;
            let matches = match suite.target {
                Target::Lib => kind == "lib" && message["profile"]["test"] == true,
                Target::Test(name) => kind == "test" && target["name"] == name,
            };
            let package = Path::new(message["manifest_path"].as_str()?).parent()?;
            let here = fs::read_to_string(package.join("Cargo.toml")).ok()?;
            (matches && here.contains(&format!("name = \"{}\"", suite.package)))
                .then(|| Some((PathBuf::from(message["executable"].as_str()?), package.to_path_buf())))
                .flatten()
        },
    )
}

/// What a test program said of its tests.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: Vec<String>,
}

/// Reads libtest's lines. With what tests print mixed in between, the final list of failures is what counts.
pub(crate) fn tally(stdout: &str) -> Tally {
    let mut tally = Tally::default();
    let mut listing = false;
    for line in stdout.lines() {
        if let Some(rest) = line.strip_prefix("test result: ") {
            let passed =
                rest.split_once(". ").and_then(|(_, counts)| counts.split(' ').next()?.parse::<usize>().ok());
            tally.passed += passed.unwrap_or(0);
            listing = false;
        } else if line == "failures:" {
            listing = true;
            tally.failed.clear();
        } else if listing && let Some(name) = line.strip_prefix("    ") {
            tally.failed.push(name.trim().to_owned());
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtest_is_understood() {
        let text = "running 3 tests\ntest a ... ok\ntest b ... x: 12 executions\nFAILED\n\nfailures:\n\n---- b stdout ----\n    not a name\n\n\
                    failures:\n    m::b\n\ntest result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(tally(text), Tally { passed: 2, failed: vec!["m::b".into()] });
        assert_eq!(tally("test result: ok. 13 passed; 0 failed;").passed, 13);
        assert_eq!(tally("killed"), Tally::default());
    }

    #[test]
    fn every_suite_has_tests_where_the_table_says() {
        let root = process::root();
        for suite in SUITES {
            assert!(!suite.tests(&root).is_empty(), "{} in {:?}", suite.name, suite.sources);
        }
        let error = |text| Check::parse(text, &root).unwrap_err();
        assert!(error("loom_slot::no_such_test").contains("has no test 'no_such_test'"));
        assert!(error("nowhere::a").contains("there is no suite 'nowhere'"));
        assert!(error("loom_slot").contains("SUITE::TEST"));
        let check = Check::parse("loom_slot::closing_fails_those_who_wait", &root).unwrap();
        assert_eq!(check.to_string(), "loom_slot::closing_fails_those_who_wait");
    }

    /// A new file of model checks must be in the table, or nothing would run it for the report.
    #[test]
    fn every_model_of_core_is_in_the_table() {
        let root = process::root();
        for file in rust_files(&root.join("core/tests")) {
            let name = file.file_stem().unwrap().to_string_lossy().into_owned();
            if name.starts_with("loom_") || name.starts_with("shuttle_") {
                assert!(Suite::named(&name).is_some(), "{name} is in no row of SUITES");
            }
        }
    }
}
