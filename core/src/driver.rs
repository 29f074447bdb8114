//! What a device must be able to do.
//!
//! # The contract, in prose
//!
//! A *driver* is one device. It makes *queues*; a queue belongs to one stream of the pool and is used by one thread
//! at a time (the pool guarantees it: the queue travels with the right to run, as a value). Work is submitted to a
//! queue and completes in the order of submission (INV-4); work of different queues completes in any order unless
//! one was told to wait for the other. A driver may complete work during submission (a CPU does): that is a legal
//! schedule.
//!
//! 1. **Programs.** [`Driver::compile`] turns a [`Program`] (one operation, or a whole plan) into an
//!    [`Executable`]. It may take long; callers hold no lock across it. An executable is immutable and usable from
//!    all queues at once.
//! 2. **Submission.** [`Queue::launch`], [`Queue::write`] and [`Queue::wait_for`] submit in order. Each submission
//!    that a host may wait for carries the ticket number that [`Driver::completed`] shows once it is done. Numbers
//!    given to one queue grow by one.
//! 3. **Ordering between queues.** [`Queue::wait_for`] makes everything submitted later to this queue wait for a
//!    ticket of another, *on the device*: the host does not block. Tickets name submitted work only (INV-12).
//! 4. **Host waits.** [`Driver::wait`] blocks until a ticket is done, the work of that very ticket failed, or the
//!    deadline passed. [`Driver::completed`] is cheap and never blocks.
//! 5. **Memory.** [`Driver::allocate`] returns a segment or an error that `is_out_of_memory`. Segments are freed by
//!    dropping them; core drops a segment only when no submitted work can touch it (INV-6).
//! 6. **Errors** are only for what the caller could not foresee: no memory, a lost device, a failed compile, an
//!    index out of range in the data. Shapes, dtypes and sizes were checked above. An error of submitted work belongs to its
//!    ticket, and to whatever reads the bytes that the failed work should have written.
//! 7. **Locks.** Core calls a driver without holding any lock of its own.
//!
//! What a driver maps to: see `docs/design.md`.

use std::any::Any;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::op::{Place, Port, Program};
use crate::timeline::{StreamId, Ticket};

/// Every allocation and every block is aligned to this many bytes: a cache line and an AVX-512 register.
pub const ALIGNMENT: usize = 64;

/// What a device is and has. Constant for the life of the driver.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// `"cpu"`, `"sim"`, `"cuda:0"`.
    pub name: String,
    /// What a person calls it: the processor's or card's name and features.
    pub description: String,
    /// Bytes of memory the device reports.
    pub memory_bytes: usize,
    /// Whether device addresses are host pointers (a caller's array can be bound without a copy).
    pub host_memory: bool,
    /// Whether a submission has completed when it returns. Then no ticket is ever pending.
    pub inline: bool,
    /// How many submissions may be in flight on one queue before `launch` would block (INV-12's credits).
    pub queue_depth: usize,
}

/// A range of device memory that is valid for `'a`. Only memory blocks and borrowed host arrays make one.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a> {
    address: u64,
    bytes: usize,
    owner: PhantomData<&'a [u8]>,
}

impl<'a> Slice<'a> {
    /// No memory: for programs without an arena.
    pub const EMPTY: Slice<'static> = Slice { address: ALIGNMENT as u64, bytes: 0, owner: PhantomData };

    /// A caller's array, to be read by a device with [`DeviceInfo::host_memory`] and [`DeviceInfo::inline`].
    pub fn host(bytes: &'a [u8]) -> Self {
        Self { address: bytes.as_ptr().expose_provenance() as u64, bytes: bytes.len(), owner: PhantomData }
    }

    /// A caller's array, to be written by such a device.
    pub fn host_mut(bytes: &'a mut [u8]) -> Self {
        Self {
            address: bytes.as_mut_ptr().expose_provenance() as u64,
            bytes: bytes.len(),
            owner: PhantomData,
        }
    }

    /// Part of a segment. Only core's memory and tests of drivers make slices of segments.
    ///
    /// # Panics
    /// If the range leaves the segment.
    pub fn of_segment(segment: &'a Segment, offset: usize, bytes: usize) -> Self {
        assert!(
            offset.checked_add(bytes).is_some_and(|end| end <= segment.bytes),
            "slice leaves its segment"
        );
        Self { address: segment.address + offset as u64, bytes, owner: PhantomData }
    }

    /// A block's range; the block keeps its segment alive for `'a`.
    pub(crate) fn of_block(block: &'a crate::memory::Block) -> Self {
        Self { address: block.address(), bytes: block.bytes(), owner: PhantomData }
    }

