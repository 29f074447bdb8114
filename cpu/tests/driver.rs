//! The device as its callers see it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use streampool_core::driver::{Bindings, Driver, Slice};
use streampool_core::op::*;
use streampool_core::timeline::{StreamId, Submissions};
use streampool_cpu::{CpuConfig, CpuDriver, evaluate};

fn operand(place: Place, dtype: DType, shape: &[usize]) -> Operand {
    Operand { place, dtype, layout: Layout::contiguous(shape) }
}

fn f32s(v: &[f32]) -> Vec<u8> {
    v.iter().flat_map(|x| x.to_ne_bytes()).collect()
}

/// `relu(x + c)` of 4 elements, by way of the arena.
fn program(constant: &Arc<Constant>) -> Program {
    let x = |place| operand(place, DType::F32, &[4]);
    Program {
        name: "p".into(),
        inputs: vec![Port { dtype: DType::F32, bytes: 16 }],
        outputs: vec![Port { dtype: DType::F32, bytes: 16 }],
        constants: vec![constant.clone()],
        arena_bytes: 128,
        steps: vec![
            Step {
                name: "sum".into(),
                op: Op::Map(Map::binary(Binary::Add)),
                inputs: vec![x(Place::Input(0)), x(Place::Constant(0))],
                outputs: vec![x(Place::Arena(64))],
            },
            Step {
                name: "positive".into(),
                op: Op::Map(Map::unary(Unary::Relu)),
                inputs: vec![x(Place::Arena(64))],
                outputs: vec![x(Place::Output(0))],
            },
        ],
    }
}

fn constant(values: &[f32]) -> Arc<Constant> {
    // Unaligned on purpose: weights come from mapped files.
    let mut bytes = vec![0u8];
    bytes.extend(f32s(values));
    Constant::new(TensorType::new(DType::F32, [values.len()]), bytes::Bytes::from(bytes).slice(1..))
}

#[test]
fn a_program_runs_and_its_ticket_is_done_when_launch_returns() {
    let driver = CpuDriver::new(CpuConfig::default());
    let c = constant(&[1.0, -5.0, 0.5, 2.0]);
    let executable = driver.compile(&program(&c)).unwrap();
    assert_eq!(driver.frozen_bytes(), 16);
    let again = driver.compile(&program(&c)).unwrap();
    assert_eq!(driver.frozen_bytes(), 16, "one constant is uploaded once");
    assert_eq!(executable.describe().len(), 2);

    let stream = StreamId(7);
    let mut queue = driver.open_queue(stream).unwrap();
    let segment = driver.allocate(1024).unwrap();
    let (x, y) = (Slice::of_segment(&segment, 0, 16), Slice::of_segment(&segment, 64, 16));
    queue.write(x, &f32s(&[1.0, 2.0, -3.0, f32::NAN]), 1).unwrap();
    let bindings = Bindings { inputs: &[x], outputs: &[y], arena: Slice::of_segment(&segment, 128, 256) };
    queue.launch(&executable, &bindings, 2).unwrap();
    assert_eq!((driver.completed(stream), driver.completed(StreamId(0))), (2, 0));
    let mut submissions = Submissions::new(stream);
    submissions.submit(|_| Ok(())).unwrap();
    driver.wait(submissions.submit(|_| Ok(())).unwrap(), Instant::now()).unwrap();
    let mut out = [0u8; 16];
    queue.read(y, &mut out, Instant::now()).unwrap();
    let out: Vec<f32> = out.chunks(4).map(|c| f32::from_ne_bytes(c.try_into().unwrap())).collect();
    assert_eq!(out[..3], [2.0, 0.0, 0.0]);
    assert!(out[3].is_nan());

    drop((executable, again));
    assert_eq!(driver.frozen_bytes(), 0, "freed with the last program");
}

