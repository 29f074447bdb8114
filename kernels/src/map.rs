//! Elementwise expressions, fused by writing them out.

use std::fmt::Write;

use streampool_core::op::{Binary, DType, Instr, Map, Operand, Unary};

use crate::emit::{Index, THREADS, broadcast, collapse, literal, load, register, storage, store};
use crate::{Binding, Kernel};

/// Elements of a thread where there are enough that blocks stay many, and leave room for other streams' work; loads of all are under way before the first is used.
const EACH: usize = 4;

pub(crate) fn lower(map: &Map, inputs: &[Operand], output: &Operand) -> Vec<Kernel> {
    let dtypes: Vec<DType> = inputs.iter().map(|i| i.dtype).collect();
    let registers = map.check(&dtypes).expect("a checked step");
    let shape = &output.layout.shape;
    let mut strides: Vec<Vec<isize>> = inputs.iter().map(|i| broadcast(&i.layout, shape)).collect();
    strides.push(output.layout.strides.to_vec());
    let (dims, strides) = collapse(shape, &strides);
    let n: usize = shape.len();
    let index = Index::of(&inputs.iter().chain([output]).map(|o| &o.layout).collect::<Vec<_>>());
    let each = if n >= EACH * THREADS as usize * 64 { EACH } else { 1 };
    let (u, s) = (index.u(), index.s());

    let mut used: Vec<usize> = map
        .code
        .iter()
        .filter_map(|i| if let Instr::Input(n) = i { Some(usize::from(*n)) } else { None })
        .collect();
    used.sort_unstable();
    used.dedup();

    let mut text = String::new();
    let tile = each * THREADS as usize;
    let _ = writeln!(text, "    const {u} first = ({u})(BID * {tile}u + (u32)TID);");
    for &input in &used {
        let _ = writeln!(text, "    {} x{input}[{each}];", register(inputs[input].dtype));
    }
    let _ = writeln!(text, "    {s} to[{each}];");
    let _ = writeln!(
        text,
        "    UNROLL for (int k = 0; k < {each}; k++) {{\n    const {u} i = first + (u32)(k * {THREADS});\n    if (i < {n}u) {{"
    );
    text.push_str(&index.split("i", &dims, "c"));
    for &input in &used {
        let at = index.offset("c", &strides[input]);
        let _ = writeln!(text, "    x{input}[k] = {};", load(inputs[input].dtype, &format!("p{input}"), &at));
    }
    let _ = writeln!(text, "    to[k] = {};\n    }} }}", index.offset("c", &strides[inputs.len()]));
    let _ = writeln!(
        text,
        "    UNROLL for (int k = 0; k < {each}; k++) {{\n    if (first + (u32)(k * {THREADS}) < {n}u) {{"
    );
    for (i, instr) in map.code.iter().enumerate() {
        let value = expression(instr, &registers);
        let _ = writeln!(text, "    const {} v{i} = {value};", register(registers[i]));
    }
    let last = map.code.len() - 1;
    let _ = writeln!(text, "    {}\n    }} }}", store(output.dtype, "y", "to[k]", &format!("v{last}")));

    let mut kernel = Kernel::new(
        format!("elementwise, {} instructions", map.code.len()),
        n.div_ceil(tile) as u64,
        THREADS,
    );
    for &input in &used {
        kernel = kernel.param(Binding::Input(input), &format!("p{input}"), storage(inputs[input].dtype));
    }
    vec![kernel.param(Binding::Output(0), "y", storage(output.dtype)).body(text)]
}

pub(crate) fn expression(instr: &Instr, registers: &[DType]) -> String {
    match *instr {
        Instr::Input(n) => format!("x{n}[k]"),
        Instr::Const(value) => literal(value),
        Instr::Unary(f, a) => unary(f, &format!("v{a}")),
        Instr::Binary(f, a, b) => binary(f, &format!("v{a}"), &format!("v{b}"), registers[usize::from(a)]),
        Instr::Select(c, a, b) => format!("v{c} ? v{a} : v{b}"),
        Instr::Cast(to, a) => cast(registers[usize::from(a)], to, &format!("v{a}")),
    }
}

