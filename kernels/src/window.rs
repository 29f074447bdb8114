//! Sliding windows: a thread an output element, loops over the part of the window that lies inside the input.

#![allow(clippy::needless_range_loop)] // an axis indexes several lists at once

use std::fmt::Write;

use streampool_core::op::{Conv, ConvTranspose, DType, Operand, Pool, PoolKind};

use crate::emit::{Index, THREADS, activate, blocks, dense, element, load, register, storage, store};
use crate::{Binding, Kernel};

/// Opens loops `k{i}` over the window positions inside the input on each spatial axis, with the input coordinate `x{i}`; `close` closes them.
fn open_window(
    text: &mut String,
    s: &str,
    input: &[usize],
    kernel: &[usize],
    strides: &[usize],
    dilations: &[usize],
    pads: &[usize],
) {
    for i in 0..input.len() {
        let start = format!("(c{} * ({s}){} - ({s}){})", i + 2, strides[i], pads[i]);
        let dilation = dilations[i];
        // Positions k with 0 <= start + k * dilation < input.
        let _ = writeln!(
            text,
            "    const {s} s{i} = {start}; const {s} low{i} = s{i} < 0 ? (-s{i} + {}) / {dilation} : 0; const {s} room{i} = ({s}){} - s{i}; const {s} most{i} = room{i} <= 0 ? 0 : (room{i} + {}) / {dilation}; const {s} high{i} = most{i} < {k} ? most{i} : {k};",
            dilation - 1,
            input[i],
            dilation - 1,
            k = kernel[i]
        );
    }
    for i in 0..input.len() {
        let _ = writeln!(
            text,
            "    for ({s} k{i} = low{i}; k{i} < high{i}; k{i}++) {{ const {s} x{i} = s{i} + k{i} * ({s}){};",
            dilations[i]
        );
    }
}

fn close(text: &mut String, loops: usize) {
    let _ = writeln!(text, "    {}", "}".repeat(loops));
}

