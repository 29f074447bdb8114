//! Transposed convolution: a product of the transposed weights (channels * taps, input channels) with the input (input channels,
//! positions), whose rows are then added where their taps fall. A block of output channels at a time.

use streampool_core::Result;
use streampool_core::op::DType;

use super::{Common, Pointers, Rows, Window, packed_rows};
use crate::gemm::pack::{pack_panel, row_stride};
use crate::gemm::{B, Epilogue, Form, Output, Product, Rect, Repeat, Source, Spec, tile::Kernels};
use crate::kernel::{Args, Kernel, Prepare};
use crate::simd::Isa;

/// Elements of the product that are held at a time (4 MiB).
const HELD: usize = 1024 * 1024;

/// A transposed convolution. One repetition per image, group and block of output channels.
pub(super) struct TransposedConv {
    kernels: &'static Kernels,
    /// Over the output ("in") by positions of the input ("out").
    window: Window,
    common: Common,
    /// Output and input channels of a group.
    m: usize,
    c: usize,
    /// Output channels of a block, and blocks of a group.
    block: usize,
    blocks: usize,
    /// Of a whole block, and of the last.
    products: [Product; 2],
    repeat: Repeat,
    weights: Option<Rows>,
    tap_steps: Vec<Vec<isize>>,
    /// Elements of scratch memory before the product's own: its result, and the sums of a channel.
    held: usize,
}

impl TransposedConv {
    pub(super) fn new(isa: Isa, p: &Prepare<'_>, window: Window, common: Common) -> Result<Self> {
        let (m, c) = (common.channels_out / common.groups, common.channels_in / common.groups);
        let (taps, n) = (window.taps(), window.out_len());
        // Rows (group, output channel, tap) of `c` weights: the transpose of what is given.
        let step = (m * taps) as isize;
        let weights = packed_rows(
            p,
            "transposed",
            common.groups * m * taps,
            c,
            &[(common.groups, c as isize * step), (m * taps, 1)],
            step,
        )?;
        let (a_dtype, a_row, a_col) = match &weights {
            Some(_) => (DType::F32, row_stride(c) as isize, 1),
            None => (common.dtype, 1, step),
        };
        let per_channel = (taps * n).max(1);
        let repeats = common.images * common.groups;
        let wanted = 8usize.div_ceil(repeats.max(1));
        let block = (HELD / per_channel).clamp(1, m.div_ceil(wanted));
        let blocks = m.div_ceil(block);
        let product = |channels: usize| {
            Product::new(&Spec {
                isa,
                m: channels * taps,
                n,
                k: c,
                a_dtype,
                a_row,
                a_col,
                form: Form::Panels,
                sunk: false,
                split: false,
            })
        };
        let products = [product(block), product(m - (blocks - 1) * block)];
        let held = (block * taps * n).next_multiple_of(16) + window.in_len().next_multiple_of(16);
        let scratch = products.iter().map(Product::scratch_bytes).max().unwrap_or(0) + held * 4;
        let work = products[0].work() + block * taps * n;
        let repeat = Repeat::of_whole(repeats * blocks, work, scratch);
        let tap_steps = window.tap_steps();
        Ok(Self {
            kernels: Kernels::of(isa),
            window,
            common,
            m,
            c,
            block,
            blocks,
            products,
            repeat,
            weights,
            tap_steps,
            held,
        })
    }

