//! Resize: each output element finds its place in the input and weighs its neighbours there. In double precision, as memory is what it waits for.
//!
//! Cubic weights are Keys' ("Cubic convolution interpolation for digital image processing", 1981).

use std::fmt::Write;

use streampool_core::op::{CoordinateMode, DType, NearestMode, Operand, Resize, ResizeMode};

use crate::emit::{Index, THREADS, blocks, dense, element, float, load, register, storage, store};
use crate::{Binding, Kernel};

/// A double as text, to the bit.
fn double(x: f64) -> String {
    format!("double_of_bits({:#x}ull)", x.to_bits())
}

/// A scale that is the rounded ratio of the lengths stands for the ratio.
fn scale(op: &Resize, axis: usize, input: usize, output: usize) -> f64 {
    let (given, ratio) = (op.scales[axis].get(), output as f64 / input as f64);
    if ratio as f32 == given { ratio } else { f64::from(given) }
}

/// The input coordinate of output coordinate `o` (a double), as text.
fn coordinate(op: &Resize, axis: usize, input: usize, output: usize) -> String {
    let by = scale(op, axis, input, output);
    let (n, m) = (input as f64, output as f64);
    let half_pixel = format!("(o + 0.5) / {} - 0.5", double(by));
    match op.coordinates {
        CoordinateMode::HalfPixel => half_pixel,
        CoordinateMode::HalfPixelSymmetric => {
            // The output may be shorter than scale times the input: centre it.
            format!("{} + {half_pixel}", double(n / 2.0 * (1.0 - m / (by * n))))
        }
        CoordinateMode::PytorchHalfPixel if output > 1 => half_pixel,
        CoordinateMode::PytorchHalfPixel => "0.0".into(),
        // The unrounded output length is what ONNX divides by.
        CoordinateMode::AlignCorners if output <= 1 || by * n <= 1.0 => "0.0".into(),
        CoordinateMode::AlignCorners => format!("o * {} / {}", double(n - 1.0), double(by * n - 1.0)),
        CoordinateMode::Asymmetric => format!("o / {}", double(by)),
        CoordinateMode::TfCropAndResize { .. } => {
            let (start, end) = (f64::from(op.roi[axis].0.get()), f64::from(op.roi[axis].1.get()));
            if output > 1 {
                let step = format!("o * {} * {}", double(end - start), double(n - 1.0));
                format!("{} + {step} / {}", double(start * (n - 1.0)), double(m - 1.0))
            } else {
                double(0.5 * (start + end) * (n - 1.0))
            }
        }
    }
}