    /// The part of this slice from `offset`, `bytes` long.
    ///
    /// # Panics
    /// If the range leaves the slice.
    pub fn part(self, offset: usize, bytes: usize) -> Self {
        assert!(offset.checked_add(bytes).is_some_and(|end| end <= self.bytes), "part leaves its slice");
        Self { address: self.address + offset as u64, bytes, owner: PhantomData }
    }

    /// The device address of the first byte.
    pub fn address(self) -> u64 {
        self.address
    }

    /// How many bytes.
    pub fn bytes(self) -> usize {
        self.bytes
    }
}

/// Memory of a device; freed when dropped.
pub struct Segment {
    address: u64,
    bytes: usize,
    _owner: Box<dyn Any + Send + Sync>,
}

impl Segment {
    /// Made by drivers: `owner` frees the memory when dropped. `address` is aligned to [`ALIGNMENT`].
    pub fn new(address: u64, bytes: usize, owner: Box<dyn Any + Send + Sync>) -> Self {
        debug_assert_eq!(address % ALIGNMENT as u64, 0);
        Self { address, bytes, _owner: owner }
    }

    /// The device address of the first byte.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What a launch works on, in the order of the program's ports.
#[derive(Clone, Copy, Debug)]
pub struct Bindings<'a> {
    /// One per [`Program::inputs`], each at least as long as its port says.
    pub inputs: &'a [Slice<'a>],
    /// One per [`Program::outputs`].
    pub outputs: &'a [Slice<'a>],
    /// At least [`Program::arena_bytes`]; contents undefined before and after.
    pub arena: Slice<'a>,
}

impl Bindings<'_> {
    /// Checks them against the ports and the arena of the program called `program`: cheap, for drivers to do at every launch. The
    /// address of each port ([`Place::Input`] or [`Place::Output`]) must be a multiple of what the driver's `alignment` says, a power of two.
    ///
    /// # Errors
    /// `is_invalid_argument` that says which is missing, too short or misaligned, and what it needs.
    pub fn check(
        &self,
        program: &str,
        (inputs, outputs): (&[Port], &[Port]),
        arena_bytes: usize,
        alignment: impl Fn(Place, &Port) -> usize,
    ) -> Result<()> {
        let fail = |why: String| Err(Error::invalid_argument(format!("program '{program}': {why}")));
        for (kind, place, ports, slices) in [
            ("input", Place::Input as fn(_) -> _, inputs, self.inputs),
            ("output", Place::Output as fn(_) -> _, outputs, self.outputs),
        ] {
            if ports.len() != slices.len() {
                return fail(format!("needs {} {kind}(s), got {}", ports.len(), slices.len()));
            }
            for (i, (port, slice)) in ports.iter().zip(slices).enumerate() {
                if slice.bytes < port.bytes {
                    return fail(format!("{kind} {i} has {} bytes, needs {}", slice.bytes, port.bytes));
                }
                let needed = alignment(place(i as u32), port);
                if slice.address & (needed as u64 - 1) != 0 {
                    return fail(format!(
                        "{kind} {i} is at address {:#x}, needs an alignment of {needed} bytes",
                        slice.address
                    ));
                }
            }
        }
        let Slice { address, bytes, .. } = self.arena;
        if bytes < arena_bytes || !address.is_multiple_of(ALIGNMENT as u64) {
            return fail(format!(
                "the arena has {bytes} bytes at {address:#x}, needs {arena_bytes} aligned to {ALIGNMENT}"
            ));
        }
        Ok(())
    }
}

/// A compiled program. Immutable; used from all queues at once.
pub trait Executable: Any + Send + Sync {
    /// Bytes of host or device memory that this executable itself keeps (not the shared constants).
    fn bytes(&self) -> usize;
    /// For the driver to get its own type back.
    fn as_any(&self) -> &dyn Any;
    /// One line a step for people: what was chosen for it (kernel, tile, library).
    fn describe(&self) -> Vec<String> {
        Vec::new()
    }
}

