//! NonMaxSuppression: how many boxes survive depends on values, which are read at plan time.

use streampool_core::Error;

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower};

pub(super) const OPS: &[Operator] = &[op("NonMaxSuppression", 10, nms)];

/// Lower and upper edges in both directions.
#[derive(Clone, Copy)]
struct Edges([f32; 4]);

impl Edges {
    fn new(b: &[f64], center: bool) -> Self {
        let [a, b, c, d] = [b[0] as f32, b[1] as f32, b[2] as f32, b[3] as f32];
        if center {
            Self([a - c / 2.0, b - d / 2.0, a + c / 2.0, b + d / 2.0])
        } else {
            Self([a.min(c), b.min(d), a.max(c), b.max(d)])
        }
    }

    fn area(&self) -> f32 {
        (self.0[2] - self.0[0]) * (self.0[3] - self.0[1])
    }

    /// Intersection over union.
    fn overlap(&self, o: &Self) -> f32 {
        let w = self.0[2].min(o.0[2]) - self.0[0].max(o.0[0]);
        let h = self.0[3].min(o.0[3]) - self.0[1].max(o.0[1]);
        if w <= 0.0 || h <= 0.0 || self.area() <= 0.0 || o.area() <= 0.0 {
            return 0.0;
        }
        w * h / (self.area() + o.area() - w * h)
    }
}

fn nms(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (boxes, scores) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let ([batch, count, 4], [b2, classes, c2]) = (&boxes.shape()[..], &scores.shape()[..]) else {
        return Err(Error::invalid_argument(format!(
            "boxes {} and scores {} do not fit",
            boxes.ty(),
            scores.ty()
        ))
        .into());
    };
    if b2 != batch || c2 != count {
        return Err(Error::invalid_argument(format!(
            "boxes {} and scores {} do not fit",
            boxes.ty(),
            scores.ty()
        ))
        .into());
    }
    let (batch, count, classes) = (*batch, *count, *classes);
    let mut number = |i: usize| -> LResult<Option<f64>> {
        match lo.optional(n, i)? {
            Some(v) if !v.shape().is_empty() => Ok(Some(lo.one(&v, "a limit")?.to_f64())),
            _ => Ok(None),
        }
    };
    let most = number(2)?.unwrap_or(0.0).max(0.0) as usize;
    let (iou, least) = (number(3)?.unwrap_or(0.0) as f32, number(4)?);
    let center = n.attrs.flag("center_point_box", false)?;
    let (boxes, scores) = (lo.floats(&boxes)?, lo.floats(&scores)?);
    let mut out = Vec::new();
    for b in 0..batch {
        let edges: Vec<Edges> =
            (0..count).map(|i| Edges::new(&boxes[(b * count + i) * 4..][..4], center)).collect();
        for c in 0..classes {
            let of = &scores[(b * classes + c) * count..][..count];
            let mut order: Vec<usize> = (0..count).filter(|&i| least.is_none_or(|l| of[i] > l)).collect();
            // Best first; of equals the lower index.
            order.sort_by(|&i, &j| of[j].total_cmp(&of[i]));
            let mut kept: Vec<usize> = Vec::new();
            for i in order {
                if kept.len() >= most {
                    break;
                }
                if kept.iter().all(|&k| edges[i].overlap(&edges[k]) <= iou) {
                    kept.push(i);
                    out.extend([b as i64, c as i64, i as i64]);
                }
            }
        }
    }
    let y = lo.ints_constant(&out, vec![out.len() / 3, 3]);
    lo.set(n, 0, y)
}
