//! What each step does, by the library's own decisions.

use streampool_core::hazard::{Access, Hazards, Waits};
use streampool_core::memory::rule as reuse;
use streampool_core::slot::rule::{self, Owner, Turn};
use streampool_core::timeline::{StreamId, Submissions, Ticket, VectorClock};

use super::{At, Block, Fault, Phase, Place, Slot, State, System, Work};

impl System {
    /// The slot that a newcomer gets: the first that may be had, stream 0 last.
    pub(super) fn takeable(&self, state: &State) -> Option<u8> {
        let may = |slot: &Slot| match slot.owner {
            Owner::Bound if self.has(Fault::TakeRunning) => slot.turn != Turn::Reserved,
            owner => rule::is_takeable(owner, slot.turn),
        };
        (1..self.slots).chain([0]).find(|s| may(&state.slots[usize::from(*s)]))
    }

    /// The block that an allocation gets: from the own cache, from the device, from another stream's. `Err(true)` if there will be one
    /// when work in flight ends, `Err(false)` if memory is out.
    pub(super) fn allocation(&self, state: &State, stream: u8) -> Result<u8, bool> {
        let early = |fault| u64::from(self.has(fault));
        let others_done = |block: &Block, home: u8| {
            let others = (0..self.slots).filter(|s| *s != home).map(|s| (s, block.tickets[usize::from(s)]));
            let tickets: Vec<Ticket> = others.filter(|(_, n)| *n > 0).map(|(s, n)| ticket(s, n)).collect();
            !reuse::retires(&tickets, |_| early(Fault::EarlyReuse))
        };
        let own = |block: &Block| block.place == Place::Freed(stream) && others_done(block, stream);
        let moved = |block: &Block| match block.place {
            Place::Freed(home) if home != stream => {
                let last_own = block.tickets[usize::from(home)].into();
                reuse::may_leave(0, u32::from(!others_done(block, home)), last_own, early(Fault::EarlyMove))
            }
            _ => false,
        };
        let find =
            |which: &dyn Fn(&Block) -> bool| (0..self.blocks).find(|b| which(&state.blocks[usize::from(*b)]));
        find(&own)
            .or_else(|| find(&|block| block.place == Place::Unreserved))
            .or_else(|| find(&moved))
            .ok_or_else(|| state.blocks.iter().any(|block| matches!(block.place, Place::Freed(_))))
    }

    /// Gives a slot to a new owner; whoever was bound to it has a stale binding from now on.
    pub(super) fn assign(&self, state: &mut State, slot: u8, thread: u8) {
        let lease = self.leases(thread);
        for other in &mut state.threads {
            if other.binding == Some((slot, false)) {
                other.binding = Some((slot, true));
            }
        }
        let cell = &mut state.slots[usize::from(slot)];
        if cell.turn == Turn::Owner {
            state.broken = Some("INV-1: a slot was taken from a running section");
        }
        (cell.owner, cell.turn) = rule::assigned(lease, cell.turn);
        cell.holder = Some(thread);
        state.threads[usize::from(thread)].binding = if lease { None } else { Some((slot, false)) };
    }

    /// Gives a slot that came free to the oldest waiter.
    pub(super) fn serve(&self, state: &mut State, slot: u8) {
        if self.has(Fault::LostWakeUp) || self.has(Fault::Barging) || state.queue.is_empty() {
            return;
        }
        let oldest = state.queue.remove(0);
        self.assign(state, slot, oldest);
        state.threads[usize::from(oldest)].at = At::Granted(slot);
    }

    /// A thread begins a section on a slot that it believes to own.
    pub(super) fn begin(&self, state: &mut State, thread: u8, slot: u8) {
        let cell = &mut state.slots[usize::from(slot)];
        if cell.holder != Some(thread) {
            state.broken = Some("INV-3: an old owner runs on the new owner's slot");
        }
        if cell.turn == Turn::Owner {
            state.broken = Some("INV-1: two sections on one slot");
        }
        if state.phase == Phase::Closed {
            state.broken = Some("INV-11: a section begins after shutdown");
        }
        cell.turn = Turn::Owner;
        state.threads[usize::from(thread)].at = At::Running(slot);
    }

    pub(super) fn enter(&self, state: &mut State, thread: u8) {
        let me = usize::from(thread);
        let valid = match state.threads[me].binding {
            Some((slot, stale)) if !stale || self.has(Fault::SkipGeneration) => {
                (state.slots[usize::from(slot)].turn == Turn::Idle).then_some(slot)
            }
            _ => None,
        };
        let open = state.phase == Phase::Open || self.has(Fault::EnterClosed) && valid.is_some();
        if !open {
            state.threads[me].at = At::Refused;
        } else if let Some(slot) = valid {
            self.begin(state, thread, slot);
        } else if (state.queue.is_empty() || self.has(Fault::Barging))
            && let Some(slot) = self.takeable(state)
        {
            self.assign(state, slot, thread);
            self.begin(state, thread, slot);
        } else {
            state.queue.push(thread);
            state.threads[me].at = At::Waiting;
        }
    }

