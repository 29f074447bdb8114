//! Faults hit whom they are meant for, and nobody else.

mod support;

use std::time::{Duration, Instant};

use streampool_conformance::{Bench, Chain, copy_program};
use streampool_core::driver::{Bindings, Slice};
use streampool_core::timeline::StreamId;
use streampool_sim::{Faults, Mode};
use support::{device, with};

#[test]
fn the_nth_allocation_fails_and_the_next_does_not() {
    let (_, driver) = device(|c| c.faults = Faults::default().fail_allocation(2));
    assert!(driver.allocate(10).is_ok());
    let error = driver.allocate(10).err().unwrap();
    assert!(error.is_out_of_memory() && error.to_string().contains("injected"), "{error}");
    assert!(driver.allocate(10).is_ok());
}

#[test]
fn the_nth_compile_fails_and_the_next_does_not() {
    let (_, driver) = device(|c| c.faults = Faults::default().fail_compile(1));
    assert!(driver.compile(&copy_program(1)).err().unwrap().is_internal());
    assert!(driver.compile(&copy_program(1)).is_ok());
}

#[test]
fn a_refused_submission_leaves_its_number_free_and_its_bytes_alone() {
    let (sim, driver) = device(|c| c.mode = Mode::Lazy);
    let mut bench = Bench::new(&driver, 0);
    let mut chain = Chain::new(&mut bench, 10, 1);
    sim.inject(Faults::default().fail_submission(sim.events()[1] + 1));
    let program = driver.compile(&copy_program(1)).unwrap();
    let (x, y) = (bench.floats(1), bench.floats(1));
    let bindings = Bindings {
        inputs: &[Slice::of_segment(&x, 0, 4)],
        outputs: &[Slice::of_segment(&y, 0, 4)],
        arena: Slice::EMPTY,
    };
    assert!(bench.launch(&program, &bindings).unwrap_err().is_internal());
    drop((x, y));
    chain.step(&mut bench, 1);
    chain.expect(&mut bench);
    assert_eq!(sim.violations(), Vec::<String>::new());
}

#[test]
fn a_failed_execution_taints_what_depends_on_it_until_it_is_overwritten() {
    for mode in [Mode::Eager, Mode::Random, Mode::Lazy] {
        let (sim, driver) = device(|c| c.mode = mode);
        let copy = driver.compile(&copy_program(4)).unwrap();
        let mut bench = Bench::new(&driver, 0);
        let (a, b, c, d) = (bench.floats(4), bench.floats(4), bench.floats(4), bench.floats(4));
        bench.write(&a, &[1.0; 4]);
        bench.finish();
        sim.inject(Faults::default().fail_execution(sim.events()[2] + 1));
        let failed = bench.run(&copy, &[&a], &[&b]);
        let dependent = bench.run(&copy, &[&b], &[&c]);
        let apart = bench.run(&copy, &[&a], &[&d]);
        let deadline = Instant::now() + Duration::from_secs(10);
        for ticket in [failed, dependent] {
            let error = driver.wait(ticket, deadline).unwrap_err();
            assert!(error.to_string().contains("injected"), "{error}");
        }
        driver.wait(apart, deadline).unwrap();
        assert_eq!(bench.read(&d, 4), [1.0; 4]);
        assert!(bench.try_read(&c, 4).unwrap_err().to_string().contains("injected"));
        assert!(driver.wait(failed, deadline).is_err(), "it stays failed");
        // Half of it overwritten: the other half is still what was never computed.
        bench.write(&b, &[2.0; 2]);
        assert_eq!(bench.read(&b, 2), [2.0; 2]);
        assert!(bench.try_read(&b, 4).is_err());
        bench.write(&b, &[3.0; 4]);
        bench.run(&copy, &[&b], &[&c]);
        assert_eq!(bench.read(&c, 4), [3.0; 4]);
        assert_eq!(sim.violations(), Vec::<String>::new());
    }
}

#[test]
fn a_held_stream_ends_waits_at_their_deadline_and_stops_nobody_else() {
    for mode in [Mode::Eager, Mode::Random, Mode::Lazy] {
        let (sim, driver) = device(|c| c.mode = mode);
        let (mut held, mut free) = (Bench::new(&driver, 0), Bench::new(&driver, 1));
        sim.hold(StreamId(0));
        let mut chain = Chain::new(&mut held, 10, 2);
        let ticket = chain.step(&mut held, 0);
        let mut other = Chain::new(&mut free, 10, 3);
        other.step(&mut free, 1);
        other.expect(&mut free);
        let begin = Instant::now();
        let error = driver.wait(ticket, begin + Duration::from_millis(30)).unwrap_err();
        assert!(error.is_timeout() && begin.elapsed() >= Duration::from_millis(30));
        assert!(error.to_string().contains("held back"), "{error}");
        // What waits for it on the device is stopped, too.
        free.queue().wait_for(ticket).unwrap();
        let behind = other.step(&mut free, 2);
        assert!(driver.wait(behind, Instant::now() + Duration::from_millis(5)).unwrap_err().is_timeout());
        assert_eq!(driver.completed(StreamId(0)), 0);
        sim.release(StreamId(0));
        other.expect(&mut free);
        chain.expect(&mut held);
        assert_eq!(sim.violations(), Vec::<String>::new());
    }
}

