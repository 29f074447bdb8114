//! A stream.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use cudarc::driver::sys::{self, CUstream};
use smallvec::SmallVec;
use streampool_core::driver::{Bindings, Executable, Queue, Slice};
use streampool_core::timeline::{StreamId, Ticket};
use streampool_core::{Error, Result};

use crate::company::Company;
use crate::driver::{Handle, QUEUE_DEPTH, Shared};
use crate::events::Ring;
use crate::graph::{Addresses, Graph, Graphs, Way};
use crate::host_step;
use crate::library::check;
use crate::memory::{DeviceMemory, PinnedMemory};
use crate::program::{CudaExecutable, INPUT_ALIGNMENT, Launch, Located, WORKSPACE, Work};
use crate::service::{CHECKPOINT, COUNTER_BYTES, Counters, SMALL, TICKET};

/// Bytes of the ring through which host copies go; larger copies go from and to the caller's memory, which takes the driver longer.
const RING: usize = 512 << 10;

/// How long the queue's own waits may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// One stream of a GPU.
pub(crate) struct CudaQueue {
    shared: Arc<Shared>,
    stream: StreamId,
    raw: CUstream,
    /// The queue's own waits count here.
    checkpoint: u64,
    /// Last ticket number given to the stream.
    submitted: u64,
    ring: PinnedMemory,
    /// Parts of the ring in use: their end, and the ticket after which they are free.
    ring_used: VecDeque<(usize, u64)>,
    /// Which step failed, and by what index: written by the device.
    report: PinnedMemory,
    /// Numbers told so far, and status words. Kept for `at`.
    counters: DeviceMemory,
    at: Counters,
    /// Where the device cannot wait for words.
    events: Option<Arc<Ring>>,
    workspace: DeviceMemory,
    /// Where misaligned inputs are copied to.
    aligned: DeviceMemory,
    graphs: Graphs,
    /// Whether few streams are at work.
    company: Company,
    few: bool,
    bases: Vec<u64>,
}

// SAFETY: the stream handle may be used by any thread; the queue is used by one at a time.
unsafe impl Send for CudaQueue {}

impl CudaQueue {
    pub(crate) fn new(shared: &Arc<Shared>, stream: StreamId) -> Result<Self> {
        let context = &shared.context;
        context.enter()?;
        let mut raw: CUstream = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let result =
            unsafe { sys::cuStreamCreate(&mut raw, sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32) };
        check("making a stream", result)?;
        // A stream that is opened again begins anew.
        shared.timeline.word(stream, 0).store(0, Ordering::Release);
        shared.timeline.word(stream, 1).store(0, Ordering::Release);
        let counters = DeviceMemory::new(context, COUNTER_BYTES)?;
        counters.fill(&[0; COUNTER_BYTES])?;
        let report = PinnedMemory::new(context, 16)?;
        let at = Counters {
            counters: counters.address(),
            ticket: shared.timeline.address(stream, 0),
            checkpoint: shared.timeline.address(stream, 1),
            report: report.device_address(0),
        };
        Ok(Self {
            shared: shared.clone(),
            stream,
            raw,
            checkpoint: 0,
            submitted: 0,
            ring: PinnedMemory::new(context, RING)?,
            ring_used: VecDeque::new(),
            report,
            counters,
            at,
            events: shared.rings.as_ref().map(|r| r.open(context, stream)).transpose()?,
            workspace: DeviceMemory::new(context, 0)?,
            aligned: DeviceMemory::new(context, 0)?,
            graphs: Graphs::default(),
            company: Company::new(shared.completed()),
            few: false,
            bases: Vec::new(),
        })
    }

    /// Notes a lost device; the error goes on.
    fn checked(&self, what: &str, result: sys::CUresult) -> Result<()> {
        self.shared.context.noted(check(what, result))
    }

    /// Ends a submission: a small copy, if any, then the words that `mode` says.
    fn end(&self, copy: (u64, u64, usize), words: usize, mode: u32) -> Result<()> {
        let result = self.shared.service.submit(self.raw, self.at, copy, words, mode);
        self.shared.context.noted(result)
    }

    /// Waits until all that was submitted is done.
    fn drain(&mut self, deadline: Instant) -> Result<()> {
        self.end((0, 0, 0), 0, CHECKPOINT)?;
        self.reach_checkpoint(deadline)
    }

