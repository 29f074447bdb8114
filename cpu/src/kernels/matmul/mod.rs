//! Matrix products: [`Op::MatMul`](streampool_core::op::Op::MatMul) in [`float`] (f32, f16, bf16) and [`plain`] (f64, i32, i64),
//! [`Op::MatMulInteger`](streampool_core::op::Op::MatMulInteger) in [`integer`].

mod float;
mod integer;
mod plain;

use smallvec::SmallVec;
use streampool_core::op::{DType, Layout, MatMul, Op, Shape};
use streampool_core::{Error, Result};

use crate::kernel::{Kernel, Prepare};
use crate::simd::Isa;

/// The kernel of an [`Op::MatMul`].
pub(crate) fn make(p: &Prepare<'_>) -> Result<Box<dyn Kernel>> {
    make_with(Isa::detect(), p)
}

/// [`make`] with the instructions `isa`.
fn make_with(isa: Isa, p: &Prepare<'_>) -> Result<Box<dyn Kernel>> {
    let Op::MatMul(op) = p.op else {
        return Err(Error::internal(format!("{} given to the MatMul kernel", p.op.name())));
    };
    let dtype = p.outputs[0].dtype;
    if p.outputs[0].layout.shape.is_empty() {
        return Ok(Box::new(Nothing));
    }
    Ok(match dtype {
        DType::F32 | DType::F16 | DType::BF16 => Box::new(float::FloatMatMul::new(isa, op, p)?),
        DType::F64 => Box::new(plain::PlainMatMul::<f64>::new(op, p)?),
        DType::I32 => Box::new(plain::PlainMatMul::<i32>::new(op, p)?),
        DType::I64 => Box::new(plain::PlainMatMul::<i64>::new(op, p)?),
        _ => {
            return Err(Error::unsupported(format!("MatMul of {dtype} on cpu: cast to a float, i32 or i64")));
        }
    })
}

/// The kernel of an [`Op::MatMulInteger`].
pub(crate) fn make_integer(p: &Prepare<'_>) -> Result<Box<dyn Kernel>> {
    let Op::MatMulInteger(op) = p.op else {
        return Err(Error::internal(format!("{} given to the MatMulInteger kernel", p.op.name())));
    };
    if p.outputs[0].layout.shape.is_empty() {
        return Ok(Box::new(Nothing));
    }
    Ok(Box::new(integer::IntegerMatMul::new(op, p)?))
}

/// A result without elements.
pub(crate) struct Nothing;

impl Kernel for Nothing {
    unsafe fn run(&self, _args: &crate::kernel::Args<'_>) -> Result<()> {
        Ok(())
    }
    fn describe(&self) -> String {
        "nothing to do".into()
    }
}

/// Axes over which a product is repeated, with the step of each operand.
#[derive(Clone, Debug)]
pub(crate) struct Batch<const N: usize> {
    dims: SmallVec<[(usize, [isize; N]); 4]>,
}

impl<const N: usize> Batch<N> {
    /// From axis lengths and one layout's leading strides per operand; neighbouring axes that can be walked as one are joined.
    pub(crate) fn new(shape: &[usize], strides: [&[isize]; N]) -> Self {
        let mut dims: SmallVec<[(usize, [isize; N]); 4]> = SmallVec::new();
        for (i, &d) in shape.iter().enumerate() {
            if d == 1 {
                continue;
            }
            let steps = std::array::from_fn(|o| strides[o][i]);
            match dims.last_mut() {
                Some((len, outer)) if (0..N).all(|o| outer[o] == steps[o] * d as isize) => {
                    *len *= d;
                    *outer = steps;
                }
                _ => dims.push((d, steps)),
            }
        }
        Self { dims }
    }

    /// How many repetitions.
    pub(crate) fn len(&self) -> usize {
        self.dims.iter().map(|d| d.0).product()
    }

