//! Devices, watchdog and comparison shared by the scenarios.

use std::sync::mpsc;
use std::time::Duration;

use streampool::{DType, Device, Generator, HostTensor, Result, Tensor};

/// Runs a scenario on every device, each under a watchdog: a hang is a failure.
pub(crate) fn on_every_device(streams: usize, scenario: fn(&Device) -> Result<()>) {
    for name in ["cpu", "sim"] {
        let (done, finished) = mpsc::channel();
        let worker = std::thread::spawn(move || {
            let outcome = (|| {
                let device = Device::builder(name).streams(streams).open()?;
                scenario(&device)?;
                // At the end of a row nothing is left: no thread runs, nothing is pending, every byte goes back.
                device.synchronize()?;
                let pool = device.pool_stats()?;
                assert_eq!((pool.running, pool.leased, pool.waiting), (0, 0, 0), "{name}: {pool:?}");
                device.empty_cache()?;
                let memory = device.memory_stats();
                assert_eq!((memory.live, memory.retired, memory.reserved), (0, 0, 0), "{name}: {memory:?}");
                device.close(Duration::from_secs(10))
            })();
            let _ = done.send(());
            outcome
        });
        let timeout = finished.recv_timeout(Duration::from_secs(120)) == Err(mpsc::RecvTimeoutError::Timeout);
        assert!(!timeout, "{name}: the scenario hangs");
        worker.join().expect("the scenario panicked").unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

/// Normal random numbers from a seed: the same on every device and thread.
pub(crate) fn randn(device: &Device, shape: &[usize], seed: u64) -> Result<Tensor> {
    Tensor::randn(device, shape, DType::F32, &Generator::new(seed))
}

/// Runs `work(thread, iteration)` on threads, all started at once; results by thread and iteration. Any error fails.
pub(crate) fn on_threads(
    threads: usize,
    iterations: usize,
    work: impl Fn(usize, usize) -> Result<HostTensor> + Sync,
) -> Vec<Vec<HostTensor>> {
    let barrier = std::sync::Barrier::new(threads);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|t| {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    barrier.wait();
                    (0..iterations).map(|i| work(t, i)).collect::<Result<Vec<_>>>()
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|h| h.join().expect("a worker panicked").unwrap_or_else(|e| panic!("a worker failed: {e}")))
            .collect()
    })
}

/// Every threaded result has the bits of the serial one.
pub(crate) fn same_as_serial(
    threads: usize,
    iterations: usize,
    work: impl Fn(usize, usize) -> Result<HostTensor> + Sync,
) -> Result<()> {
    let parallel = on_threads(threads, iterations, &work);
    let mut results = 0;
    for (t, row) in parallel.iter().enumerate() {
        for (i, got) in row.iter().enumerate() {
            let want = work(t, i)?;
            assert_eq!(got.ty(), want.ty());
            assert!(got.bytes() == want.bytes(), "thread {t}, iteration {i}: other bits than the serial run");
            assert!(got.bytes().iter().any(|&b| b != 0), "thread {t}, iteration {i}: nothing but zeros");
            results += 1;
        }
    }
    assert_eq!(results, threads * iterations);
    Ok(())
}
