//! Products of f32, f16 and bf16, summed in f32.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use half::{bf16, f16};
use streampool_core::Result;
use streampool_core::op::{Activation, Constant, DType, Layout, MatMul};

use super::{Batch, Views, aligned_copy, extras, steps};
use crate::gemm::half::{Half, finish_half};
use crate::gemm::{
    Addend, B, Epilogue, Form, Output, PackedB, Product, Rect, Repeat, Sink, Source, Spec, pack,
};
use crate::kernel::{Args, Kernel, Prepare};
use crate::simd::Isa;
use crate::team::Team;

/// A MatMul in f32, f16 or bf16.
pub(super) struct FloatMatMul {
    dtype: DType,
    m: usize,
    n: usize,
    k: usize,
    product: Product,
    /// B packed at compile time; then its step in `batch` counts matrices.
    packed: Option<Packed>,
    form: Form,
    a: (isize, isize),
    b: (isize, isize),
    bias: Option<(usize, isize, isize)>,
    residual: Option<usize>,
    alpha: f32,
    activation: Option<Activation>,
    /// Offsets of A, B, bias.
    batch: Batch<3>,
    repeat: Repeat,
}

impl FloatMatMul {
    pub(super) fn new(isa: Isa, op: &MatMul, p: &Prepare<'_>) -> Result<Self> {
        let dtype = p.outputs[0].dtype;
        let (bias, residual) = extras(op);
        let mut views = Views::new(p, bias)?;
        let constant = p.constants.get(1).and_then(|c| c.as_ref());
        views.fold();
        let Views { m, n, k, .. } = views;
        let axes = views.batch.len();
        let (a, b) = (steps(&views.a), steps(&views.b));
        let width = crate::gemm::tile::Kernels::of(isa).panel();

        let packed = constant.map(|c| packed_form(p, c, &p.inputs[1].layout, k, n, width)).transpose()?;
        let form = if packed.is_some() {
            Form::Packed
        } else if dtype == DType::F32 && (b.1 == 1 || n == 1) && m <= 2 * width {
            // Read so few times that packing it does not pay.
            Form::InPlace
        } else {
            Form::Panels
        };
        let b_strides = match &packed {
            // Steps over the packed matrices.
            Some(_) if axes > 0 => {
                let own = &p.inputs[1].layout.shape;
                let items = Layout::contiguous(&own[..own.rank() - 2]);
                items.broadcast_to(&views.batch.as_slice().into())?.strides.to_vec()
            }
            _ => views.b.strides[..axes].to_vec(),
        };
        let bias_strides = views.bias.as_ref().map_or(vec![0; axes], |l| l.strides[..axes].to_vec());
        let batch = Batch::new(&views.batch, [&views.a.strides[..axes], &b_strides, &bias_strides]);
        let work = m.saturating_mul(n).saturating_mul(k);
        let product = Product::new(&Spec {
            isa,
            m,
            n,
            k,
            a_dtype: dtype,
            a_row: a.0,
            a_col: a.1,
            form,
            sunk: dtype != DType::F32,
            split: !Repeat::over(batch.len(), work),
        });
        let repeat = Repeat::new(batch.len(), work, product.scratch_bytes());
        let bias = bias.map(|i| {
            let l = views.bias.as_ref().expect("given with the index");
            (i, l.strides[axes], l.strides[axes + 1])
        });
        Ok(Self {
            dtype,
            m,
            n,
            k,
            product,
            packed,
            form,
            a,
            b,
            bias,
            residual,
            alpha: op.alpha.get(),
            activation: op.activation,
            batch,
            repeat,
        })
    }

    /// Repetition `g`.
    ///
    /// # Safety
    /// As [`Kernel::run`]; `scratch` is this call's alone.
    unsafe fn one(&self, args: &Pointers<'_>, g: usize, scratch: *mut f32, team: &Team) {
        let size = self.dtype.size() as isize;
        let [a_at, b_at, bias_at] = self.batch.offsets(g);
        let c_at = g * self.m * self.n;
        // SAFETY: offsets lie inside the operands' extents, which the caller vouches for.
        unsafe {
            let a = Source {
                data: args.inputs[0].offset(a_at * size),
                dtype: self.dtype,
                row: self.a.0,
                col: self.a.1,
            };
            let (width, k, n) = (self.product.width(), self.k, self.n);
            // Nothing is behind the pointer if B is packed.
            let view = Source {
                data: args.inputs[1].wrapping_offset(b_at * size),
                dtype: self.dtype,
                row: self.b.0,
                col: self.b.1,
            };
            let pack_panel = |q: usize, to: *mut f32| {
                let col = q * width;
                pack::pack_panel(view.at(0, col), k, (n - col).min(width), width, to);
            };
            let b = match &self.packed {
                Some(packed) => B::Packed(packed.item(b_at as usize)),
                None if self.form == Form::InPlace => B::InPlace(view),
                None => B::Panels(&pack_panel),
            };
            let bias = self.bias.map(|(i, row, col)| (args.inputs[i].offset(bias_at * size), row, col));
            let residual =
                self.residual.map(|i| (args.inputs[i].add(c_at * size as usize), self.n as isize, 1isize));
            let c = args.outputs[0].add(c_at * size as usize);
            match self.dtype {
                DType::F16 => {
                    let sink = self.sink::<f16>(bias, residual, c);
                    self.run_product(a, b, c, Epilogue::NONE, Some(&sink), scratch, team);
                }
                DType::BF16 => {
                    let sink = self.sink::<bf16>(bias, residual, c);
                    self.run_product(a, b, c, Epilogue::NONE, Some(&sink), scratch, team);
                }
                _ => {
                    let addend =
                        |(data, row, col): (*const u8, isize, isize)| Addend { data: data.cast(), row, col };
                    let end = Epilogue {
                        alpha: self.alpha,
                        addends: [bias.map(addend), residual.map(addend)],
                        activation: self.activation,
                    };
                    self.run_product(a, b, c, end, None, scratch, team);
                }
            }
        }
    }

