//! Row 11: linear algebra from several threads, checked by putting the results together again.

use streampool::{Device, Result, Tensor, linalg};

use crate::support::{on_every_device, on_threads, randn, same_as_serial};

/// `||a - b|| / ||b||` over all elements.
fn relative(a: &Tensor, b: &Tensor) -> Result<f32> {
    let difference = a.sub(b)?.norm(&[], false)?.item::<f32>()?;
    Ok(difference / b.norm(&[], false)?.item::<f32>()?)
}

fn decompose(device: &Device, seed: u64) -> Result<()> {
    let n = 64;
    let a = randn(device, &[n, n], seed)?;
    let identity = Tensor::eye(device, n, streampool::DType::F32)?;
    let symmetric = a.add(&a.t()?)?;
    let positive = a.mm(&a.t()?)?.add(&identity.mul_scalar(n as f64)?)?;
    let b = randn(device, &[n, 3], seed + 1)?;

    let l = linalg::cholesky(&positive)?;
    assert!(relative(&l.mm(&l.t()?)?, &positive)? < 1e-4);
    let (q, r) = linalg::qr(&a)?;
    assert!(relative(&q.mm(&r)?, &a)? < 1e-4);
    assert!(relative(&q.t()?.mm(&q)?, &identity)? < 1e-4);
    let (u, s, vt) = linalg::svd(&a)?;
    assert!(relative(&u.mul(&s)?.mm(&vt)?, &a)? < 1e-4);
    let (w, v) = linalg::eigh(&symmetric)?;
    assert!(relative(&v.mul(&w)?.mm(&v.t()?)?, &symmetric)? < 1e-4);
    let x = linalg::solve(&positive, &b)?;
    assert!(relative(&positive.mm(&x)?, &b)? < 1e-4);
    assert!(relative(&linalg::inv(&positive)?.mm(&positive)?, &identity)? < 1e-4);
    let d = randn(device, &[3, 3], seed + 2)?;
    let e = d.to_vec::<f32>()?;
    let by_hand = e[0] * (e[4] * e[8] - e[5] * e[7]) - e[1] * (e[3] * e[8] - e[5] * e[6])
        + e[2] * (e[3] * e[7] - e[4] * e[6]);
    assert!((linalg::det(&d)?.item::<f32>()? - by_hand).abs() <= 1e-4 * by_hand.abs().max(1.0));
    Ok(())
}

#[test]
fn decompositions_from_four_threads() {
    on_every_device(8, |device| {
        on_threads(4, 3, |t, i| {
            decompose(device, (t * 100 + i * 10) as u64)?;
            randn(device, &[1], 1)?.to_host()
        });
        Ok(())
    });
}

#[test]
fn products_from_four_threads() {
    on_every_device(8, |device| {
        same_as_serial(4, 5, |t, i| {
            let seed = (t * 100 + i * 3) as u64;
            randn(device, &[32, 64, 128], seed)?.bmm(&randn(device, &[32, 128, 64], seed + 1)?)?.to_host()
        })?;
        same_as_serial(2, 5, |t, i| {
            let x = randn(device, &[64, 128], (t * 100 + i) as u64)?;
            x.t()?.mm(&x)?.to_host()
        })
    });
}

#[test]
fn a_singular_matrix_is_an_error_of_that_call() {
    let device = Device::cpu().unwrap();
    let zero = Tensor::zeros(&device, [3, 3], streampool::DType::F32).unwrap();
    assert!(linalg::inv(&zero).unwrap_err().is_invalid_argument());
    assert!(linalg::cholesky(&zero).unwrap_err().is_invalid_argument());
    assert_eq!(linalg::det(&zero).unwrap().item::<f32>().unwrap(), 0.0);
}