    /// Waits for the checkpoint that was just submitted.
    fn reach_checkpoint(&mut self, deadline: Instant) -> Result<()> {
        self.checkpoint += 1;
        self.shared.timeline.wait(self.stream, 1, self.checkpoint, deadline)
    }

    /// Waits while too much is in flight (INV-12).
    fn credit(&self, number: u64) -> Result<()> {
        let depth = QUEUE_DEPTH as u64;
        if number > depth && self.shared.timeline.completed(self.stream) < number - depth {
            self.shared.timeline.wait(self.stream, 0, number - depth, Instant::now() + PATIENCE)?;
        }
        Ok(())
    }

    /// `bytes` of the ring that no copy under way uses, to be used until ticket `number`.
    fn ring(&mut self, bytes: usize, number: u64) -> Result<usize> {
        let done = self.shared.timeline.completed(self.stream);
        while self.ring_used.front().is_some_and(|&(_, n)| n <= done) {
            self.ring_used.pop_front();
        }
        let padded = bytes.next_multiple_of(64);
        let start = loop {
            let Some(&(_, oldest)) = self.ring_used.front() else { break 0 };
            // Parts follow one another; only an empty ring begins anew.
            let end = self.ring_used.back().map_or(0, |&(end, _)| end);
            if end + padded <= RING {
                break end;
            }
            if oldest > self.submitted {
                // Left by a read that failed: no ticket comes that says when it ended.
                self.drain(Instant::now() + PATIENCE)?;
            } else {
                self.shared.timeline.wait(self.stream, 0, oldest, Instant::now() + PATIENCE)?;
            }
            self.ring_used.pop_front();
        };
        self.ring_used.push_back((start + padded, number));
        Ok(start)
    }

    /// Numbers of a queue grow by one: the device counts them.
    fn next_is(&self, number: u64) -> Result<()> {
        if number == self.submitted + 1 {
            return Ok(());
        }
        Err(Error::invalid_argument(format!(
            "cuda: submission {number} was given to stream {}, the next is {}",
            self.stream.0,
            self.submitted + 1
        )))
    }

    /// Notes that submission `number` was made.
    fn submitted(&mut self, number: u64) -> Result<()> {
        self.submitted = number;
        match &self.events {
            Some(ring) => self.shared.context.noted(ring.record(number, self.raw)),
            None => Ok(()),
        }
    }

    fn has_small_company(&mut self) -> bool {
        let (shared, own) = (&self.shared, self.stream.0 as usize);
        self.company.is_small(self.submitted + 1, own, || shared.completed())
    }

    fn launch_kernel(&self, launch: &Launch) -> Result<()> {
        let mut addresses: SmallVec<[u64; 8]> = launch.args.iter().map(|&a| self.address(a)).collect();
        let mut params: SmallVec<[*mut c_void; 8]> =
            addresses.iter_mut().map(|a| std::ptr::from_mut(a).cast::<c_void>()).collect();
        let form = launch.form(self.few);
        // SAFETY: the function has one pointer parameter per argument; the addresses are those of the operands that it was made for, which stay
        // valid until the work is done (INV-6).
        let result = unsafe {
            form.function.launch(
                (form.grid as u32, form.threads),
                (form.shared, form.cluster),
                self.raw,
                params.as_mut_ptr(),
            )
        };
        self.checked("launching a kernel", result)
    }

    fn address(&self, at: Located) -> u64 {
        match at.base {
            WORKSPACE => self.workspace.address() + at.offset,
            base => self.bases[base as usize] + at.offset,
        }
    }

