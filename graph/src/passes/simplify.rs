//! Within one map: decomposed activations become one instruction, powers become products.
//!
//! Gelu and its relatives come in many algebraic forms. A sub-expression of one operand, built from sums, products and the one
//! characteristic function only (all analytic), is compared with the candidates on a grid of points: equal there to seven digits, it is
//! the same function up to the rounding of its constants.

use streampool_core::Result;
use streampool_core::op::{Binary, DType, HostTensor, Instr, Map, Op, Reg, Scalar, Unary};

use super::code;
use crate::lower::Lir;

/// Simplifies every map; gives one line a recognised activation.
pub(super) fn run(lir: &mut Lir) -> Result<Vec<String>> {
    let mut report = Vec::new();
    for node in lir.nodes.iter_mut().flatten() {
        let Op::Map(map) = &mut node.op else { continue };
        for i in 0..map.code.len() {
            if let Some(new) = cheaper(&map.code, i) {
                map.code[i] = new;
            }
        }
        for i in (0..map.code.len()).rev() {
            if let Some((f, x)) = activation(&map.code, i as Reg)? {
                map.code[i] = Instr::Unary(f, x);
                report.push(format!("{}: {f:?} from its parts", node.name));
            }
        }
        // An operand that nothing needs any more may still give the result its shape: then all stays.
        let (code, inputs) = code::clean(&map.code, &node.inputs);
        let types: Vec<_> = inputs.iter().map(crate::lower::View::ty).collect();
        let op = Op::Map(Map { code });
        if op.infer(&types).is_ok_and(|t| t[0] == node.outputs[0].ty()) {
            node.op = op;
            node.inputs = inputs;
        }
    }
    Ok(report)
}

fn constant(code: &[Instr], r: Reg) -> Option<f64> {
    match code[r as usize] {
        Instr::Const(s) if s.dtype().is_float() => Some(s.to_f64()),
        _ => None,
    }
}

/// An exact or more exact replacement of one instruction.
fn cheaper(code: &[Instr], i: usize) -> Option<Instr> {
    let Instr::Binary(f, a, b) = code[i] else { return None };
    match f {
        Binary::Pow if constant(code, b) == Some(2.0) => Some(Instr::Binary(Binary::Mul, a, a)),
        Binary::Pow if constant(code, b) == Some(0.5) => Some(Instr::Unary(Unary::Sqrt, a)),
        Binary::Max if constant(code, b) == Some(0.0) => Some(Instr::Unary(Unary::Relu, a)),
        Binary::Max if constant(code, a) == Some(0.0) => Some(Instr::Unary(Unary::Relu, b)),
        Binary::Div if constant(code, a) == Some(1.0) => Some(Instr::Unary(Unary::Reciprocal, b)),
        _ => None,
    }
}

/// The activation that register `root` computes of some lower register.
fn activation(code: &[Instr], root: Reg) -> Result<Option<(Unary, Reg)>> {
    if !matches!(code[root as usize], Instr::Binary(Binary::Mul | Binary::Div, _, _)) {
        return Ok(None);
    }
    // The sub-expression, and whether it has what it takes.
    let mut wanted = vec![false; root as usize + 1];
    wanted[root as usize] = true;
    let mut kernel = None;
    for i in (0..=root as usize).rev() {
        if !wanted[i] {
            continue;
        }
        for r in code::reads(&code[i]) {
            wanted[r as usize] = true;
        }
        if let Instr::Unary(f @ (Unary::Erf | Unary::Tanh | Unary::Sigmoid), _) = code[i] {
            kernel = Some(f);
        }
    }
    let target = match kernel {
        Some(Unary::Erf) => Unary::Gelu,
        Some(Unary::Tanh) => Unary::GeluTanh,
        Some(Unary::Sigmoid) => Unary::Silu,
        _ => return Ok(None),
    };
    for x in 0..root {
        if wanted[x as usize]
            && let Some(f) = function_of(code, root, x)
            && equal(f, target)?
        {
            return Ok(Some((target, x)));
        }
    }
    Ok(None)
}

