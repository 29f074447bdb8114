//! Row 15: one compile per distinct program, whatever the threads.

use crate::support::{on_every_device, on_threads, randn};

#[test]
fn one_compile_per_key() {
    on_every_device(32, |device| {
        let before = device.compile_count();
        on_threads(16, 10, |t, i| {
            let n = 64 + 7 * t;
            let x = randn(device, &[n, 8], (t * 100 + i) as u64)?;
            x.relu()?.to_host()
        });
        // Per thread its own size: one program that makes the numbers, one relu.
        assert_eq!(device.compile_count() - before, 32);
        let before = device.compile_count();
        on_threads(16, 20, |t, i| randn(device, &[128, 3], (t * 100 + i) as u64)?.tanh()?.to_host());
        assert_eq!(device.compile_count() - before, 2, "all threads share one size");
        Ok(())
    });
}
