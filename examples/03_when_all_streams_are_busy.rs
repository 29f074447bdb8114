//! More threads than streams: `cargo run --release --example 03_when_all_streams_are_busy`.
//!
//! What happens then is the caller's choice: wait in line (the default), share a stream, or refuse.

use streampool::{Device, Policy, Result};

fn main() -> Result<()> {
    let device = Device::builder("cpu").streams(1).policy(Policy::Refuse).open()?;
    let lease = device.lease()?;
    println!("leased {:?} for as long as the lease lives", lease.stream());
    std::thread::scope(|scope| {
        let refused = scope.spawn(|| device.current_stream()).join().expect("no panic");
        let error = refused.expect_err("the only stream is leased");
        assert!(error.is_pool_exhausted());
        println!("another thread is told: {error}");
    });
    drop(lease);
    println!("and after the lease ended the stream is free: {:?}", device.current_stream()?);
    Ok(())
}
