//! GridSample: positions and weights are elementwise work, pixels are gathered as rows of channels.

use streampool_core::Error;
use streampool_core::op::{Binary, DType, Gather, Op, Reg, Unary};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{Expr, LResult, Lower, View};

pub(super) const OPS: &[Operator] = &[op("GridSample", 16, grid_sample)];

/// What lies outside the image.
#[derive(Clone, Copy, PartialEq)]
enum Outside {
    Zeros,
    Border,
    Reflection,
}

/// One spatial axis.
#[derive(Clone, Copy)]
struct Axis {
    len: usize,
    corners: bool,
    outside: Outside,
}

impl Axis {
    fn border(&self) -> (f64, f64) {
        let len = self.len as f64;
        if self.corners { (0.0, len - 1.0) } else { (-0.5, len - 0.5) }
    }

    /// -1..1 to a position, folded back into the image as far as the mode says.
    fn position(&self, e: &mut Expr, g: Reg, nearest: bool) -> Reg {
        let (one, two, len) = (e.num(g, 1.0), e.num(g, 2.0), e.num(g, self.len as f64));
        let up = e.add(g, one);
        let mut x = if self.corners {
            let half = e.div(up, two);
            let last = e.sub(len, one);
            e.mul(half, last)
        } else {
            let wide = e.mul(up, len);
            let less = e.sub(wide, one);
            e.div(less, two)
        };
        if nearest {
            x = e.un(Unary::Round, x);
        }
        match self.outside {
            Outside::Zeros => x,
            Outside::Border => {
                let (low, high) = self.border();
                let (low, high, zero, last) =
                    (e.num(x, low), e.num(x, high), e.num(x, 0.0), e.num(x, self.len as f64 - 1.0));
                let (below, above) = (e.bin(Binary::Lt, x, low), e.bin(Binary::Gt, x, high));
                let y = e.select(below, zero, x);
                e.select(above, last, y)
            }
            Outside::Reflection => self.reflect(e, x),
        }
    }

    /// A triangular wave between the borders.
    fn reflect(&self, e: &mut Expr, x: Reg) -> Reg {
        let (low, high) = self.border();
        let range = high - low;
        if range <= 0.0 {
            return e.num(x, low);
        }
        let (min, period, r) = (e.num(x, low), e.num(x, 2.0 * range), e.num(x, range));
        let d = e.sub(x, min);
        let d = e.un(Unary::Abs, d);
        let t = e.bin(Binary::Mod, d, period);
        let back = e.sub(period, t);
        let inside = e.bin(Binary::Le, t, r);
        let t = e.select(inside, t, back);
        e.add(t, min)
    }

    /// A pixel's index inside the image, and whether the pixel counts.
    fn pixel(&self, e: &mut Expr, i: Reg) -> (Reg, Option<Reg>) {
        let folded = if self.outside == Outside::Reflection { self.reflect(e, i) } else { i };
        let (zero, last) = (e.num(i, 0.0), e.num(i, self.len as f64 - 1.0));
        let low = e.bin(Binary::Max, folded, zero);
        let at = e.bin(Binary::Min, low, last);
        let counts = (self.outside == Outside::Zeros).then(|| e.bin(Binary::Eq, at, folded));
        (at, counts)
    }
}

/// Keys' cubic weight at distance `d`, for the inner or the outer pair of taps.
fn keys(e: &mut Expr, d: Reg, inner: bool) -> Reg {
    let a = -0.75;
    let c: [f64; 4] = if inner { [a + 2.0, -(a + 3.0), 0.0, 1.0] } else { [a, -5.0 * a, 8.0 * a, -4.0 * a] };
    let mut y = e.num(d, c[0]);
    for k in &c[1..] {
        let (p, k) = (e.mul(y, d), e.num(d, *k));
        y = e.add(p, k);
    }
    y
}

