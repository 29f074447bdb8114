//! Tensors handed between threads without any synchronisation by the user: row 10, and use after drop.

use std::sync::mpsc;

use crate::support::{on_every_device, randn};

#[test]
fn a_tensor_handed_over_without_sync_has_its_value() {
    on_every_device(8, |device| {
        let (send, receive) = mpsc::sync_channel(2);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for i in 0..200u64 {
                    let a = randn(device, &[64, 64], i).unwrap();
                    // The producer's handle is gone as soon as it is sent.
                    send.send((i, a.mm(&a).unwrap())).unwrap();
                }
            });
            scope.spawn(move || {
                let mut count = 0;
                for (i, product) in receive {
                    let sum = product.mm(&product).unwrap().sum(&[], false).unwrap();
                    drop(product);
                    let got = sum.item::<f32>().unwrap();
                    let a = randn(device, &[64, 64], i).unwrap();
                    let p = a.mm(&a).unwrap();
                    let want = p.mm(&p).unwrap().sum(&[], false).unwrap().item::<f32>().unwrap();
                    assert_eq!(got.to_bits(), want.to_bits(), "round {i}");
                    count += 1;
                }
                assert_eq!(count, 200);
            });
        });
        Ok(())
    });
}

#[test]
fn eight_threads_use_one_tensor_that_its_maker_drops() {
    on_every_device(16, |device| {
        for round in 0..10u64 {
            let shared = randn(device, &[128, 128], round)?;
            let want = shared.mm(&shared)?.to_vec::<f32>()?;
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    let (mine, want) = (shared.clone(), &want);
                    scope.spawn(move || {
                        for _ in 0..5 {
                            assert_eq!(mine.mm(&mine).unwrap().to_vec::<f32>().unwrap(), *want);
                        }
                    });
                }
                drop(shared);
            });
        }
        Ok(())
    });
}
