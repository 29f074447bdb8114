//! Programs of several steps, made one after the other.

use streampool_core::op::{
    DType, F32, HostTensor, LayerNorm, Layout, Op, Operand, Place, Port, Program, Step, TensorType,
};
use streampool_kernels::Kernel;

use crate::products::{Case, Numbers};

/// A program under construction.
pub(crate) struct Chain {
    pub(crate) dtype: DType,
    pub(crate) numbers: Numbers,
    pub(crate) data: Vec<HostTensor>,
    pub(crate) steps: Vec<Step>,
    pub(crate) arena: usize,
}

impl Chain {
    pub(crate) fn new(dtype: DType) -> Self {
        let seed = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_nanos() as u64;
        Self { dtype, numbers: Numbers(seed), data: Vec::new(), steps: Vec::new(), arena: 0 }
    }

    /// A fresh random input.
    pub(crate) fn input(&mut self, shape: &[usize]) -> Operand {
        self.data.push(self.numbers.tensor(self.dtype, shape));
        self.at(Place::Input(self.data.len() as u32 - 1), shape)
    }

    pub(crate) fn at(&self, place: Place, shape: &[usize]) -> Operand {
        Operand { place, dtype: self.dtype, layout: Layout::contiguous(shape) }
    }

    /// Room for what lies between two steps.
    pub(crate) fn between(&mut self, shape: &[usize]) -> Operand {
        let at = self.arena;
        self.arena += (shape.iter().product::<usize>() * self.dtype.size()).next_multiple_of(64);
        self.at(Place::Arena(at), shape)
    }

    /// A weight of `k` rows and `n` columns, stored by rows or by columns.
    pub(crate) fn weight(&mut self, k: usize, n: usize, across: bool) -> Operand {
        if across {
            let mut o = self.input(&[n, k]);
            o.layout = o.layout.permute(&[1, 0]);
            o
        } else {
            self.input(&[k, n])
        }
    }

    pub(crate) fn step(&mut self, op: Op, inputs: &[Operand], output: &Operand) {
        let (inputs, outputs) = (inputs.to_vec(), vec![output.clone()]);
        self.steps.push(Step { name: "step".into(), op, inputs, outputs });
    }

    /// A layer norm from `from` to `to`: the operation and its operands.
    pub(crate) fn norm(&mut self, from: &Operand, to: &Operand, rms: bool) -> (LayerNorm, Vec<Operand>) {
        let n = from.layout.shape[1];
        let norm =
            LayerNorm { axis: 1, epsilon: F32::new(1e-5), rms, scale: true, bias: !rms, residual: false };
        let mut inputs = vec![from.clone(), self.input(&[n])];
        if norm.bias {
            inputs.push(self.input(&[n]));
        }
        self.step(Op::LayerNorm(norm.clone()), &inputs, to);
        (norm, inputs)
    }

    pub(crate) fn case(
        self,
        (kernel, quick): (Kernel, Option<Kernel>),
        bound: Vec<Operand>,
        output: &Operand,
    ) -> Case {
        let port = |t: &TensorType| Port { dtype: t.dtype, bytes: t.bytes() };
        let output = output.ty();
        let name = format!("{} {}", self.dtype, kernel.what);
        let program = Program {
            name: name.clone(),
            inputs: self.data.iter().map(|t| port(t.ty())).collect(),
            outputs: vec![port(&output)],
            arena_bytes: self.arena,
            steps: self.steps,
            ..Program::default()
        };
        Case { name, program, data: self.data, bound, output, kernel, quick }
    }
}
