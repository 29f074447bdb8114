//! The one kernel that is the queue's own: moves a few bytes, tells tickets, reports indices out of range.
//!
//! It ends every submission. As the last node of a graph it costs no call of the driver; beside a small copy, no copy engine. The counters that it
//! raises live in device memory, so that the same graph tells the next number each time it runs.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::CUstream;
use streampool_core::Result;

use crate::compiler::{Compiler, Function};
use crate::library::check;

/// Status words of a queue: steps beyond that many share the last.
pub(crate) const STATUS_WORDS: usize = 256;

/// Bytes of the counters in device memory: tickets, checkpoints, status words.
pub(crate) const COUNTER_BYTES: usize = (2 + STATUS_WORDS) * 8;

/// Copies up to this many bytes go through the kernel.
pub(crate) const SMALL: usize = 16 << 10;

/// Tells the next ticket, unless a status word is set.
pub(crate) const TICKET: u32 = 1;
/// Tells the next checkpoint, whatever happened.
pub(crate) const CHECKPOINT: u32 = 2;

const NAME: &str = "streampool_service";

const TEXT: &str = r#"
extern "C" __global__ void __launch_bounds__(512) streampool_service(
    u8 *to, const u8 *from, u64 bytes, u64 *counters, volatile u64 *ticket, volatile u64 *checkpoint, volatile u64 *report, u32 words, u32 mode) {
    AFTER_EARLIER_WORK();
    const u32 step = blockDim.x;
    if ((((u64)to | (u64)from) & 15) == 0) {
        for (u64 i = threadIdx.x; i < bytes / 16; i += step) ((uint4 *)to)[i] = ((const uint4 *)from)[i];
        for (u64 i = bytes / 16 * 16 + threadIdx.x; i < bytes; i += step) to[i] = from[i];
    } else {
        for (u64 i = threadIdx.x; i < bytes; i += step) to[i] = from[i];
    }
    if (bytes) __threadfence_system();
    int mine = 0;
    for (u32 i = threadIdx.x; i < words; i += step) mine |= counters[2 + i] != 0;
    const int bad = __syncthreads_or(mine);
    if (threadIdx.x != 0) return;
    if (bad) {
        for (u32 i = words; i-- > 0;) {
            if (counters[2 + i] != 0) {
                report[0] = i + 1;
                report[1] = counters[2 + i];
                counters[2 + i] = 0;
            }
        }
    }
    // What earlier kernels wrote is seen already; only what this one wrote is not.
    if (bad || bytes) __threadfence_system();
    if ((mode & 1) && !bad) {
        const u64 n = counters[0] + 1;
        *ticket = n;
        counters[0] = n;
    }
    if (mode & 2) {
        const u64 n = counters[1] + 1;
        *checkpoint = n;
        counters[1] = n;
    }
}
"#;

/// The kernel, compiled.
pub(crate) struct Service {
    function: Arc<Function>,
}

/// Where a queue's counters and words are.
#[derive(Clone, Copy)]
pub(crate) struct Counters {
    pub(crate) counters: u64,
    pub(crate) ticket: u64,
    pub(crate) checkpoint: u64,
    pub(crate) report: u64,
}

impl Service {
    pub(crate) fn new(compiler: &Compiler) -> Result<Self> {
        Ok(Self { function: compiler.text(NAME, TEXT)? })
    }

    /// Submits: copies `bytes` from one address to another, looks at the first `words` status words, tells what `mode` says.
    pub(crate) fn submit(
        &self,
        stream: CUstream,
        at: Counters,
        (to, from, bytes): (u64, u64, usize),
        words: usize,
        mode: u32,
    ) -> Result<()> {
        let (mut to, mut from, mut bytes, mut at) = (to, from, bytes as u64, at);
        let (mut words, mut mode) = (words as u32, mode);
        let mut params: [*mut c_void; 9] = [
            (&raw mut to).cast(),
            (&raw mut from).cast(),
            (&raw mut bytes).cast(),
            (&raw mut at.counters).cast(),
            (&raw mut at.ticket).cast(),
            (&raw mut at.checkpoint).cast(),
            (&raw mut at.report).cast(),
            (&raw mut words).cast(),
            (&raw mut mode).cast(),
        ];
        let threads = if bytes > 512 {
            512
        } else if words > 32 || bytes > 0 {
            128
        } else {
            32
        };
        // SAFETY: the parameters have the kernel's types; both ranges hold `bytes` bytes and the words live until the work is done.
        let result = unsafe { self.function.launch((1, threads), (0, 1), stream, params.as_mut_ptr()) };
        check("ending a submission", result)
    }
}
