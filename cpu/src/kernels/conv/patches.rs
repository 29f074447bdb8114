//! Convolution as a product of the weights (channels, taps) with patches of the input (taps, positions), which are packed as they are needed
//! and never lie in memory as a whole.

use half::{bf16, f16};
use streampool_core::Result;
use streampool_core::op::DType;

use super::collect::{panel_by_register, rows, runs};
use super::{Common, Pointers, Rows, Window, packed_rows};
use crate::gemm::pack::{Narrow, row_stride};
use crate::gemm::{B, Epilogue, Form, Output, Product, Rect, Repeat, Sink, Source, Spec};
use crate::kernel::{Args, Kernel, Prepare};
use crate::simd::Isa;

/// A convolution by patches. One product per image and group.
pub(super) struct PatchConv {
    isa: Isa,
    window: Window,
    common: Common,
    /// Output and input channels of a group.
    m: usize,
    c: usize,
    product: Product,
    repeat: Repeat,
    weights: Option<Rows>,
    tap_steps: Vec<Vec<isize>>,
}

impl PatchConv {
    pub(super) fn new(isa: Isa, p: &Prepare<'_>, window: Window, common: Common) -> Result<Self> {
        let (m, c) = (common.channels_out / common.groups, common.channels_in / common.groups);
        let k = c * window.taps();
        let w = &p.inputs[1].layout;
        let weights = packed_rows(p, "conv", common.channels_out, k, &[(w.shape[0], k as isize)], 1)?;
        let (a_dtype, a_row) = match &weights {
            Some(_) => (DType::F32, row_stride(k)),
            None => (common.dtype, k),
        };
        let items = common.images * common.groups;
        let n = window.out_len();
        let work = m.saturating_mul(n).saturating_mul(k);
        let product = Product::new(&Spec {
            isa,
            m,
            n,
            k,
            a_dtype,
            a_row: a_row as isize,
            a_col: 1,
            form: Form::Panels,
            sunk: common.dtype != DType::F32,
            split: !Repeat::over(items, work),
        });
        let repeat = Repeat::new(items, work, product.scratch_bytes());
        let tap_steps = window.tap_steps();
        Ok(Self { isa, window, common, m, c, product, repeat, weights, tap_steps })
    }

    /// Packs the patches of output positions `first..first + cols` of the channels at `x` into `to`, rows of `width`.
    ///
    /// # Safety
    /// `x` is valid for the group's channels, `to` for (channels * taps) rows of `width`.
    unsafe fn pack<T: Narrow>(&self, x: *const T, first: usize, cols: usize, width: usize, to: *mut f32) {
        let (w, taps) = (&self.window, self.tap_steps.len());
        let runs = runs(w, first, cols);
        if self.common.dtype == DType::F32 && w.strides[w.axes() - 1] <= 2 {
            // SAFETY: the caller's; a panel row is two registers.
            return unsafe { panel_by_register(self.isa, w, &runs, &self.tap_steps, x.cast(), self.c, to) };
        }
        for (tap, steps) in self.tap_steps.iter().enumerate() {
            // SAFETY: the rows of this tap, one per channel, are `taps` rows apart.
            unsafe { rows(w, &runs, steps, x, self.c, to.add(tap * width), taps * width, width) };
        }
    }

    /// # Safety
    /// As [`Kernel::run`]; `scratch` is this repetition's alone.
    unsafe fn one(&self, args: &Pointers<'_>, item: usize, scratch: *mut f32, team: &crate::team::Team) {
        let (image, group) = (item / self.common.groups, item % self.common.groups);
        let (plane_in, plane, size) = (self.window.in_len(), self.window.out_len(), self.common.size());
        let k = self.c * self.window.taps();
        let channel = group * self.m;
        let x_at = (image * self.common.channels_in + group * self.c) * plane_in;
        let y_at = (image * self.common.channels_out + channel) * plane;
        let x = Address(args.inputs[0].wrapping_add(x_at * size));
        let y = args.outputs[0].wrapping_add(y_at * size);
        let a = match &self.weights {
            Some(packed) => Source {
                data: packed.as_ptr().wrapping_add(channel * row_stride(k)).cast(),
                dtype: DType::F32,
                row: row_stride(k) as isize,
                col: 1,
            },
            None => Source {
                data: args.inputs[1].wrapping_add(channel * k * size),
                dtype: self.common.dtype,
                row: k as isize,
                col: 1,
            },
        };
        let width = self.product.width();
        let pack = |q: usize, to: *mut f32| {
            let (first, cols) = (q * width, (plane - q * width).min(width));
            // SAFETY: the group's channels of the image, and a panel of the product's scratch memory.
            unsafe {
                match self.common.dtype {
                    DType::F16 => self.pack::<f16>(x.get().cast(), first, cols, width, to),
                    DType::BF16 => self.pack::<bf16>(x.get().cast(), first, cols, width, to),
                    _ => self.pack::<f32>(x.get().cast(), first, cols, width, to),
                }
            }
        };
        let narrow = AddressMut(y);
        let sink = |row: usize, col: usize, from: Rect, rows: usize, cols: usize| {
            // SAFETY: the pointers are the run's; rectangles of one product are disjoint.
            unsafe {
                let at = ([row, col], [rows, cols]);
                self.common.finish_narrow(
                    args.inputs(),
                    image,
                    channel,
                    plane,
                    narrow.get(),
                    at.0,
                    from,
                    at.1,
                );
            }
        };
        let (end, sink): (Epilogue, Option<&Sink<'_>>) = if self.common.dtype == DType::F32 {
            (self.common.end(args.inputs, image, channel, plane), None)
        } else {
            (Epilogue::NONE, Some(&sink))
        };
        let output = Output { data: y.cast(), row: plane, end, sink };
        // SAFETY: the caller's contract.
        unsafe { self.product.run(a, B::Panels(&pack), &output, scratch, team) };
    }
}

/// An address that tasks read through.
#[derive(Clone, Copy)]
struct Address(*const u8);

// SAFETY: an address alone does nothing; whoever follows it answers for the access.
unsafe impl Sync for Address {}

impl Address {
    fn get(&self) -> *const u8 {
        self.0
    }
}

/// An address that tasks write through, each its own part.
struct AddressMut(*mut u8);

// SAFETY: as for `Address`.
unsafe impl Sync for AddressMut {}

impl AddressMut {
    fn get(&self) -> *mut u8 {
        self.0
    }
}

impl Kernel for PatchConv {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let pointers = Pointers { inputs: args.inputs, outputs: args.outputs };
        self.repeat.run(args.team, args.scratch.cast(), &|item, scratch, team| {
            // SAFETY: the caller's contract; the scratch memory is this repetition's alone.
            unsafe { self.one(&pointers, item, scratch, team) };
        });
        Ok(())
    }

    fn scratch_bytes(&self) -> usize {
        self.repeat.scratch_bytes()
    }

    fn holds_input(&self, i: usize) -> bool {
        i == 1 && self.weights.is_some()
    }

    fn describe(&self) -> String {
        format!(
            "conv {} {} images, {} groups, {} to {} channels, kernel {:?}, patches, {}",
            self.common.dtype,
            self.common.images,
            self.common.groups,
            self.common.channels_in,
            self.common.channels_out,
            self.window.kernel,
            self.product.describe()
        )
    }

    fn work(&self) -> usize {
        self.repeat.work()
    }
}
