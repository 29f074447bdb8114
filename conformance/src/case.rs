//! One step on inputs of its own: how it is run on a device and compared.

use std::sync::Arc;

use streampool_core::Result;
use streampool_core::driver::{Bindings, Driver, Segment, Slice};
use streampool_core::op::{
    DType, HostTensor, Layout, Linalg, Op, Operand, Place, Port, Program, ResizeMode, Scalar, Step,
    TensorType,
};

use crate::bench::{Bench, soon};
use crate::rebuild;

/// A step on inputs of its own; operands may be views.
#[derive(Clone, Debug)]
pub struct Case {
    /// Operation, what is special, operand types.
    pub name: String,
    /// What is done.
    pub op: Op,
    /// Each in a buffer of its own: the n-th bound input.
    pub inputs: Vec<Operand>,
    /// Each in a buffer of its own: the n-th bound output.
    pub outputs: Vec<Operand>,
    /// The inputs' buffers.
    pub data: Vec<HostTensor>,
    /// Largest relative error (L2) that rounding in another order may make.
    pub tolerance: f64,
}

/// A dense operand.
pub(crate) fn dense(place: Place, ty: &TensorType) -> Operand {
    Operand { place, dtype: ty.dtype, layout: Layout::contiguous(ty.shape.clone()) }
}

/// Writes one element.
pub(crate) fn set(tensor: &mut HostTensor, i: usize, value: Scalar) {
    let size = value.dtype().size();
    tensor.bytes_mut()[i * size..][..size].copy_from_slice(&value.bits().to_le_bytes()[..size]);
}

impl Case {
    /// The program of this one step.
    pub fn program(&self) -> Program {
        let port = |o: &Operand| Port { dtype: o.dtype, bytes: o.layout.end() * o.dtype.size() };
        Program {
            name: self.name.clone(),
            inputs: self.inputs.iter().map(port).collect(),
            outputs: self.outputs.iter().map(port).collect(),
            steps: vec![Step {
                name: self.name.clone(),
                op: self.op.clone(),
                inputs: self.inputs.clone(),
                outputs: self.outputs.clone(),
            }],
            ..Program::default()
        }
    }

    /// Buffers for the outputs, full of something that shows where nothing is written.
    pub fn buffers(&self) -> Vec<HostTensor> {
        self.outputs
            .iter()
            .map(|o| {
                let mut t =
                    HostTensor::zeros(TensorType::new(o.dtype, [o.layout.end()])).expect("room for a test");
                t.bytes_mut().fill(if o.dtype == DType::Bool { 1 } else { 0x5a });
                t
            })
            .collect()
    }

    /// Runs it on a device whose operands are bound by address.
    ///
    /// # Errors
    /// Those of the device.
    pub fn run_on(&self, driver: &Arc<dyn Driver>) -> Result<Vec<HostTensor>> {
        let program = driver.compile(&self.program())?;
        let mut bench = Bench::new(driver, 0);
        let mut outputs = self.buffers();
        let place = |bench: &mut Bench, t: &HostTensor| {
            let segment = bench.allocate(t.bytes().len().max(1));
            if !t.bytes().is_empty() {
                bench.write_bytes(&segment, t.bytes());
            }
            segment
        };
        let read: Vec<_> = self.data.iter().map(|t| place(&mut bench, t)).collect();
        let written: Vec<_> = outputs.iter().map(|t| place(&mut bench, t)).collect();
        fn slices(segments: &[Segment]) -> Vec<Slice<'_>> {
            segments.iter().map(|s| Slice::of_segment(s, 0, s.bytes())).collect()
        }
        let bindings = Bindings { inputs: &slices(&read), outputs: &slices(&written), arena: Slice::EMPTY };
        bench.launch(&program, &bindings)?;
        for (output, segment) in outputs.iter_mut().zip(&written) {
            let bytes = output.bytes().len();
            bench.queue().read(Slice::of_segment(segment, 0, bytes), output.bytes_mut(), soon())?;
        }
        bench.finish();
        Ok(outputs)
    }

    /// Whether `got` is `expected` but for rounding. Decompositions that are not unique must rebuild their matrix.
    ///
    /// # Errors
    /// What differs, in words.
    pub fn compare(&self, expected: &[HostTensor], got: &[HostTensor]) -> Result<(), String> {
        if let Op::Linalg(op @ (Linalg::Qr | Linalg::Svd | Linalg::Eigh)) = self.op {
            return rebuild::judge(op, &self.data[0], expected, got, self.tolerance)
                .map_err(|why| format!("{}: {why}", self.name));
        }
        // What lies half way between two integers may be rounded to either, as a sum in another order falls.
        let rounds = matches!(&self.op, Op::Resize(o) if !matches!(o.mode, ResizeMode::Nearest(_)));
        for (n, (e, g)) in expected.iter().zip(got).enumerate() {
            let (mut error, mut size, mut halves) = (0.0, 0.0, 0);
            for i in 0..e.ty().shape.len() {
                let (x, y) = (e.get(i), g.get(i));
                let differs =
                    || Err(format!("{}: output {n} element {i} is {y:?}, should be {x:?}", self.name));
                if !x.dtype().is_float() {
                    let rounded = rounds && (x.to_f64() - y.to_f64()).abs() == 1.0;
                    halves += usize::from(rounded);
                    if x != y && !(rounded && halves <= 1 + e.ty().shape.len() / 50) {
                        return differs();
                    }
                    continue;
                }
                let (x, y) = (x.to_f64(), y.to_f64());
                if x.is_nan() != y.is_nan() || ((x.is_infinite() || y.is_infinite()) && x != y) {
                    return differs();
                }
                if x.is_finite() {
                    error += (x - y) * (x - y);
                    size += x * x;
                }
            }
            let relative = error.sqrt() / size.sqrt().max(1e-30);
            if error > 0.0 && relative > self.tolerance {
                return Err(format!("{}: output {n} is off by {relative:.2e}", self.name));
            }
        }
        Ok(())
    }
}
