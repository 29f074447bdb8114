//! A real model from many threads: row 7's last part, memory of many threads, and what a wrong input is told.

use streampool::{DType, Device, HostTensor, Model, Tensor};

use crate::support::{on_every_device, randn, same_as_serial};

const DIGITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/digits/digits.onnx");

fn images(batch: usize, seed: u64) -> HostTensor {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let pixels: Vec<f32> = (0..batch * 64)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % 17) as f32
        })
        .collect();
    HostTensor::from_vec([batch, 1, 8, 8], pixels).unwrap()
}

#[test]
fn digits_from_eight_threads_have_the_serial_bits() {
    on_every_device(16, |device| {
        let model = Model::load(device, DIGITS)?;
        same_as_serial(8, 20, |t, i| {
            let x = images(1 + (t + i) % 3, (t * 100 + i) as u64);
            model.run(&[("image", (&x).into())])?[0].to_host()
        })
    });
}

#[test]
fn host_arrays_and_tensors_give_the_same() {
    on_every_device(4, |device| {
        let model = Model::load(device, DIGITS)?;
        let x = images(5, 3);
        let from_host = model.run(&[("image", (&x).into())])?["probabilities"].to_vec::<f32>()?;
        let tensor = Tensor::from_host(device, &x)?;
        let from_tensor = model.run(&[("image", (&tensor).into())])?["probabilities"].to_vec::<f32>()?;
        assert_eq!(from_host, from_tensor);
        // A strided view is as good as a dense one.
        let twice = Tensor::stack(&[&tensor, &tensor], 1)?;
        let view = twice.slice(1, 1, 2, 1)?.squeeze(1)?;
        assert!(!view.is_contiguous());
        let from_view = model.run(&[("image", (&view).into())])?["probabilities"].to_vec::<f32>()?;
        assert_eq!(from_host, from_view);
        for row in from_host.chunks(10) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5, "a row of probabilities sums to 1");
        }
        Ok(())
    });
}

#[test]
fn results_feed_eager_operations_on_another_thread() {
    on_every_device(8, |device| {
        let model = Model::load(device, DIGITS)?;
        std::thread::scope(|scope| {
            for t in 0..4 {
                let model = &model;
                scope.spawn(move || {
                    let x = images(6, t);
                    let outputs = model.run(&[("image", (&x).into())]).unwrap().into_vec();
                    let classes = std::thread::scope(|inner| {
                        inner
                            .spawn(move || outputs[0].argmax(1, false).unwrap().to_vec::<i64>().unwrap())
                            .join()
                            .unwrap()
                    });
                    let rows = model.run(&[("image", (&x).into())]).unwrap()[0].to_vec::<f32>().unwrap();
                    for (row, class) in rows.chunks(10).zip(classes) {
                        assert!(row.iter().all(|p| *p <= row[class as usize]));
                    }
                });
            }
        });
        Ok(())
    });
}

#[test]
fn wrong_inputs_are_told_what_is_right() {
    let device = Device::cpu().unwrap();
    let model = Model::load(&device, DIGITS).unwrap();
    let x = images(1, 1);
    let wrong = |inputs: &[(&str, streampool::Input<'_>)], facts: &[&str]| {
        let error = model.run(inputs).unwrap_err();
        assert!(error.is_invalid_argument(), "{error:?}");
        for fact in facts {
            assert!(error.to_string().contains(fact), "'{fact}' is not in: {error}");
        }
    };
    wrong(&[], &["image", "none"]);
    wrong(&[("picture", (&x).into())], &["image", "picture"]);
    wrong(&[("image", (&x).into()), ("image", (&x).into())], &["image"]);
    let ints = HostTensor::from_vec([1, 1, 8, 8], vec![1i64; 64]).unwrap();
    wrong(&[("image", (&ints).into())], &["image", "int64", "float32"]);
    let flat = HostTensor::from_vec([1, 64], vec![1f32; 64]).unwrap();
    wrong(&[("image", (&flat).into())], &["image"]);
    let wide = HostTensor::from_vec([1, 1, 8, 9], vec![1f32; 72]).unwrap();
    wrong(&[("image", (&wide).into())], &["image", "9", "8"]);
    let short = streampool::Input::Host { dtype: DType::F32, shape: &[1, 1, 8, 8], bytes: &[0; 12] };
    wrong(&[("image", short)], &["image", "12"]);
    // The model is as good as before.
    assert_eq!(model.run(&[("image", (&x).into())]).unwrap()[0].numel(), 10);
}

#[test]
fn a_tensor_of_another_device_is_refused() {
    let (here, there) = (Device::cpu().unwrap(), Device::sim().unwrap());
    let model = Model::load(&here, DIGITS).unwrap();
    let x = Tensor::from_host(&there, &images(1, 1)).unwrap();
    assert!(model.run(&[("image", (&x).into())]).unwrap_err().is_invalid_argument());
    let a = randn(&here, &[2, 2], 1).unwrap();
    let b = randn(&there, &[2, 2], 2).unwrap();
    assert!(a.add(&b).unwrap_err().is_invalid_argument());
}

#[test]
fn a_dropped_model_gives_its_weights_back() {
    on_every_device(4, |device| {
        assert_eq!(device.frozen_bytes(), 0);
        let model = Model::load(device, DIGITS)?;
        let x = images(2, 5);
        let before = model.run(&[("image", (&x).into())])?[0].to_vec::<f32>()?;
        let frozen = device.frozen_bytes();
        assert!(frozen >= 38_282 * 4, "{frozen}");
        let second = Model::load(device, DIGITS)?;
        assert_eq!(second.run(&[("image", (&x).into())])?[0].to_vec::<f32>()?, before);
        drop(second);
        drop(model);
        // The stream lets go of the plans at its next use.
        randn(device, &[1], 1)?;
        assert_eq!(device.frozen_bytes(), 0);
        Ok(())
    });
}

#[test]
fn a_tensor_outlives_every_handle_of_its_device() {
    for name in ["cpu", "sim"] {
        let device = Device::open(name).unwrap();
        let x = randn(&device, &[3, 3], 1).unwrap();
        let want = x.mm(&x).unwrap().to_vec::<f32>().unwrap();
        drop(device);
        // The device is open as long as a tensor lives.
        assert_eq!(x.mm(&x).unwrap().to_vec::<f32>().unwrap(), want);
    }
}

#[test]
fn after_close_every_entry_says_so() {
    for name in ["cpu", "sim"] {
        let device = Device::open(name).unwrap();
        let model = Model::load(&device, DIGITS).unwrap();
        let x = randn(&device, &[3, 3], 1).unwrap();
        device.close(std::time::Duration::from_secs(5)).unwrap();
        let host = images(1, 1);
        assert!(model.run(&[("image", (&host).into())]).unwrap_err().is_shut_down());
        assert!(x.mm(&x).unwrap_err().is_shut_down());
        assert!(x.to_vec::<f32>().unwrap_err().is_shut_down());
        assert!(device.lease().unwrap_err().is_shut_down());
        assert!(device.empty_cache().unwrap_err().is_shut_down());
        assert!(device.synchronize().unwrap_err().is_shut_down());
        assert!(Model::load(&device, DIGITS).unwrap_err().is_shut_down());
        device.close(std::time::Duration::from_secs(5)).unwrap();
    }
}
