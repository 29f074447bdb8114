//! Failures: each hits whom it belongs to, and nobody else.

use std::any::Any;
use std::sync::Arc;

use streampool_core::driver::{Bindings, Driver, Executable, Slice};
use streampool_core::op::{DType, Gather, Op, Place, Port, Program, Step};

use crate::bench::{Bench, Chain, Random, copy_program, soon, vector};

/// `output = data[indices]`.
fn gather(data: usize, indices: usize) -> Program {
    Program {
        name: "gather".into(),
        inputs: vec![
            Port { dtype: DType::F32, bytes: data * 4 },
            Port { dtype: DType::I64, bytes: indices * 8 },
        ],
        outputs: vec![Port { dtype: DType::F32, bytes: indices * 4 }],
        steps: vec![Step {
            name: "gather".into(),
            op: Op::Gather(Gather { axis: 0 }),
            inputs: vec![
                vector(Place::Input(0), DType::F32, data),
                vector(Place::Input(1), DType::I64, indices),
            ],
            outputs: vec![vector(Place::Output(0), DType::F32, indices)],
        }],
        ..Program::default()
    }
}

pub(crate) fn failed_work_hits_only_what_depends_on_it(driver: Arc<dyn Driver>) {
    let program = driver.compile(&gather(5, 2)).expect("it compiles");
    let copy = driver.compile(&copy_program(2)).expect("it compiles");
    let mut bench = Bench::new(&driver, 0);
    let mut other = Bench::new(&driver, 1);
    let (mut same, mut apart) = (Chain::new(&mut bench, 10, 31), Chain::new(&mut other, 10, 32));
    let (data, indices, output, copied) =
        (bench.floats(5), bench.allocate(16), bench.floats(2), bench.floats(2));
    let values = Random(33).floats(5);
    bench.write(&data, &values);
    let index = |a: i64, b: i64| [a.to_le_bytes(), b.to_le_bytes()].concat();
    let set = |bench: &mut Bench, bytes: &[u8]| bench.write_bytes(&indices, bytes);

    set(&mut bench, &index(4, -5));
    bench.run(&program, &[&data, &indices], &[&output]);
    assert_eq!(bench.read(&output, 2), [values[4], values[0]]);

    // An index out of range: data decides, so nobody could foresee it.
    set(&mut bench, &index(1, 5));
    let bindings = Bindings {
        inputs: &[Slice::of_segment(&data, 0, 20), Slice::of_segment(&indices, 0, 16)],
        outputs: &[Slice::of_segment(&output, 0, 8)],
        arena: Slice::EMPTY,
    };
    let failed = match bench.launch(&program, &bindings) {
        // Work that ran when it was submitted failed then.
        Err(error) => error,
        Ok(ticket) => {
            // Other work, before and after, here and elsewhere, goes well.
            let after = same.step(&mut bench, 1);
            apart.step(&mut other, 1);
            driver.wait(after, soon()).expect("the next ticket's work did not fail");
            bench.run(&copy, &[&output], &[&copied]);
            let dependent = bench.try_read(&copied, 2).expect_err("what depends on failed work fails");
            assert!(dependent.is_invalid_argument(), "{dependent:?}");
            bench.try_read(&output, 2).expect_err("the output was not computed");
            driver.wait(ticket, soon()).expect_err("the very ticket tells")
        }
    };
    assert!(failed.is_invalid_argument() && failed.to_string().contains('5'), "{failed:?}");
    same.step(&mut bench, 2);
    same.expect(&mut bench);
    apart.step(&mut other, 2);
    apart.expect(&mut other);

    // The same memory and program serve again.
    set(&mut bench, &index(2, 3));
    bench.run(&program, &[&data, &indices], &[&output]);
    bench.run(&copy, &[&output], &[&copied]);
    assert_eq!(bench.read(&copied, 2), [values[2], values[3]]);
    bench.finish();
}

struct Foreign;

impl Executable for Foreign {
    fn bytes(&self) -> usize {
        0
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

pub(crate) fn a_foreign_executable_is_refused(driver: Arc<dyn Driver>) {
    let foreign: Arc<dyn Executable> = Arc::new(Foreign);
    let mut bench = Bench::new(&driver, 0);
    let mut chain = Chain::new(&mut bench, 10, 41);
    let bindings = Bindings { inputs: &[], outputs: &[], arena: Slice::EMPTY };
    let error = bench.launch(&foreign, &bindings).expect_err("it is of another device");
    assert!(error.is_invalid_argument(), "{error:?}");
    // The number that was refused is free again.
    chain.step(&mut bench, 0);
    chain.expect(&mut bench);
    bench.finish();
}

pub(crate) fn what_cannot_be_compiled_is_an_error(driver: Arc<dyn Driver>) {
    // Reads past the end of its input.
    let mut program = copy_program(8);
    program.inputs[0].bytes = 28;
    let error = driver.compile(&program).err().expect("it would read out of bounds");
    assert!(error.is_invalid_argument(), "{error:?}");
    driver.compile(&copy_program(8)).expect("the next one compiles");
}
