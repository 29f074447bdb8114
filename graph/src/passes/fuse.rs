//! Elementwise fusion: a map whose result only one other map reads, element for element, becomes part of it.

use std::borrow::Cow;
use std::collections::HashMap;

use streampool_core::op::{Op, Shape};

use super::code;
use crate::lower::{LNode, Lir, Uses, View};

/// Instructions of one fused map.
const MAX_CODE: usize = 96;
/// Operands of one fused map.
const MAX_INPUTS: usize = 16;

/// Fuses until nothing changes; gives how many maps went into others.
pub(super) fn run(lir: &mut Lir) -> usize {
    let mut total = 0;
    // Each round can make two readers of one map into one reader.
    for _ in 0..8 {
        let fused = round(lir);
        total += fused;
        if fused == 0 {
            break;
        }
    }
    total
}

fn round(lir: &mut Lir) -> usize {
    let uses = Uses::of(lir);
    let mut fused = 0;
    // Where each map is now, by the buffer it writes.
    let mut maps: HashMap<u32, usize> = HashMap::new();
    // Which node each fused one went into.
    let mut into: HashMap<usize, usize> = HashMap::new();
    for at in 0..lir.nodes.len() {
        let Some(mut node) = lir.nodes[at].take() else { continue };
        if !matches!(node.op, Op::Map(_)) {
            lir.nodes[at] = Some(node);
            continue;
        }
        while let Some((slot, inner)) = candidate(lir, &node, at, &uses, &maps, &into) {
            let Some(producer) = lir.nodes[inner].as_ref() else { break };
            let Some(shaped) = shaped(producer, node.outputs[0].shape()) else { break };
            let Some((map, inputs)) = code::inline(&node, slot, &shaped) else { break };
            node.op = Op::Map(map);
            node.inputs = inputs;
            maps.remove(&producer.outputs[0].buf);
            lir.nodes[inner] = None;
            into.insert(inner, at);
            fused += 1;
        }
        maps.insert(node.outputs[0].buf, at);
        lir.nodes[at] = Some(node);
    }
    fused
}

fn candidate(
    lir: &Lir,
    node: &LNode,
    at: usize,
    uses: &Uses,
    maps: &HashMap<u32, usize>,
    into: &HashMap<usize, usize>,
) -> Option<(usize, usize)> {
    let Op::Map(outer) = &node.op else { return None };
    let shape = node.outputs[0].shape();
    node.inputs.iter().enumerate().find_map(|(slot, v)| {
        let inner = *maps.get(&v.buf)?;
        let producer = lir.nodes[inner].as_ref()?;
        let Op::Map(map) = &producer.op else { return None };
        // Element for element: the operand is all of the producer's result, in its order.
        let same = v.layout.offset == 0
            && v.layout.is_contiguous()
            && v.shape() == shape
            && shape.len() == producer.outputs[0].shape().len()
            && shaped(producer, shape).is_some();
        let once = node.inputs.iter().filter(|w| w.buf == v.buf).count() == 1;
        let small = map.code.len() + outer.code.len() <= MAX_CODE
            && producer.inputs.len() + node.inputs.len() <= MAX_INPUTS + 1;
        let only = sole_reader(uses, v.buf, at, into);
        (same && once && small && only).then_some((slot, inner))
    })
}

/// The map as one whose result has another shape of as many elements, if views of its operands can have it, too.
fn shaped<'a>(node: &'a LNode, shape: &Shape) -> Option<Cow<'a, LNode>> {
    let old = node.outputs[0].shape();
    if old == shape {
        return Some(Cow::Borrowed(node));
    }
    let operand = |v: &View| Some(v.with(v.layout.broadcast_to(old).ok()?.reshape(shape)?));
    let inputs = node.inputs.iter().map(operand).collect::<Option<_>>()?;
    Some(Cow::Owned(LNode { inputs, ..node.clone() }))
}

