//! ONNX files written byte by byte, and running what planning makes of them.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

#[path = "../../../cli/src/message.rs"]
mod message;

pub use message::Message;
use streampool_core::Result;
use streampool_core::driver::{Bindings, Driver, Slice};
use streampool_core::op::{DType, HostTensor, Op};
use streampool_cpu::{CpuConfig, CpuDriver, Executor};
use streampool_graph::{InputSpec, LoadOptions, Model, Plan, Planned};

/// ONNX's code of a dtype.
pub fn code(dtype: DType) -> i64 {
    match dtype {
        DType::F32 => 1,
        DType::U8 => 2,
        DType::I8 => 3,
        DType::I32 => 6,
        DType::I64 => 7,
        DType::Bool => 9,
        DType::F16 => 10,
        DType::F64 => 11,
        DType::BF16 => 16,
    }
}

/// A tensor with raw data.
pub fn tensor(name: &str, t: &HostTensor) -> Message {
    let mut m = Message::default();
    for &d in t.ty().shape.iter() {
        m = m.int(1, d as i64);
    }
    m.int(2, code(t.ty().dtype)).str(8, name).bytes(9, t.bytes())
}

/// A declared input or output; `dims` are numbers or names.
pub fn value(name: &str, dtype: DType, dims: &[&str]) -> Message {
    let mut shape = Message::default();
    for d in dims {
        let dim = match d.parse::<i64>() {
            Ok(n) => Message::default().int(1, n),
            Err(_) => Message::default().str(2, d),
        };
        shape = shape.message(1, &dim);
    }
    let ty = Message::default().int(1, code(dtype)).message(2, &shape);
    Message::default().str(1, name).message(2, &Message::default().message(1, &ty))
}

/// A node under construction.
#[derive(Clone)]
pub struct Node(pub Message);

pub fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Node {
    let mut m = Message::default();
    for i in inputs {
        m = m.str(1, i);
    }
    for o in outputs {
        m = m.str(2, o);
    }
    Node(m.str(3, &format!("{op}_{}", outputs.first().unwrap_or(&""))).str(4, op))
}

impl Node {
    fn attr(self, name: &str, kind: i64, fill: impl FnOnce(Message) -> Message) -> Self {
        let a = fill(Message::default().str(1, name)).int(20, kind);
        Node(self.0.message(5, &a))
    }

    pub fn int(self, name: &str, v: i64) -> Self {
        self.attr(name, 2, |a| a.int(3, v))
    }

    pub fn float(self, name: &str, v: f32) -> Self {
        self.attr(name, 1, |a| a.float(2, v))
    }

    pub fn ints(self, name: &str, v: &[i64]) -> Self {
        self.attr(name, 7, |a| v.iter().fold(a, |a, &v| a.int(8, v)))
    }

    pub fn str(self, name: &str, v: &str) -> Self {
        self.attr(name, 3, |a| a.str(4, v))
    }

    pub fn graph(self, name: &str, g: &Graph) -> Self {
        self.attr(name, 5, |a| a.message(6, &g.message()))
    }

    pub fn reference(self, name: &str, of: &str) -> Self {
        Node(self.0.message(5, &Message::default().str(1, name).str(21, of).int(20, 1)))
    }

    pub fn domain(self, domain: &str) -> Self {
        Node(self.0.str(7, domain))
    }
}

/// A graph under construction.
#[derive(Clone, Default)]
pub struct Graph {
    pub nodes: Vec<Node>,
    pub constants: Vec<Message>,
    pub inputs: Vec<Message>,
    pub outputs: Vec<Message>,
    pub functions: Vec<Message>,
}

impl Graph {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn input(mut self, name: &str, dtype: DType, dims: &[&str]) -> Self {
        self.inputs.push(value(name, dtype, dims));
        self
    }

    /// An input with any element type code.
    pub fn raw_input(mut self, name: &str, code: i64) -> Self {
        let ty = Message::default().int(1, code).message(2, &Message::default());
        self.inputs.push(Message::default().str(1, name).message(2, &Message::default().message(1, &ty)));
        self
    }

    pub fn output(mut self, name: &str) -> Self {
        self.outputs.push(Message::default().str(1, name));
        self
    }

    pub fn constant(mut self, name: &str, t: &HostTensor) -> Self {
        self.constants.push(tensor(name, t));
        self
    }

    pub fn raw_constant(mut self, t: Message) -> Self {
        self.constants.push(t);
        self
    }

    pub fn node(mut self, n: Node) -> Self {
        self.nodes.push(n);
        self
    }

    pub fn message(&self) -> Message {
        let mut g = Message::default().str(2, "graph");
        for n in &self.nodes {
            g = g.message(1, &n.0);
        }
        for c in &self.constants {
            g = g.message(5, c);
        }
        for i in &self.inputs {
            g = g.message(11, i);
        }
        for o in &self.outputs {
            g = g.message(12, o);
        }
        g
    }

