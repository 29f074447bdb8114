//! Tickets: proof of submitted work.

/// Which stream of a device's pool: `0..pool size`. Stream 0 belongs to the thread that opened the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u32);

/// Proof that work was submitted: the `number`-th submission of a stream. A ticket cannot exist for work that was
/// not submitted, so a wait for one always ends (INV-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The stream the work went to.
    pub stream: StreamId,
    /// Its number on that stream, from 1. Tickets of one stream complete in order (INV-4).
    pub number: u64,
}
