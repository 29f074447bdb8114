//! ConvTranspose.

use streampool_core::Error;
use streampool_core::op::{ConvTranspose, Op};

use super::spatial::{extent, sizes};
use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, View};

pub(super) const OPS: &[Operator] = &[op("ConvTranspose", 1, conv_transpose)];

fn conv_transpose(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, w, b) = (lo.input(n, 0)?, lo.input(n, 1)?, lo.optional(n, 2)?);
    if x.rank() < 3 || w.rank() != x.rank() {
        return Err(Error::invalid_argument(format!(
            "x {} and weight {} should have spatial axes",
            x.ty(),
            w.ty()
        ))
        .into());
    }
    let axes = x.rank() - 2;
    let (input, kernel) = (&x.shape()[2..], &w.shape()[2..]);
    let strides = sizes(n, "strides", axes, 1)?;
    let dilations = sizes(n, "dilations", axes, 1)?;
    let output_padding = sizes(n, "output_padding", axes, 0)?;
    let (mut before, mut after) = (vec![0isize; axes], vec![0isize; axes]);
    let auto = n.attrs.str("auto_pad", "NOTSET")?;
    let wanted: Option<Vec<usize>> = match n.attrs.ints("output_shape")? {
        // Some exporters give the batch and channels as well.
        Some(s) if s.len() >= axes => Some(
            s[s.len() - axes..]
                .iter()
                .map(|&v| usize::try_from(v).map_err(|_| Error::invalid_model("output_shape is negative")))
                .collect::<Result<_, _>>()?,
        ),
        Some(s) => {
            return Err(Error::invalid_model(format!("output_shape {s:?} should have {axes} entries")).into());
        }
        None if auto.starts_with("SAME") => {
            Some((0..axes).map(|i| input[i].saturating_mul(strides[i])).collect())
        }
        None => None,
    };
    match wanted {
        Some(out) => {
            for i in 0..axes {
                let full = strides[i]
                    .checked_mul(input[i].saturating_sub(1))
                    .and_then(|v| v.checked_add(extent(kernel[i], dilations[i]).ok()?))
                    .and_then(|v| v.checked_add(output_padding[i]))
                    .and_then(|v| isize::try_from(v).ok())
                    .ok_or_else(|| Error::invalid_model("the output is too long"))?;
                let out =
                    isize::try_from(out[i]).map_err(|_| Error::invalid_model("the output is too long"))?;
                let total = (full - out).max(0);
                // A wanted length beyond the natural one is padded at the end.
                let extra = (out - full).max(0);
                let small = total / 2;
                (before[i], after[i]) =
                    if auto == "SAME_UPPER" { (small, total - small) } else { (total - small, small) };
                after[i] -= extra;
            }
        }
        None if auto == "VALID" => {}
        None => {
            let pads = n.attrs.ints("pads")?.unwrap_or(&[]);
            if !pads.is_empty() {
                if pads.len() != 2 * axes {
                    return Err(Error::invalid_model(format!(
                        "pads {pads:?} should have {} entries",
                        2 * axes
                    ))
                    .into());
                }
                for i in 0..axes {
                    before[i] = pads[i] as isize;
                    after[i] = pads[axes + i] as isize;
                }
            }
        }
    }
    let groups =
        usize::try_from(n.attrs.int("group", 1)?).map_err(|_| Error::invalid_model("group is negative"))?;
    let op = ConvTranspose {
        strides,
        dilations,
        pads_before: before,
        pads_after: after,
        output_padding,
        groups,
        bias: b.is_some(),
    };
    let operands: Vec<View> = [Some(x), Some(w), b].into_iter().flatten().collect();
    let y = lo.emit1(Op::ConvTranspose(op), &operands)?;
    lo.set(n, 0, y)
}
