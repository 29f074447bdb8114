//! `streampool info`: devices, features, versions.

use serde::Serialize;
use streampool::{Device, Result};

use crate::args::Info;
use crate::device::cores;
use crate::exit::Failure;
use crate::table::{bytes, table};

#[derive(Serialize)]
struct Summary {
    version: &'static str,
    system: String,
    cores: usize,
    devices: Vec<Entry>,
    /// Why no NVIDIA GPU is listed, if none is.
    cuda_missing: Option<String>,
}

#[derive(Serialize)]
struct Entry {
    name: String,
    description: String,
    memory_bytes: usize,
    memory_limit_bytes: usize,
    streams: usize,
    inline: bool,
    host_memory: bool,
    queue_depth: usize,
}

/// Runs the command.
pub(crate) fn run(options: &Info) -> Result<(), Failure> {
    let devices = Device::available().iter().map(|name| entry(name)).collect::<Result<Vec<_>>>()?;
    let summary = Summary {
        version: env!("CARGO_PKG_VERSION"),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        cores: cores(),
        devices,
        cuda_missing: Device::cuda_missing(),
    };
    options
        .report
        .say(&format!("streampool {} on {}, {} cores\n", summary.version, summary.system, summary.cores));
    let rows: Vec<Vec<String>> = summary
        .devices
        .iter()
        .map(|d| {
            vec![
                d.name.clone(),
                d.streams.to_string(),
                bytes(d.memory_bytes as u64),
                bytes(d.memory_limit_bytes as u64),
                d.description.clone(),
            ]
        })
        .collect();
    options.report.say(&table(&["device", "streams", "memory", "limit", "description"], &rows));
    if let Some(missing) = &summary.cuda_missing {
        options.report.say(&format!("\n{missing}\n"));
    }
    options.report.write(&summary)?;
    Ok(())
}

fn entry(name: &str) -> Result<Entry> {
    let device = Device::open(name)?;
    let info = device.info();
    Ok(Entry {
        name: info.name.clone(),
        description: info.description.clone(),
        memory_bytes: info.memory_bytes,
        memory_limit_bytes: device.memory_stats().limit,
        streams: device.pool_stats()?.size,
        inline: info.inline,
        host_memory: info.host_memory,
        queue_depth: info.queue_depth,
    })
}
