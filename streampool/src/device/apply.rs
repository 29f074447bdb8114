//! Eager operations: infer, find or compile the program, launch.

use std::sync::Arc;

use streampool_core::driver::{Bindings, Slice};
use streampool_core::op::{Constant, Copy, Layout, Op, Operand, Place, Port, Program, Step, TensorType};

use super::programs::{OperandKey, ProgramKey, Recipe};
use super::{Home, Storage};
use crate::{Error, Result, Tensor};

/// What an eager operation reads.
#[derive(Clone, Copy)]
pub(crate) enum Arg<'a> {
    /// A tensor of the device.
    Tensor(&'a Tensor),
    /// A frozen weight.
    Constant(&'a Arc<Constant>),
    /// A frozen matrix, read transposed.
    Transposed(&'a Arc<Constant>),
}

impl Home {
    /// One operation with one result on tensors.
    pub(crate) fn apply1(&self, name: &str, op: Op, inputs: &[&Tensor]) -> Result<Tensor> {
        let args: Vec<Arg<'_>> = inputs.iter().copied().map(Arg::Tensor).collect();
        self.apply_args1(name, op, &args)
    }

    /// One operation on tensors.
    pub(crate) fn apply(&self, name: &str, op: Op, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let args: Vec<Arg<'_>> = inputs.iter().copied().map(Arg::Tensor).collect();
        self.apply_args(name, op, &args)
    }

    /// One operation with one result.
    pub(crate) fn apply_args1(&self, name: &str, op: Op, args: &[Arg<'_>]) -> Result<Tensor> {
        let mut out = self.apply_args(name, op, args)?;
        match (out.pop(), out.is_empty()) {
            (Some(one), true) => Ok(one),
            _ => Err(Error::internal(format!("{name}: the operation has not one result"))),
        }
    }

    /// One operation: checks the operands, makes views dense where the operation wants it, finds the program and launches it.
    pub(crate) fn apply_args(&self, name: &str, op: Op, args: &[Arg<'_>]) -> Result<Vec<Tensor>> {
        let types: Vec<TensorType> = args.iter().map(Arg::ty).collect();
        let outputs = op.infer(&types).map_err(|e| e.context(name))?;
        let mut dense: Vec<Option<Tensor>> = Vec::with_capacity(args.len());
        for (i, arg) in args.iter().enumerate() {
            dense.push(match arg {
                Arg::Tensor(t) if !t.is_contiguous() && !op.takes_strided_input(i) => Some(t.contiguous()?),
                _ => None,
            });
        }
        let args: Vec<Arg<'_>> =
            args.iter().zip(&dense).map(|(arg, dense)| dense.as_ref().map_or(*arg, Arg::Tensor)).collect();
        self.run_recipe(name, Recipe::Op(op), &args, &outputs)
    }

    /// Tensors of one dtype joined along `axis`, whose joined length is `total`: one copy a part into regions of the result.
    pub(crate) fn concat(&self, parts: &[Tensor], axis: usize, total: usize) -> Result<Tensor> {
        let mut shape = parts[0].shape().to_vec();
        shape[axis] = total;
        let output = TensorType::new(parts[0].dtype(), shape);
        output.shape.checked_len()?;
        let args: Vec<Arg<'_>> = parts.iter().map(Arg::Tensor).collect();
        let mut out = self.run_recipe("concat", Recipe::Concat(axis), &args, &[output])?;
        out.pop().ok_or_else(|| Error::internal("concat: the program has no result"))
    }

    fn run_recipe(
        &self,
        name: &str,
        recipe: Recipe,
        args: &[Arg<'_>],
        outputs: &[TensorType],
    ) -> Result<Vec<Tensor>> {
        for arg in args {
            if let Arg::Tensor(t) = arg
                && !t.device_handle().same_device(self)
            {
                return Err(Error::invalid_argument(format!(
                    "{name}: tensors of two devices, {} and {}; move one with to_device",
                    self.device_name(),
                    t.device_handle().device_name()
                )));
            }
        }
        let key = ProgramKey { recipe, args: args.iter().map(Arg::key).collect() };
        let shared = &self.device;
        let mut stream = shared.enter()?;
        let program = match stream.programs.get(&key) {
            Some(program) => program.clone(),
            None => {
                // A compile may take long and other threads may want this stream: leave it meanwhile.
                drop(stream);
                let program = shared
                    .programs
                    .get_or_compile(&key, || shared.driver.compile(&build(name, &key, args, outputs)))?;
                stream = shared.enter()?;
                stream.remember_program(key, program)
            }
        };
        let mut slices: Vec<Slice<'_>> = Vec::with_capacity(args.len());
        for arg in args {
            if let Arg::Tensor(t) = arg {
                stream.order_after(t.storage())?;
                slices.push(bound(t));
            }
        }
        let blocks = outputs.iter().map(|ty| stream.alloc(ty.bytes())).collect::<Result<Vec<_>>>()?;
        let written: Vec<Slice<'_>> = blocks.iter().map(|b| b.slice()).collect();
        let bindings = Bindings { inputs: &slices, outputs: &written, arena: Slice::EMPTY };
        let ticket = stream.launch(&program, &bindings).map_err(|e| e.context(name))?;
        drop(written);
        if let Some(ticket) = ticket {
            for arg in args {
                if let Arg::Tensor(t) = arg {
                    t.storage().record(ticket);
                }
            }
        }
        let tensors = blocks
            .into_iter()
            .zip(outputs)
            .map(|(block, ty)| {
                if let Some(ticket) = ticket {
                    block.record(ticket);
                }
                Tensor::new(
                    Storage::new(block, ticket, &stream.home),
                    ty.dtype,
                    Layout::contiguous(ty.shape.clone()),
                )
            })
            .collect();
        Ok(tensors)
    }
}

impl Arg<'_> {
    fn ty(&self) -> TensorType {
        match self {
            Arg::Tensor(t) => TensorType { dtype: t.dtype(), shape: t.shape() },
            Arg::Constant(c) => c.ty().clone(),
            Arg::Transposed(c) => TensorType { dtype: c.ty().dtype, shape: transposed(c).shape },
        }
    }

    fn key(&self) -> OperandKey {
        match self {
            Arg::Tensor(t) => OperandKey::Tensor(t.dtype(), lowered(t.layout()).0),
            Arg::Constant(c) => OperandKey::Constant(c.id()),
            Arg::Transposed(c) => OperandKey::Transposed(c.id()),
        }
    }
}

/// A matrix with its axes exchanged.
fn transposed(matrix: &Constant) -> Layout {
    Layout::contiguous(matrix.ty().shape.clone()).permute(&[1, 0])
}

/// The layout counted from the lowest element that the view touches, and that element: programs are shared by views that
/// differ in their offset only.
fn lowered(layout: &Layout) -> (Layout, usize) {
    if layout.shape.is_empty() {
        return (Layout { offset: 0, ..layout.clone() }, 0);
    }
    let down: isize =
        layout.shape.iter().zip(&layout.strides).map(|(&d, &s)| (d as isize - 1) * s.min(0)).sum();
    let lowest = (layout.offset as isize + down) as usize;
    (Layout { offset: layout.offset - lowest, ..layout.clone() }, lowest)
}

/// The bytes of a tensor's storage from the lowest element that it touches to the highest.
fn bound(t: &Tensor) -> Slice<'_> {
    let (layout, lowest) = lowered(t.layout());
    let size = t.dtype().size();
    t.storage().slice().part(lowest * size, layout.end() * size)
}

fn build(name: &str, key: &ProgramKey, args: &[Arg<'_>], outputs: &[TensorType]) -> Program {
    let mut program = Program { name: name.to_owned(), ..Program::default() };
    let mut inputs = Vec::with_capacity(args.len());
    for arg in args {
        inputs.push(match arg {
            Arg::Tensor(t) => {
                let (layout, _) = lowered(t.layout());
                program.inputs.push(Port { dtype: t.dtype(), bytes: layout.end() * t.dtype().size() });
                Operand { place: Place::Input(program.inputs.len() as u32 - 1), dtype: t.dtype(), layout }
            }
            Arg::Constant(c) | Arg::Transposed(c) => {
                program.constants.push((*c).clone());
                let layout = match arg {
                    Arg::Transposed(_) => transposed(c),
                    _ => Layout::contiguous(c.ty().shape.clone()),
                };
                Operand {
                    place: Place::Constant(program.constants.len() as u32 - 1),
                    dtype: c.ty().dtype,
                    layout,
                }
            }
        });
    }
    program.outputs = outputs.iter().map(|ty| Port { dtype: ty.dtype, bytes: ty.bytes() }).collect();
    let whole = |i: usize| Operand {
        place: Place::Output(i as u32),
        dtype: outputs[i].dtype,
        layout: Layout::contiguous(outputs[i].shape.clone()),
    };
    program.steps = match &key.recipe {
        Recipe::Op(op) => vec![Step {
            name: name.to_owned(),
            op: op.clone(),
            inputs,
            outputs: (0..outputs.len()).map(whole).collect(),
        }],
        Recipe::Concat(axis) => {
            let mut start = 0;
            inputs
                .into_iter()
                .map(|input| {
                    let mut region = whole(0);
                    let len = input.layout.shape[*axis];
                    region.layout = region.layout.slice(*axis, start, len, 1);
                    start += len;
                    Step {
                        name: name.to_owned(),
                        op: Op::Copy(Copy),
                        inputs: vec![input],
                        outputs: vec![region],
                    }
                })
                .collect()
        }
    };
    program
}