/// One stream of a device. Used by one thread at a time.
pub trait Queue: Send {
    /// Submits a program under ticket number `number`.
    ///
    /// Memory in `bindings` stays valid until the ticket completed: core sees to it (INV-6).
    fn launch(&mut self, program: &Arc<dyn Executable>, bindings: &Bindings<'_>, number: u64) -> Result<()>;

    /// Submits a copy from the host. The bytes of `from` are taken before this returns.
    fn write(&mut self, to: Slice<'_>, from: &[u8], number: u64) -> Result<()>;

    /// Copies to the host after all that was submitted to this queue. Blocks until done or `deadline`.
    fn read(&mut self, from: Slice<'_>, to: &mut [u8], deadline: Instant) -> Result<()>;

    /// Makes later submissions to this queue wait, on the device, for `ticket` of another queue.
    fn wait_for(&mut self, ticket: Ticket) -> Result<()>;
}

/// A device. See the module's text for the contract.
pub trait Driver: Send + Sync + 'static {
    /// What the device is and has.
    fn info(&self) -> &DeviceInfo;

    /// Makes the queue of a stream. Called once per stream and opening.
    fn open_queue(&self, stream: StreamId) -> Result<Box<dyn Queue>>;

    /// Allocates device memory, aligned to [`ALIGNMENT`], contents undefined.
    fn allocate(&self, bytes: usize) -> Result<Segment>;

    /// Compiles. Constants of the program are uploaded, and packed as its operations like them, once per constant
    /// however many programs share it.
    fn compile(&self, program: &Program) -> Result<Arc<dyn Executable>>;

    /// The last ticket number of `stream` that is known to be done; 0 before the first.
    fn completed(&self, stream: StreamId) -> u64;

    /// Blocks until `ticket` is done. An error of that very work, or `is_timeout` after `deadline`, or
    /// `is_device_lost`.
    fn wait(&self, ticket: Ticket, deadline: Instant) -> Result<()>;

    /// Bytes of frozen constants (weights) that live on the device now.
    fn frozen_bytes(&self) -> usize;
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::op::DType;

    #[test]
    fn a_part_begins_where_it_is_asked_to_and_leaves_nothing() {
        let segment = Segment::new(4096, 512, Box::new(()));
        let slice = Slice::of_segment(&segment, 128, 256);
        assert_eq!((slice.address(), slice.bytes()), (4096 + 128, 256));
        let part = slice.part(64, 192);
        assert_eq!((part.address(), part.bytes()), (4096 + 128 + 64, 192));
        for (offset, bytes) in [(0, 257), (64, 193), (usize::MAX, 2)] {
            assert!(std::panic::catch_unwind(|| slice.part(offset, bytes)).is_err(), "{offset} and {bytes}");
        }
        for (offset, bytes) in [(0, 513), (512, 1), (usize::MAX, 2)] {
            let beyond = std::panic::AssertUnwindSafe(|| Slice::of_segment(&segment, offset, bytes));
            assert!(std::panic::catch_unwind(beyond).is_err(), "{offset} and {bytes}");
        }
    }

    #[test]
    fn bindings_are_checked_port_by_port_and_the_error_says_what_is_needed() {
        let segment = Segment::new(4096, 4096, Box::new(()));
        let at = |offset, bytes| Slice::of_segment(&segment, offset, bytes);
        let port = |bytes| Port { dtype: DType::U8, bytes };
        let ports = (&[port(10), port(20)][..], &[port(30)][..]);
        // Inputs may begin at any multiple of 16, the output anywhere.
        let alignment = |place, _: &Port| if matches!(place, Place::Input(_)) { 16 } else { 1 };
        let check = |inputs: &[Slice<'_>], outputs: &[Slice<'_>], arena| {
            Bindings { inputs, outputs, arena }.check("p", ports, 256, alignment).map_err(|error| {
                assert!(error.is_invalid_argument(), "{error}");
                error.to_string()
            })
        };
        let (a, b, out, arena) = (at(16, 10), at(48, 20), at(101, 30), at(256, 256));
        assert_eq!(check(&[a, b], &[out], arena), Ok(()));
        assert_eq!(check(&[at(16, 11), at(0, 99)], &[at(7, 31)], at(64, 257)), Ok(()), "more than is needed");
        let refused: [(&[Slice<'_>], &[Slice<'_>], Slice<'_>, &str); 8] = [
            (&[a], &[out], arena, "needs 2 input(s), got 1"),
            (&[a, b], &[out, out], arena, "needs 1 output(s), got 2"),
            (&[a, at(48, 19)], &[out], arena, "input 1 has 19 bytes, needs 20"),
            (&[a, b], &[at(0, 1)], arena, "output 0 has 1 bytes, needs 30"),
            (&[at(8, 10), b], &[out], arena, "input 0 is at address 0x1008, needs an alignment of 16 bytes"),
            (&[a, at(49, 20)], &[out], arena, "input 1 is at address 0x1031, needs an alignment of 16 bytes"),
            (&[a, b], &[out], at(256, 255), "the arena has 255 bytes at 0x1100, needs 256 aligned to 64"),
            (&[a, b], &[out], at(32, 256), "the arena has 256 bytes at 0x1020, needs 256 aligned to 64"),
        ];
        for (inputs, outputs, arena, why) in refused {
            let text = check(inputs, outputs, arena).unwrap_err();
            assert!(text.contains("program 'p'") && text.contains(why), "'{why}' is not in: {text}");
        }
    }
}
