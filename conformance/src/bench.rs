//! What the checks are made of: small programs, values, and a queue that counts its tickets.

use std::sync::Arc;
use std::time::{Duration, Instant};

use streampool_core::Result;
use streampool_core::driver::{Bindings, Driver, Executable, Queue, Segment, Slice};
use streampool_core::op::{
    Binary, DType, Instr, Layout, Map, Op, Operand, Place, Port, Program, Scalar, Shape, Step,
};
use streampool_core::timeline::{StreamId, Submissions, Ticket};

/// splitmix64: the checks' values.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `n` values in -1..1.
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0).collect()
    }
}

/// Little-endian bytes of `values`.
pub fn value(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// `len` contiguous elements at `place`.
pub(crate) fn vector(place: Place, dtype: DType, len: usize) -> Operand {
    Operand { place, dtype, layout: Layout::contiguous(Shape::new(&[len])) }
}

/// A program of one elementwise expression over `inputs` float32 vectors of length `len`.
pub fn map_program(code: Vec<Instr>, inputs: usize, len: usize) -> Program {
    let port = Port { dtype: DType::F32, bytes: len * 4 };
    Program {
        name: "map".into(),
        inputs: vec![port.clone(); inputs],
        outputs: vec![port],
        steps: vec![Step {
            name: "map".into(),
            op: Op::Map(Map { code }),
            inputs: (0..inputs).map(|i| vector(Place::Input(i as u32), DType::F32, len)).collect(),
            outputs: vec![vector(Place::Output(0), DType::F32, len)],
        }],
        ..Program::default()
    }
}

/// A program that copies a vector of `len` elements.
pub fn copy_program(len: usize) -> Program {
    map_program(vec![Instr::Input(0)], 1, len)
}

/// `output = input * factor + add`: programs that do not commute, so that their order shows in the result.
pub(crate) fn affine(factor: f32, add: f32, len: usize) -> Program {
    let number = |v: f32| Instr::Const(Scalar::from_f64(DType::F32, f64::from(v)));
    let code = vec![
        Instr::Input(0),
        number(factor),
        Instr::Binary(Binary::Mul, 0, 1),
        number(add),
        Instr::Binary(Binary::Add, 2, 3),
    ];
    map_program(code, 1, len)
}

/// One stream of a device under test.
pub struct Bench {
    /// The device.
    pub driver: Arc<dyn Driver>,
    queue: Box<dyn Queue>,
    submissions: Submissions,
}

impl Bench {
    /// Opens a stream.
    pub fn new(driver: &Arc<dyn Driver>, stream: u32) -> Self {
        let stream = StreamId(stream);
        let queue = driver.open_queue(stream).expect("a queue opens");
        Self { driver: driver.clone(), queue, submissions: Submissions::new(stream) }
    }

    /// The last submission's ticket.
    ///
    /// # Panics
    /// Before the first.
    pub fn ticket(&self) -> Ticket {
        self.submissions.last().expect("something was submitted")
    }

    /// The queue itself.
    pub fn queue(&mut self) -> &mut dyn Queue {
        &mut *self.queue
    }

    /// Device memory.
    pub fn allocate(&self, bytes: usize) -> Segment {
        self.driver.allocate(bytes).expect("the device has room")
    }

    /// Device memory for `len` floats.
    pub fn floats(&self, len: usize) -> Segment {
        self.allocate((len * 4).max(1))
    }

    /// Submits a launch; a refused one leaves its number free.
    ///
    /// # Errors
    /// As [`Queue::launch`].
    pub fn launch(&mut self, program: &Arc<dyn Executable>, bindings: &Bindings<'_>) -> Result<Ticket> {
        self.submissions.submit(|number| self.queue.launch(program, bindings, number))
    }

    /// Submits a launch without an arena.
    pub fn run(
        &mut self,
        program: &Arc<dyn Executable>,
        inputs: &[&Segment],
        outputs: &[&Segment],
    ) -> Ticket {
        let inputs: Vec<Slice<'_>> = inputs.iter().map(|s| Slice::of_segment(s, 0, s.bytes())).collect();
        let outputs: Vec<Slice<'_>> = outputs.iter().map(|s| Slice::of_segment(s, 0, s.bytes())).collect();
        let bindings = Bindings { inputs: &inputs, outputs: &outputs, arena: Slice::EMPTY };
        self.launch(program, &bindings).expect("a launch is taken")
    }

    /// Submits a write of floats to the start of a segment.
    pub fn write(&mut self, to: &Segment, values: &[f32]) -> Ticket {
        self.write_at(to, 0, values)
    }

    /// Submits a write of floats to a segment from its `at`-th float on.
    pub fn write_at(&mut self, to: &Segment, at: usize, values: &[f32]) -> Ticket {
        self.write_slice(Slice::of_segment(to, at * 4, values.len() * 4), &value(values))
    }

    /// Submits a write of bytes to the start of a segment.
    pub fn write_bytes(&mut self, to: &Segment, bytes: &[u8]) -> Ticket {
        self.write_slice(Slice::of_segment(to, 0, bytes.len()), bytes)
    }

    fn write_slice(&mut self, to: Slice<'_>, bytes: &[u8]) -> Ticket {
        self.submissions.submit(|number| self.queue.write(to, bytes, number)).expect("a write is taken")
    }

    /// Reads floats from the start of a segment.
    ///
    /// # Errors
    /// As [`Queue::read`].
    pub fn try_read(&mut self, from: &Segment, len: usize) -> Result<Vec<f32>> {
        let mut bytes = vec![0; len * 4];
        self.queue.read(Slice::of_segment(from, 0, len * 4), &mut bytes, soon())?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    /// [`Self::try_read`], which must succeed.
    pub fn read(&mut self, from: &Segment, len: usize) -> Vec<f32> {
        self.try_read(from, len).expect("a read succeeds")
    }

    /// Waits for everything submitted here.
    pub fn finish(&self) {
        if let Some(last) = self.submissions.last() {
            self.driver.wait(last, soon()).expect("the work ends");
        }
    }
}

/// A deadline that only a hang meets.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// A value on the device to which steps that do not commute are applied, and the same on the host.
pub struct Chain {
    programs: Vec<(Arc<dyn Executable>, f32, f32)>,
    from: Segment,
    to: Segment,
    host: Vec<f32>,
}

impl Chain {
    /// A vector of `len` values, written by `bench`.
    pub fn new(bench: &mut Bench, len: usize, seed: u64) -> Self {
        let host = Random(seed).floats(len);
        let programs = [(0.5, 1.0), (-1.0, 0.25), (0.75, -0.5)].map(|(factor, add)| {
            (bench.driver.compile(&affine(factor, add, len)).expect("it compiles"), factor, add)
        });
        let (from, to) = (bench.floats(len), bench.floats(len));
        bench.write(&from, &host);
        Self { programs: programs.into(), from, to, host }
    }

    /// Applies the `which`-th step, here and there.
    pub fn step(&mut self, bench: &mut Bench, which: usize) -> Ticket {
        let (program, factor, add) = &self.programs[which % self.programs.len()];
        for value in &mut self.host {
            *value = *value * factor + add;
        }
        let ticket = bench.run(program, &[&self.from], &[&self.to]);
        std::mem::swap(&mut self.from, &mut self.to);
        ticket
    }

    /// Reads it back and compares.
    pub fn expect(&self, bench: &mut Bench) {
        assert_eq!(bench.read(&self.from, self.host.len()), self.host, "work ran in another order, or early");
    }
}
