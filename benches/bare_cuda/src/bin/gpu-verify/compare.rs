//! A model on the GPU from many threads, against the CPU; and inputs for it.

use streampool::{DType, Device, Error, HostTensor, Input, Model, Result, Tensor, TensorType};

use crate::panic_text;
use crate::synthetic::Normal;

/// Relative L2 error of one tensor.
pub(crate) fn relative(expected: &HostTensor, got: &HostTensor) -> f64 {
    let (mut error, mut size) = (0.0, 0.0);
    for i in 0..expected.ty().shape.len() {
        let (x, y) = (expected.get(i).to_f64(), got.get(i).to_f64());
        error += (x - y) * (x - y);
        size += x * x;
    }
    let relative = (error / f64::max(size, 1e-30)).sqrt();
    // NaN is never close.
    if relative.is_nan() { f64::INFINITY } else { relative }
}

/// The model on the GPU from 8 threads at once, each answer against the CPU's. Gives the largest relative error.
pub(crate) fn compare(bytes: &[u8], requests: &[Vec<HostTensor>], tolerance: f64) -> Result<String, String> {
    let run = || -> Result<f64> {
        let (cpu, gpu) = (Device::cpu()?, Device::cuda(0)?);
        let (on_cpu, on_gpu) =
            (Model::from_bytes(&cpu, bytes.to_vec())?, Model::from_bytes(&gpu, bytes.to_vec())?);
        let answer = |model: &Model, request: &[HostTensor]| -> Result<Vec<HostTensor>> {
            let inputs: Vec<Input<'_>> = request.iter().map(Input::from).collect();
            model.run_ordered(&inputs)?.into_vec().iter().map(Tensor::to_host).collect()
        };
        let expected = requests.iter().map(|r| answer(&on_cpu, r)).collect::<Result<Vec<_>>>()?;
        let serial = requests.iter().map(|r| answer(&on_gpu, r)).collect::<Result<Vec<_>>>()?;
        let mut worst: f64 = 0.0;
        for (e, g) in expected.iter().zip(&serial) {
            for (e, g) in e.iter().zip(g) {
                worst = worst.max(relative(e, g));
            }
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|t| {
                    let (on_gpu, serial, answer) = (&on_gpu, &serial, &answer);
                    scope.spawn(move || -> Result<()> {
                        for i in 0..requests.len() * 4 {
                            let n = (i + t) % requests.len();
                            if answer(on_gpu, &requests[n])? != serial[n] {
                                return Err(Error::internal(format!(
                                    "request {n} on thread {t} differs from the serial run"
                                )));
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|t| t.join().map_err(|p| Error::internal(panic_text(&*p)))?)
        })?;
        Ok(worst)
    };
    let worst = run().map_err(|e| e.to_string())?;
    let text = format!(
        "{} requests, off by {worst:.1e} at most, 8 threads equal to the serial run to the bit",
        requests.len()
    );
    if worst <= tolerance { Ok(text) } else { Err(text) }
}

/// Normal numbers, of float32 or bfloat16.
pub(crate) fn normal(dtype: DType, shape: &[usize], seed: u64) -> HostTensor {
    let mut random = Normal::new(seed);
    let mut t = HostTensor::zeros(TensorType::new(dtype, shape)).expect("room");
    let size = dtype.size();
    for i in 0..t.ty().shape.len() {
        let bits = random.next().to_bits().to_le_bytes();
        match dtype {
            DType::F32 => t.bytes_mut()[i * size..][..4].copy_from_slice(&bits),
            // bfloat16 is the upper half.
            _ => t.bytes_mut()[i * size..][..2].copy_from_slice(&bits[2..]),
        }
    }
    t
}

/// Inputs of a sentence encoder.
pub(crate) fn sentence(batch: usize, tokens: usize, seed: u64) -> Vec<HostTensor> {
    let mut random = Normal::new(seed);
    let ids: Vec<i64> = (0..batch * tokens).map(|_| 1000 + (random.next().abs() * 5000.0) as i64).collect();
    let shape = [batch, tokens];
    let make = |v: Vec<i64>| HostTensor::from_vec(shape, v).expect("a small tensor");
    vec![make(ids), make(vec![1; batch * tokens]), make(vec![0; batch * tokens])]
}