#[test]
fn bindings_that_do_not_fit_are_refused_before_anything_runs() {
    let driver = CpuDriver::new(CpuConfig::default());
    let executable = driver.compile(&program(&constant(&[0.0; 4]))).unwrap();
    let mut queue = driver.open_queue(StreamId(0)).unwrap();
    let mut memory = vec![0u8; 4096];
    let skip = memory.as_ptr().align_offset(64);
    let whole = Slice::host_mut(&mut memory[skip..]);
    let (x, y, arena) = (whole.part(0, 16), whole.part(64, 16), whole.part(128, 128));
    let cases: [(&[Slice<'_>], &[Slice<'_>], Slice<'_>, &str); 6] = [
        (&[x.part(0, 12)], &[y], arena, "input 0 has 12 bytes, needs 16"),
        (&[x], &[y.part(0, 15)], arena, "output 0 has 15 bytes, needs 16"),
        (&[], &[y], arena, "needs 1 input(s), got 0"),
        (&[x], &[y], arena.part(0, 100), "the arena has 100 bytes"),
        (&[whole.part(2, 16)], &[y], arena, "alignment"),
        (&[x], &[y], whole.part(4, 128), "aligned to 64"),
    ];
    for (inputs, outputs, arena, words) in cases {
        let e = queue.launch(&executable, &Bindings { inputs, outputs, arena }, 1).unwrap_err();
        assert!(e.is_invalid_argument() && e.to_string().contains(words), "{e}, not {words:?}");
    }
    queue.launch(&executable, &Bindings { inputs: &[x], outputs: &[y], arena }, 2).unwrap();
}

#[test]
fn programs_that_would_touch_foreign_bytes_are_refused() {
    let driver = CpuDriver::new(CpuConfig::default());
    let good = program(&constant(&[0.0; 4]));
    driver.compile(&good).unwrap();
    type Change = fn(&mut Program);
    let changes: [(Change, &str); 10] = [
        (|p| p.arena_bytes = 79, "leaves the 15 bytes"),
        (|p| p.inputs[0].bytes = 15, "leaves the 15 bytes"),
        (|p| p.steps[0].inputs[0].place = Place::Input(1), "Input(1) is not there"),
        (|p| p.steps[0].inputs[1].place = Place::Constant(9), "Constant(9) is not there"),
        (|p| p.steps[0].inputs[0].layout.offset = 1, "leaves"),
        (|p| p.steps[0].inputs[0].layout.strides[0] = -1, "leaves"),
        (|p| p.steps[0].inputs[0].layout.strides[0] = isize::MAX, "leaves"),
        (|p| p.steps[1].outputs[0].place = Place::Input(0), "read-only"),
        (|p| p.steps[0].outputs[0].place = Place::Arena(32), "no place"),
        (|p| p.steps[1].inputs[0].layout.strides[0] = 0, ""),
    ];
    for (change, words) in &changes[..9] {
        let mut p = good.clone();
        change(&mut p);
        let e = driver.compile(&p).err().expect("should be refused");
        assert!(e.is_invalid_argument() && e.to_string().contains(words), "{e}, not {words:?}");
        assert!(e.to_string().contains("program 'p': step"), "{e}");
    }
    // A broadcast input is fine, the same layout for an output is not.
    let mut p = good.clone();
    changes[9].0(&mut p);
    driver.compile(&p).unwrap();
    let mut p = good.clone();
    p.steps[1].outputs[0].layout.strides[0] = 0;
    assert!(driver.compile(&p).err().unwrap().is_invalid_argument());
    // Overlap: shifted is refused, the very same place is in place.
    let mut p = good.clone();
    p.arena_bytes = 256;
    p.steps[1].outputs[0].place = Place::Arena(64);
    driver.compile(&p).unwrap();
    p.steps[1].inputs[0].layout = Layout::contiguous([8]).slice(0, 2, 4, 1);
    let e = driver.compile(&p).err().unwrap();
    assert!(e.to_string().contains("overlaps"), "{e}");
}

#[test]
fn huge_allocations_are_refused() {
    let driver = CpuDriver::new(CpuConfig::default());
    for bytes in [driver.info().memory_bytes + 1, 100 << 40, usize::MAX] {
        let e = driver.allocate(bytes).err().expect("should be refused");
        assert!(e.is_out_of_memory() && e.to_string().contains(&bytes.to_string()), "{e}");
    }
    assert_eq!(driver.allocate(0).unwrap().bytes(), 0);
}

#[test]
fn waiting_for_work_that_is_not_done_ends_at_the_deadline() {
    let driver = CpuDriver::new(CpuConfig::default());
    let deadline = Instant::now() + Duration::from_millis(5);
    // A ticket of another device: this one never did the work.
    let foreign = Submissions::new(StreamId(1)).submit(|_| Ok(())).unwrap();
    let e = driver.wait(foreign, deadline).unwrap_err();
    assert!(e.is_timeout(), "{e}");
    let absurd = StreamId(u32::MAX);
    assert!(driver.open_queue(absurd).err().unwrap().is_invalid_argument());
}

#[test]
fn evaluate_runs_one_operation_on_host_tensors() {
    let a = HostTensor::from_vec([2, 3], vec![1i64, 2, 3, 4, 5, 6]).unwrap();
    let b = HostTensor::from_vec([3], vec![10i64, 20, 30]).unwrap();
    let out = evaluate(&Op::Map(Map::binary(Binary::Add)), &[&a, &b]).unwrap();
    assert_eq!(out[0].as_slice::<i64>().unwrap(), [11, 22, 33, 14, 25, 36]);
    let e = evaluate(&Op::Map(Map::binary(Binary::Add)), &[&a]).unwrap_err();
    assert!(e.is_invalid_argument());
    let huge = Fill { value: Scalar::from_f64(DType::F64, 1.0), shape: [1 << 55].into() };
    assert!(evaluate(&Op::Fill(huge), &[]).is_err());
}
