//! Products against plain loops in f64, for every instruction set of the processor that runs the tests.

use streampool_core::op::{Activation, DType};

use super::testing::Random;
use super::*;
use crate::simd::Isa;
use crate::team::Team;

struct Case {
    isa: Isa,
    m: usize,
    n: usize,
    k: usize,
    form: Form,
    a_transposed: bool,
    a_gap: usize,
    b_transposed: bool,
    end: bool,
    sunk: bool,
    /// Compare with the plain loops too, not only report the bits.
    verify: bool,
}

/// Runs one product with random data and compares every element. Returns its bits.
fn check(c: &Case, team: &Team) -> Vec<u32> {
    let &Case { isa, m, n, k, form, .. } = c;
    let mut random = Random::new((m * 1_000_003 + n * 1009 + k) as u64);
    let a_row = if c.a_transposed { 1 } else { k + c.a_gap };
    let a_col = if c.a_transposed { m + c.a_gap } else { 1 };
    let a = random.vec((m.max(1) - 1) * a_row + (k.max(1) - 1) * a_col + 1);
    let (b_row, b_col) = if c.b_transposed { (1, k) } else { (n, 1) };
    let b = random.vec((k * n).max(1));
    let (bias, residual) = (random.vec(n.max(1)), random.vec((m * n).max(1)));
    let source =
        Source { data: b.as_ptr().cast(), dtype: DType::F32, row: b_row as isize, col: b_col as isize };
    let product = Product::new(&Spec {
        isa,
        m,
        n,
        k,
        a_dtype: DType::F32,
        a_row: a_row as isize,
        a_col: a_col as isize,
        form,
        sunk: c.sunk,
        split: true,
    });
    let mut scratch = pack::Aligned::zeros(product.scratch_bytes() / 4).unwrap();
    let c_row = n + 3;
    let mut out = vec![7.5f32; m * c_row + 1];
    let end = if c.end {
        Epilogue {
            alpha: 0.5,
            addends: [
                Some(Addend { data: bias.as_ptr(), row: 0, col: 1 }),
                Some(Addend { data: residual.as_ptr(), row: n as isize, col: 1 }),
            ],
            activation: Some(Activation::Relu),
        }
    } else {
        Epilogue::NONE
    };
    // SAFETY: (tests) all arrays have the sizes that the shapes need.
    unsafe {
        let packed = PackedB::new(&[source], k, n, product.width()).unwrap();
        let pack_panel = |q: usize, to: *mut f32| {
            let col = q * product.width();
            pack::pack_panel(source.at(0, col), k, (n - col).min(product.width()), product.width(), to);
        };
        let b = match form {
            Form::Packed => B::Packed(packed.item(0)),
            Form::InPlace => B::InPlace(source),
            Form::Panels => B::Panels(&pack_panel),
        };
        let data = out.as_mut_ptr() as usize;
        let sink = move |row: usize, col: usize, from: Rect, rows: usize, cols: usize| {
            for i in 0..rows {
                for j in 0..cols {
                    *(data as *mut f32).add((row + i) * c_row + col + j) = *from.data.add(i * from.row + j);
                }
            }
        };
        let output =
            Output { data: out.as_mut_ptr(), row: c_row, end, sink: c.sunk.then_some(&sink as &Sink<'_>) };
        let a =
            Source { data: a.as_ptr().cast(), dtype: DType::F32, row: a_row as isize, col: a_col as isize };
        product.run(a, b, &output, scratch.as_mut_ptr(), team);
    }
    for i in 0..if c.verify { m } else { 0 } {
        for j in 0..n {
            let (mut sum, mut size) = (0.0f64, 0.0f64);
            for p in 0..k {
                let t = f64::from(a[i * a_row + p * a_col]) * f64::from(b[p * b_row + j * b_col]);
                sum += t;
                size += t.abs();
            }
            if c.end && !c.sunk {
                sum = (0.5 * sum + f64::from(bias[j]) + f64::from(residual[i * n + j])).max(0.0);
            }
            let got = f64::from(out[i * c_row + j]);
            assert!(
                (got - sum).abs() <= 1e-6 * (size + 1.0),
                "{isa:?} {form:?} {m}x{n}x{k} at ({i}, {j}): {got} instead of {sum} ({})",
                product.describe()
            );
        }
        let gap = if i + 1 < m { n..c_row } else { n..n + 1 };
        assert!(gap.into_iter().all(|j| out[i * c_row + j] == 7.5), "wrote beyond row {i} of {m}x{n}x{k}");
    }
    out.iter().map(|x| x.to_bits()).collect()
}

const FORMS: [Form; 3] = [Form::Packed, Form::InPlace, Form::Panels];

#[test]
fn products_of_many_shapes_are_right() {
    let team = Team::default();
    for isa in Isa::available() {
        for m in [0, 1, 2, 3, 4, 5, 6, 7, 13, 14, 15, 16, 29, 33, 64] {
            for n in [0, 1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 96, 100, 130, 200] {
                for k in [0, 1, 2, 5, 31, 64] {
                    let form = FORMS[(m + n + k) % 3];
                    let end = (m + n) % 2 == 0;
                    let base = Case {
                        isa,
                        m,
                        n,
                        k,
                        form,
                        a_transposed: k % 2 == 1,
                        a_gap: m % 3,
                        b_transposed: form != Form::InPlace && n % 2 == 1,
                        end,
                        sunk: false,
                        verify: true,
                    };
                    check(&base, &team);
                    check(&Case { sunk: true, ..base }, &team);
                }
            }
        }
    }
}

#[test]
fn long_sums_are_cut_and_resumed() {
    let team = Team::default();
    for isa in Isa::available() {
        for (m, n, k) in [(3, 40, 4097), (20, 70, 9000), (1, 257, 8193), (16, 16, 5000)] {
            for end in [false, true] {
                let case = Case {
                    isa,
                    m,
                    n,
                    k,
                    form: Form::Packed,
                    a_transposed: false,
                    a_gap: 0,
                    b_transposed: false,
                    end,
                    sunk: false,
                    verify: true,
                };
                check(&case, &team);
            }
        }
    }
}

#[test]
fn bits_do_not_depend_on_cores_form_or_fused_instruction_set() {
    let (alone, two, five) = (Team::default(), Team::new(2), Team::new(5));
    for (m, n, k) in
        [(64, 512, 128), (1, 4096, 600), (700, 64, 64), (300, 300, 300), (20, 200, 1024), (5, 3000, 1024)]
    {
        for (a_transposed, a_gap) in [(false, 0), (true, 0), (false, 4096 - k)] {
            let bits = |isa, form, team: &Team, verify| {
                check(
                    &Case {
                        isa,
                        m,
                        n,
                        k,
                        form,
                        a_transposed,
                        a_gap: if a_transposed { 0 } else { a_gap },
                        b_transposed: false,
                        end: true,
                        sunk: false,
                        verify,
                    },
                    team,
                )
            };
            for isa in Isa::available() {
                let want = bits(isa, Form::Packed, &alone, isa == Isa::detect() && !a_transposed);
                for form in FORMS {
                    for team in [&alone, &two, &five] {
                        assert!(bits(isa, form, team, false) == want, "{isa:?} {form:?} {m}x{n}x{k}");
                    }
                }
                if isa != Isa::Portable {
                    assert!(bits(Isa::detect(), Form::Packed, &alone, false) == want, "{isa:?}");
                }
            }
        }
    }
}

#[test]
fn bits_of_a_row_do_not_depend_on_the_other_rows() {
    let (n, k) = (75, 333);
    let mut random = Random::new(3);
    let (a, b) = (random.vec(40 * k), random.vec(k * n));
    let run = |first: usize, m: usize| {
        let spec = Spec {
            isa: Isa::detect(),
            m,
            n,
            k,
            a_dtype: DType::F32,
            a_row: k as isize,
            a_col: 1,
            form: Form::Packed,
            sunk: false,
            split: false,
        };
        let product = Product::new(&spec);
        let mut out = vec![0f32; m * n];
        let mut scratch = pack::Aligned::zeros(product.scratch_bytes() / 4).unwrap();
        let source = |data: &[f32], row: usize| Source {
            data: data.as_ptr().cast(),
            dtype: DType::F32,
            row: row as isize,
            col: 1,
        };
        // SAFETY: (tests) all arrays have the sizes that the shapes need.
        unsafe {
            let packed = PackedB::new(&[source(&b, n)], k, n, product.width()).unwrap();
            let output = Output { data: out.as_mut_ptr(), row: n, end: Epilogue::NONE, sink: None };
            let a = source(&a[first * k..], k);
            product.run(a, B::Packed(packed.item(0)), &output, scratch.as_mut_ptr(), &Team::default());
        }
        out
    };
    let all = run(0, 40);
    for m in [1, 2, 3, 6, 14, 15] {
        for first in [0, 11, 25] {
            assert!(run(first, m) == all[first * n..(first + m) * n], "{m} rows from {first}");
        }
    }
}