/// `None` where there is nothing to pick from.
pub(crate) fn resize(op: &Resize, input: &Operand, output: &Operand) -> Option<Vec<Kernel>> {
    let (from, to) = (&input.layout.shape, &output.layout.shape);
    let dtype = output.dtype;
    if from.is_empty() {
        return None;
    }
    let antialias =
        matches!(op.mode, ResizeMode::Linear { antialias: true } | ResizeMode::Cubic { antialias: true, .. });
    let crops = matches!(op.coordinates, CoordinateMode::TfCropAndResize { .. });
    let stays =
        |axis: usize| !crops && from[axis] == to[axis] && scale(op, axis, from[axis], to[axis]) == 1.0;
    let n = to.len();
    let index = Index::new(&[n, from.len()]);
    let s = index.s();
    let strides = dense(from);
    let mut text = element(index, n);
    text.push_str(&index.split("i", to, "c"));
    let _ = writeln!(text, "    {s} at0 = 0; bool outside = false; (void)outside;");
    let moving: Vec<usize> = (0..from.rank()).filter(|&a| !stays(a)).collect();
    for axis in 0..from.rank() {
        let (len, stride) = (from[axis], strides[axis]);
        if stays(axis) {
            let _ = writeln!(text, "    at0 += c{axis} * ({s}){stride};");
            continue;
        }
        let _ = writeln!(
            text,
            "    double x{axis}; {{ const double o = (double)c{axis}; x{axis} = {}; }}",
            coordinate(op, axis, len, to[axis])
        );
        if crops {
            let _ = writeln!(text, "    outside = outside || !(x{axis} >= 0.0 && x{axis} <= {}.0);", len - 1);
        }
        // Far outside the input the edge is all there is; this keeps positions small.
        let _ = writeln!(
            text,
            "    x{axis} = x{axis} < {low} ? {low} : x{axis} > {high} ? {high} : x{axis};",
            low = double(-4.0 - len as f64),
            high = double(4.0 + 2.0 * len as f64)
        );
        if let ResizeMode::Nearest(mode) = op.mode {
            let x = match mode {
                NearestMode::RoundPreferFloor => format!("m_ceil(x{axis} - 0.5)"),
                NearestMode::RoundPreferCeil => format!("m_floor(x{axis} + 0.5)"),
                NearestMode::Floor => format!("m_floor(x{axis})"),
                NearestMode::Ceil => format!("m_ceil(x{axis})"),
            };
            let _ = writeln!(
                text,
                "    {{ {s} p = ({s}){x}; p = p < 0 ? 0 : p > {last} ? {last} : p; at0 += p * ({s}){stride}; }}",
                last = len - 1
            );
        }
    }
    let extrapolation = match op.coordinates {
        CoordinateMode::TfCropAndResize { extrapolation } => Some(extrapolation.get()),
        _ => None,
    };
    let ctype = register(dtype);
    // Integers are rounded to nearest, and saturate.
    let convert = |x: &str| match dtype {
        DType::F32 | DType::F64 => format!("({ctype})({x})"),
        DType::F16 => format!("as_f16({x})"),
        DType::BF16 => format!("as_bf16({x})"),
        DType::Bool => format!("{x} != 0"),
        d => format!("to_{}(m_round({x}))", storage(d)),
    };
    if matches!(op.mode, ResizeMode::Nearest(_)) {
        let _ = writeln!(text, "    {ctype} r = {};", load(dtype, "x", "at0"));
    } else {
        text.push_str(&if antialias {
            filtered(op, input, output, index, &moving)
        } else {
            interpolated(op, input, index, &moving)
        });
        let _ = writeln!(text, "    {ctype} r = {};", convert("total"));
    }
    if let Some(value) = extrapolation {
        let _ = writeln!(text, "    if (outside) r = {};", convert(&format!("(double){}", float(value))));
    }
    let _ = writeln!(text, "    {}", store(dtype, "y", "i", "r"));
    let how = match op.mode {
        ResizeMode::Nearest(_) => "nearest",
        _ if antialias => "filtered",
        _ => "interpolated",
    };
    Some(vec![
        Kernel::new(format!("resize, {how}"), blocks(n), THREADS)
            .param(Binding::Input(0), "x", storage(dtype))
            .param(Binding::Output(0), "y", storage(dtype))
            .body(text),
    ])
}

/// The weight of a neighbour at distance `d` (a double that is not negative), and whether neighbours outside the input weigh nothing.
fn weight(mode: ResizeMode) -> (String, bool) {
    match mode {
        ResizeMode::Cubic { a, exclude_outside, .. } => {
            let a = f64::from(a.get());
            let keys = format!(
                "d <= 1.0 ? (({a2} * d - {a3}) * d * d + 1.0) : d < 2.0 ? (({a} * d - {a5}) * d + {a8}) * d - {a4} : 0.0",
                a2 = double(a + 2.0),
                a3 = double(a + 3.0),
                a5 = double(5.0 * a),
                a8 = double(8.0 * a),
                a4 = double(4.0 * a),
                a = double(a)
            );
            (keys, exclude_outside)
        }
        _ => ("d < 1.0 ? 1.0 - d : 0.0".into(), false),
    }
}

