//! What ends a process, or would: in processes of their own.

use std::io::Read;
use std::process::{Command, Stdio, exit};
use std::time::{Duration, Instant};

use streampool::{DType, Device, Model, Result, Tensor};

use crate::compare::normal;
use crate::report::Report;
use crate::synthetic::{Width, mlp_of};

/// The first argument of such a process.
pub(crate) const MARK: &str = "--child";

/// Runs what the parent asked for; does not return.
pub(crate) fn child(what: &str) -> ! {
    let said = match what {
        "fork" => fork(),
        "exit" => exit_while_computing(),
        "lost" => lost(),
        "opens" => Device::cuda(0)
            .and_then(|d| Tensor::ones(&d, [4], DType::F32)?.sum(&[0], false)?.item::<f32>())
            .map(|s| format!("ok, {s}")),
        _ => Ok("no such check".into()),
    };
    match said {
        Ok(text) => println!("{text}"),
        Err(e) => println!("error: {e}"),
    }
    exit(0)
}

/// What a child process said, and its exit code; an error if it takes longer than a minute.
fn run(what: &str) -> Result<(String, Option<i32>), String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut process = Command::new(own)
        .args([MARK, what])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    let mut out = process.stdout.take().ok_or("no output")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = out.read_to_string(&mut text);
        text
    });
    let start = Instant::now();
    let code = loop {
        match process.try_wait().map_err(|e| e.to_string())? {
            Some(status) => break status.code(),
            None if start.elapsed() > Duration::from_secs(60) => {
                let _ = process.kill();
                return Err(format!("{what}: no end after a minute"));
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    Ok((reader.join().unwrap_or_default().trim().to_owned(), code))
}

/// Every check that needs a process.
pub(crate) fn all(report: &mut Report) {
    let expect = |what: &str, code: i32| -> Result<String, String> {
        let start = Instant::now();
        let (said, ended) = run(what)?;
        let text = format!("{said} (exit status {ended:?} after {:.1?})", start.elapsed());
        if said.starts_with("ok") && ended == Some(code) { Ok(text) } else { Err(text) }
    };
    report.run("fork", || expect("fork", 0));
    report.run("exit with threads computing", || expect("exit", 7));
    report.run("device lost", || expect("lost", 0));
    report.run("a new process after it", || expect("opens", 0));
}

/// A forked child is refused by name; the parent goes on.
fn fork() -> Result<String> {
    let device = Device::cuda(0)?;
    let ones = Tensor::ones(&device, [1000], DType::F32)?;
    let sum = || ones.add(&ones)?.sum(&[0], false)?.item::<f32>();
    sum()?;
    // SAFETY: the child only asks for one tensor and leaves by `_exit`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let code = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(&sum)) {
            Ok(Err(e)) if e.is_forked() => 0,
            Ok(Err(_)) => 1,
            Ok(Ok(_)) => 2,
            Err(_) => 3,
        };
        // SAFETY: ends the child at once; nothing of the parent's is cleaned up twice.
        unsafe { libc::_exit(code) }
    }
    let mut status = -1;
    // SAFETY: waits for the child that was just made; `status` has room.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    let again = sum()?;
    Ok(if waited == pid && status == 0 && again == 2000.0 {
        "ok, the child was refused as forked, the parent went on".into()
    } else {
        format!(
            "wait status {status} (256: another error, 512: it ran, 768: a panic), the parent's sum is {again}"
        )
    })
}

/// Leaves the process while eight threads run a model.
fn exit_while_computing() -> Result<String> {
    let device = Device::cuda(0)?;
    let model = Model::from_bytes(&device, mlp_of(&[512, 1024, 1024, 512], Width::Float32))?;
    let input = Tensor::from_host(&device, &normal(DType::F32, &[8, 512], 1))?;
    model.run_ordered(&[(&input).into()])?;
    std::thread::scope(|scope| -> Result<String> {
        for _ in 0..8 {
            scope.spawn(|| while model.run_ordered(&[(&input).into()]).is_ok() {});
        }
        std::thread::sleep(Duration::from_millis(300));
        println!("ok, left while 8 threads computed");
        exit(7)
    })
}

/// A kernel that is not ours writes to an address that is nobody's: the device is lost, and every call says so as a value.
fn lost() -> Result<String> {
    let device = Device::cuda(0)?;
    let ones = Tensor::ones(&device, [1000], DType::F32)?;
    let sum = || ones.add(&ones)?.sum(&[0], false)?.item::<f32>();
    sum()?;
    streampool_bare_cuda::write_to_nowhere();
    let mut said = Vec::new();
    for _ in 0..3 {
        match sum() {
            Err(e) if e.is_device_lost() => said.push(e.to_string()),
            Err(e) => return Ok(format!("another error: {e:?}")),
            Ok(v) => return Ok(format!("a result: {v}")),
        }
    }
    let others = std::thread::scope(|s| {
        s.spawn(|| matches!(sum(), Err(e) if e.is_device_lost())).join().unwrap_or(false)
    });
    let opened = match Device::cuda(0) {
        Ok(_) => "opens".to_owned(),
        Err(e) => format!("is refused: {e}"),
    };
    drop(ones);
    Ok(if others {
        format!("ok, {}; a second device of this process {opened}", said[0])
    } else {
        "another thread got no such error".into()
    })
}
