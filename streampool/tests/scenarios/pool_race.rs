//! The workload of the race detector's first row: 8 and 31 threads, each of which allocates, multiplies and waits for its own stream.
//! `scripts/tsan` runs it instrumented; here its values are checked.

use crate::support::{on_every_device, randn, same_as_serial};

fn allocate_multiply_wait(
    device: &streampool::Device,
    t: usize,
    i: usize,
) -> streampool::Result<streampool::HostTensor> {
    let x = randn(device, &[24, 24], (t * 1000 + i) as u64)?;
    let product = x.mm(&x)?;
    device.synchronize_stream()?;
    product.to_host()
}

#[test]
fn eight_threads_fifty_times() {
    on_every_device(32, |device| same_as_serial(8, 50, |t, i| allocate_multiply_wait(device, t, i)));
}

#[test]
fn thirty_one_threads_a_hundred_times() {
    on_every_device(32, |device| same_as_serial(31, 100, |t, i| allocate_multiply_wait(device, t, i)));
}
