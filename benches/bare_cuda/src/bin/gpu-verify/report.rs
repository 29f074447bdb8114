//! The table.

use serde_json::{Value, json};

use crate::THREADS;

/// Whether `GPU_VERIFY_MATCH` has nothing against it.
pub(crate) fn wanted(name: &str) -> bool {
    std::env::var("GPU_VERIFY_MATCH").map_or(true, |part| name.contains(&part))
}

/// The lines of the table, and the same for machines.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) lines: Vec<String>,
    pub(crate) json: Vec<Value>,
    pub(crate) failed: bool,
}

impl Report {
    /// Runs a check, unless `GPU_VERIFY_MATCH` names others.
    pub(crate) fn run(&mut self, name: &str, check: impl FnOnce() -> Result<String, String>) {
        if wanted(name) {
            self.check(name, check());
        }
    }

    pub(crate) fn check(&mut self, name: &str, result: Result<String, String>) {
        let (state, text) = match &result {
            Ok(text) => ("passed", text.clone()),
            Err(text) => ("FAILED", text.clone()),
        };
        self.failed |= result.is_err();
        println!("{state} {name}: {text}");
        self.lines.push(format!("{state:8} {name}: {}", text.lines().next().unwrap_or_default()));
        self.json.push(json!({"check": name, "passed": result.is_ok(), "text": text}));
    }

    /// A row of rates, several a number of threads: medians, and beside them by how much the rounds differ at most.
    pub(crate) fn rates(&mut self, name: &str, mut rates: Vec<Vec<f64>>) {
        rates.iter_mut().for_each(|rounds| rounds.sort_by(f64::total_cmp));
        let medians: Vec<f64> = rates.iter().map(|rounds| rounds[rounds.len() / 2]).collect();
        let spread = rates
            .iter()
            .map(|rounds| (rounds[rounds.len() - 1] - rounds[0]) / rounds[rounds.len() / 2])
            .fold(0.0, f64::max);
        let text: Vec<String> = medians.iter().map(|r| format!("{r:>9.0}")).collect();
        let line = format!("{name:44} {}  +-{:.0} %", text.join(" "), spread * 50.0);
        println!("{line}");
        self.lines.push(line);
        self.json
            .push(json!({"rate": name, "threads": THREADS, "calls_per_second": medians, "rounds": rates}));
    }
}
