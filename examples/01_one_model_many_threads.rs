//! One model, many threads: `cargo run --release --example 01_one_model_many_threads`.
//!
//! A `Model` is shared by reference. There is no session per thread, no lock and no synchronisation call.

use streampool::{Device, HostTensor, Model, Result};

fn main() -> Result<()> {
    let device = Device::cpu()?;
    let model = Model::load(&device, "models/digits/digits.onnx")?;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|t| {
                let model = &model;
                scope.spawn(move || -> Result<()> {
                    let image = HostTensor::from_vec([1, 1, 8, 8], vec![t as f32 * 0.1; 64])?;
                    for _ in 0..100 {
                        let outputs = model.run(&[("image", (&image).into())])?;
                        assert_eq!(outputs[0].numel(), 10);
                    }
                    println!("thread {t} ran on {:?}", model.device().current_stream()?);
                    Ok(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|w| w.join().expect("no worker panics"))
    })
}
