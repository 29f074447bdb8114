//! Any bytes as a model: a typed error or a plan, never a panic, a hang or memory without bound.

use streampool_core::op::{DType, TensorType};
use streampool_graph::{Dim, InputSpec, LoadOptions, Model, Planned};

/// Loads `data` as a model and plans it with every free length 2.
pub(crate) fn check(data: &[u8]) {
    let model = match Model::from_bytes(data.to_vec(), &LoadOptions::default()) {
        Ok(model) => model,
        Err(error) => {
            assert!(!error.is_internal(), "a file is never the library's fault: {error}");
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let mut specs: Vec<InputSpec> = Vec::new();
    for input in model.inputs() {
        let free = |d: &Dim| if let Dim::Fixed(n) = d { *n } else { 2 };
        let dims: Vec<usize> = input.dims.iter().flatten().map(free).collect();
        specs.push(InputSpec::new(TensorType::new(input.dtype.unwrap_or(DType::F32), dims)));
    }
    for _ in 0..2 {
        match model.plan(&specs) {
            Ok(Planned::NeedValues(which)) => {
                for i in which {
                    let Ok(len) = specs[i].ty.shape.checked_len() else { return };
                    if len > 1 << 20 {
                        return; // Nobody gives that many values; it would be this check that takes the memory.
                    }
                    specs[i].value = Some(vec![1; len * specs[i].ty.dtype.size()].into());
                }
            }
            Ok(Planned::Plan(_)) => return,
            Err(error) => {
                assert!(!error.is_internal(), "a file is never the library's fault: {error}");
                return;
            }
        }
    }
}
