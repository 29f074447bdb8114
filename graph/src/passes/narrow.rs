//! Broadcast work: an elementwise expression that is the same all along an axis is computed there once, and its readers repeat it.
//!
//! Exporters expand masks to (batch, 1, queries, keys) before they compute with them; what depends on the keys alone is then made, and read, once for
//! each query.

use streampool_core::op::{Layout, Op, Shape};

use crate::lower::{Lir, Uses, View};

/// Narrows every map that can be; gives how many.
pub(super) fn run(lir: &mut Lir) -> usize {
    let uses = Uses::of(lir);
    // Forwards: what reads a narrowed map may be narrow, too.
    (0..lir.nodes.len()).filter(|&at| narrow(lir, &uses, at).is_some()).count()
}

fn narrow(lir: &mut Lir, uses: &Uses, at: usize) -> Option<()> {
    let node = lir.nodes[at].as_ref().filter(|n| matches!(n.op, Op::Map(_)))?;
    let old = node.outputs[0].clone();
    let shape = old.shape();
    let buf = old.buf as usize;
    if node.inputs.is_empty() || uses.is_output[buf] || uses.writer[buf] != Some(at) || !lir.is_whole(&old) {
        return None;
    }
    let operand = |v: &View| if is_uniform(lir, v) { repeat(&v.layout) } else { v.layout.clone() };
    let inputs: Vec<Layout> =
        node.inputs.iter().map(|v| operand(v).broadcast_to(shape)).collect::<Result<_, _>>().ok()?;
    let alike = |axis: usize| shape[axis] > 1 && inputs.iter().all(|l| l.strides[axis] == 0);
    let axes: Vec<usize> = (0..shape.rank()).filter(|&a| alike(a)).collect();
    if axes.is_empty() {
        return None;
    }
    let once = |layout: &Layout| axes.iter().fold(layout.clone(), |l, &a| l.slice(a, 0, 1, 1));
    let small: Shape = (0..shape.rank()).map(|a| if axes.contains(&a) { 1 } else { shape[a] }).collect();
    let inputs: Vec<View> = node.inputs.iter().zip(&inputs).map(|(v, l)| v.with(once(l))).collect();
    // All readers must be able to repeat what they find.
    let mut changes = Vec::new();
    for &reader in &uses.readers[buf] {
        let node = lir.nodes[reader].as_ref()?;
        for (i, v) in node.inputs.iter().enumerate().filter(|(_, v)| v.buf == old.buf) {
            let layout = repeated(&v.layout, shape, &small).filter(|_| node.op.takes_strided_input(i))?;
            changes.push((reader, i, v.with(layout)));
        }
    }
    for (reader, i, view) in changes {
        lir.nodes[reader].as_mut()?.inputs[i] = view;
    }
    lir.bufs[buf].ty.shape = small;
    let output = View::whole(old.buf, &lir.bufs[buf].ty);
    let node = lir.nodes[at].as_mut()?;
    (node.inputs, node.outputs) = (inputs, vec![output]);
    Some(())
}

/// Whether all elements of a constant are equal, as of the masks that exporters make of nothing.
fn is_uniform(lir: &Lir, v: &View) -> bool {
    lir.constant(v).is_some_and(|constant| {
        let mut elements = constant.data().chunks_exact(v.dtype.size());
        elements.next().is_some_and(|first| elements.all(|e| e == first))
    })
}

/// The first element of a view, under its shape.
fn repeat(layout: &Layout) -> Layout {
    Layout { strides: layout.strides.iter().map(|_| 0).collect(), ..layout.clone() }
}

/// The view `of` a row-major tensor of shape `old`, of one of shape `small` whose axes of length 1 are repeated. `None` for views that are no selection
/// of its axes from the first element on.
fn repeated(of: &Layout, old: &Shape, small: &Shape) -> Option<Layout> {
    let (from, to) = (old.strides(), small.strides());
    let stride = |(&len, &stride): (&usize, &isize)| {
        if len == 1 || stride == 0 {
            return Some(0);
        }
        let axis = (0..old.rank()).find(|&a| old[a] > 1 && from[a] == stride).filter(|&a| len <= old[a])?;
        Some(if small[axis] == 1 { 0 } else { to[axis] })
    };
    let strides = of.shape.iter().zip(&of.strides).map(stride).collect::<Option<_>>()?;
    (of.offset == 0).then(|| Layout { shape: of.shape.clone(), strides, offset: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_that_merges_axes_or_begins_elsewhere_is_none_of_a_narrow_tensor() {
        let (old, small) = (Shape::new(&[4, 5, 6]), Shape::new(&[4, 1, 6]));
        let whole = Layout::contiguous(old.clone());
        let narrow = repeated(&whole, &old, &small).expect("its own shape");
        assert_eq!((&narrow.shape, &narrow.strides[..]), (&old, &[6, 0, 1][..]));
        let turned = repeated(&whole.permute(&[2, 0, 1]), &old, &small).expect("a transpose");
        assert_eq!(&turned.strides[..], [1, 6, 0]);
        let merged = whole.reshape(&Shape::new(&[4, 30])).expect("a reshape");
        assert_eq!(repeated(&merged, &old, &small), None);
        assert_eq!(repeated(&whole.slice(1, 2, 3, 1), &old, &small), None);
        assert_eq!(repeated(&whole.slice(2, 0, 3, 2), &old, &small), None);
    }
}