    /// Submits the steps one by one.
    fn submit(&mut self, program: &CudaExecutable) -> Result<()> {
        for step in &program.steps {
            let name = |e: Error| e.context(&step.name);
            match &step.work {
                Work::Kernels(list) => {
                    for launch in list {
                        self.launch_kernel(launch).map_err(name)?;
                    }
                }
                Work::Gemm { gemm, at, residual, tail } => {
                    let size = gemm.element_size() as isize;
                    let [a, b, y] = at.map(|l| self.address(l));
                    for call in &gemm.calls {
                        let shifted = |x: u64, by: isize| x.wrapping_add_signed((by * size) as i64);
                        gemm.run(
                            [shifted(a, call[0]), shifted(b, call[1]), shifted(y, call[2])],
                            self.address(*residual),
                            self.workspace.address(),
                            self.raw,
                        )
                        .map_err(name)?;
                    }
                    if let Some(tail) = tail {
                        self.launch_kernel(tail).map_err(name)?;
                    }
                }
                Work::Host { step: host, inputs, outputs } => {
                    let fetch = |queue: &mut Self, at: Located, bytes: usize| {
                        let mut buffer = host_step::buffer(bytes)?;
                        queue.copy_to_host(
                            queue.address(at),
                            buffer.bytes_mut(),
                            Instant::now() + PATIENCE,
                        )?;
                        Ok::<_, Error>(buffer)
                    };
                    let read = inputs
                        .iter()
                        .zip(&host.inputs)
                        .map(|(&at, &(_, bytes))| fetch(self, at, bytes))
                        .collect::<Result<Vec<_>>>()
                        .map_err(name)?;
                    // An output may be a region of a larger tensor, whose other bytes stay.
                    let mut written = outputs
                        .iter()
                        .zip(&host.outputs)
                        .map(|(&at, &bytes)| fetch(self, at, bytes))
                        .collect::<Result<Vec<_>>>()
                        .map_err(name)?;
                    host.run(&read, &mut written).map_err(name)?;
                    for (&at, buffer) in outputs.iter().zip(&written) {
                        if buffer.bytes().is_empty() {
                            continue;
                        }
                        // SAFETY: the place holds that many bytes; the buffer lives until the wait below.
                        let result = unsafe {
                            sys::cuMemcpyHtoDAsync_v2(
                                self.address(at),
                                buffer.bytes().as_ptr().cast(),
                                buffer.bytes().len(),
                                self.raw,
                            )
                        };
                        self.checked("copying a result", result).map_err(name)?;
                    }
                    self.drain(Instant::now() + PATIENCE)?;
                }
            }
        }
        Ok(())
    }

