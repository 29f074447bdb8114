//! Products of f64, i32 and i64: plain loops that the compiler vectorises.

use streampool_core::Result;
use streampool_core::op::{Activation, Element, MatMul};

use super::{Batch, Views, extras, steps};
use crate::kernel::{Args, Kernel, Prepare};
use crate::simd::multiversion;

/// An element that is summed in its own type.
pub(super) trait Number: Element + Default {
    /// `acc + a * b`; integers wrap.
    fn mul_add(acc: Self, a: Self, b: Self) -> Self;
    /// `alpha * self`; integers are rounded towards zero.
    fn scale(self, alpha: f32) -> Self;
    fn add(self, b: Self) -> Self;
    /// `f(self)`; integers have Relu, LeakyRelu and Clip only, through f64.
    fn activate(self, f: Activation) -> Self;
}

/// An activation in f64.
fn activate(f: Activation, x: f64) -> f64 {
    match f {
        Activation::Relu => {
            if x < 0.0 {
                0.0
            } else {
                x
            }
        }
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::Tanh => x.tanh(),
        Activation::Gelu => x / 2.0 * erfc(-x / std::f64::consts::SQRT_2),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            x / (1.0 + (-2.0 * u).exp())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::LeakyRelu(slope) => {
            if x < 0.0 {
                x * f64::from(slope.get())
            } else {
                x
            }
        }
        Activation::Clip(lo, hi) => {
            let x = if x < f64::from(lo.get()) { f64::from(lo.get()) } else { x };
            if x > f64::from(hi.get()) { f64::from(hi.get()) } else { x }
        }
    }
}