    /// # Safety
    /// As [`Product::run`].
    #[inline]
    #[allow(clippy::too_many_arguments)]
    unsafe fn run_product(
        &self,
        a: Source,
        b: B<'_>,
        c: *mut u8,
        end: Epilogue,
        sink: Option<&Sink<'_>>,
        scratch: *mut f32,
        team: &Team,
    ) {
        let output = Output { data: c.cast(), row: self.n, end, sink };
        // SAFETY: passed on from the caller.
        unsafe { self.product.run(a, b, &output, scratch, team) }
    }

    /// What rounds a finished rectangle of sums into the result.
    fn sink<T: Half>(
        &self,
        bias: Option<(*const u8, isize, isize)>,
        residual: Option<(*const u8, isize, isize)>,
        c: *mut u8,
    ) -> impl Fn(usize, usize, Rect, usize, usize) + Sync {
        let half =
            crate::gemm::half::HalfEnd::<T>::new(self.alpha, [bias, residual], self.activation, c, self.n);
        // SAFETY: the pointers are those of a run, valid for its whole shape; rectangles are disjoint.
        move |row, col, from, rows, cols| unsafe { finish_half(&half, row, col, from, rows, cols) }
    }
}

/// A packed B that is there.
struct Packed(Arc<Result<PackedB>>);

impl Packed {
    fn item(&self, g: usize) -> *const f32 {
        self.0.as_ref().as_ref().map_or(std::ptr::null(), |packed| packed.item(g))
    }
}

/// The packed form of constant B, shared with all programs that read it through the same view.
fn packed_form(
    p: &Prepare<'_>,
    c: &Arc<Constant>,
    layout: &Layout,
    k: usize,
    n: usize,
    width: usize,
) -> Result<Packed> {
    let mut hash = DefaultHasher::new();
    ("matmul b", width, layout).hash(&mut hash);
    let bytes = |packed: &Result<PackedB>| packed.as_ref().map_or(0, PackedB::bytes);
    let packed = p.packs.get_or_pack_sized(c.id(), hash.finish(), bytes, || {
        let size = c.ty().dtype.size();
        // A slice of a mapped file may be unaligned.
        let copy;
        let mut data = c.data().as_ptr();
        if data.align_offset(size) != 0 {
            copy = aligned_copy(c.data());
            data = copy.as_ptr().cast();
        }
        let rank = layout.shape.rank();
        let own = Batch::new(&layout.shape[..rank - 2], [&layout.strides[..rank - 2]]);
        let items: Vec<Source> = (0..own.len())
            .map(|g| {
                let at = (layout.offset as isize + own.offsets(g)[0]) * size as isize;
                Source {
                    data: data.wrapping_offset(at),
                    dtype: c.ty().dtype,
                    row: layout.strides[rank - 2],
                    col: layout.strides[rank - 1],
                }
            })
            .collect();
        // SAFETY: the layout lies inside the constant (the program was validated), whose bytes are initialised and now aligned.
        let packed = unsafe { PackedB::new(&items, k, n, width) };
        c.release_pages();
        packed
    });
    match &*packed {
        Ok(_) => Ok(Packed(packed)),
        Err(e) => Err(e.clone()),
    }
}

/// Operand pointers that tasks share.
struct Pointers<'a> {
    inputs: &'a [*const u8],
    outputs: &'a [*mut u8],
}

// SAFETY: the contract of `Kernel::run`: inputs are only read, and tasks write disjoint parts of the outputs.
unsafe impl Sync for Pointers<'_> {}

impl Kernel for FloatMatMul {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let pointers = Pointers { inputs: args.inputs, outputs: args.outputs };
        self.repeat.run(args.team, args.scratch.cast(), &|g, scratch, team| {
            // SAFETY: the caller's contract; the scratch memory is this repetition's alone.
            unsafe { self.one(&pointers, g, scratch, team) };
        });
        Ok(())
    }

    fn scratch_bytes(&self) -> usize {
        self.repeat.scratch_bytes()
    }

    fn holds_input(&self, i: usize) -> bool {
        i == 1 && self.packed.is_some()
    }

    fn describe(&self) -> String {
        let items = self.repeat.items();
        let times = if items == 1 { String::new() } else { format!("{items} x ") };
        format!("gemm {} {times}{}x{}x{}, {}", self.dtype, self.m, self.n, self.k, self.product.describe())
    }

    fn work(&self) -> usize {
        self.repeat.work()
    }
}
