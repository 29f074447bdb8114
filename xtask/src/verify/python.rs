//! Section A: the scenarios, run by the Python package's own `python -m streampool verify --json -`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::report::{Row, Status};
use crate::process::{self, root};

/// The rows of the contract, in order.
pub(crate) const ROWS: [&str; 24] = [
    "Fork Safety",
    "Simple Parallel",
    "Extended Stress",
    "Thread Boundary",
    "Stream Assignment",
    "Benchmark (nn.Linear)",
    "Real Models",
    "Pool Wraparound",
    "Thread Churn",
    "Cross-Stream Tensor",
    "Linalg Ops",
    "Large Workload Efficiency",
    "Max Streams Stress (31t)",
    "OOM Recovery",
    "Graph Compilation Stress",
    "Round Robin",
    "Reuse Churn",
    "Sync Active",
    "Static Cleanup",
    "Static Atexit",
    "Static Thread Cleanup",
    "Fork Active Threads",
    "Fork Parent Continues",
    "Fork MP Spawn",
];

/// The Python whose package is tested: `STREAMPOOL_PYTHON`, the checkout's virtual environment, or the path's.
pub(crate) fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("STREAMPOOL_PYTHON") {
        return named.into();
    }
    let inside = if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" };
    let folders = [".cache/venv-python", "python/.venv", ".venv"];
    let found = folders.iter().map(|folder| root().join(folder).join(inside)).find(|path| path.exists());
    found.unwrap_or_else(|| if cfg!(windows) { "python".into() } else { "python3".into() })
}

fn all(status: Status, figure: &str) -> Vec<Row> {
    ROWS.iter().map(|name| Row::new('A', *name, status, figure)).collect()
}

/// Runs the section on `device`, or on all that the package finds.
pub(crate) fn run(quick: bool, device: Option<&str>, logs: &Path) -> Vec<Row> {
    let python = program();
    let way_out = "install it with: pip install ./python (STREAMPOOL_PYTHON names another interpreter)";
    let probe = Command::new(&python)
        .args(["-c", "import importlib.util as u, sys; sys.exit(u.find_spec('streampool.__main__') is None)"])
        .current_dir(logs)
        .stdin(std::process::Stdio::null())
        .output();
    match probe {
        Err(e) => {
            return all(Status::NotRun, &format!("{} cannot be started: {e}; {way_out}", python.display()));
        }
        Ok(output) if !output.status.success() => {
            return all(
                Status::NotRun,
                &format!("the Python package is not installed for {}; {way_out}", python.display()),
            );
        }
        Ok(_) => {}
    }
    let mut command = Command::new(&python);
    command.args(["-m", "streampool", "verify"]).current_dir(logs);
    if quick {
        let help =
            Command::new(&python).args(["-m", "streampool", "verify", "--help"]).current_dir(logs).output();
        // An older package has no short form: then all of it runs.
        if help.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("--quick")) {
            command.arg("--quick");
        }
    }
    command.args(["--json", "-"]);
    if let Some(device) = device {
        command.args(["--device", device]);
    }
    match process::run(&mut command, Duration::from_secs(1800), &logs.join("python")) {
        Ok(ended) => rows_of(&ended.stdout, ended.success()).unwrap_or_else(|e| {
            with_detail(all(Status::Failed, &format!("{}: {e}", ended.verdict())), &ended.tail(40))
        }),
        Err(e) => all(Status::Failed, &e),
    }
}

fn with_detail(mut rows: Vec<Row>, detail: &str) -> Vec<Row> {
    if let Some(row) = rows.first_mut() {
        row.detail = Some(detail.to_owned());
    }
    rows
}

/// From `{"rows": [{"name", "status", "figure", "seconds", "device"?, "detail"?}]}`. Rows of several devices become one each. A row of
/// the contract that is not there has failed: nothing says that it ran.
fn rows_of(json: &str, success: bool) -> Result<Vec<Row>, String> {
    let begin = json.find('{').ok_or("it printed no JSON")?;
    let value: serde_json::Value =
        serde_json::from_str(&json[begin..]).map_err(|e| format!("its JSON: {e}"))?;
    let listed = value["rows"].as_array().ok_or("its JSON has no rows")?;
    let mut rows = Vec::new();
    for row in listed {
        let text = |key: &str| row[key].as_str().map(str::to_owned);
        let name = text("name").ok_or("a row has no name")?;
        let status = text("status")
            .and_then(|s| Status::parse(&s))
            .ok_or(format!("row '{name}' has no known status"))?;
        let shown = text("device").map_or(name.clone(), |device| format!("{name} [{device}]"));
        let mut out = Row::new('A', shown, status, text("figure").unwrap_or_default());
        out.seconds = row["seconds"].as_f64().unwrap_or(0.0);
        out.detail = text("detail").filter(|_| status == Status::Failed);
        rows.push(out);
    }
    for name in ROWS {
        if !listed.iter().any(|row| row["name"] == name) {
            rows.push(Row::new('A', name, Status::Failed, "the package reported no such row"));
        }
    }
    if !success && rows.iter().all(|row| row.status != Status::Failed) {
        return Err("it failed, though no row did".into());
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(rows: &[(&str, &str, &str)]) -> String {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, device, status)| {
                serde_json::json!({"name": name, "device": device, "status": status, "figure": "1", "seconds": 0.5})
            })
            .collect();
        format!("a warning\n{}", serde_json::json!({ "rows": rows }))
    }

    #[test]
    fn rows_of_two_devices_are_rows_of_their_own_and_a_lost_row_has_failed() {
        let rows =
            rows_of(&json(&[("Fork Safety", "cpu", "passed"), ("Fork Safety", "sim", "failed")]), false)
                .unwrap();
        assert_eq!((rows[0].name.as_str(), rows[0].status), ("Fork Safety [cpu]", Status::Passed));
        assert_eq!(rows[1].status, Status::Failed);
        assert_eq!(rows.len(), 2 + 23);
        assert!(rows[2..].iter().all(|row| row.status == Status::Failed));
        let full: Vec<_> = ROWS.iter().map(|name| (*name, "cpu", "passed")).collect();
        assert!(rows_of(&json(&full), true).unwrap().iter().all(|row| row.status == Status::Passed));
        assert!(rows_of(&json(&full), false).is_err(), "a failure that no row shows");
        assert!(rows_of("no", true).is_err());
        assert!(rows_of(&json(&[("x", "cpu", "splendid")]), true).is_err());
    }
}
