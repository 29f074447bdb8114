//! What `record_stream` is for elsewhere, without calling it: six parts. A block in use on another stream is withheld, and for
//! exactly as long as it must be.

use std::sync::mpsc;

use streampool::sim::{Mode, SimConfig, SimDriver};
use streampool::{DType, Device, StreamId, Tensor};

use crate::support::{on_every_device, randn, same_as_serial};

/// Floats of a tensor with a block, and a segment, of its own.
const LEN: usize = 64 << 10;
const BYTES: usize = LEN * 4;

/// A simulated device on which nothing runs unless the test says so.
fn by_hand() -> (SimDriver, Device) {
    let sim = SimDriver::new(SimConfig { mode: Mode::Manual, ..SimConfig::default() });
    let device = Device::builder("sim").driver(std::sync::Arc::new(sim.clone())).streams(4).open().unwrap();
    (sim, device)
}

/// Whether a tensor of the size gets memory that was there already. The tensor is kept, so that the next one needs other memory.
fn reuses(device: &Device, kept: &mut Vec<Tensor>) -> bool {
    let before = device.memory_stats().driver_allocations;
    kept.push(Tensor::zeros(device, [LEN], DType::F32).unwrap());
    device.memory_stats().driver_allocations == before
}

/// Everything is given back, and the device saw no promise broken.
fn finish(sim: &SimDriver, device: &Device) {
    sim.run_all();
    device.empty_cache().unwrap();
    let memory = device.memory_stats();
    assert_eq!((memory.live, memory.retired, memory.reserved), (0, 0, 0), "{memory:?}");
    assert_eq!(sim.violations(), Vec::<String>::new());
}

/// Uses `x` so often on its own stream, drops it while none of that has run, and expects its block to be free at once.
fn uses_on_the_own_stream(uses: usize) {
    let (sim, device) = by_hand();
    let x = randn(&device, &[LEN], 1).unwrap();
    let outputs: Vec<_> = (0..uses).map(|_| x.relu().unwrap()).collect();
    drop(x);
    let memory = device.memory_stats();
    assert_eq!(memory.retired, 0, "work of the own stream withholds nothing: {memory:?}");
    assert!(memory.cached >= BYTES, "{memory:?}");
    let mut kept = Vec::new();
    assert!(reuses(&device, &mut kept), "what comes next on the stream comes after");
    assert!(!reuses(&device, &mut kept), "there was one block");
    assert!(sim.trace().is_empty(), "nothing ran so far");
    sim.run_all();
    let want = by_host(1);
    for output in outputs {
        assert_eq!(output.to_vec::<f32>().unwrap(), want);
    }
    drop(kept);
    finish(&sim, &device);
}

/// The positive part of the numbers of this seed, from another device.
fn by_host(seed: u64) -> Vec<f32> {
    let cpu = Device::cpu().unwrap();
    let x = randn(&cpu, &[LEN], seed).unwrap().to_vec::<f32>().unwrap();
    x.into_iter().map(|x| x.max(0.0)).collect()
}

#[test]
fn part_1_a_use_on_the_own_stream_keeps_no_extra_reference() {
    uses_on_the_own_stream(1);
}

#[test]
fn part_2_nor_do_five_uses_on_the_own_stream() {
    uses_on_the_own_stream(5);
}

#[test]
fn part_3_producer_and_consumer_need_no_synchronisation() {
    on_every_device(4, |device| {
        let (send, receive) = mpsc::sync_channel(4);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for i in 0..30u64 {
                    let x = randn(device, &[48, 48], i).unwrap();
                    send.send((i, x.mm(&x).unwrap())).unwrap();
                }
            });
            let consumer = scope.spawn(move || {
                let mut count = 0;
                for (i, product) in receive {
                    let got = product.add(&product).unwrap().to_vec::<f32>().unwrap();
                    let x = randn(device, &[48, 48], i).unwrap();
                    let want = x.mm(&x).unwrap().to_vec::<f32>().unwrap();
                    assert!(got.iter().zip(&want).all(|(got, want)| *got == want + want), "round {i}");
                    count += 1;
                }
                count
            });
            assert_eq!(consumer.join().unwrap(), 30);
        });
        Ok(())
    });
}

#[test]
fn part_4_a_tensor_in_host_memory_is_refused_on_a_device_stream() {
    let (sim, device) = by_hand();
    let cpu = Device::cpu().unwrap();
    let host = randn(&cpu, &[8], 1).unwrap();
    let x = randn(&device, &[8], 2).unwrap();
    let error = x.add(&host).unwrap_err();
    assert!(error.is_invalid_argument(), "{error:?}");
    for fact in ["sim", "cpu"] {
        assert!(error.to_string().contains(fact), "the text names both devices: {error}");
    }
    drop((x, host));
    finish(&sim, &device);
}

#[test]
fn part_5_a_dropped_block_is_withheld_until_the_other_streams_last_use() {
    for done_before_the_drop in 0..3 {
        withheld_until_the_last_use(done_before_the_drop);
    }
}

fn withheld_until_the_last_use(done_before_the_drop: usize) {
    let (sim, device) = by_hand();
    let x = randn(&device, &[LEN], 3).unwrap();
    sim.run_all();
    // Three uses on another stream, which runs one step at a time.
    let lease = device.lease().unwrap();
    let other: StreamId = lease.stream();
    assert_ne!(other, device.current_stream().unwrap());
    let outputs: Vec<_> = lease.scope(|| (0..3).map(|_| x.relu().unwrap()).collect());
    let done = || sim.trace().iter().filter(|work| work.stream == other).count();
    let step = || assert!(sim.step_stream(other), "the other stream is stuck after {} uses", done());
    while done() < done_before_the_drop {
        step();
    }
    drop(x);
    assert_eq!(device.memory_stats().retired, BYTES, "the block is kept back");

    let mut kept = Vec::new();
    while done() < 3 {
        assert!(!reuses(&device, &mut kept), "reused after {} of 3 uses", done());
        step();
    }
    assert!(kept.len() >= 3 - done_before_the_drop, "one look before each of the uses");
    assert!(reuses(&device, &mut kept), "all uses are done, and still the block is withheld");
    assert_eq!(device.memory_stats().retired, 0);

    sim.run_all();
    let want = by_host(3);
    for output in outputs {
        assert_eq!(output.to_vec::<f32>().unwrap(), want, "the uses saw the block's own values");
    }
    drop((kept, lease));
    finish(&sim, &device);
}

#[test]
fn part_6_eight_threads_use_one_tensor_twenty_times_each() {
    on_every_device(16, |device| {
        let shared = randn(device, &[256, 256], 6)?;
        same_as_serial(8, 20, |t, i| shared.mul_scalar((t * 20 + i) as f64 + 1.0)?.to_host())
    });
}
