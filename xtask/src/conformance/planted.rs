//! An engine that misbehaves on demand, so that the tests see the runner notice. The case's name says how.

use std::path::Path;

use streampool_core::op::HostTensor;
use streampool_core::{Error, Result};

use super::engine::{Engine, Model};

/// Answers each case with its inputs, unless its name says otherwise.
pub(super) fn open() -> Box<dyn Engine> {
    Box::new(Planted)
}

struct Planted;

impl Engine for Planted {
    fn load(&self, path: &Path) -> Result<Box<dyn Model>> {
        let case = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        match case.as_str() {
            "refused" => Err(Error::unsupported("operator Frobnicate (node 'f') is not supported")),
            "error" => Err(Error::invalid_model("planted")),
            _ => Ok(Box::new(Echo(case))),
        }
    }
}

struct Echo(String);

impl Model for Echo {
    fn run(&self, inputs: Vec<(String, HostTensor)>) -> Result<Vec<(String, HostTensor)>> {
        match self.0.as_str() {
            "panic" => panic!("planted panic"),
            "abort" => std::process::abort(),
            "overflow" => {
                Ok(vec![("y".into(), deep(HostTensor::zeros(inputs[0].1.ty().clone())?, u64::MAX))])
            }
            "hang" => loop {
                std::thread::park();
            },
            "missing" => Ok(Vec::new()),
            "wrong" => Ok(vec![("y".into(), HostTensor::zeros(inputs[0].1.ty().clone())?)]),
            _ => Ok(inputs.into_iter().map(|(_, t)| ("y".into(), t)).collect()),
        }
    }
}

/// Recurses until the stack ends.
#[inline(never)]
fn deep(t: HostTensor, n: u64) -> HostTensor {
    if n == 0 {
        return t;
    }
    let frame = std::hint::black_box([n; 256]);
    let t = deep(t, frame[7] - 1);
    std::hint::black_box(frame);
    t
}
