//! Calls per second over threads as an SVG picture that needs nothing else.

use std::fmt::Write;

use crate::stats::Spread;
use crate::table::digits;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 50.0;

/// Median with least and greatest at each thread count, and the dashed line of perfect scaling up to `cores` threads.
pub(crate) fn throughput(title: &str, points: &[(usize, Spread)], cores: usize) -> String {
    let most_threads = points.iter().map(|p| p.0).max().unwrap_or(1).max(1);
    let one = points.iter().find(|p| p.0 == 1).map(|p| p.1.median);
    let ideal = |n: usize| one.map(|o| o * n.min(cores) as f64);
    let top = points.iter().map(|p| p.1.max).chain(ideal(most_threads)).fold(0.0, f64::max);
    let step = nice(top / 5.0);
    let top = (top / step).ceil().max(1.0) * step;
    let x = |n: usize| LEFT + (WIDTH - LEFT - RIGHT) * n as f64 / most_threads as f64;
    let y = |v: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * v / top;

    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{}\" y=\"24\" font-size=\"16\" text-anchor=\"middle\">{}</text>\n",
        WIDTH / 2.0,
        escape(title)
    );
    // Writing to a String cannot fail.
    let mut v = 0.0;
    while v <= top * 1.0001 {
        let (at, label) = (y(v), digits(v));
        let label = if v == 0.0 { "0" } else { &label };
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0
        );
        v += step;
    }
    for &(n, _) in points {
        let _ = writeln!(
            out,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{n}</text>",
            x(n),
            HEIGHT - BOTTOM + 18.0
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">threads</text>\
         <text transform=\"translate(16 {}) rotate(-90)\" text-anchor=\"middle\">calls per second</text>",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 12.0,
        (TOP + HEIGHT - BOTTOM) / 2.0
    );
    if let Some(one) = one {
        let corner = cores.min(most_threads);
        let _ = writeln!(
            out,
            "<polyline points=\"{:.1},{:.1} {:.1},{:.1} {:.1},{:.1}\" fill=\"none\" stroke=\"#888\" \
             stroke-dasharray=\"5 4\"/>",
            x(1),
            y(one),
            x(corner),
            y(one * corner as f64),
            x(most_threads),
            y(one * corner as f64)
        );
    }
    let line: Vec<_> = points.iter().map(|(n, s)| format!("{:.1},{:.1}", x(*n), y(s.median))).collect();
    let _ = writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#1565c0\" stroke-width=\"2\"/>",
        line.join(" ")
    );
    for (n, s) in points {
        let (at, median) = (x(*n), y(s.median));
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{:.1}\" y2=\"{:.1}\" stroke=\"#1565c0\"/>\
             <circle cx=\"{at:.1}\" cy=\"{median:.1}\" r=\"4\" fill=\"#1565c0\"><title>{} threads: {} per second \
             ({} to {})</title></circle>",
            y(s.min),
            y(s.max),
            n,
            digits(s.median),
            digits(s.min),
            digits(s.max)
        );
    }
    out += "</svg>\n";
    out
}

/// The next of 1, 2, 5 times a power of ten.
fn nice(v: f64) -> f64 {
    let v = v.max(1e-9);
    let power = 10_f64.powf(v.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|&c| c >= v * 0.999).unwrap_or(10.0 * power)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axis_steps_are_round() {
        for (v, step) in [(0.7, 1.0), (1.1, 2.0), (3.0, 5.0), (7000.0, 10_000.0), (200.0, 200.0)] {
            assert!((nice(v) / step - 1.0).abs() < 1e-9, "{v}: {}", nice(v));
        }
    }

    #[test]
    fn every_point_is_drawn_inside_the_frame() {
        let s = |m: f64| Spread { median: m, min: m * 0.9, max: m * 1.1 };
        let svg = throughput("W1 <linear>", &[(1, s(100.0)), (2, s(195.0)), (8, s(190.0))], 2);
        assert!(svg.contains("W1 &lt;linear&gt;") && svg.trim_end().ends_with("</svg>"));
        assert_eq!(svg.matches("<circle").count(), 3);
        let heights =
            svg.split("cy=\"").skip(1).map(|t| t.split('"').next().unwrap().parse::<f64>().unwrap());
        for y in heights {
            assert!((TOP..=HEIGHT - BOTTOM).contains(&y), "{y}");
        }
    }
}