    /// The file's bytes.
    pub fn model(&self, opset: i64) -> Vec<u8> {
        let own = Message::default().int(2, opset);
        let local = Message::default().str(1, "local").int(2, 1);
        let mut m = Message::default().int(1, 8).str(2, "tests").message(7, &self.message()).message(8, &own);
        m = m.message(8, &local);
        for f in &self.functions {
            m = m.message(25, f);
        }
        m.0
    }
}

/// Random numbers, reproducible.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// In -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, dims: &[usize]) -> HostTensor {
        let n = dims.iter().product();
        HostTensor::from_vec(dims.to_vec(), (0..n).map(|_| self.unit()).collect()).unwrap()
    }
}

pub fn ints(dims: &[usize], v: &[i64]) -> HostTensor {
    HostTensor::from_slice(dims.to_vec(), v).unwrap()
}

pub fn floats(dims: &[usize], v: &[f32]) -> HostTensor {
    HostTensor::from_slice(dims.to_vec(), v).unwrap()
}

pub fn load(bytes: Vec<u8>, fuse: bool) -> Result<Model> {
    Model::from_bytes(bytes, &LoadOptions { fuse })
}

/// Plans, giving values where they are asked for.
pub fn plan(model: &Model, inputs: &[HostTensor]) -> Result<Plan> {
    let mut specs: Vec<InputSpec> = inputs.iter().map(|t| InputSpec::new(t.ty().clone())).collect();
    loop {
        match model.plan(&specs)? {
            Planned::Plan(plan) => {
                plan.check()?;
                return Ok(*plan);
            }
            Planned::NeedValues(which) => {
                for i in which {
                    assert!(specs[i].value.is_none(), "a value is asked for twice");
                    specs[i].value = Some(inputs[i].bytes().to_vec().into());
                }
            }
        }
    }
}

/// Runs a plan.
pub fn run(plan: &Plan, inputs: &[HostTensor]) -> Result<Vec<HostTensor>> {
    let driver = CpuDriver::new(CpuConfig::default());
    let program = driver.compile_program(&plan.program)?;
    let mut outputs =
        plan.outputs.iter().map(|(_, ty)| HostTensor::zeros(ty.clone())).collect::<Result<Vec<_>>>()?;
    let segment = driver.allocate(plan.program.arena_bytes.max(64))?;
    let read: Vec<Slice<'_>> = inputs.iter().map(|t| Slice::host(t.bytes())).collect();
    let written: Vec<Slice<'_>> = outputs.iter_mut().map(|t| Slice::host_mut(t.bytes_mut())).collect();
    let arena = Slice::of_segment(&segment, 0, plan.program.arena_bytes);
    Executor::new(driver.team().clone())
        .run(&program, &Bindings { inputs: &read, outputs: &written, arena })?;
    Ok(outputs)
}

/// Loads, plans and runs.
pub fn results(bytes: Vec<u8>, inputs: &[HostTensor]) -> Result<Vec<HostTensor>> {
    run(&plan(&load(bytes, true)?, inputs)?, inputs)
}

/// Names of the plan's operations in order.
pub fn ops(plan: &Plan) -> Vec<&'static str> {
    plan.program.steps.iter().map(|s| s.op.name()).collect()
}

/// The only step's operation.
pub fn only(plan: &Plan) -> &Op {
    assert_eq!(plan.program.steps.len(), 1, "{:?}", ops(plan));
    &plan.program.steps[0].op
}

/// The fused plan gives what the plain one gives, to within rounding; returns the fused one.
pub fn fused_equals_plain(bytes: Vec<u8>, inputs: &[HostTensor]) -> Plan {
    let fused = plan(&load(bytes.clone(), true).unwrap(), inputs).unwrap();
    let plain = plan(&load(bytes, false).unwrap(), inputs).unwrap();
    let (a, b) = (run(&fused, inputs).unwrap(), run(&plain, inputs).unwrap());
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(&b) {
        assert_close(a, b, 2e-5);
    }
    fused
}

pub fn assert_close(a: &HostTensor, b: &HostTensor, tolerance: f64) {
    assert_eq!(a.ty(), b.ty());
    let mut moved = false;
    for i in 0..a.ty().shape.len() {
        let (x, y) = (a.get(i).to_f64(), b.get(i).to_f64());
        moved |= y != 0.0;
        assert!(
            (x - y).abs() <= tolerance * (1.0 + y.abs()) || (x.is_nan() && y.is_nan()),
            "element {i}: {x} and {y}"
        );
    }
    assert!(moved || a.ty().shape.is_empty(), "a result of zeros shows nothing");
}
