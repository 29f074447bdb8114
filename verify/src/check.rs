//! Safety by stateright, liveness by [`crate::liveness`], over the same steps.

use stateright::{Checker, Expectation, Model};

use crate::liveness::Graph;
use crate::system::{At, Fault, Phase, State, Step, System};

/// More states than any of the checked systems has. Reaching it is a failure.
const MOST: usize = 4_000_000;

/// What was checked and what was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Reachable states; with a fault, up to where it was found.
    pub states: usize,
    /// Steps between them.
    pub steps: usize,
    /// What does not hold, with the way there.
    pub failures: Vec<Failure>,
}

/// Something that does not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What.
    pub what: String,
    /// The steps that lead there, one a line.
    pub way: String,
}

/// The systems that are checked without a fault, by name.
pub fn systems() -> Vec<(&'static str, System)> {
    let system =
        System { threads: 3, slots: 2, blocks: 2, credits: 1, exits: false, closes: false, fault: None };
    vec![
        (
            "3 threads on 1 slot, 1 block, 2 in flight, exits, shutdown",
            System { slots: 1, blocks: 1, credits: 2, exits: true, closes: true, ..system.clone() },
        ),
        ("3 threads on 2 slots, 2 blocks, 1 in flight, shutdown", System { closes: true, ..system.clone() }),
        (
            "2 threads on 2 slots, 2 blocks, 2 in flight, exits, shutdown",
            System { threads: 2, credits: 2, exits: true, closes: true, ..system.clone() },
        ),
    ]
}

/// Larger ones, which take minutes.
pub fn deep_systems() -> Vec<(&'static str, System)> {
    let system =
        System { threads: 3, slots: 2, blocks: 2, credits: 2, exits: true, closes: true, fault: None };
    vec![
        (
            "4 threads on 1 slot, 2 blocks, 2 in flight, shutdown",
            System { threads: 4, slots: 1, exits: false, ..system.clone() },
        ),
        ("3 threads on 2 slots, 2 blocks, 2 in flight, exits, shutdown", system),
    ]
}

/// The system on which a fault is planted.
pub fn faulty(fault: Fault) -> System {
    // The pool's faults show where threads are more than slots, those of ordering where a block goes from stream to stream.
    let (threads, slots, blocks) = match fault {
        Fault::DropWait | Fault::EarlyReuse | Fault::EarlyMove | Fault::WaitForTheFuture => (2, 2, 1),
        _ => (3, 1, 1),
    };
    System {
        threads,
        slots,
        blocks,
        credits: 1,
        exits: fault == Fault::LeakAtExit,
        closes: true,
        fault: Some(fault),
    }
}

/// Visits every state of a system.
pub fn check(system: &System) -> Report {
    let mut failures = Vec::new();
    let checker = system.clone().checker().spawn_bfs().join();
    let mut found = checker.discoveries();
    for property in system.properties() {
        match (&property.expectation, found.remove(property.name)) {
            (Expectation::Sometimes, None) if system.fault.is_none() => {
                let what = format!("it never comes to this: {}", property.name);
                failures.push(Failure { what, way: String::new() });
            }
            (Expectation::Sometimes, _) | (_, None) => {}
            (_, Some(path)) => {
                let steps: Vec<String> = path.into_actions().iter().map(|step| format!("{step:?}")).collect();
                failures.push(Failure { what: property.name.to_owned(), way: steps.join(", ") });
            }
        }
    }
    if !failures.is_empty() {
        return Report { states: checker.unique_state_count(), steps: checker.state_count(), failures };
    }
    let Some(graph) = graph(system) else {
        let what = format!("all states were visited ({MOST} were, and there are more)");
        return Report { states: MOST, steps: 0, failures: vec![Failure { what, way: String::new() }] };
    };
    assert_eq!(graph.states.len(), checker.unique_state_count(), "two searches, one set of states");
    let actors = system.actors();
    for thread in 0..system.threads {
        let due =
            |state: &State| matches!(state.threads[usize::from(thread)].at, At::Waiting | At::Granted(_));
        if let Some(lasso) = graph.find_lasso(&actors, due) {
            failures.push(Failure {
                what: format!("every waiter is served: thread {thread} waits for ever (INV-2, 12)"),
                way: told(&lasso.stem, &lasso.component),
            });
        }
    }
    if let Some(lasso) = graph.find_lasso(&actors, |state| state.phase == Phase::Closing) {
        failures.push(Failure {
            what: "shutdown ends (INV-11)".to_owned(),
            way: told(&lasso.stem, &lasso.component),
        });
    }
    if let Some(lasso) =
        graph.find_lasso(&actors, |state| !state.work.is_empty() && state.phase != Phase::Open)
    {
        failures.push(Failure {
            what: "submitted work is done (INV-12)".to_owned(),
            way: told(&lasso.stem, &lasso.component),
        });
    }
    Report { states: graph.states.len(), steps: graph.steps.iter().map(Vec::len).sum(), failures }
}

fn graph(system: &System) -> Option<Graph<State, crate::system::Actor>> {
    let init = system.init_states().into_iter().next().expect("there is one");
    Graph::explore(init, MOST, |state| {
        let mut steps: Vec<Step> = Vec::new();
        system.actions(state, &mut steps);
        let next = steps.into_iter().filter_map(|step| Some((system.next_state(state, step)?, step.actor())));
        next.collect()
    })
}

fn told(stem: &[State], component: &[State]) -> String {
    let threads = |state: &State| format!("{:?}", state.threads.iter().map(|t| t.at).collect::<Vec<_>>());
    let last = stem.last().map(threads).unwrap_or_default();
    format!(
        "after {} steps the threads are {last}, and go on so among {} states",
        stem.len() - 1,
        component.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_holds(systems: Vec<(&str, System)>) {
        for (name, system) in systems {
            let report = check(&system);
            println!("design model, {name}: {} states, {} transitions", report.states, report.steps);
            assert!(report.failures.is_empty(), "{name}: {:#?}", report.failures);
            assert!(report.states > 1000, "{name}: too small to mean anything");
        }
    }

    #[test]
    fn every_state_is_right_every_waiter_is_served_and_shutdown_ends() {
        assert_holds(systems());
    }

    #[test]
    fn it_holds_for_larger_systems() {
        if std::env::var_os("STREAMPOOL_DEEP").is_some_and(|deep| deep != "0") {
            assert_holds(deep_systems());
        }
    }

    #[test]
    fn the_systems_that_faults_are_planted_in_are_right_without_them() {
        for fault in Fault::ALL {
            let report = check(&System { fault: None, ..faulty(fault) });
            assert!(report.failures.is_empty(), "{fault}: {:#?}", report.failures);
        }
    }

    #[test]
    fn every_planted_fault_is_caught() {
        for fault in Fault::ALL {
            let report = check(&faulty(fault));
            let caught = report.failures.first().unwrap_or_else(|| panic!("{fault} was not caught"));
            println!("design model, planted {fault}: {} states, caught: {}", report.states, caught.what);
        }
    }

    #[test]
    fn what_only_a_cycle_shows_is_caught_as_a_cycle() {
        // No state is wrong, and no run ends: a waiter is overtaken for ever.
        let report = check(&faulty(Fault::Barging));
        assert!(report.failures.iter().all(|f| f.what.starts_with("every waiter is served")), "{report:#?}");
        assert!(!report.failures.is_empty());
    }
}
