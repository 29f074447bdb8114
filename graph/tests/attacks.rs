//! Hostile files: each must get the error that `attacks/expected.toml` says, quickly, in little memory and without a panic.
//!
//! The files are written by the ignored test `write_the_attacks` below.

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use streampool_core::op::{DType, TensorType};
use streampool_graph::{Dim, InputSpec, LoadOptions, Model, Planned};
use support::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../attacks")
}

/// `file = ["error code", "part of the text"]`, one a line.
fn expected() -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(folder().join("expected.toml")).unwrap();
    text.lines()
        .filter(|l| !l.trim().is_empty() && !l.starts_with('#') && !l.starts_with('['))
        .map(|l| {
            let (name, rest) = l.split_once(" = ").expect("name = [...]");
            let parts: Vec<&str> =
                rest.trim_matches(['[', ']']).splitn(2, ", ").map(|p| p.trim_matches('"')).collect();
            (name.trim_matches('"').to_string(), parts[0].to_string(), parts[1].to_string())
        })
        .collect()
}

/// Loads and plans with every free length 2.
fn attempt(path: &Path) -> streampool_core::Result<()> {
    let model = Model::load(path, &LoadOptions::default())?;
    let mut specs: Vec<InputSpec> = model
        .inputs()
        .iter()
        .map(|i| {
            let dims: Vec<usize> =
                i.dims.iter().flatten().map(|d| if let Dim::Fixed(n) = d { *n } else { 2 }).collect();
            InputSpec::new(TensorType::new(i.dtype.unwrap_or(DType::F32), dims))
        })
        .collect();
    for _ in 0..2 {
        match model.plan(&specs)? {
            Planned::Plan(_) => return Ok(()),
            Planned::NeedValues(which) => {
                for i in which {
                    specs[i].value = Some(vec![1; specs[i].ty.bytes()].into());
                }
            }
        }
    }
    Ok(())
}

