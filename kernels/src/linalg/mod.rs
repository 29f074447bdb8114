//! Dense linear algebra: a block a matrix, in double precision where the device has it, in shared memory where a matrix fits and else in scratch memory.
//!
//! - Cholesky, and elimination with partial pivoting for solutions, inverses and determinants: right-looking, a column at a time;
//! - QR by Householder reflections, signs chosen so that R's diagonal is not negative, as the CPU device has it;
//! - singular values by one-sided Jacobi rotations (Hestenes, "Inversion of matrices by biorthogonalization and related results", 1958) and
//!   eigenvalues by two-sided ones, disjoint pairs at once in the order of a round-robin tournament (Brent and Luk, "The solution of singular-value
//!   and symmetric eigenvalue problems on multiprocessor arrays", 1985).
//!
//! A matrix that cannot be decomposed leaves a code in the step's status word; of several the first of the batch is told.

mod text;

use streampool_core::op::{DType, Linalg, Op, Operand};

use crate::emit::{all_reduce, fill, storage};
use crate::{Binding, Kernel};
use text::{BACK, CHOLESKY, DET, EIGH, ELIMINATE, LOOK, PAIR, QR, SVD};

/// Most bytes of shared memory that a block asks for: what every device of compute capability 8.0 or newer has.
const SHARED: usize = 96 << 10;

/// Most bytes of scratch memory. Larger matrices are left to others.
const SCRATCH: usize = 16 << 20;

/// Singular values of more rows and columns are left to others, and eigenvalues of half as many.
const LONGEST: usize = 512;

/// Sweeps of rotations after which a decomposition gives up; ten are usual.
const SWEEPS: usize = 60;

/// Why a matrix cannot be decomposed.
const REASONS: [&str; 4] =
    ["is not positive definite", "is singular", "did not converge", "has an entry that is infinite or NaN"];

/// What a status word of `op` says.
pub(crate) fn failure(op: Linalg, status: u64) -> String {
    let code = status & !(1 << 63);
    let entry = ((1u64 << 60) - 1).saturating_sub(code >> 2);
    let name = Op::Linalg(op).name();
    format!("{name}: matrix {entry} of the batch {}", REASONS[(code & 3) as usize])
}

