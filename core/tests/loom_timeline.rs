//! Timelines under loom: a wait returns only after its ticket, and always returns.
#![cfg(loom)]

mod model;

use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use model::{explore, explore_with_clock};
use streampool_core::sync::{Deadline, clock};
use streampool_core::timeline::{Board, StreamId, Submissions, Ticket, VectorClock};

const STREAM: StreamId = StreamId(0);

/// The tickets of the first `n` submissions, and what each of them writes: its number.
fn submitted(n: usize) -> (Vec<Ticket>, Arc<AtomicU64>) {
    let mut submissions = Submissions::new(STREAM);
    let tickets = (0..n).map(|_| submissions.submit(|_| Ok(())).unwrap()).collect();
    (tickets, Arc::new(AtomicU64::new(0)))
}

#[test]
fn a_wait_returns_after_its_ticket_and_sees_its_work() {
    explore("a device thread and two that wait", 4, || {
        let board = Board::new(1);
        let (tickets, memory) = submitted(2);
        let mut progress = board.progress(STREAM).unwrap();
        let waiters: Vec<_> = tickets
            .into_iter()
            .map(|ticket| {
                let (board, memory) = (board.clone(), memory.clone());
                thread::spawn(move || {
                    board.wait(ticket, Deadline::NEVER).unwrap();
                    assert!(board.is_done(ticket));
                    assert!(
                        memory.load(Ordering::Relaxed) >= ticket.number,
                        "returned before its work was seen"
                    );
                })
            })
            .collect();
        for number in 1..=2 {
            memory.store(number, Ordering::Relaxed);
            progress.publish(number);
        }
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
}

#[test]
fn what_is_read_without_waiting_is_true_and_grows() {
    explore("a device thread and one that polls", 5, || {
        let board = Board::new(1);
        let (tickets, memory) = submitted(2);
        let mut progress = board.progress(STREAM).unwrap();
        let device = {
            let memory = memory.clone();
            thread::spawn(move || {
                for number in 1..=2 {
                    memory.store(number, Ordering::Relaxed);
                    progress.publish(number);
                }
            })
        };
        let mut known = VectorClock::new();
        for _ in 0..2 {
            let before = known.clone();
            board.read_into(&mut known);
            assert!(before.is_within(&known));
            assert!(memory.load(Ordering::Relaxed) >= known.done(STREAM));
        }
        device.join().unwrap();
        assert!(board.is_done(tickets[1]));
    });
}

#[test]
fn a_wait_ends_at_its_deadline_or_with_its_ticket() {
    explore_with_clock("a device thread, a clock and one that waits", 4, || {
        let board = Board::new(1);
        let (tickets, memory) = submitted(1);
        let mut progress = board.progress(STREAM).unwrap();
        let waiter = {
            let (board, memory) = (board.clone(), memory.clone());
            thread::spawn(move || match board.wait(tickets[0], Deadline::after(Duration::from_secs(1))) {
                Ok(()) => assert_eq!(memory.load(Ordering::Relaxed), 1),
                Err(error) => assert!(error.is_timeout()),
            })
        };
        let time = thread::spawn(clock::expire);
        memory.store(1, Ordering::Relaxed);
        progress.publish(1);
        time.join().unwrap();
        waiter.join().unwrap();
    });
}

#[test]
fn a_line_has_one_owner() {
    explore("two that ask for a line", 5, || {
        let board = Board::new(1);
        let other = {
            let board = board.clone();
            thread::spawn(move || board.progress(STREAM).is_ok())
        };
        let mine = board.progress(STREAM).is_ok();
        assert!(mine != other.join().unwrap());
    });
}
