//! The schedule is the seed's, adversarial, and watches what core promised.

mod support;

use std::time::{Duration, Instant};

use streampool_conformance::{Bench, Chain, Random, copy_program};
use streampool_core::driver::Slice;
use streampool_core::timeline::{StreamId, Submissions};
use streampool_sim::{Executed, Mode};
use support::device;

/// The order in which the work of four streams ran.
fn order(mode: Mode, seed: u64) -> Vec<Executed> {
    let (sim, driver) = device(|c| (c.mode, c.seed) = (mode, seed));
    let mut benches: Vec<_> = (0..4).map(|s| Bench::new(&driver, s)).collect();
    let mut chains: Vec<_> = benches.iter_mut().map(|b| Chain::new(b, 4, seed)).collect();
    for i in 0..80 {
        chains[i % 4].step(&mut benches[i % 4], i);
    }
    chains.iter().zip(&mut benches).for_each(|(chain, bench)| chain.expect(bench));
    assert!(sim.virtual_time() > Duration::ZERO);
    sim.trace()
}

#[test]
fn equal_seeds_run_equally_and_others_do_not() {
    for mode in [Mode::Eager, Mode::Random, Mode::Lazy] {
        assert_eq!(order(mode, 1), order(mode, 1), "{mode:?}");
        assert_ne!(order(mode, 1), order(mode, 2), "{mode:?}");
    }
}

#[test]
fn work_of_different_streams_completes_out_of_order() {
    let mut overtakes = 0;
    for seed in 0..5 {
        let trace = order(Mode::Random, seed);
        for stream in 0..4 {
            let numbers: Vec<u64> = trace.iter().filter(|e| e.stream.0 == stream).map(|e| e.number).collect();
            assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1), "INV-4");
        }
        // Submissions went round: work of a later round before work of an earlier one is an overtaking.
        overtakes += trace.windows(2).filter(|w| w[1].number + 1 < w[0].number).count();
    }
    assert!(overtakes > 20, "{overtakes}");
}

#[test]
fn virtual_work_of_one_stream_does_not_overlap_and_of_several_does() {
    let trace = order(Mode::Random, 3);
    for (i, a) in trace.iter().enumerate() {
        assert!(a.start < a.end);
        assert!(trace[..i].iter().filter(|b| b.stream == a.stream).all(|b| b.end <= a.start));
    }
    assert!(
        trace
            .iter()
            .any(|a| trace.iter().any(|b| a.stream != b.stream && a.start < b.end && b.start < a.end))
    );
}

#[test]
fn a_lazy_device_runs_nothing_before_somebody_waits() {
    let (sim, driver) = device(|c| c.mode = Mode::Lazy);
    let mut bench = Bench::new(&driver, 0);
    let mut chain = Chain::new(&mut bench, 4, 1);
    (0..30).for_each(|i| _ = chain.step(&mut bench, i));
    assert_eq!(sim.trace(), []);
    chain.expect(&mut bench);
    assert_eq!(sim.trace().len(), 31);
}

#[test]
fn a_manual_device_runs_when_it_is_told_to() {
    let (sim, driver) = device(|c| c.mode = Mode::Manual);
    let (mut a, mut b) = (Bench::new(&driver, 0), Bench::new(&driver, 1));
    let mut chain = Chain::new(&mut a, 4, 1);
    let first = chain.step(&mut a, 0);
    b.queue().wait_for(first).unwrap();
    let second = chain.step(&mut b, 1);
    assert!(!sim.step_stream(StreamId(1)), "it waits for stream 0");
    assert!(driver.wait(second, Instant::now() + Duration::from_millis(5)).unwrap_err().is_timeout());
    assert!(sim.step_stream(StreamId(0)) && sim.step_stream(StreamId(0)));
    assert_eq!((driver.completed(StreamId(0)), driver.completed(StreamId(1))), (2, 0));
    assert_eq!(sim.run_all(), 1);
    assert!(!sim.step());
    driver.wait(second, Instant::now()).unwrap();
    chain.expect(&mut b);
}

#[test]
fn fresh_memory_is_garbage() {
    let (_, driver) = device(|_| ());
    let mut bench = Bench::new(&driver, 0);
    let (x, y) = (bench.floats(100), bench.floats(100));
    let (a, b) = (bench.read(&x, 100), bench.read(&y, 100));
    assert!(a.iter().all(|v| *v != 0.0));
    assert_ne!(
        a.iter().map(|v| v.to_bits()).collect::<Vec<_>>(),
        b.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    );
}

#[test]
fn reads_of_bytes_that_nothing_wrote_are_seen_if_asked_for() {
    let (sim, driver) = device(|c| c.check_unwritten = true);
    let copy = driver.compile(&copy_program(4)).unwrap();
    let mut bench = Bench::new(&driver, 0);
    let (x, y) = (bench.floats(4), bench.floats(4));
    bench.write(&x, &[1.0; 3]);
    let ticket = bench.run(&copy, &[&x], &[&y]);
    let error = driver.wait(ticket, Instant::now() + Duration::from_secs(10)).unwrap_err();
    assert!(error.is_internal() && error.to_string().contains("nothing ever wrote"), "{error}");
    assert_eq!(sim.violations().len(), 1);
}

