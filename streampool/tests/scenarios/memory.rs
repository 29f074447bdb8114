//! Rows 14 and 19: out of memory is a value, and every byte comes back.

use std::time::Duration;

use streampool::{DType, Device, Tensor};

use crate::support::{on_every_device, randn};

#[test]
fn a_huge_request_fails_alone() {
    on_every_device(32, |device| {
        device.set_memory_limit(64 << 20);
        std::thread::scope(|scope| {
            let normal: Vec<_> = (0..7u64)
                .map(|t| {
                    scope.spawn(move || {
                        for i in 0..50 {
                            let x = randn(device, &[64, 64], t * 100 + i)?;
                            assert!(x.mm(&x)?.to_vec::<f32>()?.iter().all(|v| v.is_finite()));
                        }
                        Ok::<(), streampool::Error>(())
                    })
                })
                .collect();
            for _ in 0..20 {
                let error = Tensor::zeros(device, [25usize << 30], DType::F32).unwrap_err();
                assert!(error.is_out_of_memory(), "{error}");
                for fact in ["100.0 GiB", "64.0 MiB"] {
                    assert!(
                        error.to_string().contains(fact),
                        "the text names what was asked and the limit: {error}"
                    );
                }
            }
            for worker in normal {
                worker.join().unwrap().unwrap();
            }
        });
        Ok(())
    });
}

#[test]
fn three_cycles_of_holding_and_working_end_where_they_began() {
    on_every_device(16, |device| {
        let start = device.memory_stats().live;
        for cycle in 0..3u64 {
            let held: Vec<_> =
                (0..8).map(|i| randn(device, &[256, 256], cycle * 10 + i)).collect::<Result<_, _>>()?;
            assert!(device.memory_stats().live >= start + 8 * 256 * 256 * 4);
            std::thread::scope(|scope| {
                for t in 0..4u64 {
                    scope.spawn(move || {
                        for i in 0..20 {
                            let x = randn(device, &[64, 64], t * 100 + i).unwrap();
                            x.mm(&x).unwrap().to_host().unwrap();
                        }
                    });
                }
            });
            drop(held);
            device.synchronize()?;
            assert_eq!(device.memory_stats().live, start);
        }
        Ok(())
    });
}

#[test]
fn what_one_stream_cached_serves_another() {
    for name in ["cpu", "sim"] {
        let device = Device::builder(name).streams(4).memory_limit(40 << 20).open().unwrap();
        let use_up = || {
            // Nearly the whole budget, then nothing.
            let big = Tensor::zeros(&device, [7usize << 20], DType::F32)?;
            drop(big);
            Ok::<(), streampool::Error>(())
        };
        for _ in 0..3 {
            std::thread::scope(|scope| scope.spawn(use_up).join().unwrap()).unwrap();
        }
        device.close(Duration::from_secs(5)).unwrap();
    }
}

#[test]
fn after_drop_and_empty_cache_nothing_is_reserved() {
    on_every_device(8, |device| {
        let tensors: Vec<_> = (0..20).map(|i| randn(device, &[100, 100], i)).collect::<Result<_, _>>()?;
        let sums: Vec<_> = tensors.iter().map(|t| t.sum(&[], false)).collect::<Result<_, _>>()?;
        drop((tensors, sums));
        device.synchronize()?;
        device.empty_cache()?;
        assert_eq!(device.memory_stats().reserved, 0);
        Ok(())
    });
}

#[test]
fn absurd_shapes_are_typed_errors() {
    let device = Device::cpu().unwrap();
    let error = Tensor::zeros(&device, [usize::MAX, 4], DType::F32).unwrap_err();
    assert!(error.is_invalid_argument(), "{error}");
    let error = Tensor::arange(&device, 0.0, f64::NAN, 1.0, DType::F32).unwrap_err();
    assert!(error.is_invalid_argument(), "{error}");
}