/// Statements that make `total` of the two or four neighbours along each moving axis.
fn interpolated(op: &Resize, input: &Operand, index: Index, moving: &[usize]) -> String {
    let (from, s) = (&input.layout.shape, index.s());
    let strides = dense(from);
    let mut text = String::new();
    let (taps, first) = if matches!(op.mode, ResizeMode::Linear { .. }) { (2, 0) } else { (4, 1) };
    let (weight, inside) = weight(op.mode);
    for &axis in moving {
        let last = from[axis] - 1;
        let hidden = if inside { format!("if (p < 0 || p > {last}) w = 0.0;") } else { String::new() };
        let _ = writeln!(
            text,
            "    double w{axis}[{taps}]; {s} p{axis}[{taps}]; {{ const {s} low = ({s})m_floor(x{axis}) - {first}; double sum = 0.0;\n    for (int t = 0; t < {taps}; t++) {{ {s} p = low + t; const double d = m_fabs((double)p - x{axis}); double w = {weight}; {hidden} sum += w; w{axis}[t] = w; p{axis}[t] = (p < 0 ? 0 : p > {last} ? {last} : p) * ({s}){stride}; }}",
            stride = strides[axis]
        );
        if inside {
            let _ = writeln!(
                text,
                "    if (sum != 0.0) for (int t = 0; t < {taps}; t++) w{axis}[t] = w{axis}[t] / sum;"
            );
        }
        text.push_str("    (void)sum; }\n");
    }
    let _ = writeln!(text, "    double total = 0.0;");
    let (mut product, mut at) = ("1.0".to_owned(), "at0".to_owned());
    for &axis in moving {
        // A weight of zero takes no part: what it would weigh may be infinite.
        let _ = writeln!(
            text,
            "    for (int t{axis} = 0; t{axis} < {taps}; t{axis}++) {{ if (w{axis}[t{axis}] == 0.0) continue;"
        );
        let _ = write!(product, " * w{axis}[t{axis}]");
        let _ = write!(at, " + p{axis}[t{axis}]");
    }
    let _ = writeln!(
        text,
        "    total += {product} * (double){};{}",
        load(input.dtype, "x", &format!("({at})")),
        " }".repeat(moving.len())
    );
    text
}

/// Statements that make `total` with a filter that is as much wider as the axis shrinks: as many neighbours as it reaches, weighed while they are
/// walked.
fn filtered(op: &Resize, input: &Operand, output: &Operand, index: Index, moving: &[usize]) -> String {
    let (from, to, s) = (&input.layout.shape, &output.layout.shape, index.s());
    let strides = dense(from);
    let radius = if matches!(op.mode, ResizeMode::Linear { .. }) { 1.0 } else { 2.0 };
    let (weight, inside) = weight(op.mode);
    let mut text = String::new();
    // `w` of neighbour `p`.
    let weigh = |axis: usize| {
        let squeeze = scale(op, axis, from[axis], to[axis]).min(1.0);
        let hidden =
            if inside { format!("if (p < 0 || p > {}) w = 0.0;", from[axis] - 1) } else { String::new() };
        format!(
            "const double d = m_fabs(((double)p - x{axis}) * {}); double w = {weight}; {hidden}",
            double(squeeze)
        )
    };
    for &axis in moving {
        let squeeze = scale(op, axis, from[axis], to[axis]).min(1.0);
        // A filter much wider than the input sees each element once and its own edges at most once more: bounded.
        let reach = (radius / squeeze).min(2.0 * from[axis] as f64 + 4.0);
        let _ = writeln!(
            text,
            "    const {s} low{axis} = ({s})m_floor(x{axis} - {reach}), high{axis} = ({s})m_ceil(x{axis} + {reach}); double sum{axis} = 0.0;\n    for ({s} p = low{axis}; p <= high{axis}; p++) {{ {weigh} sum{axis} += w; }}\n    if (sum{axis} == 0.0) sum{axis} = 1.0;",
            reach = double(reach),
            weigh = weigh(axis)
        );
    }
    let _ = writeln!(text, "    double total = 0.0;");
    let (mut product, mut at) = ("1.0".to_owned(), "at0".to_owned());
    for &axis in moving {
        let last = from[axis] - 1;
        let _ = writeln!(
            text,
            "    for ({s} p = low{axis}; p <= high{axis}; p++) {{ {weigh} if (w == 0.0) continue; const double v{axis} = w / sum{axis}; const {s} p{axis} = (p < 0 ? 0 : p > {last} ? {last} : p) * ({s}){stride};",
            weigh = weigh(axis),
            stride = strides[axis]
        );
        let _ = write!(product, " * v{axis}");
        let _ = write!(at, " + p{axis}");
    }
    let _ = writeln!(
        text,
        "    total += {product} * (double){};{}",
        load(input.dtype, "x", &format!("({at})")),
        " }".repeat(moving.len())
    );
    text
}