pub(crate) fn pool(op: &Pool, input: &Operand, outputs: &[Operand]) -> Vec<Kernel> {
    let (x, y, dtype) = (&input.layout.shape, &outputs[0].layout.shape, input.dtype);
    let spatial = &x[2..];
    let n = y.len();
    let index =
        Index::new(&[n, x.len(), spatial.iter().chain(&op.pads_before).chain(&op.kernel).sum::<usize>() * 4]);
    let (s, t) = (index.s(), register(dtype));
    let plane: usize = spatial.iter().product();
    let mut text = element(index, n);
    text.push_str(&index.split("i", y, "c"));
    let _ = writeln!(text, "    const i64 from = (i64)(c0 * ({s}){} + c1) * {plane}ll;", x[1]);
    let at = |prefix: &str| index.offset(prefix, &dense(spatial));
    let e = load(dtype, "x", &format!("from + {}", at("x")));
    let mut kernel = Kernel::new("pool, a thread an output", blocks(n), THREADS)
        .param(Binding::Input(0), "x", storage(dtype))
        .param(Binding::Output(0), "y", storage(dtype));
    let window = |text: &mut String, body: &str| {
        open_window(text, s, spatial, &op.kernel, &op.strides, &op.dilations, &op.pads_before);
        let _ = writeln!(text, "    const {t} e = {e}; {body}");
        close(text, spatial.len());
    };
    match op.kind {
        PoolKind::Max { indices, column_major } => {
            let lowest = match dtype {
                DType::I8 => "(i8)-128".to_owned(),
                DType::U8 => "(u8)0".to_owned(),
                _ => format!("({t})-float_of_bits(0x7f800000u)"),
            };
            let _ = writeln!(text, "    {t} best = {lowest}; i64 found = -1;");
            // Columns-first: the first spatial axis is the fastest.
            let flat = if column_major {
                let mut strides = vec![1isize; spatial.len()];
                for i in 1..spatial.len() {
                    strides[i] = strides[i - 1] * spatial[i - 1] as isize;
                }
                index.offset("x", &strides)
            } else {
                at("x")
            };
            window(
                &mut text,
                &format!(
                    "if (found < 0 || e > best || (e != e && best == best)) {{ best = e; found = from + {flat}; }}"
                ),
            );
            let _ = writeln!(text, "    {}", store(dtype, "y", "i", "best"));
            if indices {
                text.push_str("    which[i] = found;\n");
                kernel = kernel.param(Binding::Output(1), "which", "i64");
            } else {
                text.push_str("    (void)found;\n");
            }
        }
        PoolKind::Average { count_pad } => {
            let _ = writeln!(text, "    {t} total = 0;");
            window(&mut text, "total += e;");
            let mut count = format!("({t})1");
            for i in 0..spatial.len() {
                if count_pad {
                    let padded = spatial[i] + op.pads_before[i] + op.pads_after[i];
                    let _ = writeln!(
                        text,
                        "    const {s} left{i} = ({s}){padded} - c{} * ({s}){}; const {s} fit{i} = left{i} <= 0 ? 0 : (left{i} + {}) / {}; const {s} n{i} = fit{i} < {k} ? fit{i} : {k};",
                        i + 2,
                        op.strides[i],
                        op.dilations[i] - 1,
                        op.dilations[i],
                        k = op.kernel[i]
                    );
                } else {
                    let _ = writeln!(text, "    const {s} n{i} = high{i} > low{i} ? high{i} - low{i} : 0;");
                }
                let _ = write!(count, " * ({t})n{i}");
            }
            let _ = writeln!(text, "    {}", store(dtype, "y", "i", &format!("total / ({count})")));
        }
        PoolKind::Lp { p } => {
            let _ = writeln!(text, "    {t} total = 0;");
            let (take, finish) = match p {
                1 => ("m_fabs(e)".to_owned(), "total".to_owned()),
                2 => ("e * e".to_owned(), "m_sqrt(total)".to_owned()),
                _ => {
                    (format!("m_powf(m_fabs(e), ({t}){p}.0)"), format!("m_powf(total, ({t})1 / ({t}){p}.0)"))
                }
            };
            window(&mut text, &format!("total += {take};"));
            let _ = writeln!(text, "    {}", store(dtype, "y", "i", &finish));
        }
    }
    vec![kernel.apart().body(text)]
}

pub(crate) fn conv(op: &Conv, inputs: &[Operand], output: &Operand) -> Vec<Kernel> {
    let (x, w, y) = (&inputs[0].layout.shape, &inputs[1].layout.shape, &output.layout.shape);
    let dtype = output.dtype;
    let spatial = &x[2..];
    let n = y.len();
    let index = Index::new(&[n, x.len(), w.len(), spatial.iter().chain(&op.pads_before).sum::<usize>() * 4]);
    let (s, t) = (index.s(), register(dtype));
    let per_group = w[1];
    let plane: usize = spatial.iter().product();
    let taps: usize = w[2..].iter().product();
    let mut text = element(index, n);
    text.push_str(&index.split("i", y, "c"));
    let _ = writeln!(text, "    const {s} first = c1 / ({s}){} * ({s}){per_group};", y[1] / op.groups);
    let _ = writeln!(
        text,
        "    const i64 xs = (i64)(c0 * ({s}){} + first) * {plane}ll, ws = (i64)c1 * {}ll;\n    {t} total = 0;",
        x[1],
        per_group * taps
    );
    open_window(&mut text, s, spatial, &w[2..], &op.strides, &op.dilations, &op.pads_before);
    let (xo, wo) = (index.offset("x", &dense(spatial)), index.offset("k", &dense(&w[2..])));
    let _ = writeln!(
        text,
        "    for ({s} q = 0; q < {per_group}; q++) total = m_fma({}, {}, total);",
        load(dtype, "x", &format!("xs + q * {plane}ll + {xo}")),
        load(dtype, "w", &format!("ws + q * {taps}ll + {wo}"))
    );
    close(&mut text, spatial.len());
    let mut kernel =
        Kernel::new(format!("direct convolution, {} taps", per_group * taps), blocks(n), THREADS)
            .param(Binding::Input(0), "x", storage(dtype))
            .param(Binding::Input(1), "w", storage(dtype));
    if op.bias {
        let _ = writeln!(text, "    total += {};", load(dtype, "bias", "c1"));
        kernel = kernel.param(Binding::Input(2), "bias", storage(dtype));
    }
    if op.residual {
        let _ = writeln!(text, "    total += {};", load(dtype, "more", "i"));
        kernel = kernel.param(Binding::Input(inputs.len() - 1), "more", storage(dtype));
    }
    let _ = writeln!(text, "    {}", store(dtype, "y", "i", &activate(op.activation, "total", t)));
    vec![kernel.param(Binding::Output(0), "y", storage(dtype)).apart().body(text)]
}

