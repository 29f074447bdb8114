//! `cargo run --release -p streampool-verify -- check`: visits every state of the design model, and shows that each planted fault is caught.
//! `-- deep`: larger systems as well. `-- explore [ADDRESS] [FAULT]`: stateright's Explorer in a browser, to walk through the states by hand.

use std::process::ExitCode;
use std::time::Instant;

use stateright::Model;
use streampool_verify::check::{check, deep_systems, faulty, systems};
use streampool_verify::system::{Fault, System};

const HELP: &str = "usage: streampool-verify check | deep | explore [ADDRESS] [FAULT]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] | ["check"] => report(systems()),
        ["deep"] => report(systems().into_iter().chain(deep_systems()).collect()),
        ["explore", rest @ ..] if rest.len() < 3 => explore(rest),
        _ => {
            eprintln!("{HELP}");
            ExitCode::from(2)
        }
    }
}

fn report(systems: Vec<(&str, System)>) -> ExitCode {
    let mut failed = false;
    for (name, system) in systems {
        let start = Instant::now();
        let found = check(&system);
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "design model, {name}: {} states, {} transitions, {seconds:.1} s",
            found.states, found.steps
        );
        for failure in &found.failures {
            println!("  FAILED {}: {}", failure.what, failure.way);
            failed = true;
        }
    }
    for fault in Fault::ALL {
        match check(&faulty(fault)).failures.first() {
            Some(caught) => println!("planted {fault}: caught by '{}'", caught.what),
            None => {
                println!("planted {fault}: NOT CAUGHT");
                failed = true;
            }
        }
    }
    ExitCode::from(u8::from(failed))
}

fn explore(arguments: &[&str]) -> ExitCode {
    let address = arguments.first().copied().unwrap_or("localhost:3000");
    let system = match arguments.get(1) {
        None => systems().remove(1).1,
        Some(name) => match Fault::ALL.into_iter().find(|fault| fault.to_string() == *name) {
            Some(fault) => faulty(fault),
            None => {
                let known: Vec<String> = Fault::ALL.iter().map(Fault::to_string).collect();
                eprintln!("there is no fault '{name}'; there are: {}", known.join(", "));
                return ExitCode::from(2);
            }
        },
    };
    println!("exploring {system:?}; open http://{address}/ in a browser, end with Ctrl-C");
    system.checker().serve(address);
    ExitCode::SUCCESS
}
