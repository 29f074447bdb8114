//! Pieces of text that all kernels are made of: types, indices, offsets.

use std::fmt::Write;

use streampool_core::op::{Activation, DType, Layout, Scalar, Shape};

/// Threads of a block where nothing speaks for another number.
pub(crate) const THREADS: u32 = 256;

/// How an element lies in memory.
pub(crate) fn storage(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float",
        DType::F64 => "double",
        DType::F16 => "f16",
        DType::BF16 => "bf16",
        DType::I8 => "i8",
        DType::U8 | DType::Bool => "u8",
        DType::I32 => "i32",
        DType::I64 => "i64",
    }
}

/// Elements moved without a look at them.
pub(crate) fn raw(dtype: DType) -> &'static str {
    match dtype.size() {
        1 => "u8",
        2 => "u16",
        4 => "u32",
        _ => "u64",
    }
}

/// What an element is computed in.
pub(crate) fn register(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => "float",
        DType::Bool => "bool",
        other => storage(other),
    }
}

/// Reads an element.
pub(crate) fn load(dtype: DType, pointer: &str, at: &str) -> String {
    match dtype {
        DType::Bool => format!("({pointer}[{at}] != 0)"),
        _ => format!("load({pointer}, {at})"),
    }
}

/// Writes an element.
pub(crate) fn store(dtype: DType, pointer: &str, at: &str, value: &str) -> String {
    match dtype {
        DType::Bool => format!("{pointer}[{at}] = (u8)({value});"),
        _ => format!("store({pointer}, {at}, {value});"),
    }
}

/// A value as text, to the bit.
pub(crate) fn literal(value: Scalar) -> String {
    match value.dtype() {
        DType::F64 => format!("double_of_bits({:#x}ull)", value.bits()),
        d if d.is_float() => float(value.to_f64() as f32),
        DType::Bool => if value.bits() == 0 { "false" } else { "true" }.to_owned(),
        DType::I64 => format!("(i64){:#x}ull", value.bits()),
        DType::I32 => format!("(i32){:#x}u", value.bits()),
        d => format!("({}){}", storage(d), value.to_i64()),
    }
}

/// A float as text, to the bit.
pub(crate) fn float(value: f32) -> String {
    format!("float_of_bits({:#x}u)", value.to_bits())
}

/// The element's bits, unlooked at.
pub(crate) fn raw_literal(value: Scalar) -> String {
    format!("({}){:#x}ull", raw(value.dtype()), value.bits())
}

/// What indices are computed in: 32 bits where everything fits.
#[derive(Clone, Copy)]
pub(crate) struct Index {
    wide: bool,
}

impl Index {
    /// For element counts and extents up to the greatest of `extents`.
    pub(crate) fn new(extents: &[usize]) -> Self {
        Self { wide: extents.iter().any(|&e| e >= 1 << 30) }
    }

    /// For the views of a kernel.
    pub(crate) fn of(layouts: &[&Layout]) -> Self {
        let reach = |l: &Layout| {
            let span: usize =
                l.shape.iter().zip(&l.strides).map(|(&d, &s)| d.saturating_sub(1) * s.unsigned_abs()).sum();
            span.max(l.shape.len())
        };
        Self::new(&layouts.iter().map(|l| reach(l)).collect::<Vec<_>>())
    }

    /// Unsigned.
    pub(crate) fn u(self) -> &'static str {
        if self.wide { "u64" } else { "u32" }
    }

    /// Signed.
    pub(crate) fn s(self) -> &'static str {
        if self.wide { "i64" } else { "i32" }
    }

    /// Statements that split `variable` (of the unsigned type) into row-major coordinates `{prefix}0`, ...
    pub(crate) fn split(self, variable: &str, dims: &[usize], prefix: &str) -> String {
        let (u, s) = (self.u(), self.s());
        let mut text = format!("    {u} {prefix}r = {variable};\n");
        for (i, &d) in dims.iter().enumerate().rev() {
            if i == 0 {
                let _ = writeln!(text, "    const {s} {prefix}0 = ({s}){prefix}r;");
            } else {
                let _ =
                    writeln!(text, "    const {s} {prefix}{i} = ({s})({prefix}r % {d}u); {prefix}r /= {d}u;");
            }
        }
        let _ = writeln!(text, "    (void){prefix}r;");
        text
    }

    /// The sum of coordinates times strides.
    pub(crate) fn offset(self, prefix: &str, strides: &[isize]) -> String {
        let s = self.s();
        let terms: Vec<String> = strides
            .iter()
            .enumerate()
            .filter(|&(_, &stride)| stride != 0)
            .map(|(i, &stride)| match stride {
                1 => format!("{prefix}{i}"),
                _ => format!("{prefix}{i} * ({s}){stride}"),
            })
            .collect();
        if terms.is_empty() { "0".to_owned() } else { format!("({})", terms.join(" + ")) }
    }
}

/// Row-major strides.
pub(crate) fn dense(shape: &[usize]) -> Vec<isize> {
    Shape::new(shape).strides().to_vec()
}

