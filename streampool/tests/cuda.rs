//! The GPU through the facade, where there is one; else what opening it says.

use streampool::{DType, Device, Model, Tensor};

/// The device, or `None` where there is no GPU (which machines that must have one forbid by `STREAMPOOL_REQUIRE_CUDA=1`).
fn gpu() -> Option<Device> {
    match Device::cuda(0) {
        Ok(device) => Some(device),
        Err(e) => {
            println!("not run: {e}");
            assert!(std::env::var_os("STREAMPOOL_REQUIRE_CUDA").is_none(), "a GPU was required: {e}");
            assert!(e.is_unsupported() && e.to_string().starts_with("cuda:"), "{e:?}");
            None
        }
    }
}

#[test]
fn what_is_available_opens_and_what_is_not_says_why() {
    let names = Device::available();
    assert_eq!(names.iter().any(|n| n.starts_with("cuda")), Device::cuda_missing().is_none(), "{names:?}");
    for name in &names {
        assert_eq!(Device::open(name).expect("it is available").info().name, *name);
    }
    for (name, part) in [("cuda:4000", "cuda"), ("cuda:x", "no device"), ("cudaX", "no device")] {
        let error = Device::open(name).expect_err("there is no such device");
        assert!(error.is_unsupported() && error.to_string().contains(part), "{name}: {error:?}");
    }
}

#[test]
fn threads_of_a_gpu_answer_as_the_cpu_does() {
    let Some(gpu) = gpu() else { return };
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/digits/digits.onnx");
    let cpu = Device::cpu().unwrap();
    let (here, there) = (Model::load(&cpu, path).unwrap(), Model::load(&gpu, path).unwrap());
    let image = |device: &Device, seed: usize| {
        let values: Vec<f32> = (0..64).map(|i| ((i * 7 + seed * 13) % 17) as f32).collect();
        Tensor::from_slice(device, &values, [1, 1, 8, 8]).unwrap()
    };
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let (here, there, cpu, gpu) = (&here, &there, &cpu, &gpu);
            scope.spawn(move || {
                let expected: Vec<f32> =
                    here.run(&[("image", (&image(cpu, seed)).into())]).unwrap()[0].to_vec().unwrap();
                for _ in 0..50 {
                    let got: Vec<f32> =
                        there.run(&[("image", (&image(gpu, seed)).into())]).unwrap()[0].to_vec().unwrap();
                    assert!(
                        expected.iter().zip(&got).all(|(a, b)| (a - b).abs() < 1e-4),
                        "{expected:?} {got:?}"
                    );
                }
            });
        }
    });
    let ones = Tensor::ones(&gpu, [3], DType::F32).unwrap();
    let error = ones.add(&Tensor::ones(&cpu, [3], DType::F32).unwrap()).unwrap_err();
    assert!(error.is_invalid_argument(), "tensors of two devices: {error:?}");
}
