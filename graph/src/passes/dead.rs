//! Dead code: nodes that no output needs.

use crate::lower::Lir;

/// Takes away every node whose results nobody reads; gives how many.
pub(crate) fn run(lir: &mut Lir) -> usize {
    let mut wanted = vec![false; lir.bufs.len()];
    for o in &lir.outputs {
        wanted[o.buf as usize] = true;
    }
    let mut gone = 0;
    for slot in lir.nodes.iter_mut().rev() {
        let Some(node) = slot else { continue };
        if node.outputs.iter().any(|o| wanted[o.buf as usize]) {
            for i in &node.inputs {
                wanted[i.buf as usize] = true;
            }
        } else {
            *slot = None;
            gone += 1;
        }
    }
    gone
}