fn grid_sample(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let (x, grid) = (lo.input(n, 0)?, lo.input(n, 1)?);
    let axes = x.rank().saturating_sub(2);
    if axes == 0
        || grid.rank() != x.rank()
        || grid.shape()[0] != x.shape()[0]
        || grid.shape()[axes + 1] != axes
    {
        return Err(Error::invalid_argument(format!("grid {} does not fit x {}", grid.ty(), x.ty())).into());
    }
    if x.shape().is_empty() {
        return Err(Error::invalid_argument(format!("x {} has nothing to sample", x.ty())).into());
    }
    let taps: &[i64] = match n.attrs.str("mode", "linear")? {
        "nearest" => &[0],
        "linear" | "bilinear" => &[0, 1],
        "cubic" | "bicubic" => &[-1, 0, 1, 2],
        other => return Err(Error::invalid_model(format!("mode '{other}' does not exist")).into()),
    };
    let outside = match n.attrs.str("padding_mode", "zeros")? {
        "zeros" => Outside::Zeros,
        "border" => Outside::Border,
        "reflection" => Outside::Reflection,
        other => return Err(Error::invalid_model(format!("padding_mode '{other}' does not exist")).into()),
    };
    let corners = n.attrs.flag("align_corners", false)?;
    let (batch, channels) = (x.shape()[0], x.shape()[1]);
    let spatial = x.shape()[2..].to_vec();
    let pixels: usize = spatial.iter().product();
    let wanted = grid.shape()[1..=axes].to_vec();
    let points: usize = wanted.iter().product();
    // Rows of channels, so that one index moves a whole row.
    let mut perm: Vec<usize> = (0..x.rank()).filter(|&a| a != 1).collect();
    perm.push(1);
    let rows = lo.permute(&x, &perm)?;
    let rows = lo.reshape(&rows, vec![batch * pixels, channels])?;
    let first: Vec<i64> = (0..batch as i64).map(|b| b * pixels as i64).collect();
    let first = lo.ints_constant(&first, vec![batch, 1]);
    let grid = lo.reshape(&grid, vec![batch, points, axes])?;
    let grid = lo.cast(&grid, DType::F32)?;
    // Positions once per axis; the innermost axis comes first in the grid.
    let mut positions: Vec<(View, Axis)> = Vec::new();
    for (i, &len) in spatial.iter().enumerate() {
        let g = lo.slice(&grid, 2, axes - 1 - i, 1, 1);
        let g = lo.squeeze(&g, &[2])?;
        let axis = Axis { len, corners, outside };
        let mut e = Expr::new();
        let g = e.input(&g);
        axis.position(&mut e, g, taps.len() == 1);
        positions.push((lo.map(e)?, axis));
    }
    let mut sum: Option<View> = None;
    for combination in 0..taps.len().pow(axes as u32) {
        let (mut index, mut weight) = (Expr::new(), Expr::new());
        let (mut at, mut w): (Option<Reg>, Option<Reg>) = (None, None);
        let mut rest = combination;
        for (view, axis) in &positions {
            let tap = taps[rest % taps.len()];
            rest /= taps.len();
            let pixel = |e: &mut Expr| {
                let x = e.input(view);
                let base = e.un(Unary::Floor, x);
                let step = e.num(x, tap as f64);
                let i = e.add(base, step);
                (x, base, axis.pixel(e, i))
            };
            let (_, _, (i, _)) = pixel(&mut index);
            let i = index.cast(DType::I64, i);
            at = Some(match at {
                Some(a) => {
                    let len = index.num(a, axis.len as f64);
                    let a = index.mul(a, len);
                    index.add(a, i)
                }
                None => i,
            });
            let (x, base, (_, counts)) = pixel(&mut weight);
            let e = &mut weight;
            let f = e.sub(x, base);
            let mut here = match (taps.len(), tap) {
                (1, _) => e.num(f, 1.0),
                (2, 0) => {
                    let one = e.num(f, 1.0);
                    e.sub(one, f)
                }
                (2, _) => f,
                (_, tap) => {
                    // Distances to the four taps: f + 1, f, 1 - f, 2 - f.
                    let away = e.num(f, tap.abs() as f64);
                    let d = match tap {
                        -1 => e.add(f, away),
                        0 => f,
                        _ => e.sub(away, f),
                    };
                    keys(e, d, matches!(tap, 0 | 1))
                }
            };
            if let Some(c) = counts {
                let zero = e.num(here, 0.0);
                here = e.select(c, here, zero);
            }
            w = Some(match w {
                Some(w) => e.mul(w, here),
                None => here,
            });
        }
        let (Some(at), Some(_)) = (at, w) else { continue };
        let offset = index.input(&first);
        index.add(at, offset);
        let indices = lo.map(index)?;
        let weights = lo.map(weight)?;
        let weights = lo.unsqueeze(&weights, &[2])?;
        let picked = lo.emit1(Op::Gather(Gather { axis: 0 }), &[rows.clone(), indices])?;
        let mut e = Expr::new();
        let p = e.input(&picked);
        let p = e.cast(DType::F32, p);
        let weights = e.input(&weights);
        let v = e.mul(p, weights);
        if let Some(s) = &sum {
            let s = e.input(s);
            e.add(s, v);
        }
        sum = Some(lo.map(e)?);
    }
    let y = sum.ok_or_else(|| Error::internal("no tap was read"))?;
    let y = lo.cast(&y, x.dtype)?;
    let y = lo.permute(&y, &[0, 2, 1])?;
    let mut shape = vec![batch, channels];
    shape.extend(&wanted);
    let y = lo.reshape(&y, shape)?;
    lo.set(n, 0, y)
}