#[test]
fn work_that_does_not_wait_for_what_it_reads_is_seen() {
    let (sim, driver) = device(|c| c.mode = Mode::Lazy);
    let copy = driver.compile(&copy_program(4)).unwrap();
    let (mut a, mut b) = (Bench::new(&driver, 0), Bench::new(&driver, 1));
    let (x, y, z) = (a.floats(4), a.floats(4), a.floats(4));
    a.write(&x, &[1.0; 4]);
    let written = a.run(&copy, &[&x], &[&y]);
    // Both read x: that is no conflict once its write is done.
    driver.wait(streampool_ticket(&written, 1), Instant::now() + Duration::from_secs(10)).unwrap();
    b.run(&copy, &[&x], &[&z]);
    assert_eq!(sim.violations(), Vec::<String>::new());
    // Reads y, which stream 0 is yet to write.
    let early = b.run(&copy, &[&y], &[&z]);
    let error = driver.wait(early, Instant::now() + Duration::from_secs(10)).unwrap_err();
    assert!(error.is_internal() && error.to_string().contains("INV-5"), "{error}");
    assert_eq!(sim.violations().len(), 1);
}

/// The ticket of an earlier submission of the same stream.
fn streampool_ticket(
    later: &streampool_core::timeline::Ticket,
    number: u64,
) -> streampool_core::timeline::Ticket {
    let mut submissions = Submissions::new(later.stream);
    (0..number).map(|_| submissions.submit(|_| Ok(())).unwrap()).last().unwrap()
}

#[test]
fn memory_freed_under_queued_work_is_seen() {
    let (sim, driver) = device(|c| c.mode = Mode::Lazy);
    let copy = driver.compile(&copy_program(4)).unwrap();
    let mut bench = Bench::new(&driver, 0);
    let (x, y) = (bench.floats(4), bench.floats(4));
    bench.write(&x, &[1.0; 4]);
    bench.finish();
    let ticket = bench.run(&copy, &[&x], &[&y]);
    drop(x);
    let error = driver.wait(ticket, Instant::now() + Duration::from_secs(10)).unwrap_err();
    assert!(error.is_internal() && error.to_string().contains("INV-6"), "{error}");
    assert_eq!(sim.violations().len(), 1);
    drop(y);
    assert_eq!(sim.used_bytes(), 0);
}

#[test]
fn an_address_that_is_in_no_segment_is_refused() {
    let (sim, driver) = device(|_| ());
    let mut bench = Bench::new(&driver, 0);
    let host = [0_u8; 4];
    let error = bench.queue().write(Slice::host(&host), &[0; 4], 1).unwrap_err();
    assert!(error.is_internal() && error.to_string().contains("no segment"), "{error}");
    // A byte past a segment's end is nobody's, either: segments lie apart.
    let (x, y) = (bench.floats(4), bench.floats(4));
    assert!(y.address() - (x.address() + x.bytes() as u64) >= 4096);
    assert_eq!(sim.violations().len(), 1);
}

#[test]
fn tickets_out_of_turn_are_seen() {
    let (sim, driver) = device(|_| ());
    let mut bench = Bench::new(&driver, 0);
    let x = bench.floats(1);
    let slice = Slice::of_segment(&x, 0, 4);
    assert!(bench.queue().write(slice, &[0; 4], 2).unwrap_err().is_internal());
    bench.queue().write(slice, &[0; 4], 1).unwrap();
    assert!(bench.queue().write(slice, &[0; 4], 1).unwrap_err().is_internal());
    assert_eq!(sim.violations().len(), 2);
    assert!(sim.violations().iter().all(|v| v.contains("INV-12")));
}

#[test]
fn a_wait_for_work_that_was_not_submitted_is_seen() {
    let (sim, driver) = device(|_| ());
    let mut bench = Bench::new(&driver, 0);
    let mut elsewhere = Submissions::new(StreamId(5));
    let made_up = elsewhere.submit(|_| Ok(())).unwrap();
    assert!(bench.queue().wait_for(made_up).unwrap_err().is_internal());
    assert!(driver.wait(made_up, Instant::now()).unwrap_err().is_internal());
    assert_eq!(sim.violations().len(), 2);
}

#[test]
fn a_full_queue_runs_some_work_first() {
    let (sim, driver) = device(|c| (c.mode, c.queue_depth) = (Mode::Lazy, 4));
    let mut bench = Bench::new(&driver, 0);
    let x = bench.floats(1);
    let mut random = Random(1);
    for n in 1..=20 {
        bench.write(&x, &random.floats(1));
        assert!(bench.ticket().number - driver.completed(StreamId(0)) <= 4, "after {n}");
    }
    assert_eq!(sim.trace().len(), 16);
}