/// The complementary error function: Taylor's series of erf where it converges fast, else Laplace's continued fraction.
fn erfc(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.0 {
        let (mut term, mut sum, mut n) = (x, x, 1.0);
        while n < 80.0 && term.abs() > 1e-18 * sum {
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
            n += 1.0;
        }
        return 1.0 - sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    if x > 27.0 {
        return 0.0;
    }
    let f = (1..100).rev().fold(0.0, |f, n| f64::from(n) / 2.0 / (x + f));
    (-x * x).exp() / std::f64::consts::PI.sqrt() / (x + f)
}

impl Number for f64 {
    #[inline(always)]
    fn mul_add(acc: Self, a: Self, b: Self) -> Self {
        acc + a * b
    }
    fn scale(self, alpha: f32) -> Self {
        self * f64::from(alpha)
    }
    fn add(self, b: Self) -> Self {
        self + b
    }
    fn activate(self, f: Activation) -> Self {
        activate(f, self)
    }
}

macro_rules! integers {
    ($($t:ty),*) => {$(
        impl Number for $t {
            #[inline(always)]
            fn mul_add(acc: Self, a: Self, b: Self) -> Self {
                acc.wrapping_add(a.wrapping_mul(b))
            }
            fn scale(self, alpha: f32) -> Self {
                (self as f64 * f64::from(alpha)) as $t
            }
            fn add(self, b: Self) -> Self {
                self.wrapping_add(b)
            }
            fn activate(self, f: Activation) -> Self {
                activate(f, self as f64) as $t
            }
        }
    )*};
}
integers!(i32, i64);

/// Columns whose sums stay in the first-level cache.
const COLUMNS: usize = 1024;

multiversion! {
    /// `to[j] += sum over p of a[p] * b[p][j]`, in the order of `p`; rows of `b` are `row` apart.
    pub(super) fn add_rows[T: super::plain::Number](a: &[T], b: &[T], row: usize, to: &mut [T]) {
        let n = to.len();
        let mut p = 0;
        while p + 4 <= a.len() {
            let (a0, a1, a2, a3) = (a[p], a[p + 1], a[p + 2], a[p + 3]);
            let b0 = &b[p * row..][..n];
            let b1 = &b[(p + 1) * row..][..n];
            let b2 = &b[(p + 2) * row..][..n];
            let b3 = &b[(p + 3) * row..][..n];
            for j in 0..n {
                let x = T::mul_add(to[j], a0, b0[j]);
                let x = T::mul_add(x, a1, b1[j]);
                let x = T::mul_add(x, a2, b2[j]);
                to[j] = T::mul_add(x, a3, b3[j]);
            }
            p += 4;
        }
        for (p, &a) in a.iter().enumerate().skip(p) {
            for (t, &b) in to.iter_mut().zip(&b[p * row..][..n]) {
                *t = T::mul_add(*t, a, b);
            }
        }
    }
}

/// A MatMul in `T`.
pub(super) struct PlainMatMul<T> {
    m: usize,
    n: usize,
    k: usize,
    a: (isize, isize),
    b: (isize, isize),
    bias: Option<(usize, isize, isize)>,
    residual: Option<usize>,
    alpha: f32,
    activation: Option<Activation>,
    /// Offsets of A, B, bias.
    batch: Batch<3>,
    element: std::marker::PhantomData<T>,
}

impl<T: Number> PlainMatMul<T> {
    pub(super) fn new(op: &MatMul, p: &Prepare<'_>) -> Result<Self> {
        let (bias, residual) = extras(op);
        let mut views = Views::new(p, bias)?;
        views.fold();
        let axes = views.batch.len();
        let bias_strides = views.bias.as_ref().map_or(vec![0; axes], |l| l.strides[..axes].to_vec());
        let batch =
            Batch::new(&views.batch, [&views.a.strides[..axes], &views.b.strides[..axes], &bias_strides]);
        let bias = bias.map(|i| {
            let l = views.bias.as_ref().expect("given with the index");
            (i, l.strides[axes], l.strides[axes + 1])
        });
        Ok(Self {
            m: views.m,
            n: views.n,
            k: views.k,
            a: steps(&views.a),
            b: steps(&views.b),
            bias,
            residual,
            alpha: op.alpha.get(),
            activation: op.activation,
            batch,
            element: std::marker::PhantomData,
        })
    }

    /// Whether B's rows are read where they lie.
    fn b_in_place(&self) -> bool {
        self.b.1 == 1 && (self.b.0 >= self.n as isize || self.k <= 1)
    }

    /// Elements of scratch memory for the B of one repetition.
    fn b_elements(&self) -> usize {
        if self.b_in_place() { 0 } else { self.k * self.n }
    }
}

/// Pointers that tasks share.
struct Shared<T> {
    a: *const T,
    b: *const T,
    bias: Option<*const T>,
    residual: Option<*const T>,
    c: *mut T,
}

// SAFETY: tasks write disjoint rows of the result and read all else.
unsafe impl<T> Sync for Shared<T> {}

impl<T: Number> PlainMatMul<T> {
    /// Rows `rows` of the result of one repetition.
    ///
    /// # Safety
    /// The pointers are those of the repetition; nobody else touches the rows.
    unsafe fn rows(&self, s: &Shared<T>, b_row: usize, rows: std::ops::Range<usize>) {
        let (n, k) = (self.n, self.k);
        let mut a_row = vec![T::default(); k];
        for i in rows {
            // SAFETY: positions are inside the operands, for which the caller vouches.
            unsafe {
                for (p, a) in a_row.iter_mut().enumerate() {
                    *a = *s.a.offset(i as isize * self.a.0 + p as isize * self.a.1);
                }
                let c = std::slice::from_raw_parts_mut(s.c.add(i * n), n);
                c.fill(T::default());
                for (block, c) in c.chunks_mut(COLUMNS).enumerate() {
                    if k > 0 {
                        let len = (k - 1) * b_row + c.len();
                        let b = std::slice::from_raw_parts(s.b.add(block * COLUMNS), len);
                        add_rows(&a_row, b, b_row, c);
                    }
                }
                for (j, c) in c.iter_mut().enumerate() {
                    let mut x = *c;
                    if self.alpha != 1.0 {
                        x = x.scale(self.alpha);
                    }
                    if let (Some(bias), Some((_, row, col))) = (s.bias, self.bias) {
                        x = x.add(*bias.offset(i as isize * row + j as isize * col));
                    }
                    if let Some(residual) = s.residual {
                        x = x.add(*residual.add(i * n + j));
                    }
                    *c = self.activation.map_or(x, |f| x.activate(f));
                }
            }
        }
    }
}

impl<T: Number> Kernel for PlainMatMul<T> {
    unsafe fn run(&self, args: &Args<'_>) -> Result<()> {
        let (m, n, k) = (self.m, self.n, self.k);
        for g in 0..self.batch.len() {
            let [a_at, b_at, bias_at] = self.batch.offsets(g);
            // SAFETY: offsets are inside the operands, for which the caller vouches; scratch holds `k * n` elements.
            let shared = unsafe {
                let mut b = args.inputs[1].cast::<T>().offset(b_at);
                if !self.b_in_place() {
                    let to = args.scratch.cast::<T>();
                    for p in 0..k {
                        for j in 0..n {
                            *to.add(p * n + j) = *b.offset(p as isize * self.b.0 + j as isize * self.b.1);
                        }
                    }
                    b = to;
                }
                Shared {
                    a: args.inputs[0].cast::<T>().offset(a_at),
                    b,
                    bias: self.bias.map(|(i, ..)| args.inputs[i].cast::<T>().offset(bias_at)),
                    residual: self.residual.map(|i| args.inputs[i].cast::<T>().add(g * m * n)),
                    c: args.outputs[0].cast::<T>().add(g * m * n),
                }
            };
            let b_row = if self.b_in_place() { self.b.0.unsigned_abs().max(1) } else { n };
            let step = m.div_ceil(32).max(1);
            let shared = &shared;
            args.team.run(m.div_ceil(step), m * n * k, &|i| {
                // SAFETY: these rows are this task's alone.
                unsafe { self.rows(shared, b_row, i * step..((i + 1) * step).min(m)) };
            });
        }
        Ok(())
    }

    fn scratch_bytes(&self) -> usize {
        self.b_elements() * size_of::<T>()
    }

    fn describe(&self) -> String {
        format!("{} x {}x{}x{} {}, plain loops", self.batch.len(), self.m, self.n, self.k, T::DTYPE)
    }

    fn work(&self) -> usize {
        self.batch.len().saturating_mul(self.m).saturating_mul(self.n).saturating_mul(self.k)
    }
}
