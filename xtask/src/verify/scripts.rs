//! Sections B and D: what the sanitizers' scripts and the benchmark say.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::report::{Row, Status};
use crate::process::{self, root};

/// The rows of a sanitizer's script, which it writes as `{"rows": [{"name", "status", "figure", "seconds", "detail"?}]}`.
pub(crate) fn sanitizer(name: &str, quick: bool, out: &Path, logs: &Path) -> Vec<Row> {
    let json = out.join(format!("{name}.json"));
    let _ = std::fs::remove_file(&json);
    let mut command = Command::new(if cfg!(windows) { "python" } else { "python3" });
    command.arg(root().join("scripts").join(name)).arg("--json").arg(&json).current_dir(root());
    if quick {
        command.arg("--quick");
    }
    let one = |status, figure: String| vec![Row::new('B', name, status, figure)];
    let ended = match process::run(&mut command, Duration::from_secs(3600), &logs.join(name)) {
        Ok(ended) => ended,
        Err(e) => return one(Status::NotRun, e),
    };
    let rows = std::fs::read_to_string(&json)
        .map_err(|e| e.to_string())
        .and_then(|text| rows_of(&text, ended.success()));
    rows.unwrap_or_else(|e| {
        let row =
            Row::new('B', name, Status::Failed, format!("{}: {e}", ended.verdict())).took(ended.seconds);
        vec![row.with_detail(ended.tail(40))]
    })
}

fn rows_of(json: &str, success: bool) -> Result<Vec<Row>, String> {
    let value: Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let listed = value["rows"].as_array().filter(|rows| !rows.is_empty()).ok_or("no rows")?;
    let mut rows = Vec::new();
    for row in listed {
        let text = |key: &str| row[key].as_str().unwrap_or_default();
        let status = Status::parse(text("status")).ok_or(format!("'{}' is no status", text("status")))?;
        let mut out = Row::new('B', text("name"), status, text("figure"));
        out.seconds = row["seconds"].as_f64().unwrap_or(0.0);
        out.detail = row["detail"].as_str().map(str::to_owned);
        rows.push(out);
    }
    if !success && rows.iter().all(|row| row.status == Status::Passed) {
        return Err("it failed, though every row passed".into());
    }
    Ok(rows)
}

/// Row 12's workload from 1, 2, 4 and 8 threads, and its table.
pub(crate) fn benchmark(quick: bool, device: &str, out: &Path, logs: &Path) -> (Row, Option<String>) {
    let name = format!("linear 2048 x 2048, batch 64 [{device}]");
    let program =
        root().join("target").join("release").join(format!("streampool{}", std::env::consts::EXE_SUFFIX));
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    // With xtask: package by package, features and thus dependencies would be built anew.
    build
        .args(["build", "--release", "--package", "streampool-cli", "--package", "xtask"])
        .current_dir(root());
    match process::run(&mut build, Duration::from_secs(1500), &logs.join("build-cli")) {
        Ok(ended) if ended.success() => {}
        Ok(ended) => {
            let row =
                Row::new('D', name, Status::Failed, format!("building the command: {}", ended.verdict()));
            return (row.with_detail(ended.tail(30)), None);
        }
        Err(e) => return (Row::new('D', name, Status::NotRun, e), None),
    }
    let mut command = Command::new(&program);
    let (threads, seconds, repeats) = if quick { ("1,2", "0.3", "3") } else { ("1,2,4,8", "1", "10") };
    command.args(["bench", "linear", "--threads", threads, "--seconds", seconds, "--repeats", repeats]);
    command.args(["--device", device, "--json"]).arg(out.join("linear.json"));
    command.arg("--plot").arg(out.join("linear.svg"));
    let ended = match process::run(&mut command, Duration::from_secs(900), &logs.join("bench")) {
        Ok(ended) => ended,
        Err(e) => return (Row::new('D', name, Status::Failed, e), None),
    };
    let read = std::fs::read_to_string(out.join("linear.json")).map_err(|e| e.to_string());
    match read.and_then(|text| figures(&text)) {
        Ok((figure, table)) if ended.success() => {
            (Row::new('D', name, Status::Passed, figure).took(ended.seconds), Some(table))
        }
        Ok(_) => (Row::new('D', name, Status::Failed, ended.verdict()).with_detail(ended.tail(30)), None),
        Err(e) => (
            Row::new('D', name, Status::Failed, format!("{}: {e}", ended.verdict()))
                .with_detail(ended.tail(30)),
            None,
        ),
    }
}

