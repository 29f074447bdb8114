//! What processor this is.

use crate::simd::Isa;

/// The processor's name, for people.
pub(crate) fn describe(cores: usize) -> String {
    let name = std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|l| l.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    format!("{name}, {cores} core(s), {}", Isa::detect().name())
}
