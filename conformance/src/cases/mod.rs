//! What is tried: each family with several dtypes, shapes (odd, empty, rank 0), strides (transposed, negative, broadcast) and values
//! (NaN and infinity among them).

mod indices;
mod layers;
mod maps;
mod movement;
mod products;
mod reductions;
mod windows;

use streampool_core::op::*;

use crate::bench::Random;
use crate::case::{Case, dense, set};

const FLOATS: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];
const INTS: [DType; 4] = [DType::I8, DType::U8, DType::I32, DType::I64];

/// How close sums come in another order.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-12,
        DType::F32 => 2e-6,
        DType::F16 => 2e-3,
        _ => 1.2e-2,
    }
}

/// Cases on random inputs.
#[derive(Debug)]
pub struct Cases {
    /// So far.
    pub list: Vec<Case>,
    random: Random,
}

impl Cases {
    /// None yet; inputs are drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { list: Vec::new(), random: Random(seed) }
    }

    fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.random.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn tensor(&mut self, dtype: DType, shape: &[usize], low: f64, high: f64) -> HostTensor {
        let mut t = HostTensor::zeros(TensorType::new(dtype, shape)).unwrap();
        for i in 0..t.ty().shape.len() {
            let value = match dtype {
                DType::Bool => (self.random.next() & 1) as f64,
                d if d.is_int() => self.uniform(low, high + 1.0).floor(),
                _ => self.uniform(low, high),
            };
            set(&mut t, i, Scalar::from_f64(dtype, value));
        }
        t
    }

    fn add(&mut self, name: &str, op: Op, data: Vec<HostTensor>, tolerance: f64) {
        let inputs = data.iter().zip(0..).map(|(t, n)| dense(Place::Input(n), t.ty())).collect();
        self.add_views(name, op, inputs, data, tolerance);
    }

    fn add_views(&mut self, name: &str, op: Op, inputs: Vec<Operand>, data: Vec<HostTensor>, tolerance: f64) {
        let types: Vec<TensorType> = inputs.iter().map(Operand::ty).collect();
        let results = op.infer(&types).unwrap_or_else(|e| panic!("{name}: {e}"));
        let outputs = results.iter().zip(0..).map(|(ty, n)| dense(Place::Output(n), ty)).collect();
        let name = format!("{} {name} {types:?}", op.name());
        self.list.push(Case { name, op, inputs, outputs, data, tolerance });
    }

    /// All families.
    pub fn all(&mut self) {
        self.maps();
        self.movement();
        self.reductions();
        self.normalisation();
        self.indices();
        self.windows();
        self.products();
        self.attention();
        self.random_numbers();
        self.resizes();
        self.recurrent();
        self.linear_algebra();
    }

    /// Views of a dense tensor of this shape.
    fn views(&mut self, shape: &[usize]) -> Vec<Layout> {
        let l = Layout::contiguous(shape);
        let last = shape.len() - 1;
        vec![
            l.clone(),
            l.permute(&(0..shape.len()).rev().collect::<Vec<_>>()),
            l.slice(0, shape[0] - 1, shape[0], -1),
            l.slice(last, 1, shape[last] / 2, 2),
            l.slice(0, 1, 1, 1)
                .broadcast_to(&[3].iter().chain(&[1]).chain(&shape[1..]).copied().collect())
                .unwrap(),
        ]
    }
}
