//! A lease survives an async hop: `cargo run --release --example 05_a_lease_across_await`.
//!
//! Futures need no particular runtime; this one is driven by hand, on two threads in turn.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};

use streampool::{DType, Device, Result, Tensor};

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn main() -> Result<()> {
    let device = Device::builder("cpu").streams(2).open()?;
    let lease = block_on(device.lease_async())?;
    let stream = lease.stream();
    // The lease moves to another thread, and what runs in its scope runs on its stream.
    let sum = std::thread::scope(|scope| {
        let device = &device;
        scope
            .spawn(move || {
                lease.scope(|| {
                    assert_eq!(device.current_stream()?, stream);
                    Tensor::ones(device, [1000], DType::F32)?.sum(&[], false)?.item::<f32>()
                })
            })
            .join()
            .expect("no panic")
    })?;
    println!("{sum} ones were summed on {stream:?}");
    Ok(())
}