/// One line and the table, from the benchmark's JSON.
fn figures(json: &str) -> Result<(String, String), String> {
    let value: Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let rows = value["rows"].as_array().filter(|rows| !rows.is_empty()).ok_or("no rows")?;
    let mut table = String::from(
        "| threads | calls/s (median, least to most) | p50 us | p99 us | speed-up | efficiency |\n|---|---|---|---|---|---|\n",
    );
    let mut parts = Vec::new();
    for row in rows {
        let number = |value: &Value| value.as_f64().filter(|n| n.is_finite()).ok_or("a figure is no number");
        let rate = number(&row["calls_per_second"]["median"])?;
        if rate <= 0.0 {
            return Err("no call was made".into());
        }
        let threads = row["threads"].as_u64().ok_or("a row has no threads")?;
        let all_cores = row["all_cores"] == true;
        let efficiency = number(&row["efficiency"])? * 100.0;
        table += &format!(
            "| {threads}{} | {rate:.1} ({:.1} to {:.1}) | {:.0} | {:.0} | {:.2}x | {efficiency:.1} % |\n",
            if all_cores { ", all cores" } else { "" },
            number(&row["calls_per_second"]["min"])?,
            number(&row["calls_per_second"]["max"])?,
            number(&row["p50_us"])?,
            number(&row["p99_us"])?,
            number(&row["speed_up"])?,
        );
        if !all_cores {
            parts.push(format!("{threads}t {rate:.0}/s ({efficiency:.1} %)"));
        }
    }
    Ok((parts.join(", "), table))
}

/// The same beside ONNX Runtime, if its environment was made (it takes minutes and a download to make).
pub(crate) fn peers(quick: bool, out: &Path, logs: &Path) -> Row {
    let name = "linear, beside ONNX Runtime in the same run";
    let way_out = "run scripts/bench-peers W1 once: it installs ONNX Runtime into .cache, then run this again without --quick";
    if quick {
        return Row::new('D', name, Status::NotRun, "takes too long for --quick");
    }
    if !root().join(".cache").join("venv-onnx").exists() {
        return Row::new('D', name, Status::NotRun, format!("ONNX Runtime is not installed; {way_out}"));
    }
    let json = out.join("peers.json");
    let mut command = Command::new(if cfg!(windows) { "python" } else { "python3" });
    command.arg("scripts/bench-peers").args(["W1", "--json"]).arg(&json).current_dir(root());
    match process::run(&mut command, Duration::from_secs(1800), &logs.join("peers")) {
        Ok(ended) if ended.success() => {
            let line = ended.stdout.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            Row::new('D', name, Status::Passed, line.trim()).took(ended.seconds).with_detail(ended.tail(30))
        }
        Ok(ended) => Row::new('D', name, Status::Failed, ended.verdict()).with_detail(ended.tail(30)),
        Err(e) => Row::new('D', name, Status::NotRun, e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scripts_rows_are_taken_as_they_are() {
        let json = r#"{"rows": [{"name": "a", "status": "passed", "figure": "0 reports"}, {"name": "b", "status": "not run", "figure": "no tool"}]}"#;
        let rows = rows_of(json, true).unwrap();
        assert_eq!((rows[0].status, rows[1].status), (Status::Passed, Status::NotRun));
        assert!(rows_of(r#"{"rows": []}"#, true).is_err());
        assert!(rows_of(r#"{"rows": [{"name": "a", "status": "passed"}]}"#, false).is_err());
        assert!(rows_of(r#"{"rows": [{"name": "a", "status": "fine"}]}"#, true).is_err());
    }

    #[test]
    fn a_benchmark_without_figures_did_not_pass() {
        let row = |rate: f64| {
            serde_json::json!({"rows": [{"threads": 2, "all_cores": false, "calls_per_second": {"median": rate, "min": 1.0, "max": 3.0},
                "p50_us": 1.0, "p99_us": 2.0, "speed_up": 1.9, "efficiency": 0.95}]})
            .to_string()
        };
        let (figure, table) = figures(&row(2.0)).unwrap();
        assert_eq!(figure, "2t 2/s (95.0 %)");
        assert!(table.contains("| 2 | 2.0 (1.0 to 3.0) |"));
        assert!(figures(&row(0.0)).is_err() && figures("{}").is_err());
    }
}