/// Whether `at` is the only node that still reads the buffer, the readers that went into it included.
fn sole_reader(uses: &Uses, buf: u32, at: usize, into: &HashMap<usize, usize>) -> bool {
    let now = |mut r: usize| {
        while let Some(&next) = into.get(&r) {
            r = next;
        }
        r
    };
    !uses.is_output[buf as usize] && uses.readers[buf as usize].iter().all(|&r| now(r) == at)
}

#[cfg(test)]
mod tests {
    use streampool_core::op::{Binary, DType, Instr, Map, TensorType, Unary};

    use super::*;
    use crate::lower::Source;

    fn map(lir: &mut Lir, op: Map, inputs: &[&View]) -> View {
        let out = lir.add_buf(inputs[0].ty(), Source::Nodes);
        let inputs = inputs.iter().map(|v| (*v).clone()).collect();
        lir.nodes.push(Some(LNode {
            name: String::new(),
            op: Op::Map(op),
            inputs,
            outputs: vec![out.clone()],
        }));
        out
    }

    #[test]
    fn chains_and_diamonds_become_one_map() {
        let mut lir = Lir::default();
        let x = lir.add_buf(TensorType::new(DType::F32, [2, 3]), Source::Input(0));
        let a = map(&mut lir, Map::unary(Unary::Exp), &[&x]);
        let b = map(&mut lir, Map::unary(Unary::Neg), &[&a]);
        let c = map(&mut lir, Map::binary(Binary::Add), &[&a, &b]);
        lir.outputs.push(c);
        assert_eq!(run(&mut lir), 2);
        let nodes: Vec<&LNode> = lir.live().map(|(_, n)| n).collect();
        assert_eq!((nodes.len(), nodes[0].inputs.len()), (1, 1));
        let Op::Map(m) = &nodes[0].op else { panic!("a map") };
        assert_eq!(
            m.code,
            [
                Instr::Input(0),
                Instr::Unary(Unary::Exp, 0),
                Instr::Unary(Unary::Neg, 1),
                Instr::Binary(Binary::Add, 1, 2)
            ]
        );
    }

    #[test]
    fn results_that_are_read_twice_or_given_out_stay() {
        let mut lir = Lir::default();
        let x = lir.add_buf(TensorType::new(DType::F32, [2, 3]), Source::Input(0));
        let a = map(&mut lir, Map::unary(Unary::Exp), &[&x]);
        let b = map(&mut lir, Map::unary(Unary::Neg), &[&a]);
        lir.outputs.extend([a, b]);
        assert_eq!(run(&mut lir), 0);
    }

    #[test]
    fn a_reader_that_went_elsewhere_still_counts() {
        let mut lir = Lir::default();
        let x = lir.add_buf(TensorType::new(DType::F32, [4]), Source::Input(0));
        let a = map(&mut lir, Map::unary(Unary::Exp), &[&x]);
        let b = map(&mut lir, Map::unary(Unary::Neg), &[&a]);
        let c = map(&mut lir, Map::unary(Unary::Abs), &[&b]);
        let d = map(&mut lir, Map::unary(Unary::Sqrt), &[&a]);
        lir.outputs.extend([c.clone(), d]);
        assert_eq!(run(&mut lir), 1);
        assert!(lir.live().any(|(_, n)| n.outputs[0] == a) && lir.live().all(|(_, n)| n.outputs[0] != b));
    }

    #[test]
    fn a_broadcast_operand_is_not_computed_again_for_each_row() {
        let mut lir = Lir::default();
        let row = lir.add_buf(TensorType::new(DType::F32, [3]), Source::Input(0));
        let x = lir.add_buf(TensorType::new(DType::F32, [2, 3]), Source::Input(1));
        let a = map(&mut lir, Map::unary(Unary::Exp), &[&row]);
        let b = map(&mut lir, Map::binary(Binary::Add), &[&x, &a]);
        lir.outputs.push(b);
        assert_eq!(run(&mut lir), 0);
    }
}