/// Replaces `@kind:arguments@` by what `f` makes of the arguments.
fn expand(text: &str, kind: &str, f: impl Fn(&str) -> String) -> String {
    let mark = format!("@{kind}:");
    let (mut done, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(&mark) {
        done.push_str(&rest[..at]);
        let (inside, after) =
            rest[at + mark.len()..].split_once('@').unwrap_or((&rest[at + mark.len()..], ""));
        done.push_str(&f(inside));
        rest = after;
    }
    done + rest
}

/// `None` if a matrix does not fit the scratch memory.
pub(crate) fn lower(op: Linalg, inputs: &[Operand]) -> Option<Vec<Kernel>> {
    let shape = &inputs[0].layout.shape;
    let (rank, dtype) = (shape.rank(), inputs[0].dtype);
    let (m, n) = (shape[rank - 2], shape[rank - 1]);
    let batch: usize = shape[..rank - 2].iter().product();
    let k = m.min(n);
    let (p, q) = (m.max(n), k);
    let even = q.next_multiple_of(2);
    // Rotations make many passes over a matrix: one block is slower at that than the host's processor if it is large.
    if (op == Linalg::Eigh && n > LONGEST / 2) || (op == Linalg::Svd && k > LONGEST) {
        return None;
    }
    let threads = match m.max(n) {
        0..=8 => 32u32,
        9..=32 => 128,
        33..=128 => 256,
        _ => 512,
    };
    let warps = (threads / 32) as usize;
    let right = match op {
        Linalg::Solve => inputs[1].layout.shape[rank - 1],
        Linalg::Inv => n,
        _ => 0,
    };
    let product = |list: &[(usize, usize)]| {
        list.iter().try_fold(0usize, |sum, &(a, b)| sum.checked_add(a.checked_mul(b)?))
    };
    let numbers = match op {
        Linalg::Cholesky => product(&[(n, n), (n, 1)]),
        Linalg::Qr => product(&[(m, n), (k, 2), (m, warps)]),
        Linalg::Svd => product(&[(p, q), (q, q), (q, 2)]),
        Linalg::Eigh => product(&[(n, n), (n, n), (even, 1)]),
        Linalg::Solve | Linalg::Inv | Linalg::Det => product(&[(n, n.checked_add(right)?)]),
    }?;
    let bytes = numbers.checked_mul(8)?.max(8).next_multiple_of(256);
    let (shared, blocks) = if bytes <= SHARED {
        (true, batch)
    } else if bytes <= SCRATCH {
        (false, batch.min(SCRATCH / bytes))
    } else {
        return None;
    };
    let (template, outputs): (String, &[&str]) = match op {
        Linalg::Cholesky => (CHOLESKY.into(), &["y"]),
        Linalg::Qr => (QR.into(), &["q", "r"]),
        Linalg::Svd => (LOOK.to_owned() + SVD, &["u", "s", "vt"]),
        Linalg::Eigh => (LOOK.to_owned() + EIGH, &["values", "vectors"]),
        Linalg::Solve | Linalg::Inv => (ELIMINATE.to_owned() + BACK, &["y"]),
        Linalg::Det => (ELIMINATE.to_owned() + DET, &["y"]),
    };
    // Columns of the taller of the matrix and its transpose; where results go.
    let tall = m >= n;
    let u_to = format!("@out:u,entry * {} + i * {k} + rank,", m * k);
    let vt_to = format!("@out:vt,entry * {} + rank * {n} + i,", k * n);
    let (left, other) = if tall { (u_to, vt_to) } else { (vt_to, u_to) };
    let place = if tall { format!("e % {n} * {m} + e / {n}") } else { "e".to_owned() };
    let value = match op {
        Linalg::Solve => format!("@in:right,entry * {} + i * {right} + j - {n}@", n * right),
        _ => format!("(j - {n} == i ? 1.0 : 0.0)"),
    };
    let text = fill(
        &template,
        &[
            ("pair", PAIR.to_owned()),
            ("tall", left + "g[c * @p@ + i]@"),
            ("square", other + "v[c * @q@ + i]@"),
            ("place", place),
            ("right", value),
            ("m", m.to_string()),
            ("n", n.to_string()),
            ("k", k.to_string()),
            ("p", p.to_string()),
            ("q", q.to_string()),
            ("r", right.to_string()),
            ("wide", (n + right).max(1).to_string()),
            ("even", even.to_string()),
            ("threads", threads.to_string()),
            ("warps", warps.to_string()),
            ("sweeps", SWEEPS.to_string()),
            // Sums of that many products are rounded by about that much.
            (
                "epsilon",
                format!("double_of_bits({:#x}ull)", (f64::EPSILON * (p.max(4) as f64).sqrt()).to_bits()),
            ),
        ],
    );
    let text = expand(&text, "in", |inside| {
        let (pointer, at) = inside.split_once(',').unwrap_or((inside, "0"));
        format!("(double)load({pointer}, {at})")
    });
    let text = expand(&text, "out", |inside| {
        let mut parts = inside.splitn(3, ',');
        let mut next = || parts.next().unwrap_or_default();
        let (pointer, at, value) = (next(), next(), next());
        let cast = if dtype == DType::F32 { "(float)" } else { "" };
        format!("store({pointer}, {at}, {cast}({value}));")
    });
    let text = expand(&text, "fail", |reason| {
        format!("at_least(status, 1ull << 63 | (((1ull << 60) - 1ull - entry) << 2 | {reason}ull));")
    });
    let reduce = |name: &str, f: fn(&str, &str) -> String| all_reduce(name, "double", threads, true, f);
    let text = expand(&text, "sum", |name| reduce(name, |a, b| format!("({a} + {b})")));
    let text = expand(&text, "max", |name| reduce(name, |a, b| format!("f_max({a}, {b})")));
    let text = expand(&text, "min", |name| reduce(name, |a, b| format!("f_min({a}, {b})")));
    let area = if shared {
        "    SHARED_ARENA(arena);\n    double *const work = (double *)arena;\n".to_owned()
    } else {
        format!("    double *const work = scratch + BID * {}ull;\n", bytes / 8)
    };
    let body = format!(
        "{area}    const i32 lane = TID & 31, warp = TID >> 5;\n    (void)lane; (void)warp;\n    for (u64 entry = BID; entry < {batch}ull; entry += {blocks}ull) {{\n    const i64 from = (i64)entry * {};\n    (void)from;\n    BARRIER();\n{text}    }}\n",
        m * n
    );
    let where_ = if shared { "shared memory" } else { "device memory" };
    let mut kernel = Kernel::new(
        format!("{}, a block of {threads} a matrix, in {where_}", Op::Linalg(op).name()),
        blocks as u64,
        threads,
    )
    .with_barriers()
    .param(Binding::Input(0), "given", storage(dtype));
    kernel = if shared {
        kernel.with_shared(bytes as u32, 1)
    } else {
        kernel.with_scratch(bytes * blocks).param(Binding::Scratch, "scratch", "double")
    };
    if op == Linalg::Solve {
        kernel = kernel.param(Binding::Input(1), "right", storage(dtype));
    }
    for (i, name) in outputs.iter().enumerate() {
        kernel = kernel.param(Binding::Output(i), name, storage(dtype));
    }
    if !matches!(op, Linalg::Qr | Linalg::Det) {
        kernel = kernel.param(Binding::Status, "status", "u64");
    }
    Some(vec![kernel.body(body)])
}