#[test]
fn every_attack_gets_its_error() {
    let cases = expected();
    let files = std::fs::read_dir(folder())
        .unwrap()
        .filter(|f| f.as_ref().unwrap().path().extension().is_some_and(|e| e == "onnx"))
        .count();
    assert_eq!(cases.len(), files, "every file has an expectation and the other way round");
    let mut wrong = Vec::new();
    for (name, code, part) in cases {
        let start = Instant::now();
        match attempt(&folder().join(&name)) {
            Ok(()) => wrong.push(format!("{name} was taken")),
            Err(e) if e.code() != code || !e.to_string().contains(&part) => {
                wrong.push(format!("{name}: {e:?}"))
            }
            Err(_) => {}
        }
        if start.elapsed() > Duration::from_secs(10) {
            wrong.push(format!("{name} took {:?}", start.elapsed()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn damaged_files_never_panic() {
    let bytes = perceptron();
    let dir = std::env::temp_dir().join(format!("streampool-attacks-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("m.onnx");
    for cut in (0..bytes.len()).step_by(7) {
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let _ = attempt(&path);
    }
    let mut rng = Rng::new(99);
    for _ in 0..3000 {
        let mut damaged = bytes.clone();
        for _ in 0..1 + rng.next() % 4 {
            let at = rng.next() as usize % damaged.len();
            damaged[at] ^= 1 << (rng.next() % 8);
        }
        let Ok(model) = Model::from_bytes(damaged, &LoadOptions::default()) else { continue };
        let specs: Vec<InputSpec> = model
            .inputs()
            .iter()
            .map(|i| {
                let dims: Vec<usize> = i
                    .dims
                    .iter()
                    .flatten()
                    .map(|d| match d {
                        Dim::Fixed(n) if *n < 1000 => *n,
                        _ => 2,
                    })
                    .collect();
                InputSpec::new(TensorType::new(i.dtype.unwrap_or(DType::F32), dims))
            })
            .collect();
        let _ = model.plan(&specs);
    }
    std::fs::remove_dir_all(dir).unwrap();
}

fn perceptron() -> Vec<u8> {
    let mut rng = Rng::new(5);
    Graph::new()
        .input("x", DType::F32, &["n", "4"])
        .constant("w", &rng.floats(&[4, 3]))
        .constant("b", &rng.floats(&[3]))
        .constant("shape", &ints(&[2], &[0, -1]))
        .node(node("Gemm", &["x", "w", "b"], &["h"]).float("alpha", 0.5))
        .node(node("Reshape", &["h", "shape"], &["r"]))
        .node(node("Softmax", &["r"], &["y"]).int("axis", -1))
        .output("y")
        .model(17)
}

#[test]
#[ignore = "writes the files of the attacks folder; run it after changing them"]
fn write_the_attacks() {
    let x = || Graph::new().input("x", DType::F32, &["n", "4"]);
    let one = |n: Node| x().node(n).output("y").model(17);
    let raw = |dims: &[i64], code: i64, data: &[u8]| {
        let t = dims.iter().fold(Message::default(), |m, &d| m.int(1, d));
        let t = t.int(2, code).str(8, "w").bytes(9, data);
        x().raw_constant(t).node(node("Add", &["x", "w"], &["y"])).output("y").model(17)
    };
    let external = |location: &str| {
        let t = Message::default().int(1, 4).int(2, 1).str(8, "w").int(14, 1);
        let t = t.message(13, &Message::default().str(1, "location").str(2, location));
        x().raw_constant(t).node(node("Add", &["x", "w"], &["y"])).output("y").model(17)
    };
    let whole = perceptron();
    let mut deep = Message::default();
    for _ in 0..5000 {
        deep = Message::default()
            .message(6, &Message::default().message(1, &Message::default().message(5, &deep)));
    }
    let mut function = Graph::new()
        .input("x", DType::F32, &["2"])
        .node(node("F", &["x"], &["y"]).domain("local"))
        .output("y");
    function.functions.push(
        Message::default()
            .str(1, "F")
            .str(4, "a")
            .str(5, "b")
            .message(7, &node("F", &["a"], &["b"]).domain("local").0)
            .str(10, "local"),
    );
    let mut bomb = Graph::new()
        .input("x", DType::F32, &["2"])
        .node(node("F0", &["x"], &["y"]).domain("local"))
        .output("y");
    for i in 0..30 {
        let inner = if i == 29 {
            node("Neg", &["a"], &["t"])
        } else {
            node(&format!("F{}", i + 1), &["a"], &["t"]).domain("local")
        };
        let again = if i == 29 {
            node("Neg", &["t"], &["b"])
        } else {
            node(&format!("F{}", i + 1), &["t"], &["b"]).domain("local")
        };
        bomb.functions.push(
            Message::default()
                .str(1, &format!("F{i}"))
                .str(4, "a")
                .str(5, "b")
                .message(7, &inner.0)
                .message(7, &again.0)
                .str(10, "local"),
        );
    }
    let endless = Graph::new()
        .input("i", DType::I64, &[])
        .input("c", DType::Bool, &[])
        .input("s", DType::F32, &["n", "4"])
        .node(node("Identity", &["c"], &["c2"]))
        .node(node("Identity", &["s"], &["s2"]))
        .output("c2")
        .output("s2");
    let huge = |op: Node, name: &str, v: &[i64]| {
        x().constant(name, &ints(&[v.len()], v)).node(op).output("y").model(17)
    };
    let files: Vec<(&str, Vec<u8>, &str, &str)> = vec![
        ("empty", Vec::new(), "invalid_model", "empty"),
        ("text", b"this is not a model".to_vec(), "invalid_model", "no ONNX file"),
        ("truncated", whole[..whole.len() * 2 / 3].to_vec(), "invalid_model", "damaged"),
        (
            "no-graph",
            Message::default().int(1, 8).message(8, &Message::default().int(2, 17)).0,
            "invalid_model",
            "no graph",
        ),
        (
            "no-opset",
            Message::default().int(1, 8).message(7, &x().message()).0,
            "invalid_model",
            "operator set",
        ),
        ("newer-opset", x().node(node("Neg", &["x"], &["y"])).output("y").model(99), "unsupported", "99"),
        (
            "cycle",
            x().node(node("Add", &["x", "b"], &["a"]))
                .node(node("Neg", &["a"], &["b"]))
                .output("b")
                .model(17),
            "invalid_model",
            "cycle",
        ),
        ("reads-itself", one(node("Add", &["x", "y"], &["y"])), "invalid_model", "cycle"),
        ("missing-input", one(node("Add", &["x", "nowhere"], &["y"])), "invalid_model", "'nowhere'"),
        (
            "missing-output",
            x().node(node("Neg", &["x"], &["z"])).output("y").model(17),
            "invalid_model",
            "'y'",
        ),
        (
            "defined-twice",
            x().node(node("Neg", &["x"], &["y"])).node(node("Abs", &["x"], &["y"])).output("y").model(17),
            "invalid_model",
            "twice",
        ),
        (
            "unknown-operators",
            x().node(node("Frobnicate", &["x"], &["a"]))
                .node(node("Whirl", &["a"], &["y"]).domain("local"))
                .output("y")
                .model(17),
            "unsupported",
            "2 nodes are not supported: Frobnicate 'Frobnicate_a'",
        ),
        (
            "unknown-domain",
            one(node("Gelu", &["x"], &["y"]).domain("com.example")),
            "invalid_model",
            "com.example",
        ),
        (
            "deep",
            Message::default()
                .int(1, 8)
                .message(7, &Message::default().message(1, &Message::default().message(5, &deep)))
                .0,
            "invalid_model",
            "recursion",
        ),
        ("recursive-function", function.model(17), "invalid_model", "function calls itself"),
        ("function-bomb", bomb.model(17), "invalid_model", "more than 500000 nodes"),
        ("absurd-dims", raw(&[1 << 40, 1 << 40], 1, &[0; 4]), "invalid_model", "too many elements"),
        ("negative-dim", raw(&[-4], 1, &[0; 16]), "invalid_model", "negative"),
        ("short-data", raw(&[4], 1, &[0; 12]), "invalid_model", "needs 16 bytes"),
        ("long-data", raw(&[4], 1, &[0; 20]), "invalid_model", "needs 16 bytes"),
        ("no-such-dtype", raw(&[4], 77, &[0; 16]), "invalid_model", "77"),
        ("string-tensor", raw(&[4], 8, &[0; 16]), "unsupported", "STRING"),
        ("rank-17", raw(&[1; 17], 1, &[0; 4]), "invalid_model", "rank 17"),
        ("external-parent", external("../../etc/passwd"), "invalid_model", "'..'"),
        ("external-absolute", external("/etc/passwd"), "invalid_model", "absolute"),
        ("external-missing", external("not-there.bin"), "invalid_model", "not-there.bin"),
        ("external-short", external("short.bin"), "invalid_model", "has 3"),
        (
            "wrong-attribute",
            one(node("Softmax", &["x"], &["y"]).str("axis", "one")),
            "invalid_model",
            "'axis' should be an integer",
        ),
        ("axis-out-of-range", one(node("Softmax", &["x"], &["y"]).int("axis", 9)), "invalid_model", "axis 9"),
        ("shapes-do-not-fit", raw(&[3], 1, &[0; 12]), "invalid_argument", "cannot be broadcast"),
        (
            "reshape-overflow",
            huge(node("Reshape", &["x", "s"], &["y"]), "s", &[1 << 62, 1 << 62]),
            "invalid_argument",
            "too large",
        ),
        (
            "expand-absurd",
            huge(node("Expand", &["x", "s"], &["y"]), "s", &[1 << 58, 2, 4]),
            "invalid_argument",
            "too many elements",
        ),
        (
            "tile-absurd",
            huge(node("Tile", &["x", "s"], &["y"]), "s", &[1 << 62, 8]),
            "invalid_argument",
            "too ",
        ),
        (
            "pad-absurd",
            huge(node("Pad", &["x", "s"], &["y"]), "s", &[i64::MAX, 0, i64::MAX, 0]),
            "invalid_argument",
            "cannot be extended",
        ),
        (
            "endless-loop",
            x().node(node("Loop", &["", "", "x"], &["y"]).graph("body", &endless)).output("y").model(17),
            "unsupported",
            "100000 nodes",
        ),
        (
            "input-string",
            Graph::new().raw_input("x", 8).node(node("Neg", &["x"], &["y"])).output("y").model(17),
            "unsupported",
            "STRING",
        ),
        (
            "dim-conflict",
            Graph::new()
                .input("a", DType::F32, &["3", "4"])
                .input("b", DType::F32, &["3", "5"])
                .node(node("Add", &["a", "b"], &["y"]))
                .output("y")
                .model(17),
            "invalid_argument",
            "node Add 'Add_y'",
        ),
    ];
    let mut toml = String::from(
        "# Each file of this folder with the code of the error it must get and a part of its text.\n",
    );
    for (name, bytes, code, part) in &files {
        std::fs::write(folder().join(format!("{name}.onnx")), bytes).unwrap();
        toml += &format!("\"{name}.onnx\" = [\"{code}\", \"{part}\"]\n");
    }
    std::fs::write(folder().join("short.bin"), b"abc").unwrap();
    std::fs::write(folder().join("expected.toml"), toml).unwrap();
}