    /// The offset of each operand in repetition `g`.
    pub(crate) fn offsets(&self, mut g: usize) -> [isize; N] {
        let mut out = [0; N];
        for (len, steps) in self.dims.iter().rev() {
            let i = (g % len) as isize;
            g /= len;
            for o in 0..N {
                out[o] += i * steps[o];
            }
        }
        out
    }
}

/// Operands of a product, as views of rank (batch axes, rows, columns).
struct Views {
    m: usize,
    n: usize,
    k: usize,
    /// Lengths of the batch axes.
    batch: SmallVec<[usize; 6]>,
    a: Layout,
    b: Layout,
    /// Steps over the output's axes, those it is repeated on being 0.
    bias: Option<Layout>,
}

impl Views {
    /// Broadcasts the operands of a MatMul or MatMulInteger to the output's batch axes.
    fn new(p: &Prepare<'_>, bias: Option<usize>) -> Result<Self> {
        let out = &p.outputs[0].layout.shape;
        let (la, lb) = (&p.inputs[0].layout, &p.inputs[1].layout);
        let rank = out.rank();
        if rank < 2 || la.shape.rank() < 2 || lb.shape.rank() < 2 {
            return Err(Error::internal(format!(
                "matrix product of {} and {} into {out}: ranks below 2",
                la.shape, lb.shape
            )));
        }
        let batch: SmallVec<[usize; 6]> = SmallVec::from_slice(&out[..rank - 2]);
        let (m, n, k) = (out[rank - 2], out[rank - 1], la.shape[la.shape.rank() - 1]);
        let over = |l: &Layout, rows: usize, cols: usize| {
            let mut dims = batch.to_vec();
            dims.extend([rows, cols]);
            l.broadcast_to(&Shape::new(&dims))
        };
        Ok(Self {
            m,
            n,
            k,
            a: over(la, m, k)?,
            b: over(lb, k, n)?,
            bias: bias.map(|i| p.inputs[i].layout.broadcast_to(out)).transpose()?,
            batch,
        })
    }

    /// Takes the batch axes into the rows, if B is the same for all of them and the strides allow.
    fn fold(&mut self) {
        let axes = self.batch.len();
        if axes == 0 || self.b.strides[..axes].iter().zip(&self.batch).any(|(&s, &d)| s != 0 && d != 1) {
            return;
        }
        let rows = self.batch.iter().product::<usize>() * self.m;
        let (Some(a), Some(bias)) = (
            self.a.reshape(&Shape::new(&[rows, self.k])),
            self.bias
                .as_ref()
                .map(|b| b.reshape(&Shape::new(&[rows, self.n])))
                .map_or(Some(None), |b| b.map(Some)),
        ) else {
            return;
        };
        let b = Layout {
            shape: Shape::new(&[self.k, self.n]),
            strides: SmallVec::from_slice(&self.b.strides[axes..]),
            offset: self.b.offset,
        };
        (self.a, self.b, self.bias, self.m) = (a, b, bias, rows);
        self.batch.clear();
    }
}

/// The strides of the last two axes; those of axes without a second element are made 1 so that they do not stand in the way.
fn steps(l: &Layout) -> (isize, isize) {
    let r = l.shape.rank();
    let step = |axis: usize| if l.shape[axis] > 1 { l.strides[axis] } else { 1 };
    (step(r - 2), step(r - 1))
}

/// The bytes at an address that any element may have.
pub(crate) fn aligned_copy(bytes: &[u8]) -> Vec<u64> {
    let mut words = vec![0u64; bytes.len().div_ceil(8)];
    for (word, chunk) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut eight = [0; 8];
        eight[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_ne_bytes(eight);
    }
    words
}

/// Which inputs a MatMul has beyond its factors: `(bias, residual)`.
fn extras(op: &MatMul) -> (Option<usize>, Option<usize>) {
    let bias = op.bias.then_some(2);
    (bias, op.residual.then_some(2 + usize::from(op.bias)))
}

#[cfg(test)]
mod tests;
