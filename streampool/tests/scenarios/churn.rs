//! Threads that come and go: rows 8, 9, 16, 17.

use std::collections::HashSet;
use std::sync::Barrier;

use crate::support::{on_every_device, randn};

#[test]
fn sixty_four_threads_one_after_another_reuse_streams() {
    on_every_device(8, |device| {
        let mut streams = HashSet::new();
        for t in 0..64u64 {
            let id = std::thread::scope(|scope| {
                scope
                    .spawn(|| {
                        let x = randn(device, &[16, 16], t).unwrap();
                        x.mm(&x).unwrap().to_host().unwrap();
                        device.current_stream().unwrap()
                    })
                    .join()
                    .unwrap()
            });
            assert!(id.0 < 8);
            streams.insert(id);
        }
        assert!(streams.len() >= 7, "round robin uses all streams but the opener's: {streams:?}");
        Ok(())
    });
}

#[test]
fn batches_of_threads_behind_a_barrier_leave_nothing_behind() {
    on_every_device(32, |device| {
        for batch in 0..4u64 {
            let barrier = Barrier::new(20);
            std::thread::scope(|scope| {
                let threads: Vec<_> = (0..20)
                    .map(|t| {
                        let barrier = &barrier;
                        scope.spawn(move || {
                            barrier.wait();
                            randn(device, &[32, 32], batch * 100 + t)
                                .unwrap()
                                .relu()
                                .unwrap()
                                .to_host()
                                .unwrap();
                        })
                    })
                    .collect();
                // A scope ends before its threads' locals are dropped, which is when they let go of their streams; join waits for that.
                threads.into_iter().for_each(|t| t.join().unwrap());
            });
            let stats = device.pool_stats()?;
            assert_eq!((stats.running, stats.leased, stats.waiting), (0, 0, 0));
            assert!(stats.bound_idle <= 1, "only the opener may still have a binding: {stats:?}");
        }
        Ok(())
    });
}

#[test]
fn a_thousand_threads_on_four_streams_all_make_progress() {
    on_every_device(4, |device| {
        std::thread::scope(|scope| {
            for t in 0..1000u64 {
                std::thread::Builder::new()
                    .stack_size(256 << 10)
                    .spawn_scoped(scope, move || {
                        let x = randn(device, &[8, 8], t).unwrap();
                        assert_eq!(x.mm(&x).unwrap().to_vec::<f32>().unwrap().len(), 64);
                    })
                    .unwrap();
            }
        });
        Ok(())
    });
}

#[test]
fn a_panicking_thread_gives_its_stream_back() {
    on_every_device(2, |device| {
        for t in 0..10u64 {
            let died = std::thread::scope(|scope| {
                scope
                    .spawn(move || {
                        let _x = randn(device, &[8, 8], t).unwrap();
                        std::panic::panic_any("on purpose");
                    })
                    .join()
            });
            assert!(died.is_err());
        }
        Ok(())
    });
}