pub(crate) fn conv_transpose(op: &ConvTranspose, inputs: &[Operand], output: &Operand) -> Vec<Kernel> {
    let (x, w, y) = (&inputs[0].layout.shape, &inputs[1].layout.shape, &output.layout.shape);
    let dtype = output.dtype;
    let (spatial, kernel_shape) = (&x[2..], &w[2..]);
    let n = y.len();
    let reach: usize = (0..spatial.len())
        .map(|i| kernel_shape[i] * op.dilations[i] + op.pads_before[i].unsigned_abs())
        .sum();
    let index = Index::new(&[n, x.len(), w.len(), reach * 2]);
    let (s, t) = (index.s(), register(dtype));
    let (per_group, channels) = (w[1], x[1] / op.groups);
    let (plane, taps): (usize, usize) = (spatial.iter().product(), kernel_shape.iter().product());
    let mut text = element(index, n);
    text.push_str(&index.split("i", y, "c"));
    let _ = writeln!(
        text,
        "    const {s} first = c1 / ({s}){per_group} * ({s}){channels}, column = c1 % ({s}){per_group};"
    );
    let _ = writeln!(
        text,
        "    const i64 xs = (i64)(c0 * ({s}){} + first) * {plane}ll, ws = ((i64)first * {per_group}ll + column) * {taps}ll;\n    {t} total = 0;",
        x[1]
    );
    for i in 0..spatial.len() {
        // Output o = input * stride + k * dilation - before.
        let _ = writeln!(
            text,
            "    for ({s} k{i} = 0; k{i} < {}; k{i}++) {{ const {s} p{i} = c{} + ({s}){} - k{i} * ({s}){}; if (p{i} < 0 || p{i} % ({s}){stride} != 0 || p{i} / ({s}){stride} >= {}) continue; const {s} x{i} = p{i} / ({s}){stride};",
            kernel_shape[i],
            i + 2,
            op.pads_before[i],
            op.dilations[i],
            spatial[i],
            stride = op.strides[i]
        );
    }
    let (xo, wo) = (index.offset("x", &dense(spatial)), index.offset("k", &dense(kernel_shape)));
    let _ = writeln!(
        text,
        "    for ({s} q = 0; q < {channels}; q++) total = m_fma({}, {}, total);",
        load(dtype, "x", &format!("xs + q * {plane}ll + {xo}")),
        load(dtype, "w", &format!("ws + q * {}ll + {wo}", per_group * taps))
    );
    close(&mut text, spatial.len());
    let mut kernel = Kernel::new("transposed convolution, a thread an output", blocks(n), THREADS)
        .param(Binding::Input(0), "x", storage(dtype))
        .param(Binding::Input(1), "w", storage(dtype));
    if op.bias {
        let _ = writeln!(text, "    total += {};", load(dtype, "bias", "c1"));
        kernel = kernel.param(Binding::Input(2), "bias", storage(dtype));
    }
    let _ = writeln!(text, "    {}", store(dtype, "y", "i", "total"));
    vec![kernel.param(Binding::Output(0), "y", storage(dtype)).apart().body(text)]
}
