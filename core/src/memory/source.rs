//! What the memory needs of a device.

use std::sync::Arc;
use std::time::Instant;

use crate::driver::{Driver, Segment};
use crate::error::Result;
use crate::timeline::{StreamId, Ticket};

/// Where segments come from and what is known of the work that touches them. Every `Arc<dyn Driver>` is one; the
/// facade wraps its driver to add its gate. Called without holding any lock of the memory.
pub trait Source: Send + Sync + 'static {
    /// Bytes that the device reports to have.
    fn memory_bytes(&self) -> usize;

    /// As [`Driver::allocate`].
    fn allocate(&self, bytes: usize) -> Result<Segment>;

    /// As [`Driver::completed`].
    fn completed(&self, stream: StreamId) -> u64;

    /// As [`Driver::wait`].
    fn wait(&self, ticket: Ticket, deadline: Instant) -> Result<()>;

    /// Whether this process must no longer touch the device nor any lock: it is the child of a fork, or exits. **The
    /// one place** that the drops of blocks and caches ask; what they hold is leaked then. Must be cheap, and
    /// must neither lock nor allocate.
    fn abandoned(&self) -> bool {
        false
    }
}

impl Source for Arc<dyn Driver> {
    fn memory_bytes(&self) -> usize {
        self.info().memory_bytes
    }

    fn allocate(&self, bytes: usize) -> Result<Segment> {
        (**self).allocate(bytes)
    }

    fn completed(&self, stream: StreamId) -> u64 {
        (**self).completed(stream)
    }

    fn wait(&self, ticket: Ticket, deadline: Instant) -> Result<()> {
        (**self).wait(ticket, deadline)
    }
}

#[cfg(all(test, not(loom), not(shuttle)))]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::driver::{DeviceInfo, Executable, Queue};
    use crate::error::Error;
    use crate::memory::{MemoryConfig, MemoryPool};
    use crate::op::Program;

    /// A driver that has memory and nothing else; its stream 1 has done two submissions, and a third one once it is waited for.
    struct Few {
        info: DeviceInfo,
        waited: Mutex<Option<(Ticket, Instant)>>,
    }

    impl Driver for Few {
        fn info(&self) -> &DeviceInfo {
            &self.info
        }
        fn open_queue(&self, _stream: StreamId) -> Result<Box<dyn Queue>> {
            Err(Error::internal("no queues"))
        }
        fn allocate(&self, bytes: usize) -> Result<Segment> {
            Ok(Segment::new(1 << 20, bytes, Box::new(())))
        }
        fn compile(&self, _program: &Program) -> Result<Arc<dyn Executable>> {
            Err(Error::internal("no programs"))
        }
        fn completed(&self, stream: StreamId) -> u64 {
            let waited = self.waited.lock().unwrap().is_some();
            if stream.0 == 1 { 2 + u64::from(waited) } else { 0 }
        }
        fn wait(&self, ticket: Ticket, deadline: Instant) -> Result<()> {
            *self.waited.lock().unwrap() = Some((ticket, deadline));
            Ok(())
        }
        fn frozen_bytes(&self) -> usize {
            0
        }
    }

    #[test]
    fn the_memory_of_a_driver_is_that_drivers_and_waits_are_its_waits() {
        let info = DeviceInfo {
            name: "few".into(),
            description: "a driver for tests".into(),
            memory_bytes: 10 * 4096,
            host_memory: false,
            inline: false,
            queue_depth: 1,
        };
        let few = Arc::new(Few { info, waited: Mutex::default() });
        let driver: Arc<dyn Driver> = few.clone();
        let pool = MemoryPool::new(driver, MemoryConfig::default());
        assert_eq!(pool.limit(), 9 * 4096);
        let mut cache = pool.stream_cache(StreamId(0)).unwrap();
        let block = cache.alloc(9 * 4096).unwrap();
        assert_eq!(block.address(), 1 << 20);
        let ticket = |number| Ticket { stream: StreamId(1), number };
        block.record(ticket(2));
        assert_eq!(block.tickets_kept(), 0, "done");
        block.record(ticket(3));
        assert_eq!(block.tickets_kept(), 1, "not done");
        drop(block);
        let deadline = Instant::now() + Duration::from_secs(20);
        drop(cache.alloc_until(9 * 4096, deadline).unwrap());
        assert_eq!(*few.waited.lock().unwrap(), Some((ticket(3), deadline)));
    }
}