    /// # Safety
    /// As [`Kernel::run`]; `scratch` is this repetition's alone.
    unsafe fn one(&self, args: &Pointers<'_>, item: usize, scratch: *mut f32) {
        let (block, rest) = (item % self.blocks, item / self.blocks);
        let (image, group) = (rest / self.common.groups, rest % self.common.groups);
        let (taps, n, plane) = (self.tap_steps.len(), self.window.out_len(), self.window.in_len());
        let (size, dtype) = (self.common.size(), self.common.dtype);
        let first = block * self.block;
        let channels = self.block.min(self.m - first);
        let product = &self.products[usize::from(block + 1 == self.blocks)];
        // SAFETY: positions are inside the operands, for which the caller vouches, and inside the scratch memory.
        unsafe {
            let a = match &self.weights {
                Some(packed) => {
                    let row = (group * self.m + first) * taps;
                    Source {
                        data: packed.as_ptr().add(row * row_stride(self.c)).cast(),
                        dtype: DType::F32,
                        row: row_stride(self.c) as isize,
                        col: 1,
                    }
                }
                None => Source {
                    data: args.inputs[1].add((group * self.c * self.m + first) * taps * size),
                    dtype,
                    row: 1,
                    col: (self.m * taps) as isize,
                },
            };
            let x = Source {
                data: args.inputs[0].add((image * self.common.channels_in + group * self.c) * n * size),
                dtype,
                row: n as isize,
                col: 1,
            };
            let width = product.width();
            let pack = |q: usize, to: *mut f32| {
                pack_panel(x.at(0, q * width), self.c, (n - q * width).min(width), width, to);
            };
            let rows = scratch;
            let output = Output { data: rows, row: n, end: Epilogue::NONE, sink: None };
            product.run(a, B::Panels(&pack), &output, scratch.add(self.held), &crate::team::ALONE);

            for channel in 0..channels {
                let out = group * self.m + first + channel;
                let y = args.outputs[0].add((image * self.common.channels_out + out) * plane * size);
                let sums = if dtype == DType::F32 {
                    y.cast::<f32>()
                } else {
                    scratch.add((self.block * taps * n).next_multiple_of(16))
                };
                std::slice::from_raw_parts_mut(sums, plane).fill(0.0);
                for (tap, steps) in self.tap_steps.iter().enumerate() {
                    self.add_tap(steps, rows.add((channel * taps + tap) * n), sums);
                }
                let whole = Rect { data: sums, row: plane };
                if dtype == DType::F32 {
                    let end = self.common.end(args.inputs, image, out, plane);
                    if !end.is_none() {
                        (self.kernels.finish)(whole, whole, 1, plane, &end);
                    }
                } else {
                    self.common.finish_narrow(args.inputs, image, out, plane, y, [0, 0], whole, [1, plane]);
                }
            }
        }
    }

    /// Adds the products `from` of one tap where they fall in the plane `to`.
    ///
    /// # Safety
    /// `from` is valid for the input's positions, `to` for the output's.
    unsafe fn add_tap(&self, steps: &[isize], from: *const f32, to: *mut f32) {
        let w = &self.window;
        let last = w.axes() - 1;
        let (len, stride) = (w.output[last], w.strides[last]);
        if len == 0 {
            return;
        }
        let begin = steps[last] - w.before[last];
        let inside = w.inside(begin, len);
        for row in 0..w.out_len() / len {
            let Some(line) = w.row(row, steps) else { continue };
            // SAFETY: `inside` are the positions whose tap lies in the row `line` of the plane.
            unsafe {
                for j in inside.clone() {
                    let at = line as isize + begin + (j * stride) as isize;
                    *to.offset(at) += *from.add(row * len + j);
                }
            }
        }
    }
}

impl Kernel for TransposedConv {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let pointers = Pointers { inputs: args.inputs, outputs: args.outputs };
        self.repeat.run(args.team, args.scratch.cast(), &|item, scratch, _| {
            // SAFETY: the caller's contract; the scratch memory is this repetition's alone.
            unsafe { self.one(&pointers, item, scratch) };
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
            "transposed conv {} {} images, {} groups, {} to {} channels, kernel {:?}, {}",
            self.common.dtype,
            self.common.images,
            self.common.groups,
            self.common.channels_in,
            self.common.channels_out,
            self.window.kernel,
            self.products[0].describe()
        )
    }

    fn work(&self) -> usize {
        self.repeat.work()
    }
}
