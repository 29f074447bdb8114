//! The runner's own test: an engine that misbehaves in every way, and each way is noticed, by name, without harm to the other cases.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use streampool_core::op::HostTensor;

struct Folder(PathBuf);

impl Folder {
    fn new(test: &str, names: &[&str]) -> Self {
        let path = std::env::temp_dir().join(format!("streampool-xtask-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let mut cases = Vec::new();
        for name in names {
            let folder = path.join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("model.onnx"), b"").unwrap();
            let x = HostTensor::from_slice([2], &[1.0_f32, 2.0]).unwrap();
            streampool_npz::write(folder.join("0.in.npz"), [("x", &x)]).unwrap();
            streampool_npz::write(folder.join("0.out.npz"), [("y", &x)]).unwrap();
            cases.push(serde_json::json!({
                "name": name, "operator": "Planted", "inputs": ["FLOAT"], "outputs": ["FLOAT"], "in_scope": true,
                "storable": *name != "foreign", "random": *name == "random", "data_sets": 1, "rtol": 1e-3, "atol": 1e-7,
            }));
        }
        fs::write(path.join("cases.json"), serde_json::to_string(&cases).unwrap()).unwrap();
        Self(path)
    }

    fn run(&self, more: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .arg("onnx-conformance")
            .arg(&self.0)
            .args(["--planted", "--patience", "1"])
            .args(more)
            .output()
            .unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn verdicts(json: &Path) -> BTreeMap<String, (String, String)> {
    let report: serde_json::Value = serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    report["cases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (text(&c["name"]), (text(&c["verdict"]), text(&c["reason"]))))
        .collect()
}

#[test]
fn every_kind_of_misbehaviour_is_told_apart_and_harms_no_other_case() {
    let expected = [
        ("good1", "passed", ""),
        ("panic", "crashed", "planted panic"),
        ("good2", "passed", ""),
        ("abort", "crashed", "signal"),
        ("overflow", "crashed", "overflow"),
        ("hang", "hung", "no answer"),
        ("wrong", "wrong", "2 of 2 elements differ"),
        ("missing", "error", "no output 'y'"),
        ("error", "error", "planted"),
        ("refused", "refused", "Frobnicate"),
        ("foreign", "refused", "FLOAT"),
        ("random", "random", ""),
        ("good3", "passed", ""),
    ];
    let folder = Folder::new("kinds", &expected.map(|e| e.0));
    let json = folder.0.join("report.json");
    let out = folder.run(&["--json", json.to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(1), "{}", String::from_utf8_lossy(&out.stderr));
    let got = verdicts(&json);
    for (name, verdict, reason) in expected {
        let (v, r) = &got[name];
        assert_eq!(v, verdict, "{name}: {r}");
        assert!(r.contains(reason), "{name}: {r}");
    }
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("FAILED: 1 wrong, 3 crashed, 1 hung"), "{text}");
}

#[test]
fn good_cases_end_with_0_and_fewer_than_the_floor_with_1() {
    let folder = Folder::new("floor", &["good1", "good2", "refused"]);
    let floor = folder.0.join("floor");
    fs::write(&floor, "all 2\nin_scope 2\n").unwrap();
    assert_eq!(folder.run(&["--floor", floor.to_str().unwrap()]).status.code(), Some(0));
    fs::write(&floor, "all 3\nin_scope 2\n").unwrap();
    assert_eq!(folder.run(&["--floor", floor.to_str().unwrap()]).status.code(), Some(1));
    assert_eq!(folder.run(&["--filter", "no such case"]).status.code(), Some(2));
}
