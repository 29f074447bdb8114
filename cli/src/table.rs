//! Tables for people, and numbers as they like them.

use std::time::Duration;

/// Lines of equal columns: the first to the left, the others, numbers, to the right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    lines(head, rows, 1)
}

/// Lines of equal columns, all words: to the left.
pub(crate) fn text_table(head: &[&str], rows: &[Vec<String>]) -> String {
    lines(head, rows, usize::MAX)
}

/// Lines of equal columns, the first `left` of them to the left.
fn lines(head: &[&str], rows: &[Vec<String>], left: usize) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut out = String::new();
        for (i, (cell, &w)) in cells.zip(&widths).enumerate() {
            out += if i == 0 { "" } else { "  " };
            out += &if i < left { format!("{cell:<w$}") } else { format!("{cell:>w$}") };
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
        out
    };
    let mut out = line(&mut head.iter().copied());
    for row in rows {
        out += &line(&mut row.iter().map(String::as_str));
    }
    out
}

/// `1.50 us`, `23.4 ms`: three digits.
pub(crate) fn time(t: Duration) -> String {
    let s = t.as_secs_f64();
    let (v, unit) = match s {
        s if s < 1e-6 => (s * 1e9, "ns"),
        s if s < 1e-3 => (s * 1e6, "us"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    format!("{} {unit}", digits(v))
}

/// `512 B`, `1.50 MiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut v = n as f64 / 1024.0;
    let mut unit = 0;
    while v >= 1024.0 && unit + 1 < UNITS.len() {
        v /= 1024.0;
        unit += 1;
    }
    format!("{} {}", digits(v), UNITS[unit])
}

/// Three digits that count: `0.123`, `1.23`, `12.3`, `123`; from 1,000 on with separators.
pub(crate) fn digits(v: f64) -> String {
    match v.abs() {
        a if a < 0.9995 => format!("{v:.3}"),
        a if a < 9.995 => format!("{v:.2}"),
        a if a < 99.95 => format!("{v:.1}"),
        _ => thousands(v.round() as i64),
    }
}

/// `1,234,567`.
pub(crate) fn thousands(n: i64) -> String {
    let plain = n.unsigned_abs().to_string();
    let mut out = String::new();
    for (i, c) in plain.chars().enumerate() {
        if i > 0 && (plain.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    if n < 0 { format!("-{out}") } else { out }
}

/// `97.5 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let t = table(
            &["threads", "req/s"],
            &[vec!["1".into(), "5".into()], vec!["16".into(), "12,345,678".into()]],
        );
        assert_eq!(t, "threads       req/s\n1                 5\n16       12,345,678\n");
        let t = text_table(
            &["step", "kernel"],
            &[vec!["0 Conv".into(), "a".into()], vec!["1".into(), "bc".into()]],
        );
        assert_eq!(t, "step    kernel\n0 Conv  a\n1       bc\n");
    }

    #[test]
    fn numbers_have_three_digits() {
        let cases = [
            (0.0, "0.000"),
            (0.1234, "0.123"),
            (9.999, "10.0"),
            (99.99, "100"),
            (1234.5, "1,235"),
            (-5.678, "-5.68"),
        ];
        for (v, text) in cases {
            assert_eq!(digits(v), text);
        }
        assert_eq!(thousands(-1_234_567), "-1,234,567");
        assert_eq!(time(Duration::from_nanos(1_500)), "1.50 us");
        assert_eq!(time(Duration::from_millis(2_346)), "2.35 s");
        assert_eq!(
            (bytes(1023), bytes(1536), bytes(3 << 30)),
            ("1023 B".into(), "1.50 KiB".into(), "3.00 GiB".into())
        );
    }
}
