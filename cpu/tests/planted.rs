//! Faults on purpose, behind a cfg that nothing but `scripts/tsan` and `scripts/asan` sets: they show that the sanitizers see.
#![cfg(planted_faults)]

/// So that `--skip planted::` leaves them out.
mod planted {
    /// Two kernels of two queues write the same bytes at once, and nothing orders them: what core's tickets keep from happening.
    #[test]
    fn two_queues_write_the_same_bytes() {
        use std::sync::{Arc, Barrier};

        use streampool_conformance::{map_program, value};
        use streampool_core::driver::{Bindings, Driver, Slice};
        use streampool_core::memory::{MemoryConfig, MemoryPool};
        use streampool_core::op::{Binary, Map};
        use streampool_core::timeline::StreamId;
        use streampool_cpu::{CpuConfig, CpuDriver};

        const LEN: usize = 4096;
        let driver: Arc<dyn Driver> = Arc::new(CpuDriver::new(CpuConfig::default()));
        let pool = MemoryPool::new(driver.clone(), MemoryConfig::default());
        let mut cache = pool.stream_cache(StreamId(0)).unwrap();
        let (input, output) = (cache.alloc(LEN * 4).unwrap(), cache.alloc(LEN * 4).unwrap());
        let mut queue = driver.open_queue(StreamId(0)).unwrap();
        queue.write(input.slice(), &value(&vec![1.0; LEN]), 1).unwrap();
        let program = driver.compile(&map_program(Map::binary(Binary::Sub).code, 2, LEN)).unwrap();
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            for stream in 1..=2 {
                let (driver, program, input, output, barrier) =
                    (&driver, &program, &input, &output, &barrier);
                scope.spawn(move || {
                    let mut queue = driver.open_queue(StreamId(stream)).unwrap();
                    barrier.wait();
                    for number in 1..=50 {
                        let bindings = Bindings {
                            inputs: &[input.slice(), input.slice()],
                            outputs: &[output.slice()],
                            arena: Slice::EMPTY,
                        };
                        queue.launch(program, &bindings, number).unwrap();
                    }
                });
            }
        });
    }

    /// Reads one past the end of a heap block.
    #[test]
    fn a_read_past_the_end() {
        let block = std::hint::black_box(vec![1_u8; 64]);
        // SAFETY: none; that is the point, and the sanitizer must say so.
        let byte = unsafe { *block.as_ptr().add(std::hint::black_box(64)) };
        // Or the compiler would leave the read out.
        std::hint::black_box(byte);
    }

    /// Loses the only pointer to a heap block.
    #[test]
    fn a_block_nobody_frees() {
        let block = std::hint::black_box(vec![1_u8; 4096]);
        std::mem::forget(block);
    }
}