#[test]
fn a_waiter_is_woken_when_its_stream_is_released() {
    let (sim, driver) = device(|c| c.mode = Mode::Lazy);
    let mut bench = Bench::new(&driver, 0);
    sim.hold(StreamId(0));
    let mut chain = Chain::new(&mut bench, 10, 4);
    let ticket = chain.step(&mut bench, 0);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| driver.wait(ticket, Instant::now() + Duration::from_secs(20)));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!waiter.is_finished());
        sim.release(StreamId(0));
        let begin = Instant::now();
        waiter.join().unwrap().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn a_stalled_stream_runs_up_to_where_it_stalls() {
    let (_, driver) = device(|c| c.faults = Faults::default().stall(StreamId(0), 3));
    let mut bench = Bench::new(&driver, 0);
    let mut chain = Chain::new(&mut bench, 10, 5);
    let (runs, stalls) = (chain.step(&mut bench, 0), chain.step(&mut bench, 1));
    driver.wait(runs, Instant::now() + Duration::from_secs(10)).unwrap();
    let error = driver.wait(stalls, Instant::now() + Duration::from_millis(5)).unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("stalled"), "{error}");
    assert_eq!(driver.completed(StreamId(0)), 2);
}

#[test]
fn a_lost_device_says_so_to_everyone_and_keeps_nobody_waiting() {
    for mode in [Mode::Eager, Mode::Random, Mode::Lazy, Mode::Manual] {
        let (sim, driver) = device(|c| c.mode = mode);
        let mut bench = Bench::new(&driver, 0);
        let mut chain = Chain::new(&mut bench, 10, 6);
        sim.hold(StreamId(0));
        let ticket = chain.step(&mut bench, 0);
        sim.lose();
        let deadline = Instant::now() + Duration::from_secs(10);
        assert!(driver.wait(ticket, deadline).unwrap_err().is_device_lost());
        assert_eq!(driver.completed(StreamId(0)), ticket.number, "nothing touches memory any more");
        assert!(driver.allocate(1).err().unwrap().is_device_lost());
        assert!(driver.compile(&copy_program(1)).err().unwrap().is_device_lost());
        assert!(driver.open_queue(StreamId(9)).err().unwrap().is_device_lost());
        assert!(bench.queue().wait_for(ticket).unwrap_err().is_device_lost());
        let empty = Slice::EMPTY;
        assert!(bench.queue().write(empty, &[], ticket.number + 1).unwrap_err().is_device_lost());
        assert!(bench.queue().read(empty, &mut [], deadline).unwrap_err().is_device_lost());
        drop(chain);
        assert_eq!(sim.used_bytes(), 0, "memory can still be given back");
        assert!(Instant::now() < deadline);
    }
}

#[test]
fn the_device_is_lost_at_any_event_without_a_hang() {
    for event in 1..60 {
        let (sim, driver) = device(|c| c.faults = Faults::default().lose_device_at(event));
        // The helpers panic at the first error, as a program without care would.
        let survived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut bench = Bench::new(&driver, 0);
            let mut chain = Chain::new(&mut bench, 10, 7);
            (0..40).for_each(|i| _ = chain.step(&mut bench, i));
            chain.expect(&mut bench);
        }));
        assert!(survived.is_err(), "event {event}");
        assert!(driver.allocate(1).err().unwrap().is_device_lost());
        assert_eq!(sim.used_bytes(), 0);
    }
}

#[test]
fn a_panic_in_a_program_is_the_failure_of_its_ticket() {
    struct Panics;
    impl streampool_sim::HostProgram for Panics {
        fn run(&self, _: &Bindings<'_>) -> streampool_core::Result<()> {
            panic!("on purpose")
        }
    }
    struct Maker;
    impl streampool_sim::Compiler for Maker {
        fn compile(
            &self,
            _: &streampool_core::op::Program,
        ) -> streampool_core::Result<Box<dyn streampool_sim::HostProgram>> {
            Ok(Box::new(Panics))
        }
    }
    let (_, driver) = with(|_| (), Maker);
    let program = driver.compile(&copy_program(1)).unwrap();
    let mut bench = Bench::new(&driver, 0);
    let (x, y) = (bench.floats(1), bench.floats(1));
    bench.write(&x, &[1.0]);
    let ticket = bench.run(&program, &[&x], &[&y]);
    let error = driver.wait(ticket, Instant::now() + Duration::from_secs(10)).unwrap_err();
    assert!(error.is_internal() && error.to_string().contains("panicked"), "{error}");
    assert_eq!(bench.read(&x, 1), [1.0]);
}
