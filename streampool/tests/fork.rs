//! Forks: the child gets typed errors, the parent goes on (rows 1, 22, 23). A process of its own, since forking needs `unsafe`.
#![cfg(unix)]

use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::time::Duration;

use streampool::{DType, Device, Generator, Tensor};

/// Forks; the child runs `child` and leaves without unwinding into the test harness. Returns what the child said.
fn in_child(child: impl FnOnce() -> String) -> String {
    let mut ends = [0i32; 2];
    // SAFETY: `ends` has room for two descriptors.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    // SAFETY: the child only calls `child`, writes to the pipe and leaves by `_exit`.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: the descriptor is the pipe's, owned by nobody else in this process.
            let mut pipe = unsafe { std::fs::File::from_raw_fd(ends[1]) };
            let said =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or("panicked".into());
            let _ = pipe.write_all(said.as_bytes());
            // SAFETY: ends the child at once; nothing of the parent's is cleaned up twice.
            unsafe { libc::_exit(0) }
        }
        pid => {
            assert!(pid > 0, "fork failed");
            // SAFETY: as above; the child's end is closed so that reading ends when the child does.
            let mut pipe = unsafe {
                libc::close(ends[1]);
                std::fs::File::from_raw_fd(ends[0])
            };
            let (done, finished) = std::sync::mpsc::channel();
            let reader = std::thread::spawn(move || {
                let mut said = String::new();
                pipe.read_to_string(&mut said).unwrap();
                let _ = done.send(());
                said
            });
            if finished.recv_timeout(Duration::from_secs(20)).is_err() {
                // SAFETY: a child of ours that is still there.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                panic!("the child hangs");
            }
            let mut status = 0;
            // SAFETY: waits for a child of ours; `status` is valid.
            assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "the child died: {status:#x}");
            reader.join().unwrap()
        }
    }
}

fn use_everything(device: &Device, x: &Tensor) -> String {
    let checks: Vec<(&str, streampool::Result<()>)> = vec![
        ("operation", x.mm(x).map(drop)),
        ("read", x.to_vec::<f32>().map(drop)),
        ("creation", Tensor::zeros(device, [4], DType::F32).map(drop)),
        ("lease", device.lease().map(drop)),
        ("stream", device.current_stream().map(drop)),
        ("synchronize", device.synchronize()),
        ("synchronize_stream", device.synchronize_stream()),
        ("empty_cache", device.empty_cache()),
        ("pool_stats", device.pool_stats().map(drop)),
        ("close", device.close(Duration::from_secs(1))),
    ];
    for (name, outcome) in checks {
        match outcome {
            Err(e) if e.is_forked() && e.to_string().contains("spawn") => {}
            other => return format!("{name}: {other:?}"),
        }
    }
    // A device of the child's own works.
    let own = match Device::cpu().and_then(|own| {
        let y = Tensor::ones(&own, [8, 8], DType::F32)?;
        y.mm(&y)?.sum(&[], false)?.item::<f32>()
    }) {
        Ok(512.0) => "forked, and a device of its own computes",
        other => return format!("own device: {other:?}"),
    };
    own.to_owned()
}

#[test]
fn a_child_is_told_and_the_parent_goes_on() {
    for name in ["cpu", "sim"] {
        let device = Device::builder(name).streams(8).open().unwrap();
        let x = Tensor::randn(&device, [64, 64], DType::F32, &Generator::new(1)).unwrap();
        let want = x.mm(&x).unwrap().to_vec::<f32>().unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Threads compute, allocate and free all the while, so that the fork finds locks held.
            let workers: Vec<_> = (0..6)
                .map(|_| {
                    scope.spawn(|| {
                        let mut rounds = 0;
                        while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                            assert_eq!(x.mm(&x).unwrap().to_vec::<f32>().unwrap(), want);
                            rounds += 1;
                        }
                        rounds
                    })
                })
                .collect();
            let said: Vec<String> = (0..10)
                .map(|_| {
                    in_child(|| {
                        let said = use_everything(&device, &x);
                        drop(x.clone());
                        said
                    })
                })
                .collect();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            for said in said {
                assert_eq!(said, "forked, and a device of its own computes", "on {name}");
            }
            for worker in workers {
                assert!(worker.join().unwrap() > 0);
            }
        });
        for _ in 0..100 {
            assert_eq!(x.mm(&x).unwrap().to_vec::<f32>().unwrap(), want);
        }
    }
}
