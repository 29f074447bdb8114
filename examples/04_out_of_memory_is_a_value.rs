//! Out of memory hits one call: `cargo run --release --example 04_out_of_memory_is_a_value`.

use streampool::{DType, Device, Result, Tensor};

fn main() -> Result<()> {
    let device = Device::builder("cpu").memory_limit(64 << 20).open()?;
    let error = Tensor::zeros(&device, [25 << 30], DType::F32).expect_err("100 GiB do not fit in 64 MiB");
    assert!(error.is_out_of_memory());
    println!("{error}");
    // The device is as good as before.
    println!(
        "sum of a million ones: {}",
        Tensor::ones(&device, [1_000_000], DType::F32)?.sum(&[], false)?.item::<f32>()?
    );
    println!("{:#?}", device.memory_stats());
    Ok(())
}