    pub(super) fn submit(&self, state: &mut State, thread: u8, slot: u8, block: u8, made: bool) {
        // Who made the block writes it; who took it over reads it, or writes it in place.
        let writes = made || self.leases(thread);
        let access = if writes { Access::Write } else { Access::Read };
        let place = &mut state.blocks[usize::from(block)];
        let mut waits = Waits::new();
        // Nothing that is done has a ticket, so nothing needs to be known.
        place
            .hazards
            .collect(access, StreamId(slot.into()), &VectorClock::new(), &mut waits)
            .expect("blocks are not frozen");
        let mut after: Vec<(u8, u8)> = match self.has(Fault::DropWait) {
            true => Vec::new(),
            false => waits.into_iter().map(|t| (t.stream.0 as u8, t.number as u8)).collect(),
        };
        after.sort_unstable();
        let in_flight = |stream: u8| state.work.iter().filter(|w| w.stream == stream).count() as u8;
        if self.has(Fault::WaitForTheFuture) {
            after.iter_mut().for_each(|(stream, number)| *number = in_flight(*stream) + 1);
        }
        if after.iter().any(|(stream, number)| *number > in_flight(*stream)) {
            state.broken = Some("INV-12: a wait for work that is not submitted");
        }
        let number = in_flight(slot) + 1;
        place.hazards.record(access, ticket(slot, number));
        place.tickets[usize::from(slot)] = number;
        if state.phase == Phase::Closed {
            state.broken = Some("INV-11: work is submitted after shutdown");
        }
        state.work.push(Work { stream: slot, block, writes, after });
        state.threads[usize::from(thread)].at = At::Ending { slot, block: Some(block) };
    }

    pub(super) fn leave(&self, state: &mut State, thread: u8, slot: u8) {
        state.threads[usize::from(thread)].at = At::Outside;
        let cell = &mut state.slots[usize::from(slot)];
        cell.turn = Turn::Idle;
        if cell.owner == Owner::Leased && cell.holder == Some(thread) && !self.has(Fault::LeakLease) {
            cell.owner = Owner::Free;
            cell.holder = None;
        }
        if cell.owner == Owner::Free || rule::is_handed_over(cell.owner, cell.turn) {
            self.serve(state, slot);
        }
    }

    pub(super) fn exit(&self, state: &mut State, thread: u8) {
        let me = usize::from(thread);
        state.threads[me].at = At::Gone;
        if let Some((slot, false)) = state.threads[me].binding.take() {
            let cell = &mut state.slots[usize::from(slot)];
            if cell.owner != Owner::Bound {
                return; // Shut down.
            }
            cell.owner = if self.has(Fault::LeakAtExit) { Owner::Leased } else { Owner::Free };
            cell.holder = None;
            if cell.owner == Owner::Free {
                self.serve(state, slot);
            }
        }
    }

    /// Whether the first unfinished work of a stream may run.
    pub(super) fn next_work(state: &State, stream: u8) -> Option<usize> {
        let next = state.work.iter().position(|work| work.stream == stream)?;
        state.work[next].after.is_empty().then_some(next)
    }

    pub(super) fn device(state: &mut State, stream: u8, next: usize) {
        let work = state.work.remove(next);
        let earlier = &state.work[..next];
        if earlier.iter().any(|e| e.block == work.block && (e.writes || work.writes)) {
            state.broken = Some("INV-5/INV-6: work ran before earlier work on the same bytes");
        }
        if state.phase == Phase::Closed {
            state.broken = Some("INV-11: memory was freed under running work");
        }
        // The first ticket of the stream is done; all others move up by one.
        for later in &mut state.work {
            later.after.retain(|after| *after != (stream, 1));
            later.after.iter_mut().filter(|(s, _)| *s == stream).for_each(|(_, number)| *number -= 1);
        }
        for block in &mut state.blocks {
            let tickets = &mut block.tickets[usize::from(stream)];
            *tickets = tickets.saturating_sub(1);
            let mut hazards = Hazards::new();
            for (access, old) in block.hazards.recorded() {
                let number = old.number - u64::from(old.stream.0 == u32::from(stream));
                if number > 0 {
                    hazards.record(access, ticket(old.stream.0 as u8, number as u8));
                }
            }
            block.hazards = hazards;
        }
    }

    pub(super) fn close(&self, state: &mut State) {
        state.phase = Phase::Closing;
        if !self.has(Fault::CloseForgetsWaiters) {
            for waiter in std::mem::take(&mut state.queue) {
                state.threads[usize::from(waiter)].at = At::Refused;
            }
        }
        for slot in &mut state.slots {
            slot.owner = Owner::Closed;
            if slot.turn == Turn::Reserved {
                slot.turn = Turn::Idle;
            }
        }
    }

    pub(super) fn is_drained(&self, state: &State) -> bool {
        state.phase == Phase::Closing
            && state.slots.iter().all(|slot| slot.turn == Turn::Idle)
            && (state.work.is_empty() || self.has(Fault::CloseForgetsWork))
    }
}

/// The `number`-th ticket of a stream.
fn ticket(stream: u8, number: u8) -> Ticket {
    let mut submissions = Submissions::new(StreamId(stream.into()));
    let tickets = (0..number).map(|_| submissions.submit(|_| Ok(())).expect("nothing refuses"));
    tickets.last().expect("tickets count from 1")
}