/// Strides of `layout` broadcast to `shape`.
pub(crate) fn broadcast(layout: &Layout, shape: &[usize]) -> Vec<isize> {
    let lead = shape.len() - layout.shape.rank();
    (0..shape.len())
        .map(|i| match i.checked_sub(lead) {
            Some(j) if layout.shape[j] != 1 || shape[i] == 1 => layout.strides[j],
            _ => 0,
        })
        .collect()
}

/// Merges axes that all operands walk alike, and drops those of length 1.
pub(crate) fn collapse(shape: &[usize], operands: &[Vec<isize>]) -> (Vec<usize>, Vec<Vec<isize>>) {
    let mut dims: Vec<usize> = Vec::new();
    let mut strides: Vec<Vec<isize>> = vec![Vec::new(); operands.len()];
    for (axis, &d) in shape.iter().enumerate() {
        if d == 1 {
            continue;
        }
        let merges = !dims.is_empty()
            && operands
                .iter()
                .zip(&strides)
                .all(|(s, merged)| merged.last() == Some(&(s[axis] * d as isize)));
        if merges {
            *dims.last_mut().expect("there is one") *= d;
            for (s, merged) in operands.iter().zip(&mut strides) {
                *merged.last_mut().expect("there is one") = s[axis];
            }
        } else {
            dims.push(d);
            for (s, merged) in operands.iter().zip(&mut strides) {
                merged.push(s[axis]);
            }
        }
    }
    (dims, strides)
}

/// `if (i < n)` over all elements, one a thread.
pub(crate) fn element(index: Index, n: usize) -> String {
    let u = index.u();
    format!("    const {u} i = ({u})(BID * {THREADS}u + (u32)TID);\n    if (i >= {n}u) return;\n")
}

/// Blocks for `n` elements, one a thread.
pub(crate) fn blocks(n: usize) -> u64 {
    n.div_ceil(THREADS as usize) as u64
}

/// The activation of `x`, a float or double register.
pub(crate) fn activate(activation: Option<Activation>, x: &str, ctype: &str) -> String {
    let number = |v: f32| format!("({ctype}){}", float(v));
    match activation {
        None => x.to_owned(),
        Some(Activation::Relu) => format!("f_relu({x})"),
        Some(Activation::Sigmoid) => format!("f_sigmoid({x})"),
        Some(Activation::Tanh) => format!("m_tanh({x})"),
        Some(Activation::Gelu) => format!("f_gelu({x})"),
        Some(Activation::GeluTanh) => format!("f_gelu_tanh({x})"),
        Some(Activation::Silu) => format!("f_silu({x})"),
        Some(Activation::LeakyRelu(a)) => format!("({x} < 0 ? {x} * {} : {x})", number(a.get())),
        Some(Activation::Clip(low, high)) => {
            let (low, high) = (number(low.get()), number(high.get()));
            format!("({x} < {low} ? ({low} > {high} ? {high} : {low}) : {x} > {high} ? {high} : {x})")
        }
    }
}

/// A power of two of threads, at least a warp, for `n` elements that one block works on.
pub(crate) fn team(n: usize, most: u32) -> u32 {
    (n.next_power_of_two().min(most as usize) as u32).max(32)
}

/// Statements by which all `threads` combine their `variable`; afterwards all have the result. `combine(a, b)` is commutative. Needs barriers.
/// `again` tells whether the statements run more than once.
pub(crate) fn all_reduce(
    variable: &str,
    ctype: &str,
    threads: u32,
    again: bool,
    combine: impl Fn(&str, &str) -> String,
) -> String {
    let read = if again { "BARRIER();" } else { "" };
    let shared = format!("{variable}_shared");
    let mut text = String::new();
    let by_shuffle = matches!(ctype, "float" | "double");
    if by_shuffle {
        // Both partners combine in the same order, so that all lanes get the same bits.
        let _ = writeln!(
            text,
            "    UNROLL for (int m = 16; m > 0; m >>= 1) {{ {ctype} o = shuffle_xor({variable}, m); {variable} = (TID & m) ? {} : {}; }}",
            combine("o", variable),
            combine(variable, "o")
        );
        if threads > 32 {
            let warps = threads / 32;
            let _ = writeln!(
                text,
                "    {{ SHARED {ctype} {shared}[{warps}];\n    {read}\n    if ((TID & 31) == 0) {shared}[TID >> 5] = {variable};\n    BARRIER();\n    {variable} = {shared}[0];\n    UNROLL for (int w = 1; w < {warps}; w++) {variable} = {}; }}",
                combine(variable, &format!("{shared}[w]"))
            );
        }
        return text;
    }
    let _ = writeln!(
        text,
        "    {{ SHARED {ctype} {shared}[{threads}];\n    {read}\n    {shared}[TID] = {variable};\n    BARRIER();\n    for (int m = {}; m > 0; m >>= 1) {{ if (TID < m) {shared}[TID] = {}; BARRIER(); }}\n    {variable} = {shared}[0]; }}",
        threads / 2,
        combine(&format!("{shared}[TID]"), &format!("{shared}[TID + m]"))
    );
    text
}

/// Replaces each `@name@` by its text.
pub(crate) fn fill(template: &str, values: &[(&str, String)]) -> String {
    values.iter().fold(template.to_owned(), |text, (name, value)| text.replace(&format!("@{name}@"), value))
}