/// Whether the expression reads one operand, at one place, and keeps `dtype`.
pub(crate) fn single_input(map: &Map, dtype: DType) -> bool {
    map.code.iter().all(|i| matches!(i, Instr::Input(0)) || !matches!(i, Instr::Input(_)))
        && map.check(&[dtype]).is_ok_and(|registers| registers.last() == Some(&dtype))
}

fn unary(f: Unary, x: &str) -> String {
    let name = match f {
        Unary::Neg => "f_neg",
        Unary::Abs => "f_abs",
        Unary::Sign => "f_sign",
        Unary::Ceil => "m_ceil",
        Unary::Floor => "m_floor",
        Unary::Trunc => "m_trunc",
        Unary::Round => "m_round",
        Unary::Sqrt => "m_sqrt",
        Unary::Rsqrt => "f_rsqrt",
        Unary::Reciprocal => "f_reciprocal",
        Unary::Exp => "m_exp",
        Unary::Log => "m_log",
        Unary::Log1p => "m_log1p",
        Unary::Expm1 => "m_expm1",
        Unary::Sin => "m_sin",
        Unary::Cos => "m_cos",
        Unary::Tan => "m_tan",
        Unary::Asin => "m_asin",
        Unary::Acos => "m_acos",
        Unary::Atan => "m_atan",
        Unary::Sinh => "m_sinh",
        Unary::Cosh => "m_cosh",
        Unary::Tanh => "m_tanh",
        Unary::Asinh => "m_asinh",
        Unary::Acosh => "m_acosh",
        Unary::Atanh => "m_atanh",
        Unary::Erf => "m_erf",
        Unary::Sigmoid => "f_sigmoid",
        Unary::Relu => "f_relu",
        Unary::Gelu => "f_gelu",
        Unary::GeluTanh => "f_gelu_tanh",
        Unary::Silu => "f_silu",
        Unary::Softplus => "f_softplus",
        Unary::Not => return format!("!{x}"),
        Unary::BitNot => return format!("~{x}"),
        Unary::IsNan => return format!("{x} != {x}"),
        Unary::IsInf => "f_is_inf",
        Unary::IsPosInf => return format!("f_is_inf({x}) && {x} > 0"),
        Unary::IsNegInf => return format!("f_is_inf({x}) && {x} < 0"),
    };
    format!("{name}({x})")
}

fn binary(f: Binary, x: &str, y: &str, _dtype: DType) -> String {
    let infix = |op: &str| format!("{x} {op} {y}");
    let name = match f {
        Binary::Add => "f_add",
        Binary::Sub => "f_sub",
        Binary::Mul => "f_mul",
        Binary::Div => "f_div",
        Binary::FloorDiv => "f_floor_div",
        Binary::Rem => "f_rem",
        Binary::Mod => "f_mod",
        Binary::Pow => "f_pow",
        Binary::Atan2 => "m_atan2",
        Binary::Min => "f_min",
        Binary::Max => "f_max",
        Binary::Shl => "f_shl",
        Binary::Shr => "f_shr",
        Binary::Eq => return infix("=="),
        Binary::Ne => return infix("!="),
        Binary::Lt => return infix("<"),
        Binary::Le => return infix("<="),
        Binary::Gt => return infix(">"),
        Binary::Ge => return infix(">="),
        Binary::And => return infix("&&"),
        Binary::Or => return infix("||"),
        Binary::Xor => return infix("!="),
        Binary::BitAnd => return infix("&"),
        Binary::BitOr => return infix("|"),
        Binary::BitXor => return infix("^"),
    };
    format!("{name}({x}, {y})")
}

/// A conversion of a register.
pub(crate) fn cast(from: DType, to: DType, x: &str) -> String {
    match (from, to) {
        (a, b) if a == b && !matches!(a, DType::F16 | DType::BF16) => x.to_owned(),
        (a, DType::F16) if a.is_float() => format!("as_f16({x})"),
        (_, DType::F16) => format!("as_f16((float)({x}))"),
        (a, DType::BF16) if a.is_float() => format!("as_bf16({x})"),
        (_, DType::BF16) => format!("as_bf16((float)({x}))"),
        (a, DType::Bool) if a.is_float() => format!("{x} != 0"),
        (_, DType::Bool) => format!("{x} != 0"),
        (a, b) if a.is_float() && b.is_int() => format!("to_{}({x})", storage(b)),
        (_, b) => format!("({})({x})", register(b)),
    }
}
