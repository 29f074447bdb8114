//! What convolution and pooling share: kernel, strides, dilations, padding, `auto_pad`.

use streampool_core::{Error, Result};

use crate::ir::Node;

/// Window attributes with their defaults filled in, one entry per spatial axis.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) kernel: Vec<usize>,
    pub(super) strides: Vec<usize>,
    pub(super) dilations: Vec<usize>,
    pub(super) before: Vec<usize>,
    pub(super) after: Vec<usize>,
}

/// Per-axis sizes from an attribute.
pub(super) fn sizes(n: &Node, name: &str, axes: usize, default: usize) -> Result<Vec<usize>> {
    let Some(list) = n.attrs.ints(name)? else { return Ok(vec![default; axes]) };
    if list.len() != axes {
        return Err(Error::invalid_model(format!(
            "{name} {list:?} should have {axes} entries, one per spatial axis"
        )));
    }
    list.iter()
        .map(|&v| {
            usize::try_from(v)
                .map_err(|_| Error::invalid_model(format!("{name} {list:?} contain the negative {v}")))
        })
        .collect()
}

/// How far a window reaches: `(kernel - 1) * dilation + 1`.
pub(super) fn extent(kernel: usize, dilation: usize) -> Result<usize> {
    kernel.checked_sub(1).and_then(|k| k.checked_mul(dilation)).and_then(|k| k.checked_add(1)).ok_or_else(
        || Error::invalid_model(format!("a kernel of {kernel} with dilation {dilation} is impossible")),
    )
}

impl Window {
    /// For an input with these spatial lengths.
    pub(super) fn new(n: &Node, input: &[usize], kernel: Option<&[usize]>) -> Result<Self> {
        let axes = input.len();
        let kernel = match (kernel, n.attrs.ints("kernel_shape")?) {
            (Some(k), None) => k.to_vec(),
            (None, None) => {
                return Err(Error::invalid_model("attribute 'kernel_shape' is missing; it is required"));
            }
            (given, Some(_)) => {
                let k = sizes(n, "kernel_shape", axes, 1)?;
                if given.is_some_and(|g| g != k) {
                    return Err(Error::invalid_model(format!(
                        "kernel_shape {k:?} contradicts the weight's {:?}",
                        given.unwrap_or_default()
                    )));
                }
                k
            }
        };
        let strides = sizes(n, "strides", axes, 1)?;
        let dilations = sizes(n, "dilations", axes, 1)?;
        if strides.contains(&0) || dilations.contains(&0) || kernel.contains(&0) {
            return Err(Error::invalid_model("a kernel, stride or dilation of 0 is impossible"));
        }
        let (mut before, mut after) = (vec![0; axes], vec![0; axes]);
        match n.attrs.str("auto_pad", "NOTSET")? {
            "NOTSET" | "" => {
                let pads = sizes(n, "pads", 2 * axes, 0)?;
                before.copy_from_slice(&pads[..axes]);
                after.copy_from_slice(&pads[axes..]);
            }
            "VALID" => {}
            same @ ("SAME_UPPER" | "SAME_LOWER") => {
                for i in 0..axes {
                    let out = input[i].div_ceil(strides[i]);
                    let reach = extent(kernel[i], dilations[i])?;
                    let total = (out.saturating_sub(1))
                        .checked_mul(strides[i])
                        .and_then(|r| r.checked_add(reach))
                        .ok_or_else(|| Error::invalid_model("the padding is too large"))?
                        .saturating_sub(input[i]);
                    let small = total / 2;
                    (before[i], after[i]) =
                        if same == "SAME_UPPER" { (small, total - small) } else { (total - small, small) };
                }
            }
            other => return Err(Error::invalid_model(format!("auto_pad '{other}' does not exist"))),
        }
        Ok(Self { kernel, strides, dilations, before, after })
    }
}
