//! The states as a model checker visits them, and what must hold in each.

use stateright::{Model, Property};
use streampool_core::hazard::Hazards;
use streampool_core::slot::rule::{self, Owner, Turn};

use super::{At, Block, Fault, Phase, Place, Slot, State, Step, System, Thread};

impl Model for System {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let slot = Slot { owner: Owner::Free, turn: Turn::Idle, holder: None };
        let thread = Thread { at: At::Outside, binding: None };
        let tickets = vec![0; self.slots.into()];
        let block = Block { place: Place::Unreserved, hazards: Hazards::new(), tickets };
        vec![State {
            slots: vec![slot; self.slots.into()],
            threads: vec![thread; self.threads.into()],
            queue: Vec::new(),
            blocks: vec![block; self.blocks.into()],
            mailbox: None,
            work: Vec::new(),
            phase: Phase::Open,
            broken: None,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.broken.is_some() {
            return; // Nothing follows from a broken state.
        }
        for (t, thread) in (0..).zip(&state.threads) {
            match thread.at {
                At::Outside => {
                    steps.push(Step::Enter(t));
                    if self.exits {
                        steps.push(Step::Exit(t));
                    }
                }
                At::Waiting if self.has(Fault::Barging) && self.takeable(state).is_some() => {
                    steps.push(Step::Retry(t));
                }
                At::Granted(_) => steps.push(Step::Begin(t)),
                At::Running(slot) => {
                    if self.allocation(state, slot) != Err(true) {
                        steps.push(Step::Allocate(t));
                    }
                    if state.mailbox.is_some() {
                        steps.push(Step::Take(t));
                    }
                }
                At::Holding { slot, .. } => {
                    let in_flight = state.work.iter().filter(|work| work.stream == slot).count();
                    if in_flight < usize::from(self.credits) {
                        steps.push(Step::Submit(t));
                    }
                }
                At::Ending { block, .. } => {
                    steps.push(Step::Drop(t));
                    if block.is_some() && state.mailbox.is_none() && state.phase == Phase::Open {
                        steps.push(Step::Give(t));
                    }
                }
                At::Waiting | At::Refused | At::Gone => {}
            }
        }
        let streams = (0..self.slots).filter(|stream| Self::next_work(state, *stream).is_some());
        steps.extend(streams.map(Step::Device));
        if self.closes && state.phase == Phase::Open {
            steps.push(Step::Close);
        }
        if self.is_drained(state) {
            steps.push(Step::Drain);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        let state = &mut next;
        match step {
            Step::Enter(t) => self.enter(state, t),
            Step::Begin(t) => {
                let At::Granted(slot) = state.threads[usize::from(t)].at else { return None };
                if state.slots[usize::from(slot)].owner == Owner::Closed {
                    state.threads[usize::from(t)].at = At::Refused;
                } else {
                    self.begin(state, t, slot);
                }
            }
            Step::Retry(t) => {
                let slot = self.takeable(state)?;
                state.queue.retain(|waiter| *waiter != t);
                self.assign(state, slot, t);
                self.begin(state, t, slot);
            }
            Step::Allocate(t) => {
                let At::Running(slot) = state.threads[usize::from(t)].at else { return None };
                state.threads[usize::from(t)].at = match self.allocation(state, slot) {
                    Ok(block) => {
                        let place = &mut state.blocks[usize::from(block)];
                        place.place = Place::Live(slot);
                        // The last owner's hazards are no concern of this one's: that is what the rules of reuse are for.
                        place.hazards = Hazards::new();
                        At::Holding { slot, block, made: true }
                    }
                    Err(true) => return None,
                    Err(false) => At::Ending { slot, block: None },
                };
            }
            Step::Take(t) => {
                let At::Running(slot) = state.threads[usize::from(t)].at else { return None };
                let block = state.mailbox.take()?;
                state.threads[usize::from(t)].at = At::Holding { slot, block, made: false };
            }
            Step::Submit(t) => {
                let At::Holding { slot, block, made } = state.threads[usize::from(t)].at else { return None };
                self.submit(state, t, slot, block, made);
            }
            Step::Drop(t) | Step::Give(t) => {
                let At::Ending { slot, block } = state.threads[usize::from(t)].at else { return None };
                match (step, block) {
                    (Step::Give(_), block) => state.mailbox = block,
                    (_, Some(block)) => {
                        let place = &mut state.blocks[usize::from(block)];
                        let Place::Live(home) = place.place else { return None };
                        place.place = Place::Freed(home);
                    }
                    (_, None) => {}
                }
                self.leave(state, t, slot);
            }
            Step::Exit(t) => self.exit(state, t),
            Step::Device(stream) => {
                let work = Self::next_work(state, stream)?;
                Self::device(state, stream, work);
            }
            Step::Close => self.close(state),
            Step::Drain => {
                state.phase = Phase::Closed;
                for block in &mut state.blocks {
                    if let Place::Freed(_) = block.place {
                        block.place = Place::Unreserved;
                    }
                }
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("no invariant is broken (INV-1, 3, 5, 6, 11, 12)", |_, state: &State| {
                state.broken.is_none()
            }),
            Property::always(
                "owners, turns, bindings and the queue agree (INV-1, 2)",
                |system: &Self, state: &State| state.broken.is_some() || agree(system, state),
            ),
            Property::always("every live block has one holder (INV-7)", |_, state: &State| {
                state.broken.is_some() || conserved(state)
            }),
            Property::always("after shutdown nothing runs (INV-11)", |_, state: &State| {
                state.broken.is_some() || state.phase != Phase::Closed || is_at_rest(state)
            }),
        ];
        if self.threads > self.slots {
            properties
                .push(Property::sometimes("a thread waits", |_, state: &State| !state.queue.is_empty()));
        }
        if self.slots > 1 {
            properties.push(Property::sometimes("work waits for another stream's", |_, state: &State| {
                state.work.iter().any(|work| !work.after.is_empty())
            }));
            properties.push(Property::sometimes("a freed block is withheld", |_, state: &State| {
                state.blocks.iter().any(|block| match block.place {
                    Place::Freed(home) => {
                        (0..).zip(&block.tickets).any(|(s, n): (u8, _)| s != home && *n > 0)
                    }
                    _ => false,
                })
            }));
        }
        properties
    }
}

fn agree(system: &System, state: &State) -> bool {
    let runs = |thread: &Thread| match thread.at {
        At::Running(slot) | At::Holding { slot, .. } | At::Ending { slot, .. } => Some(slot),
        _ => None,
    };
    let one_runs = (0..).zip(&state.slots).all(|(s, slot)| {
        let running = state.threads.iter().filter(|thread| runs(thread) == Some(s)).count();
        running == usize::from(slot.turn == Turn::Owner)
    });
    let waiting = (0..).zip(&state.threads).filter(|(_, thread)| thread.at == At::Waiting);
    let queued =
        waiting.clone().all(|(t, _)| state.queue.contains(&t)) && waiting.count() == state.queue.len();
    // INV-12: while somebody waits, nobody could have what he waits for. (Not so if newcomers may overtake.)
    let served = state.queue.is_empty()
        || system.has(Fault::Barging)
        || state.phase != Phase::Open
        || state.slots.iter().all(|slot| !rule::is_takeable(slot.owner, slot.turn));
    let valid = (0..).zip(&state.threads).all(|(t, thread)| match thread.binding {
        Some((slot, false)) => state.slots[usize::from(slot)].holder == Some(t),
        _ => true,
    });
    one_runs && queued && served && valid
}

fn conserved(state: &State) -> bool {
    (0..).zip(&state.blocks).all(|(b, block)| {
        let held = state.threads.iter().filter(|thread| match thread.at {
            At::Holding { block, .. } => block == b,
            At::Ending { block, .. } => block == Some(b),
            _ => false,
        });
        let holders = held.count() + usize::from(state.mailbox == Some(b));
        holders == usize::from(matches!(block.place, Place::Live(_)))
    })
}

fn is_at_rest(state: &State) -> bool {
    state.work.is_empty()
        && state.queue.is_empty()
        && state.slots.iter().all(|slot| slot.turn == Turn::Idle)
        && state.blocks.iter().all(|block| !matches!(block.place, Place::Freed(_)))
}
