//! Products of one left factor with several weights: what asks for queries, keys and values.

use std::sync::Arc;

use streampool_core::Result;
use streampool_core::op::{Constant, DType, Op, Operand, Place, Program, Step};
use streampool_kernels::{Aim, Kernel, Product, product, vectors};

use super::place::{ABSOLUTE, ARENA, INPUT_ALIGNMENT, Located, alignment, located};
use crate::driver::Shared;
use crate::gemm::Gemm;
use crate::memory::DeviceMemory;

/// How siblings are computed.
pub(super) enum Way {
    /// By our kernel, and the one for when few streams are at work, with the places of their inputs.
    Kernel(Kernel, Option<Kernel>, Vec<Located>),
    Library(Gemm),
}

/// Consecutive products of one left factor with constant weights of one shape.
pub(super) struct Siblings {
    pub(super) count: usize,
    pub(super) way: Way,
    /// The weights, then the biases.
    pub(super) memory: Vec<Arc<DeviceMemory>>,
    /// Where in the arena the lowest result lies.
    pub(super) first: u64,
}

impl Siblings {
    /// The run of siblings that begins with step `i`, if it is two or more and its results are equally far apart.
    pub(super) fn find(program: &Program, i: usize, device: &Shared) -> Result<Option<Self>> {
        let first = &program.steps[i];
        let Op::MatMul(op) = &first.op else { return Ok(None) };
        let (a, b, y) = (&first.inputs[0], &first.inputs[1], &first.outputs[0]);
        let constant = |o: &Operand| match o.place {
            Place::Constant(n) if o.layout.offset == 0 => program.constants.get(n as usize),
            _ => None,
        };
        let k = a.layout.shape.last().copied().unwrap_or(0);
        if op.residual
            || op.activation.is_some()
            || op.alpha.get() != 1.0
            || !y.dtype.is_float()
            || y.dtype == DType::F64
            || y.layout.shape.is_empty()
            || k == 0
            || b.layout.shape.rank() != 2
            || !a.layout.is_contiguous()
            || alignment(a) < INPUT_ALIGNMENT as u32
            || vectors(op, &first.inputs, y).is_some()
        {
            return Ok(None);
        }
        let bytes = y.ty().bytes();
        // Weights and biases must stay aligned behind one another.
        let size = y.dtype.size();
        if !(b.layout.shape.len() * size).is_multiple_of(16) || !(b.layout.shape[1] * size).is_multiple_of(16)
        {
            return Ok(None);
        }
        let alike = |step: &Step| {
            step.op == first.op
                && step.inputs[0] == *a
                && step.inputs[1].layout == b.layout
                && constant(&step.inputs[1]).is_some_and(|c| c.ty().shape.len() == b.layout.shape.len())
                && step.inputs.get(2).is_none_or(|o| {
                    o.layout.shape[..] == b.layout.shape[1..]
                        && o.layout.is_contiguous()
                        && constant(o).is_some_and(|c| c.ty().bytes() == o.ty().bytes())
                })
                && step.outputs[0].layout == y.layout
                && y.layout.offset == 0
        };
        let mut group: Vec<(usize, &Step)> = Vec::new();
        for step in program.steps[i..].iter().take_while(|s| alike(s)) {
            let Place::Arena(at) = step.outputs[0].place else { break };
            group.push((at, step));
        }
        // A longer run may be equally spaced only in its beginning: two or three cover what models have.
        for count in (2..=group.len().min(8)).rev() {
            let mut part = group[..count].to_vec();
            part.sort_by_key(|(at, _)| *at);
            let step = part[1].0 - part[0].0;
            let even = part.windows(2).all(|w| w[1].0 - w[0].0 == step);
            if !even || step < bytes || !step.is_multiple_of(16) {
                continue;
            }
            let weights: Vec<&Constant> =
                part.iter().filter_map(|(_, s)| constant(&s.inputs[1]).map(|c| &**c)).collect();
            let mut memory = vec![device.constants.upload_all(&device.context, &weights)?];
            let mut bias = None;
            if op.bias {
                let biases: Vec<&Constant> =
                    part.iter().filter_map(|(_, s)| constant(&s.inputs[2]).map(|c| &**c)).collect();
                let uploaded = device.constants.upload_all(&device.context, &biases)?;
                bias = Some(uploaded.address());
                memory.push(uploaded);
            }
            let first = part[0].0 as u64;
            let asked = Product {
                op,
                inputs: &program.steps[i].inputs,
                output: y,
                constant: true,
                target: device.compiler.target(),
                siblings: Some((count, step / size)),
                then: None,
                norm: None,
                aim: Aim::Throughput,
            };
            let aligned = |o: &Operand| alignment(o) >= INPUT_ALIGNMENT as u32;
            if let Some(kernel) = product(&asked, aligned) {
                let quick = product(&Product { aim: Aim::Latency, ..asked }, aligned);
                let mut inputs = vec![located(program, a)];
                inputs.extend(memory.iter().map(|m| Located { base: ABSOLUTE, offset: m.address() }));
                return Ok(Some(Self { count, way: Way::Kernel(kernel, quick, inputs), memory, first }));
            }
            let rows = a.layout.shape.len() / k;
            let gemm =
                device.blas.siblings(count, rows, (&b.layout, y.dtype), device.tf32, bias, step / size)?;
            return Ok(gemm.map(|gemm| Self { count, way: Way::Library(gemm), memory, first }));
        }
        Ok(None)
    }

    /// Where the first result is.
    pub(super) fn output(&self) -> Located {
        Located { base: ARENA, offset: self.first }
    }
}
