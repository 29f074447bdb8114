//! Many threads at once: rows 2, 3, 4, 5, 7, 13, 18.

use std::collections::HashSet;
use std::sync::{Arc, Barrier, Mutex};

use streampool::nn::{Conv1d, Linear, Module, Relu, Sequential};
use streampool::{ConvOptions, Device, Generator, Result};

use crate::support::{on_every_device, randn, same_as_serial};

fn mm(device: &Device, n: usize, seed: u64) -> Result<streampool::HostTensor> {
    randn(device, &[n, n], seed)?.mm(&randn(device, &[n, n], seed + 1)?)?.to_host()
}

fn mm_relu(device: &Device, n: usize, seed: u64) -> Result<streampool::HostTensor> {
    randn(device, &[n, n], seed)?.mm(&randn(device, &[n, n], seed + 1)?)?.relu()?.to_host()
}

#[test]
fn simple_parallel() {
    on_every_device(32, |device| {
        for threads in [2, 4] {
            same_as_serial(threads, 5, |t, i| mm(device, 64, (t * 100 + i) as u64))?;
        }
        Ok(())
    });
}

#[test]
fn extended_stress() {
    on_every_device(32, |device| {
        for (threads, iterations) in [(8, 100), (16, 50)] {
            same_as_serial(threads, iterations, |t, i| mm_relu(device, 64, (t * 1000 + i) as u64))?;
        }
        same_as_serial(4, 2, |t, i| mm_relu(device, 512, (t * 100 + i) as u64))
    });
}

#[test]
fn one_shared_layer_from_two_to_eight_threads() {
    on_every_device(32, |device| {
        let linear = Linear::new(256, 256, true, &Generator::new(7))?;
        for threads in 2..=8 {
            same_as_serial(threads, 10, |t, i| {
                linear.forward(&randn(device, &[4, 256], (t * 100 + i) as u64)?)?.to_host()
            })?;
        }
        Ok(())
    });
}

#[test]
fn each_live_thread_has_a_stream_of_its_own_and_keeps_it() {
    on_every_device(32, |device| {
        let opener = device.current_stream()?;
        assert_eq!(opener.0, 0, "the thread that opened the device has stream 0");
        let seen = Mutex::new(HashSet::new());
        let barrier = Barrier::new(31);
        std::thread::scope(|scope| {
            for t in 0..31u64 {
                let (seen, barrier) = (&seen, &barrier);
                scope.spawn(move || {
                    let mine = device.current_stream().unwrap();
                    barrier.wait();
                    for i in 0..10 {
                        mm(device, 16, t * 100 + i).unwrap();
                        assert_eq!(device.current_stream().unwrap(), mine, "a thread keeps its stream");
                    }
                    assert!(seen.lock().unwrap().insert(mine), "two live threads on one stream");
                    barrier.wait();
                });
            }
        });
        let seen = seen.into_inner().unwrap();
        assert_eq!(seen.len(), 31);
        assert!(!seen.contains(&opener));
        assert_eq!(device.current_stream()?, opener);
        Ok(())
    });
}

#[test]
fn mlp_and_conv_at_once() {
    on_every_device(32, |device| {
        let g = Generator::new(3);
        let mlp = Sequential::new()
            .then(Linear::new(256, 512, true, &g)?)
            .then(Relu)
            .then(Linear::new(512, 512, true, &g)?)
            .then(Relu)
            .then(Linear::new(512, 256, true, &g)?);
        let same = ConvOptions { padding: 1, ..ConvOptions::default() };
        let conv = Sequential::new()
            .then(Conv1d::new(1, 64, 3, true, same, &g)?)
            .then(Relu)
            .then(Conv1d::new(64, 64, 3, true, same, &g)?)
            .then(Relu)
            .then(Conv1d::new(64, 1, 3, true, same, &g)?);
        let work = |t: usize, i: usize| {
            let seed = (t * 100 + i) as u64;
            if t.is_multiple_of(2) {
                mlp.forward(&randn(device, &[4, 256], seed)?)?.to_host()
            } else {
                conv.forward(&randn(device, &[4, 1, 1024], seed)?)?.to_host()
            }
        };
        same_as_serial(2, 10, work)?;
        same_as_serial(8, 5, work)
    });
}

#[test]
fn thirty_one_threads_on_a_pool_of_32_and_of_4() {
    on_every_device(32, |device| same_as_serial(31, 20, |t, i| mm_relu(device, 48, (t * 1000 + i) as u64)));
    on_every_device(4, |device| same_as_serial(31, 20, |t, i| mm_relu(device, 48, (t * 1000 + i) as u64)));
}

#[test]
fn a_device_wide_wait_does_not_stop_workers() {
    on_every_device(32, |device| {
        let device = Arc::new(device.clone());
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8u64)
                .map(|t| {
                    let device = device.clone();
                    scope.spawn(move || {
                        (0..50).map(|i| mm(&device, 64, t * 100 + i)).collect::<Result<Vec<_>>>()
                    })
                })
                .collect();
            for _ in 0..10 {
                device.synchronize().unwrap();
            }
            for worker in workers {
                assert_eq!(worker.join().unwrap().unwrap().len(), 50);
            }
        });
        Ok(())
    });
}
