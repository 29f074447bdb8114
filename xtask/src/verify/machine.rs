//! What the report says of the machine, the source and the tools.

use std::fs;

use crate::process::first_line;

/// Now, in UTC, as `2026-01-31 12:00:00 UTC`.
pub(crate) fn now() -> String {
    let seconds =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days as i64);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// The date of a day counted from 1970-01-01 (Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// The commit, and whether the files differ from it.
pub(crate) fn commit() -> String {
    let Some(head) = first_line("git", &["rev-parse", "HEAD"]) else {
        return "unknown: not a git checkout, or git is not installed".into();
    };
    let changed = first_line("git", &["status", "--porcelain"]).is_some();
    format!("{head}{}", if changed { ", with changes that are not committed" } else { "" })
}

/// Name and value of what the machine is.
pub(crate) fn machine() -> Vec<(String, String)> {
    let field = |file: &str, name: &str, separator: char| {
        let text = fs::read_to_string(file).ok()?;
        let line =
            text.lines().find(|line| line.split(separator).next().is_some_and(|key| key.trim() == name))?;
        Some(line.split_once(separator)?.1.trim().trim_matches('"').to_owned())
    };
    let system = field("/etc/os-release", "PRETTY_NAME", '=')
        .or_else(|| Some(format!("macOS {}", first_line("sw_vers", &["-productVersion"])?)))
        .unwrap_or_else(|| std::env::consts::OS.to_owned());
    let kernel = first_line("uname", &["-sr"]).unwrap_or_default();
    let processor = field("/proc/cpuinfo", "model name", ':')
        .or_else(|| first_line("sysctl", &["-n", "machdep.cpu.brand_string"]))
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field("/proc/meminfo", "MemTotal", ':')
        .and_then(|text| text.split(' ').next()?.parse::<f64>().ok())
        .map(|kib| kib / f64::from(1 << 20))
        .or_else(|| {
            Some(first_line("sysctl", &["-n", "hw.memsize"])?.parse::<f64>().ok()? / f64::from(1 << 30))
        });
    let memory = memory.map_or("unknown".into(), |gib| format!("{gib:.1} GiB"));
    let rows = [
        ("System", format!("{system}, {kernel}, {}", std::env::consts::ARCH)),
        ("Processor", format!("{processor}, {cores} cores usable")),
        ("Memory", memory),
    ];
    rows.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Name and value of what the report was made with.
pub(crate) fn versions() -> Vec<(String, String)> {
    let or_missing = |line: Option<String>| line.unwrap_or_else(|| "not installed".into());
    [
        ("streampool", env!("CARGO_PKG_VERSION").to_owned()),
        ("rustc", or_missing(first_line("rustc", &["--version"]))),
        ("cargo", or_missing(first_line("cargo", &["--version"]))),
        ("Python", or_missing(first_line(super::python::program(), &["--version"]))),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        let known = [
            (0, (1970, 1, 1)),
            (19_782, (2024, 2, 29)),
            (19_783, (2024, 3, 1)),
            (11_016, (2000, 2, 29)),
            (20_453, (2025, 12, 31)),
        ];
        for (day, date) in known {
            assert_eq!(civil(day), date);
        }
        assert!(now().ends_with(" UTC") && now().starts_with("20"));
    }
}
