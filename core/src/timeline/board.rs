//! Where the owners of streams publish what is done.

use crossbeam_utils::CachePadded;

use super::{StreamId, Ticket, VectorClock};
use crate::error::{Error, Result};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Arc, Condvar, Deadline, Mutex};

/// One line per stream: the number of the last submission that is done.
///
/// A line is written by the owner of the stream's [`Progress`] alone; anybody may read it, or block until a ticket is
/// done. Lines of different streams share no cache line.
/// Cloning it makes another handle of the same board.
#[derive(Clone, Debug)]
pub struct Board {
    lines: Arc<Box<[CachePadded<Line>]>>,
}

#[derive(Debug)]
struct Line {
    /// Only grows (INV-4). Written by the owner of the `Progress` alone, with `sleepers` locked; read by all without.
    done: AtomicU64,
    /// How many threads block on `wake`. A sleeper looks at `done` with this lock held before it sleeps, and the writer
    /// writes with this lock held: no wake-up falls in between.
    sleepers: Mutex<usize>,
    wake: Condvar,
    /// Set by the first call of [`Board::progress`], never cleared.
    owned: AtomicBool,
}

impl Board {
    /// A board on which nothing is done, for streams `0..streams`.
    pub fn new(streams: usize) -> Self {
        let line = || {
            CachePadded::new(Line {
                done: AtomicU64::new(0),
                sleepers: Mutex::new(0),
                wake: Condvar::new(),
                owned: AtomicBool::new(false),
            })
        };
        Self { lines: Arc::new((0..streams).map(|_| line()).collect()) }
    }

    /// The right to write the line of `stream`: given out once.
    ///
    /// # Errors
    /// `is_internal` if the board has no such line, or its right was given out already.
    pub fn progress(&self, stream: StreamId) -> Result<Progress> {
        match self.lines.get(stream.index()) {
            Some(line) if !line.owned.swap(true, Ordering::Relaxed) => {
                Ok(Progress { board: self.clone(), stream })
            }
            Some(_) => Err(Error::internal(format!("the progress of {stream} already has an owner"))),
            None => Err(Error::internal(format!("{stream} of a board of {}", self.lines.len()))),
        }
    }

    /// The last submission of `stream` that is done; 0 before the first and for a stream unknown to the board.
    #[inline]
    pub fn done(&self, stream: StreamId) -> u64 {
        self.lines.get(stream.index()).map_or(0, |line| line.done.load(Ordering::Acquire))
    }

    /// Whether the ticket's work is done. Never blocks.
    #[inline]
    pub fn is_done(&self, ticket: Ticket) -> bool {
        ticket.number <= self.done(ticket.stream)
    }

    /// Adds all that is done by now to what the caller knows.
    pub fn read_into(&self, known: &mut VectorClock) {
        for stream in 0..self.lines.len() as u32 {
            known.advance(StreamId(stream), self.done(StreamId(stream)));
        }
    }

    /// Blocks until the ticket's work is done.
    ///
    /// # Errors
    /// `is_timeout` if it is not done at `deadline`.
    pub fn wait(&self, ticket: Ticket, deadline: Deadline) -> Result<()> {
        if self.is_done(ticket) {
            return Ok(());
        }
        let Some(line) = self.lines.get(ticket.stream.index()) else {
            return Err(Error::internal(format!("{} of a board of {}", ticket.stream, self.lines.len())));
        };
        let mut sleepers = line.sleepers.lock();
        *sleepers += 1;
        let mut passed = false;
        while ticket.number > line.done.load(Ordering::Acquire) && !passed {
            (sleepers, passed) = line.wake.wait_until(sleepers, deadline);
        }
        *sleepers -= 1;
        let done = line.done.load(Ordering::Acquire);
        if ticket.number <= done {
            Ok(())
        } else {
            Err(Error::timeout(format!(
                "submission {} of {} was not done when the wait ended; {done} is the last that is",
                ticket.number, ticket.stream
            )))
        }
    }
}

/// The right to say what is done on one stream. There is one per line of a [`Board`].
#[derive(Debug)]
pub struct Progress {
    board: Board,
    stream: StreamId,
}

impl Progress {
    /// The stream.
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// States that the first `number` submissions are done, and wakes who waited for one of them. Older news changes
    /// nothing.
    pub fn publish(&mut self, number: u64) {
        let line = &self.board.lines[self.stream.index()];
        // The only writer: what it reads is what it wrote.
        if number <= line.done.load(Ordering::Relaxed) {
            return;
        }
        let sleepers = line.sleepers.lock();
        line.done.store(number, Ordering::Release);
        let asleep = *sleepers > 0;
        drop(sleepers);
        if asleep {
            line.wake.notify_all();
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn ticket(stream: u32, number: u64) -> Ticket {
        Ticket { stream: StreamId(stream), number }
    }

    #[test]
    fn one_owner_writes_a_line_and_it_only_grows() {
        let board = Board::new(2);
        let mut progress = board.progress(StreamId(1)).unwrap();
        assert!(board.progress(StreamId(1)).unwrap_err().is_internal());
        assert!(board.progress(StreamId(2)).unwrap_err().is_internal());
        progress.publish(3);
        progress.publish(2);
        assert_eq!((board.done(StreamId(0)), board.done(StreamId(1)), board.done(StreamId(9))), (0, 3, 0));
        let done = [2, 3, 4].map(|number| board.is_done(ticket(1, number)));
        assert_eq!(done, [true, true, false], "all up to the newest");
        let mut known = VectorClock::new();
        board.read_into(&mut known);
        assert!(known.covers(ticket(1, 3)) && !known.covers(ticket(1, 4)) && !known.covers(ticket(0, 1)));
    }

    #[test]
    fn a_wait_ends_with_its_ticket_or_its_deadline() {
        let board = Board::new(1);
        let mut progress = board.progress(StreamId(0)).unwrap();
        let error = board.wait(ticket(0, 2), Deadline::after(Duration::from_millis(5))).unwrap_err();
        assert!(error.is_timeout() && error.to_string().contains("submission 2 of stream 0"), "{error}");
        let start = Instant::now();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                board.wait(ticket(0, 2), Deadline::after(Duration::from_secs(20))).unwrap();
                (board.done(StreamId(0)), start.elapsed())
            });
            progress.publish(1);
            std::thread::sleep(Duration::from_millis(5));
            assert!(!waiter.is_finished(), "woken by an older ticket");
            progress.publish(2);
            let (done, after) = waiter.join().unwrap();
            assert_eq!(done, 2);
            assert!(after < Duration::from_secs(10), "the ticket ended the wait, not the deadline");
        });
        assert_eq!(*board.lines[0].sleepers.lock(), 0, "both waits are over: nobody is left to wake");
    }
}
