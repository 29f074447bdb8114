//! The command as a user meets it: exit codes, what is printed, what is written.

#[path = "../src/message.rs"]
mod message;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use message::Message;
use serde_json::Value;
use streampool::HostTensor;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn streampool(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_streampool")).current_dir(root()).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output of a command that must succeed.
fn good(arguments: &[&str]) -> String {
    let out = streampool(arguments);
    assert!(out.status.success(), "{arguments:?}: {}{}", text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

/// Standard error of a command that must end with this code.
fn bad(code: i32, arguments: &[&str]) -> String {
    let out = streampool(arguments);
    let complaint = text(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{arguments:?}: {complaint}");
    assert!(!complaint.contains("panicked"), "{arguments:?}: {complaint}");
    complaint
}

struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("streampool-cli-{test}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const MODEL: &str = "models/digits/digits.onnx";
const DATA: &str = "models/digits/test.npz";

#[test]
fn digits_are_read_alike_by_one_thread_and_by_many() {
    let folder = Folder::new("digits");
    let out = folder.file("y.npz");
    let json = good(&[
        "run",
        MODEL,
        "--input",
        DATA,
        "--threads",
        "3,8",
        "--check",
        "--output",
        &out,
        "--json",
        "-",
    ]);
    let summary: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(summary["all_equal_serial"], true);
    assert_eq!(summary["accuracy"].as_f64().map(|a| (a * 450.0).round()), Some(444.0));
    let rows = summary["rows"].as_array().unwrap();
    assert_eq!(rows.iter().map(|r| r["threads"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 3, 8]);
    for row in rows {
        let requests = row["requests"].as_u64().unwrap();
        assert!(requests >= 450 && requests.is_multiple_of(450), "whole rounds of the data: {requests}");
        assert!(row["seconds"].as_f64().unwrap() >= 1.0, "as many rounds as take a second: {row}");
        assert_eq!(row["answers_differing"], 0);
        assert!(row["requests_per_second"].as_f64().unwrap() > 0.0);
        assert_eq!(row["streams"], row["threads"], "each thread has a stream of its own while slots last");
    }
    // Eight threads have no more than the machine's cores, and that is what efficiency is counted by.
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(
        (summary["cores"].as_u64(), summary["cores_per_request"].as_u64()),
        (Some(cores as u64), Some(1))
    );
    for row in rows {
        let [speed_up, efficiency] = ["speed_up", "efficiency"].map(|k| row[k].as_f64().unwrap());
        let share = cores.min(row["threads"].as_u64().unwrap() as usize) as f64;
        assert!((efficiency * share / speed_up - 1.0).abs() < 1e-9, "{row}");
    }
    let written = streampool_npz::read(&out, streampool_npz::Limits::default()).unwrap();
    let y = written.get("probabilities").unwrap();
    assert_eq!(y.ty().shape.to_vec(), [450, 10]);
    for row in y.as_slice::<f32>().unwrap().chunks_exact(10) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    }
}

#[test]
fn more_threads_than_streams_all_get_their_answers() {
    let json = good(&[
        "run",
        MODEL,
        "--input",
        DATA,
        "--threads",
        "64",
        "--streams",
        "2",
        "--requests",
        "450",
        "--check",
        "--json",
        "-",
    ]);
    let summary: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(summary["all_equal_serial"], true);
    assert!(summary["rows"][1]["streams"].as_u64().unwrap() <= 2);
}

#[test]
fn batches_and_rounds_of_the_data_are_counted() {
    let json = good(&["run", MODEL, "--input", DATA, "--batch", "64", "--requests", "20", "--json", "-"]);
    let summary: Value = serde_json::from_str(&json).unwrap();
    // 450 = 7 x 64 + 2.
    assert_eq!(summary["requests_in_data"], 8);
    assert_eq!(summary["rows"][0]["requests"], 20);
    // The outputs are of the whole data even if fewer requests are measured.
    let folder = Folder::new("few");
    let out = folder.file("y.npz");
    good(&["run", MODEL, "--input", DATA, "--requests", "3", "--output", &out]);
    let written = streampool_npz::read(&out, streampool_npz::Limits::default()).unwrap();
    assert_eq!(written.get("probabilities").unwrap().ty().shape.to_vec(), [450, 10]);
}

#[test]
fn more_cores_for_a_request_give_the_same_bits() {
    let folder = Folder::new("cores");
    let outputs = ["1", "2", "1024"].map(|cores| {
        let out = folder.file(&format!("{cores}.npz"));
        let arguments = ["run", MODEL, "--input", DATA, "--batch", "450", "--requests", "2", "--cores"];
        let json = good(&[&arguments[..], &[cores, "--output", &out, "--json", "-"]].concat());
        let summary: Value = serde_json::from_str(&json).unwrap();
        let most = summary["cores"].as_u64().unwrap();
        assert_eq!(summary["cores_per_request"].as_u64(), Some(most.min(cores.parse().unwrap())));
        fs::read(out).unwrap()
    });
    assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn the_table_is_for_people_and_standard_output_of_json_is_json_alone() {
    let shown = good(&["run", MODEL, "--input", DATA, "--threads", "2", "--requests", "100", "--check"]);
    for part in [
        "444 of 450",
        "bit for bit",
        "req/s",
        "p99",
        "efficiency is speed-up over cores in use",
        "peak memory",
    ] {
        assert!(shown.contains(part), "{part} is missing in\n{shown}");
    }
    let folder = Folder::new("table");
    let file = folder.file("r.json");
    let shown = good(&["run", MODEL, "--input", DATA, "--requests", "9", "--json", &file]);
    assert!(shown.contains("req/s"));
    assert!(serde_json::from_str::<Value>(&fs::read_to_string(file).unwrap()).is_ok());
}

#[test]
fn what_does_not_fit_ends_with_3_and_says_why() {
    let folder = Folder::new("misfit");
    let write = |name: &str, array: &str, dims: &[usize]| {
        let n: usize = dims.iter().product();
        let t = HostTensor::from_vec(dims, vec![0.0_f32; n]).unwrap();
        let path = folder.file(name);
        streampool_npz::write(&path, [(array, &t)]).unwrap();
        path
    };
    let e = bad(3, &["run", MODEL, "--input", &write("a.npz", "picture", &[2, 1, 8, 8])]);
    assert!(e.contains("'picture'") && e.contains("'image'"), "{e}");
    let e = bad(3, &["run", MODEL, "--input", &write("b.npz", "image", &[2, 1, 9, 8])]);
    assert!(e.contains("image") && e.contains('9'), "{e}");
    let e = bad(3, &["run", MODEL, "--input", &write("c.npz", "image", &[2, 8, 8])]);
    assert!(e.contains("image") && e.contains("rank"), "{e}");
    let e = bad(3, &["run", MODEL, "--input", "no such.npz"]);
    assert!(e.contains("no such.npz"), "{e}");
    let e = bad(3, &["run", DATA, "--input", DATA]);
    assert!(e.contains("test.npz"), "{e}");
    let doubles = HostTensor::from_vec([1, 1, 8, 8], vec![0.0_f64; 64]).unwrap();
    let path = folder.file("d.npz");
    streampool_npz::write(&path, [("image", &doubles)]).unwrap();
    let e = bad(3, &["run", MODEL, "--input", &path]);
    assert!(e.contains("float64") && e.contains("float32"), "{e}");
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [
        &["run", MODEL][..],
        &["run", MODEL, "--input", DATA, "--threads", "0"],
        &["run", MODEL, "--input", DATA, "--device", "abacus"],
        &["run", MODEL, "--input", DATA, "--batch", "0"],
        &["bench", "nonsense"],
        &["bench", "micro", "--seconds", "0"],
        &["run", MODEL, "--input", DATA, "--cores", "0"],
        &["inspect", MODEL, "--shape", "x"],
        &["inspect", MODEL, "--shape", "image=1x1x8x8", "--input", DATA],
        &["completions", "tcsh-of-yore"],
        &["frobnicate"],
        &[],
    ] {
        bad(2, arguments);
    }
}

#[test]
fn a_memory_limit_that_is_too_small_ends_with_4_and_says_so() {
    let folder = Folder::new("memory");
    // 4096 images and their activations (28 MiB) in a limit of 1 MiB.
    let t = HostTensor::from_vec([4096, 1, 8, 8], vec![1.0_f32; 4096 * 64]).unwrap();
    let path = folder.file("x.npz");
    streampool_npz::write(&path, [("image", &t)]).unwrap();
    let e = bad(4, &["run", MODEL, "--input", &path, "--batch", "4096", "--memory-limit", "1"]);
    assert!(e.contains("memory") && e.contains("limit"), "{e}");
}

#[test]
fn inspect_shows_inputs_operators_plan_and_memory() {
    let shown = good(&["inspect", MODEL]);
    for part in ["image", "(batch, 1, 8, 8)", "probabilities", "Conv 2", "opset ai.onnx 17", "arena"] {
        assert!(shown.contains(part), "{part} is missing in\n{shown}");
    }
    let json = good(&["inspect", MODEL, "--shape", "image=7x1x8x8", "--json", "-"]);
    let summary: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(summary["plan"]["outputs"]["probabilities"], "float32(7, 10)");
    assert_eq!(summary["plan_depends_on_values_of"], Value::Array(Vec::new()));
    let steps = summary["plan"]["steps"].as_array().unwrap();
    assert!(!steps.is_empty() && steps.iter().all(|s| s["kernel"].as_str().is_some_and(|k| !k.is_empty())));
    // The data set holds labels, too, and 450 images.
    let json = good(&["inspect", MODEL, "--input", DATA, "--json", "-"]);
    let summary: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(summary["plan"]["outputs"]["probabilities"], "float32(450, 10)");
    // A device that chooses no kernels shows the steps all the same.
    let shown = good(&["inspect", MODEL, "--device", "sim"]);
    assert!(shown.contains("from node"), "{shown}");
    assert_eq!(summary["weight_bytes"].as_u64(), Some(4 * 38_283));
    let e = bad(3, &["inspect", MODEL, "--shape", "image=7x1x9x8"]);
    assert!(e.contains("image"), "{e}");
}

/// An ONNX file of one node: y of any shape is x reshaped to the values of `shape`.
fn reshape_model() -> Vec<u8> {
    let new = Message::default;
    let port = |name: &str, elem_type: i64, dim: Option<&str>| {
        let tensor = new().int(1, elem_type);
        let tensor = match dim {
            Some(dim) => tensor.message(2, &new().message(1, &new().str(2, dim))),
            None => tensor,
        };
        new().str(1, name).message(2, &new().message(1, &tensor))
    };
    let node = new().str(1, "x").str(1, "shape").str(2, "y").str(4, "Reshape");
    let (float, int64) = (1, 7);
    let graph = new()
        .message(1, &node)
        .str(2, "g")
        .message(11, &port("x", float, Some("n")))
        .message(11, &port("shape", int64, Some("rank")))
        .message(12, &port("y", float, None));
    new().int(1, 8).message(7, &graph).message(8, &new().int(2, 17)).0
}

#[test]
fn inspect_says_when_the_plan_depends_on_values_and_takes_them() {
    let folder = Folder::new("values");
    let (model, data) = (folder.file("reshape.onnx"), folder.file("x.npz"));
    fs::write(&model, reshape_model()).unwrap();
    let shown = good(&["inspect", &model]);
    assert!(shown.contains("depends on the values of 'shape'") && shown.contains("--input"), "{shown}");
    let x = HostTensor::from_vec([6], vec![0.5_f32; 6]).unwrap();
    let shape = HostTensor::from_vec([2], vec![3_i64, -1]).unwrap();
    streampool_npz::write(&data, [("x", &x), ("shape", &shape)]).unwrap();
    let json = good(&["inspect", &model, "--input", &data, "--json", "-"]);
    let summary: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(summary["plan"]["outputs"]["y"], "float32(3, 2)");
    assert_eq!(summary["plan_depends_on_values_of"], Value::from(vec!["shape"]));
    let shown = good(&["inspect", &model, "--input", &data]);
    assert!(shown.contains("plan for") && shown.contains("depends on the values of 'shape'"), "{shown}");
    // Values that do not fit, and data without them.
    let shape = HostTensor::from_vec([2], vec![4_i64, 2]).unwrap();
    streampool_npz::write(&data, [("x", &x), ("shape", &shape)]).unwrap();
    bad(3, &["inspect", &model, "--input", &data]);
    streampool_npz::write(&data, [("x", &x)]).unwrap();
    let e = bad(3, &["inspect", &model, "--input", &data]);
    assert!(e.contains("'shape'") && e.contains("'x'"), "{e}");
}

#[test]
fn bench_measures_and_draws() {
    let folder = Folder::new("bench");
    let svg = folder.file("p.svg");
    let json = good(&[
        "bench",
        "micro",
        "--threads",
        "1,2",
        "--seconds",
        "0.02",
        "--repeats",
        "3",
        "--json",
        "-",
        "--plot",
        &svg,
    ]);
    let summary: Value = serde_json::from_str(&json).unwrap();
    let rows = summary["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        let rate = &row["calls_per_second"];
        let [min, median, max] = ["min", "median", "max"].map(|k| rate[k].as_f64().unwrap());
        assert!(0.0 < min && min <= median && median <= max, "{row}");
    }
    assert_eq!(rows[0]["speed_up"], 1.0);
    assert!(fs::read_to_string(svg).unwrap().contains("</svg>"));
}

#[test]
fn info_and_completions_know_the_devices_and_the_commands() {
    let info = good(&["info"]);
    assert!(
        info.contains("cpu") && info.contains("sim") && info.contains(env!("CARGO_PKG_VERSION")),
        "{info}"
    );
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = good(&["completions", shell]);
        assert!(script.contains("inspect") && script.contains("memory-limit"), "{shell}");
    }
    let help = good(&["--help"]);
    assert!(help.contains("Exit codes") && help.contains("bench"), "{help}");
    assert!(good(&["run", "--help"]).contains("Examples"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_result_that_cannot_be_written_is_an_error() {
    let e = bad(3, &["info", "--json", "/no/such/folder/x.json"]);
    assert!(e.contains("/no/such/folder/x.json"), "{e}");
}
