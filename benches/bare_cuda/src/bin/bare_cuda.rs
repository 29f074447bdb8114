//! Calls per second of bare cuBLASLt loops: `bare_cuda [SECONDS]`.

use std::time::Duration;

use streampool_bare_cuda::{Bare, Kind, rate};

fn main() {
    let seconds = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0.5);
    let time = Duration::from_secs_f64(seconds);
    for (name, widths, batch) in [("W1", &[2048usize, 2048][..], 64), ("W3", &[512, 1024, 1024, 512], 1)] {
        for kind in [Kind::F32, Kind::Tf32, Kind::Bf16] {
            for graph in [false, true] {
                print!("{name} {kind:?} {}:", if graph { "graph" } else { "calls" });
                for threads in [1, 2, 4, 8, 16] {
                    let calls = rate(threads, time, |_| {
                        let bare = Bare::new(widths, batch, kind, graph);
                        move || bare.call()
                    });
                    print!(" {calls:.0}");
                }
                println!();
            }
        }
    }
}
