//! Tensors go from thread to thread: `cargo run --release --example 02_tensors_between_threads`.
//!
//! The producer neither waits nor keeps its tensor. The consumer's work is ordered after the producer's by itself.

use std::sync::mpsc;

use streampool::{DType, Device, Generator, Result, Tensor};

fn main() -> Result<()> {
    let device = Device::cpu()?;
    let (send, receive) = mpsc::sync_channel(4);
    std::thread::scope(|scope| {
        let device = &device;
        scope.spawn(move || {
            let numbers = Generator::new(42);
            for _ in 0..10 {
                let a = Tensor::randn(device, [64, 64], DType::F32, &numbers).expect("there is memory");
                send.send(a.mm(&a).expect("there is memory")).expect("the consumer listens");
            }
        });
        for product in receive {
            println!("mean of the product: {:+.4}", product.mean(&[], false)?.item::<f32>()?);
        }
        Ok(())
    })
}