    /// Copies after all that was submitted, and waits.
    fn copy_to_host(&mut self, from: u64, to: &mut [u8], deadline: Instant) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        if to.len() > RING {
            // SAFETY: `from` holds as many bytes as `to`, which lives until the wait below.
            let result =
                unsafe { sys::cuMemcpyDtoHAsync_v2(to.as_mut_ptr().cast(), from, to.len(), self.raw) };
            self.checked("copying to the host", result)?;
            // Whatever the deadline, the copy must not outlive the borrow.
            return self
                .drain(Instant::now() + PATIENCE.max(deadline.saturating_duration_since(Instant::now())));
        }
        // Copies under way may use the ring: the drain below waits for them too.
        let tail = self.ring(to.len(), self.submitted + 1)?;
        if to.len() <= SMALL {
            self.end((self.ring.device_address(tail), from, to.len()), 0, CHECKPOINT)?;
            self.reach_checkpoint(deadline)?;
        } else {
            // SAFETY: `from` holds as many bytes; the ring's part is this copy's.
            let result = unsafe {
                sys::cuMemcpyDtoHAsync_v2(self.ring.as_ptr().add(tail).cast(), from, to.len(), self.raw)
            };
            self.checked("copying to the host", result)?;
            self.drain(deadline)?;
        }
        // SAFETY: the device's write has ended; the part holds as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(self.ring.as_ptr().add(tail), to.as_mut_ptr(), to.len()) };
        self.ring_used.pop_back();
        Ok(())
    }

    /// Copies bound inputs whose address does not suit to a place of the queue's own. Gives the addresses to use.
    fn align(&mut self, program: &CudaExecutable, bindings: &Bindings<'_>) -> Result<SmallVec<[u64; 8]>> {
        let mut addresses: SmallVec<[u64; 8]> = bindings.inputs.iter().map(|s| s.address()).collect();
        let bad = |a: u64| !a.is_multiple_of(INPUT_ALIGNMENT);
        if !addresses.iter().zip(&program.inputs).any(|(&a, port)| bad(a) && port.bytes > 0) {
            return Ok(addresses);
        }
        let needed: usize = program.inputs.iter().map(|p| p.bytes.next_multiple_of(256)).sum();
        if self.aligned.bytes() < needed {
            self.drain(Instant::now() + PATIENCE)?;
            self.graphs.clear();
            self.aligned = DeviceMemory::new(&self.shared.context, needed)?;
        }
        let mut to = self.aligned.address();
        for (address, port) in addresses.iter_mut().zip(&program.inputs) {
            if bad(*address) && port.bytes > 0 {
                // SAFETY: both hold the port's bytes.
                let result = unsafe { sys::cuMemcpyDtoDAsync_v2(to, *address, port.bytes, self.raw) };
                self.checked("aligning an input", result)?;
                *address = to;
                to += port.bytes.next_multiple_of(256) as u64;
            }
        }
        Ok(addresses)
    }

    /// Submits a program: as a graph if these addresses come again.
    fn execute(&mut self, program: &Arc<CudaExecutable>, bindings: &Bindings<'_>, mode: u32) -> Result<()> {
        if self.workspace.bytes() < program.workspace_bytes {
            // Rare: a larger algorithm than any before. Graphs know the old address.
            self.drain(Instant::now() + PATIENCE)?;
            self.graphs.clear();
            self.workspace = DeviceMemory::new(&self.shared.context, program.workspace_bytes)
                .map_err(|e| e.context("the workspace of a stream"))?;
        }
        let inputs = self.align(program, bindings)?;
        self.bases.clear();
        // The status words lie behind the two numbers.
        self.bases.extend([0, bindings.arena.address(), self.counters.address() + 16]);
        self.bases.extend(&inputs);
        self.bases.extend(bindings.outputs.iter().map(|s| s.address()));
        if program.worth_a_graph {
            self.few = program.has_quick && self.has_small_company();
            let form = u64::from(self.few);
            let addresses: Addresses =
                self.bases[1..2].iter().chain(&self.bases[3..]).chain([&form]).copied().collect();
            match self.graphs.way(program, &addresses) {
                Way::Graph(graph) => self.launch_graph(graph)?,
                Way::Plain => self.submit_and_end(program, mode)?,
                Way::Capture => match self.capture(program, mode) {
                    Ok(graph) => {
                        let raw = graph.raw;
                        self.graphs.insert(program, addresses, graph);
                        self.launch_graph(raw)?;
                    }
                    // What cannot be captured runs as it is.
                    Err(e) if !e.is_device_lost() => self.submit_and_end(program, mode)?,
                    Err(e) => return Err(e),
                },
            }
        } else {
            self.submit_and_end(program, mode)?;
        }
        Ok(())
    }

    fn submit_and_end(&mut self, program: &CudaExecutable, mode: u32) -> Result<()> {
        self.submit(program)?;
        self.end((0, 0, 0), program.status_words, mode)
    }

    fn launch_graph(&self, graph: sys::CUgraphExec) -> Result<()> {
        // SAFETY: the graph lives in `self.graphs`; its addresses are those of this launch.
        let result = unsafe { sys::cuGraphLaunch(graph, self.raw) };
        self.checked("launching a graph", result)
    }

    fn capture(&mut self, program: &CudaExecutable, mode: u32) -> Result<Graph> {
        // SAFETY: capture begins and ends here, on this stream, whatever happens between; other threads' calls are not touched by a relaxed capture.
        unsafe {
            let relaxed = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
            self.checked("beginning a graph", sys::cuStreamBeginCapture_v2(self.raw, relaxed))?;
            let submitted = self.submit_and_end(program, mode);
            let mut graph: sys::CUgraph = std::ptr::null_mut();
            let ended = self.checked("ending a graph", sys::cuStreamEndCapture(self.raw, &mut graph));
            if let Err(e) = submitted.and(ended) {
                if !graph.is_null() {
                    let _ = sys::cuGraphDestroy(graph);
                }
                return Err(e);
            }
            let mut raw: sys::CUgraphExec = std::ptr::null_mut();
            let made = self.checked("making a graph", sys::cuGraphInstantiateWithFlags(&mut raw, graph, 0));
            let _ = sys::cuGraphDestroy(graph);
            made?;
            Ok(Graph::new(&self.shared.context, raw))
        }
    }

    /// Runs a program that data can make fail, and waits for it: its error is this call's own.
    fn launch_checked(
        &mut self,
        program: &Arc<CudaExecutable>,
        bindings: &Bindings<'_>,
        number: u64,
    ) -> Result<()> {
        let report = self.report.as_ptr().cast::<u64>();
        // SAFETY: two words, which only the end of such a program writes, and those are waited for.
        unsafe { report.write_volatile(0) };
        if let Err(e) = self.execute(program, bindings, TICKET | CHECKPOINT) {
            // Part of it may be under way, and may have set status words: the end of nothing clears them.
            self.end((0, 0, 0), program.status_words, CHECKPOINT)?;
            self.reach_checkpoint(Instant::now() + PATIENCE)?;
            return Err(e);
        }
        self.reach_checkpoint(Instant::now() + PATIENCE)?;
        // SAFETY: as above; the device's writes came before the checkpoint.
        let (word, status) = unsafe { (report.read_volatile(), report.add(1).read_volatile()) };
        if word != 0 {
            // The number was not told: it is free again.
            return Err(program.failed(word as usize - 1, status));
        }
        self.submitted(number)
    }
}

