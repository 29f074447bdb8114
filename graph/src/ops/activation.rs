//! Activations that are small expressions.

use streampool_core::Error;
use streampool_core::op::{Binary, Reg, Unary};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{Expr, LResult, Lower};

pub(super) const OPS: &[Operator] = &[
    op("LeakyRelu", 6, |lo, n| {
        let alpha = f64::from(n.attrs.float("alpha", 0.01)?);
        with(lo, n, |e, x| {
            let (a, zero) = (e.num(x, alpha), e.num(x, 0.0));
            let (scaled, negative) = (e.mul(x, a), e.bin(Binary::Lt, x, zero));
            e.select(negative, scaled, x);
        })
    }),
    op("Elu", 6, |lo, n| {
        let alpha = f64::from(n.attrs.float("alpha", 1.0)?);
        with(lo, n, |e, x| {
            elu(e, x, alpha, 1.0);
        })
    }),
    op("Selu", 6, |lo, n| {
        let alpha = f64::from(n.attrs.float("alpha", 1.673_263_2)?);
        let gamma = f64::from(n.attrs.float("gamma", 1.050_701)?);
        with(lo, n, |e, x| {
            let y = elu(e, x, alpha, 1.0);
            let g = e.num(x, gamma);
            e.mul(y, g);
        })
    }),
    op("Celu", 12, |lo, n| {
        let alpha = f64::from(n.attrs.float("alpha", 1.0)?);
        with(lo, n, |e, x| {
            elu(e, x, alpha, alpha);
        })
    }),
    op("ThresholdedRelu", 10, |lo, n| {
        let alpha = f64::from(n.attrs.float("alpha", 1.0)?);
        with(lo, n, |e, x| {
            let (a, zero) = (e.num(x, alpha), e.num(x, 0.0));
            let above = e.bin(Binary::Gt, x, a);
            e.select(above, x, zero);
        })
    }),
    op("HardSigmoid", 6, |lo, n| {
        let alpha = f64::from(n.attrs.float("alpha", 0.2)?);
        let beta = f64::from(n.attrs.float("beta", 0.5)?);
        with(lo, n, |e, x| {
            hard_sigmoid(e, x, alpha, beta);
        })
    }),
    op("HardSwish", 14, |lo, n| {
        with(lo, n, |e, x| {
            let h = hard_sigmoid(e, x, 1.0 / 6.0, 0.5);
            e.mul(x, h);
        })
    }),
    op("Softsign", 1, |lo, n| {
        with(lo, n, |e, x| {
            let (a, one) = (e.un(Unary::Abs, x), e.num(x, 1.0));
            let d = e.add(a, one);
            e.div(x, d);
        })
    }),
    op("Mish", 18, |lo, n| {
        with(lo, n, |e, x| {
            let s = e.un(Unary::Softplus, x);
            let t = e.un(Unary::Tanh, s);
            e.mul(x, t);
        })
    }),
    op("Gelu", 20, |lo, n| {
        let f = match n.attrs.str("approximate", "none")? {
            "none" => Unary::Gelu,
            "tanh" => Unary::GeluTanh,
            other => {
                return Err(
                    Error::invalid_model(format!("approximate '{other}' is neither none nor tanh")).into()
                );
            }
        };
        with(lo, n, |e, x| {
            e.un(f, x);
        })
    }),
    op("Swish", 24, |lo, n| {
        let alpha = f64::from(n.attrs.float("alpha", 1.0)?);
        with(lo, n, |e, x| {
            if alpha == 1.0 {
                e.un(Unary::Silu, x);
            } else {
                let a = e.num(x, alpha);
                let scaled = e.mul(x, a);
                let s = e.un(Unary::Sigmoid, scaled);
                e.mul(x, s);
            }
        })
    }),
    op("SwiGLU", 28, swiglu),
    op("Shrink", 9, |lo, n| {
        let lambd = f64::from(n.attrs.float("lambd", 0.5)?);
        let bias = f64::from(n.attrs.float("bias", 0.0)?);
        with(lo, n, |e, x| {
            let (low, high, b, zero) = (e.num(x, -lambd), e.num(x, lambd), e.num(x, bias), e.num(x, 0.0));
            let (below, above) = (e.bin(Binary::Lt, x, low), e.bin(Binary::Gt, x, high));
            let (up, down) = (e.add(x, b), e.sub(x, b));
            let inner = e.select(above, down, zero);
            e.select(below, up, inner);
        })
    }),
];

/// `a * sigmoid(alpha * a) * b`.
fn swiglu(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let alpha = f64::from(n.attrs.float("alpha", 1.0)?);
    let (a, b) = (lo.input(n, 0)?, lo.input(n, 1)?);
    if a.ty() != b.ty() {
        return Err(
            Error::invalid_argument(format!("a {} and b {} should have one type", a.ty(), b.ty())).into()
        );
    }
    let mut e = Expr::new();
    let (x, y) = (e.input(&a), e.input(&b));
    let k = e.num(x, alpha);
    let scaled = e.mul(x, k);
    let gate = e.un(Unary::Sigmoid, scaled);
    let swish = e.mul(x, gate);
    e.mul(swish, y);
    let y = lo.map(e)?;
    lo.set(n, 0, y)
}

fn with(lo: &mut Lower<'_>, n: &Node, f: impl FnOnce(&mut Expr, Reg)) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let y = lo.map1(&x, f)?;
    lo.set(n, 0, y)
}

/// `x` where it is positive, else `alpha * (exp(x / divide) - 1)`.
fn elu(e: &mut Expr, x: Reg, alpha: f64, divide: f64) -> Reg {
    let inner = if divide == 1.0 {
        x
    } else {
        let d = e.num(x, divide);
        e.div(x, d)
    };
    let grown = e.un(Unary::Expm1, inner);
    let a = e.num(x, alpha);
    let scaled = e.mul(grown, a);
    let zero = e.num(x, 0.0);
    let negative = e.bin(Binary::Lt, x, zero);
    e.select(negative, scaled, x)
}

fn hard_sigmoid(e: &mut Expr, x: Reg, alpha: f64, beta: f64) -> Reg {
    let (a, b, zero, one) = (e.num(x, alpha), e.num(x, beta), e.num(x, 0.0), e.num(x, 1.0));
    let scaled = e.mul(x, a);
    let moved = e.add(scaled, b);
    let low = e.bin(Binary::Max, moved, zero);
    e.bin(Binary::Min, low, one)
}
