//! Map code as passes see it: reading single instructions, merging, cleaning up.

use std::collections::HashMap;

use streampool_core::op::{Binary, Instr, Map, Op, Reg, Scalar, Unary};

use crate::lower::{LNode, View};

/// What an instruction of a small map works on.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Arg {
    View(View),
    Const(Scalar),
}

impl Arg {
    pub(super) fn view(&self) -> Option<&View> {
        match self {
            Arg::View(v) => Some(v),
            Arg::Const(_) => None,
        }
    }

    /// A float constant's value.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Arg::Const(s) if s.dtype().is_float() => Some(s.to_f64()),
            _ => None,
        }
    }
}

fn arg(node: &LNode, code: &[Instr], r: Reg) -> Option<Arg> {
    match code[r as usize] {
        Instr::Input(n) => Some(Arg::View(node.inputs[n as usize].clone())),
        Instr::Const(s) => Some(Arg::Const(s)),
        _ => None,
    }
}

/// The node as one function of two operands, if that is all it is.
pub(super) fn as_binary(node: &LNode) -> Option<(Binary, Arg, Arg)> {
    let Op::Map(map) = &node.op else { return None };
    match *map.code.last()? {
        Instr::Binary(f, a, b) => Some((f, arg(node, &map.code, a)?, arg(node, &map.code, b)?)),
        _ => None,
    }
}

/// The node as one function of one operand, if that is all it is.
pub(super) fn as_unary(node: &LNode) -> Option<(Unary, View)> {
    let Op::Map(map) = &node.op else { return None };
    match *map.code.last()? {
        Instr::Unary(f, a) => Some((f, arg(node, &map.code, a)?.view()?.clone())),
        _ => None,
    }
}

/// Registers that an instruction reads.
pub(super) fn reads(instr: &Instr) -> Vec<Reg> {
    match *instr {
        Instr::Input(_) | Instr::Const(_) => Vec::new(),
        Instr::Unary(_, a) | Instr::Cast(_, a) => vec![a],
        Instr::Binary(_, a, b) => vec![a, b],
        Instr::Select(c, a, b) => vec![c, a, b],
    }
}

/// The same instruction on renumbered registers.
pub(super) fn renumber(instr: &Instr, to: impl Fn(Reg) -> Reg) -> Instr {
    match *instr {
        Instr::Input(_) | Instr::Const(_) => instr.clone(),
        Instr::Unary(f, a) => Instr::Unary(f, to(a)),
        Instr::Cast(d, a) => Instr::Cast(d, to(a)),
        Instr::Binary(f, a, b) => Instr::Binary(f, to(a), to(b)),
        Instr::Select(c, a, b) => Instr::Select(to(c), to(a), to(b)),
    }
}

/// Drops what the result does not need, shares equal instructions and equal operands.
pub(super) fn clean(code: &[Instr], inputs: &[View]) -> (Vec<Instr>, Vec<View>) {
    let mut wanted = vec![false; code.len()];
    if let Some(last) = wanted.last_mut() {
        *last = true;
    }
    for i in (0..code.len()).rev() {
        if wanted[i] {
            for r in reads(&code[i]) {
                wanted[r as usize] = true;
            }
        }
    }
    let mut views: Vec<View> = Vec::new();
    let mut out: Vec<Instr> = Vec::new();
    let mut seen: HashMap<Instr, Reg> = HashMap::new();
    let mut position = vec![0 as Reg; code.len()];
    for (i, instr) in code.iter().enumerate() {
        if !wanted[i] {
            continue;
        }
        let new = match instr {
            Instr::Input(n) => {
                let v = &inputs[*n as usize];
                let at = views.iter().position(|x| x == v).unwrap_or_else(|| {
                    views.push(v.clone());
                    views.len() - 1
                });
                Instr::Input(at as u8)
            }
            other => renumber(other, |r| position[r as usize]),
        };
        position[i] = match seen.get(&new) {
            // The result stays the last instruction.
            Some(&r) if i + 1 < code.len() => r,
            _ => {
                out.push(new.clone());
                seen.insert(new, (out.len() - 1) as Reg);
                (out.len() - 1) as Reg
            }
        };
    }
    (out, views)
}

/// `outer` with its operand `slot` computed by `inner` instead of read.
pub(super) fn inline(outer: &LNode, slot: usize, inner: &LNode) -> Option<(Map, Vec<View>)> {
    let (Op::Map(o), Op::Map(i)) = (&outer.op, &inner.op) else { return None };
    let mut inputs = inner.inputs.clone();
    inputs.extend(outer.inputs.iter().cloned());
    if inputs.len() > Map::MAX_INPUTS {
        return None;
    }
    let mut code = i.code.clone();
    let result = (code.len() - 1) as Reg;
    let base = code.len() as Reg;
    for instr in &o.code {
        code.push(match instr {
            // Keeps register numbers in step: a copy of the result by way of its own register is made below.
            Instr::Input(n) if *n as usize == slot => Instr::Input(u8::MAX),
            Instr::Input(n) => Instr::Input(n + inner.inputs.len() as u8),
            other => renumber(other, |r| r + base),
        });
    }
    // Every read of the operand becomes a read of the inner result.
    let is_slot: Vec<bool> = code.iter().map(|c| *c == Instr::Input(u8::MAX)).collect();
    let code: Vec<Instr> = code
        .iter()
        .enumerate()
        .map(|(at, c)| {
            if is_slot[at] {
                // Never read any more; replaced by a harmless constant that `clean` drops.
                Instr::Const(Scalar::from_i64(streampool_core::op::DType::Bool, 0))
            } else {
                renumber(c, |r| if is_slot[r as usize] { result } else { r })
            }
        })
        .collect();
    let (code, inputs) = clean(&code, &inputs);
    Some((Map { code }, inputs))
}