impl Queue for CudaQueue {
    fn launch(&mut self, program: &Arc<dyn Executable>, bindings: &Bindings<'_>, number: u64) -> Result<()> {
        let program = match (**program).as_any().downcast_ref::<Handle>() {
            Some(Handle(program)) if program.belongs_to(&self.shared) => program,
            _ => return Err(Error::invalid_argument("cuda: the program was compiled for another device")),
        };
        self.shared.context.enter()?;
        program.check(bindings)?;
        self.credit(number)?;
        self.next_is(number)?;
        if program.may_fail || program.on_host {
            return self.launch_checked(program, bindings, number);
        }
        self.execute(program, bindings, TICKET)?;
        self.submitted(number)
    }

    fn write(&mut self, to: Slice<'_>, from: &[u8], number: u64) -> Result<()> {
        if from.len() > to.bytes() {
            return Err(Error::invalid_argument(format!(
                "cuda: {} bytes do not fit a slice of {}",
                from.len(),
                to.bytes()
            )));
        }
        self.shared.context.enter()?;
        self.credit(number)?;
        self.next_is(number)?;
        if from.len() > RING / 2 {
            // SAFETY: both ranges hold that many bytes; of pageable memory the driver takes the bytes before it returns.
            let result = unsafe {
                sys::cuMemcpyHtoDAsync_v2(to.address(), from.as_ptr().cast(), from.len(), self.raw)
            };
            self.checked("copying to the device", result)?;
            self.end((0, 0, 0), 0, TICKET)?;
        } else {
            let at = self.ring(from.len(), number)?;
            // SAFETY: the ring's part is this copy's until the ticket is done, and as long.
            unsafe {
                std::ptr::copy_nonoverlapping(from.as_ptr(), self.ring.as_ptr().add(at), from.len());
            }
            let source = self.ring.device_address(at);
            if from.len() <= SMALL {
                self.end((to.address(), source, from.len()), 0, TICKET)?;
            } else {
                // SAFETY: as above.
                let result = unsafe {
                    sys::cuMemcpyHtoDAsync_v2(to.address(), source as *const c_void, from.len(), self.raw)
                };
                self.checked("copying to the device", result)?;
                self.end((0, 0, 0), 0, TICKET)?;
            }
        }
        self.submitted(number)
    }

    fn read(&mut self, from: Slice<'_>, to: &mut [u8], deadline: Instant) -> Result<()> {
        if to.len() > from.bytes() {
            return Err(Error::invalid_argument(format!(
                "cuda: {} bytes were asked of a slice of {}",
                to.len(),
                from.bytes()
            )));
        }
        self.shared.context.enter()?;
        self.copy_to_host(from.address(), to, deadline)
    }

    fn wait_for(&mut self, ticket: Ticket) -> Result<()> {
        if ticket.stream == self.stream || self.shared.timeline.completed(ticket.stream) >= ticket.number {
            return Ok(());
        }
        self.shared.context.enter()?;
        if let Some(rings) = &self.shared.rings {
            return self.shared.context.noted(rings.wait(ticket, self.raw));
        }
        let address = self.shared.timeline.address(ticket.stream, 0);
        let flags = sys::CUstreamWaitValue_flags::CU_STREAM_WAIT_VALUE_GEQ as u32;
        // SAFETY: the word lives as long as the device. The ticket is of submitted work (INV-12), so the word will reach it.
        let result = unsafe { sys::cuStreamWaitValue64_v2(self.raw, address, ticket.number, flags) };
        self.checked("waiting for another stream", result)
    }
}

impl Drop for CudaQueue {
    fn drop(&mut self) {
        if self.shared.context.enter().is_err() {
            return;
        }
        // What is in flight uses the ring and the counters.
        let _ = self.drain(Instant::now() + PATIENCE);
        self.graphs.clear();
        if let (Some(rings), Some(ring)) = (&self.shared.rings, &self.events) {
            rings.close(self.stream, ring);
        }
        // SAFETY: made in `new`, destroyed once.
        let _ = unsafe { sys::cuStreamDestroy_v2(self.raw) };
    }
}
