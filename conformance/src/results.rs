//! What programs compute.

use std::sync::Arc;

use streampool_core::driver::{ALIGNMENT, Bindings, Driver, Slice};
use streampool_core::op::{
    Binary, Constant, DType, Instr, Map, Op, Place, Program, Shape, Step, TensorType, Unary,
};

use crate::bench::{Bench, Random, copy_program, map_program, soon, value, vector};

const SIZES: [usize; 7] = [1, 3, 16, 17, 64, 1000, 40_001];

pub(crate) fn a_read_sees_the_write_before_it(driver: Arc<dyn Driver>) {
    let mut bench = Bench::new(&driver, 0);
    let mut random = Random(11);
    for len in SIZES {
        let segment = bench.floats(len);
        for _ in 0..3 {
            let values = random.floats(len);
            bench.write(&segment, &values);
            assert_eq!(bench.read(&segment, len), values);
        }
        // A part in the middle, and no more than that part.
        let mut all = bench.read(&segment, len);
        let part = random.floats(len / 2);
        let at = len / 4;
        bench.write_at(&segment, at, &part);
        all[at..at + part.len()].copy_from_slice(&part);
        assert_eq!(bench.read(&segment, len), all);
    }
}

pub(crate) fn a_write_takes_its_bytes_before_it_returns(driver: Arc<dyn Driver>) {
    let mut bench = Bench::new(&driver, 0);
    let segment = bench.floats(1000);
    let mut values = Random(12).floats(1000);
    bench.write(&segment, &values);
    let kept = values.clone();
    values.fill(f32::NAN);
    drop(values);
    assert_eq!(bench.read(&segment, 1000), kept);
}

pub(crate) fn elementwise_programs_agree_with_the_host(driver: Arc<dyn Driver>) {
    type Case = (Vec<Instr>, fn(f32, f32) -> f32);
    let two = |f: Binary| vec![Instr::Input(0), Instr::Input(1), Instr::Binary(f, 0, 1)];
    let then = |f: Binary, g: Unary| {
        vec![Instr::Input(0), Instr::Input(1), Instr::Binary(f, 0, 1), Instr::Unary(g, 2)]
    };
    let cases: [Case; 5] = [
        (two(Binary::Add), |a, b| a + b),
        (two(Binary::Sub), |a, b| a - b),
        (two(Binary::Mul), |a, b| a * b),
        (then(Binary::Sub, Unary::Relu), |a, b| (a - b).max(0.0)),
        (then(Binary::Mul, Unary::Neg), |a, b| -(a * b)),
    ];
    let mut bench = Bench::new(&driver, 0);
    let mut random = Random(13);
    for len in SIZES {
        for (code, host) in &cases {
            let program = driver.compile(&map_program(code.clone(), 2, len)).expect("it compiles");
            let (a, b) = (random.floats(len), random.floats(len));
            let (x, y, z) = (bench.floats(len), bench.floats(len), bench.floats(len));
            bench.write(&x, &a);
            bench.write(&y, &b);
            bench.run(&program, &[&x, &y], &[&z]);
            let expected: Vec<f32> = a.iter().zip(&b).map(|(&a, &b)| host(a, b)).collect();
            assert_eq!(bench.read(&z, len), expected, "{code:?} of {len} elements");
            assert_eq!((bench.read(&x, len), bench.read(&y, len)), (a, b), "inputs are not written");
        }
    }
}

pub(crate) fn steps_pass_values_through_the_arena(driver: Arc<dyn Driver>) {
    let len = 100;
    let port = map_program(Vec::new(), 1, len).outputs;
    let apart = (len * 4).next_multiple_of(ALIGNMENT);
    let step = |f: Unary, from: Place, to: Place| Step {
        name: format!("{f:?}"),
        op: Op::Map(Map::unary(f)),
        inputs: vec![vector(from, DType::F32, len)],
        outputs: vec![vector(to, DType::F32, len)],
    };
    let program = Program {
        name: "three steps".into(),
        inputs: port.clone(),
        outputs: port,
        arena_bytes: 2 * apart,
        steps: vec![
            step(Unary::Neg, Place::Input(0), Place::Arena(0)),
            step(Unary::Relu, Place::Arena(0), Place::Arena(apart)),
            step(Unary::Neg, Place::Arena(apart), Place::Output(0)),
        ],
        ..Program::default()
    };
    let program = driver.compile(&program).expect("it compiles");
    let mut bench = Bench::new(&driver, 0);
    let (x, y, arena) = (bench.floats(len), bench.floats(len), bench.allocate(2 * apart));
    let values = Random(14).floats(len);
    bench.write(&x, &values);
    for _ in 0..2 {
        let bindings = Bindings {
            inputs: &[Slice::of_segment(&x, 0, len * 4)],
            outputs: &[Slice::of_segment(&y, 0, len * 4)],
            arena: Slice::of_segment(&arena, 0, 2 * apart),
        };
        bench.launch(&program, &bindings).expect("a launch is taken");
        let expected: Vec<f32> = values.iter().map(|v| -(-v).max(0.0)).collect();
        assert_eq!(bench.read(&y, len), expected);
    }
}

pub(crate) fn constants_are_part_of_the_program(driver: Arc<dyn Driver>) {
    let len = 33;
    let mut random = Random(15);
    let (weights, values) = (random.floats(len), random.floats(len));
    let mut program = map_program(Map::binary(Binary::Mul).code, 1, len);
    // The bytes of a constant may lie at any address: here, an odd one.
    let bytes = bytes::Bytes::from([vec![0], value(&weights)].concat()).slice(1..);
    program.constants.push(Constant::new(TensorType::new(DType::F32, Shape::new(&[len])), bytes));
    program.steps[0].inputs.push(vector(Place::Constant(0), DType::F32, len));
    let executable = driver.compile(&program).expect("it compiles");
    drop(program);
    let mut bench = Bench::new(&driver, 0);
    let (x, y) = (bench.floats(len), bench.floats(len));
    bench.write(&x, &values);
    bench.run(&executable, &[&x], &[&y]);
    let expected: Vec<f32> = values.iter().zip(&weights).map(|(v, w)| v * w).collect();
    assert_eq!(bench.read(&y, len), expected);
}

pub(crate) fn empty_programs_and_tensors_are_fine(driver: Arc<dyn Driver>) {
    let nothing =
        driver.compile(&Program { name: "nothing".into(), ..Program::default() }).expect("it compiles");
    let none = driver.compile(&copy_program(0)).expect("it compiles");
    let mut bench = Bench::new(&driver, 0);
    let bindings = Bindings { inputs: &[], outputs: &[], arena: Slice::EMPTY };
    bench.launch(&nothing, &bindings).expect("a launch is taken");
    let empty = Bindings { inputs: &[Slice::EMPTY], outputs: &[Slice::EMPTY], arena: Slice::EMPTY };
    bench.launch(&none, &empty).expect("a launch is taken");
    bench.queue().read(Slice::EMPTY, &mut [], soon()).expect("a read of nothing");
    bench.finish();
}