/// The expression of `root` in `x` alone, in f64, if nothing else enters it and it is analytic.
fn function_of(code: &[Instr], root: Reg, x: Reg) -> Option<Map> {
    if matches!(code[x as usize], Instr::Const(_)) {
        return None;
    }
    let mut out: Vec<Instr> = vec![Instr::Input(0)];
    let mut position: Vec<Option<Reg>> = vec![None; root as usize + 1];
    position[x as usize] = Some(0);
    fn visit(
        code: &[Instr],
        r: Reg,
        position: &mut [Option<Reg>],
        out: &mut Vec<Instr>,
        left: &mut usize,
    ) -> Option<Reg> {
        if let Some(at) = position[r as usize] {
            return Some(at);
        }
        *left = left.checked_sub(1)?;
        let new = match code[r as usize] {
            Instr::Const(s) if s.dtype().is_float() => Instr::Const(Scalar::from_f64(DType::F64, s.to_f64())),
            Instr::Unary(f @ (Unary::Erf | Unary::Tanh | Unary::Sigmoid | Unary::Neg), a) => {
                Instr::Unary(f, visit(code, a, position, out, left)?)
            }
            Instr::Binary(f @ (Binary::Add | Binary::Sub | Binary::Mul | Binary::Div), a, b) => {
                let (a, b) = (visit(code, a, position, out, left)?, visit(code, b, position, out, left)?);
                Instr::Binary(f, a, b)
            }
            Instr::Binary(Binary::Pow, a, b) if constant(code, b).is_some_and(|p| p == 3.0) => {
                let a = visit(code, a, position, out, left)?;
                out.push(Instr::Binary(Binary::Mul, a, a));
                Instr::Binary(Binary::Mul, (out.len() - 1) as Reg, a)
            }
            _ => return None,
        };
        out.push(new);
        position[r as usize] = Some((out.len() - 1) as Reg);
        position[r as usize]
    }
    visit(code, root, &mut position, &mut out, &mut 24)?;
    Some(Map { code: out })
}

/// Whether two functions agree on a grid: near zero, where they bend, and far out.
fn equal(f: Map, target: Unary) -> Result<bool> {
    let points: Vec<f64> =
        (-40..=40).map(|i| f64::from(i) * 0.173 + 0.011).chain([-30.0, 30.0, -300.0, 300.0]).collect();
    let points = HostTensor::from_vec([points.len()], points)?;
    let ours = streampool_cpu::evaluate(&Op::Map(f), &[&points])?;
    let theirs = streampool_cpu::evaluate(&Op::Map(Map::unary(target)), &[&points])?;
    let (ours, theirs) = (ours[0].as_slice::<f64>()?, theirs[0].as_slice::<f64>()?);
    Ok(ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() <= 2e-6 * (1.0 + b.abs())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(v: f64) -> Instr {
        Instr::Const(Scalar::from_f64(DType::F32, v))
    }

    /// `x * (erf(x / sqrt 2) + 1) * c`.
    fn erf_form(c: f64) -> Vec<Instr> {
        vec![
            Instr::Input(0),
            number(std::f64::consts::SQRT_2),
            Instr::Binary(Binary::Div, 0, 1),
            Instr::Unary(Unary::Erf, 2),
            number(1.0),
            Instr::Binary(Binary::Add, 3, 4),
            Instr::Binary(Binary::Mul, 0, 5),
            number(c),
            Instr::Binary(Binary::Mul, 6, 7),
        ]
    }

    #[test]
    fn gelu_is_known_in_its_erf_form_and_nothing_like_it_is() {
        assert_eq!(activation(&erf_form(0.5), 8).unwrap(), Some((Unary::Gelu, 0)));
        assert_eq!(activation(&erf_form(0.501), 8).unwrap(), None);
    }

    #[test]
    fn gelu_is_known_in_its_tanh_form() {
        let code = vec![
            Instr::Input(0),
            number(3.0),
            Instr::Binary(Binary::Pow, 0, 1),
            number(0.044715),
            Instr::Binary(Binary::Mul, 2, 3),
            Instr::Binary(Binary::Add, 0, 4),
            number(0.797_884_56),
            Instr::Binary(Binary::Mul, 5, 6),
            Instr::Unary(Unary::Tanh, 7),
            number(1.0),
            Instr::Binary(Binary::Add, 8, 9),
            number(0.5),
            Instr::Binary(Binary::Mul, 0, 11),
            Instr::Binary(Binary::Mul, 12, 10),
        ];
        assert_eq!(activation(&code, 13).unwrap(), Some((Unary::GeluTanh, 0)));
    }

    #[test]
    fn silu_of_a_sum_is_found_at_the_sum() {
        let code = vec![
            Instr::Input(0),
            Instr::Input(1),
            Instr::Binary(Binary::Add, 0, 1),
            Instr::Unary(Unary::Sigmoid, 2),
            Instr::Binary(Binary::Mul, 2, 3),
        ];
        assert_eq!(activation(&code, 4).unwrap(), Some((Unary::Silu, 2)));
    }
}
