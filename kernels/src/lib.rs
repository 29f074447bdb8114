//! GPU kernels, written once.
//!
//! [`lower`] turns one operation on concrete operands into kernels: C++ text in the subset that CUDA, Metal and the host share, with all
//! shapes and strides as constants. A *prelude* per device (`prelude/*.h`) says what the few words mean that differ. The host's prelude runs
//! every thread of a block as a fibre, so that machines without a GPU execute the very same text: `tests/` compares it with the CPU device.
//!
//! Sums are split the same way whatever the device does at the time (INV-14). Contraction to fused multiply-adds must be off when the text
//! is compiled (`-fmad=false`, `-ffp-contract=off`): where a kernel wants one, it says `m_fma`.
#![forbid(unsafe_code)]

mod attention;
mod embedded;
mod emit;
mod index;
mod linalg;
mod map;
mod matmul;
mod movement;
mod normalize;
mod product;
mod random;
mod recurrent;
mod reduce;
mod resize;
mod sort;
mod target;
mod window;

use streampool_core::op::{Op, Operand};

pub use embedded::{Value, embedded};
pub use matmul::{epilogue, vectors};
pub use product::{Aim, Product, attended, product};
pub use target::Target;

/// Which device's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// For NVRTC.
    Cuda,
    /// For Metal's compiler.
    Metal,
    /// For a host C++ compiler.
    Host,
}

/// What a kernel's parameter points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Binding {
    /// Element 0 of the step's n-th input.
    Input(usize),
    /// Element 0 of the step's n-th output.
    Output(usize),
    /// One 64-bit word of this step, 0 before it runs: a kernel that meets data that it cannot do leaves a code there, which [`failure`] explains.
    Status,
    /// Memory of [`Kernel::scratch`] bytes, aligned to 256, that the step's kernels have to themselves until the step is done.
    Scratch,
}

/// A pointer parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// What is bound.
    pub binding: Binding,
    name: String,
    ctype: &'static str,
}

/// One kernel and its launch.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Entry point; equal for equal text.
    pub name: String,
    /// What is bound, in order.
    pub params: Vec<Param>,
    /// Blocks, in one dimension.
    pub grid: u64,
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory that a launch asks for.
    pub shared: u32,
    /// Blocks of a cluster, which read each other's shared memory; 1 for none.
    pub cluster: u32,
    /// Bytes of device memory that it writes or reads besides its operands.
    pub scratch: usize,
    /// What was chosen, for `inspect`.
    pub what: String,
    early: String,
    body: String,
    barriers: bool,
    restrict: bool,
}

/// The index that a status word tells, if its step failed.
pub fn failed_index(status: u64) -> Option<i64> {
    (status != 0).then_some((status << 1) as i64 >> 1)
}

/// What the status word of a step says that failed, without the step's name; `None` if it did not.
pub fn failure(op: &Op, status: u64) -> Option<String> {
    let index = failed_index(status)?;
    Some(match op {
        Op::Linalg(op) => linalg::failure(*op, status),
        _ => format!("index {index} is out of range for the axis that it picks from"),
    })
}

/// The text that goes before all kernels of a dialect.
pub fn prelude(dialect: Dialect) -> String {
    let device = match dialect {
        Dialect::Cuda => include_str!("../prelude/cuda.h"),
        Dialect::Metal => include_str!("../prelude/metal.h"),
        Dialect::Host => concat!(include_str!("../prelude/races.h"), "\n", include_str!("../prelude/host.h")),
    };
    format!("{device}\n{}", include_str!("../prelude/common.h"))
}

impl Kernel {
    pub(crate) fn new(what: impl Into<String>, grid: u64, threads: u32) -> Self {
        Self {
            name: String::new(),
            params: Vec::new(),
            grid,
            threads,
            shared: 0,
            cluster: 1,
            scratch: 0,
            what: what.into(),
            early: String::new(),
            body: String::new(),
            barriers: false,
            restrict: false,
        }
    }

    pub(crate) fn param(mut self, binding: Binding, name: &str, ctype: &'static str) -> Self {
        self.params.push(Param { binding, name: name.to_owned(), ctype });
        self
    }

    /// Threads of a block wait for each other or show each other values.
    pub(crate) fn with_barriers(mut self) -> Self {
        self.barriers = true;
        self
    }

    /// Blocks have `bytes` of shared memory, as `SHARED_ARENA`, and form clusters of `cluster`.
    pub(crate) fn with_shared(mut self, bytes: u32, cluster: u32) -> Self {
        (self.shared, self.cluster) = (bytes, cluster);
        self
    }

    /// Kernels of the step share `bytes` of device memory.
    pub(crate) fn with_scratch(mut self, bytes: usize) -> Self {
        self.scratch = bytes;
        self
    }

    /// What runs before the stream's earlier work is known to be done: it touches nothing that such work writes.
    pub(crate) fn early(mut self, text: String) -> Self {
        self.early = text;
        self
    }

    /// No output overlaps an input.
    pub(crate) fn apart(mut self) -> Self {
        self.restrict = true;
        self
    }

    pub(crate) fn body(mut self, body: String) -> Self {
        self.body = body;
        let mut hash = Fnv::default();
        hash.write(self.source_of("k", Dialect::Cuda).as_bytes());
        hash.write(&self.grid.to_le_bytes());
        hash.write(&[self.cluster as u8]);
        self.name = format!("k{:016x}", hash.0);
        self
    }

    /// The kernel's text, without the prelude.
    pub fn source(&self, dialect: Dialect) -> String {
        self.source_of(&self.name, dialect)
    }

    /// Whether the kernel may leave a code in its status word.
    pub fn may_fail(&self) -> bool {
        self.params.iter().any(|p| p.binding == Binding::Status)
    }

    fn source_of(&self, name: &str, dialect: Dialect) -> String {
        let written = |p: &Param| !matches!(p.binding, Binding::Input(_));
        let list = |f: &dyn Fn(usize, &Param) -> String| {
            self.params.iter().enumerate().map(|(i, p)| f(i, p)).collect::<Vec<_>>()
        };
        let (early, body) = (&self.early, &self.body);
        match dialect {
            Dialect::Cuda => {
                let restrict = if self.restrict { "__restrict__ " } else { "" };
                let params = list(&|_, p| {
                    let constant = if written(p) { "" } else { "const " };
                    format!("{constant}{} *{restrict}{}", p.ctype, p.name)
                });
                // Where weights are read early, blocks that wait for earlier work hold much shared memory: they say themselves when later work may begin.
                let begin = if self.early.is_empty() { "    LATER_WORK_MAY_BEGIN();\n" } else { "" };
                format!(
                    "extern \"C\" __global__ void __launch_bounds__({}) {name}({}) {{\n{begin}{early}    AFTER_EARLIER_WORK();\n{body}}}\n",
                    self.threads,
                    params.join(", ")
                )
            }
            Dialect::Metal => {
                let params = list(&|i, p| {
                    let constant = if written(p) { "" } else { "const " };
                    format!("device {constant}{} *{} [[buffer({i})]]", p.ctype, p.name)
                });
                format!(
                    "kernel void {name}({}, uint sp_thread [[thread_position_in_threadgroup]], uint sp_block [[threadgroup_position_in_grid]]) {{\n{early}{body}}}\n",
                    params.join(", ")
                )
            }
            Dialect::Host => {
                let params =
                    list(&|i, p| format!("    {t} *{n} = ({t} *)args[{i}];\n", t = p.ctype, n = p.name));
                format!(
                    "static void {name}_body(void **args) {{\n{}{early}{body}}}\nextern \"C\" void {name}(void **args) {{ run_blocks({name}_body, args, {}ull, {}, {}, {}, {}, {}); }}\n",
                    params.concat(),
                    self.grid,
                    self.threads,
                    self.barriers,
                    self.cluster,
                    self.shared,
                    body.contains("SHARED ")
                )
            }
        }
    }
}

/// FNV-1a: names must not change from build to build.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = (self.0 ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// The kernels of one operation on such a device, in order. `None` if there are none for it (a library or the CPU must do it). No kernel for nothing to do.
///
/// The operands are those of a checked step: they fit the operation.
pub fn lower(op: &Op, inputs: &[Operand], outputs: &[Operand], target: Target) -> Option<Vec<Kernel>> {
    if outputs.iter().all(|o| o.layout.shape.is_empty()) {
        return Some(Vec::new());
    }
    match op {
        Op::Map(o) => Some(map::lower(o, inputs, &outputs[0])),
        Op::Copy(_) => Some(movement::copy(&inputs[0], &outputs[0])),
        Op::Fill(o) => Some(movement::fill(o, &outputs[0])),
        Op::Range(o) => Some(movement::range(o, &outputs[0])),
        Op::Pad(o) => Some(movement::pad(o, &inputs[0], &outputs[0])),
        Op::Trilu(o) => Some(movement::trilu(o, &inputs[0], &outputs[0])),
        Op::Reduce(o) => reduce::reduce(o, &inputs[0], &outputs[0]),
        Op::ArgReduce(o) => Some(reduce::arg(o, &inputs[0], &outputs[0])),
        Op::Cumulative(o) => Some(reduce::cumulative(o, &inputs[0], &outputs[0])),
        Op::Softmax(o) => Some(normalize::softmax(o, &inputs[0])),
        Op::LayerNorm(o) => Some(normalize::layer_norm(o, inputs)),
        Op::Gather(o) => Some(index::gather(o, inputs, &outputs[0])),
        Op::GatherElements(o) => Some(index::gather_elements(o, inputs, &outputs[0])),
        Op::GatherNd(o) => Some(index::gather_nd(o, inputs, &outputs[0])),
        Op::ScatterElements(o) => Some(index::scatter_elements(o, inputs, &outputs[0])),
        Op::ScatterNd(o) => Some(index::scatter_nd(o, inputs, &outputs[0])),
        Op::TopK(o) => sort::top_k(o, &inputs[0], outputs),
        Op::Pool(o) => Some(window::pool(o, &inputs[0], outputs)),
        Op::Conv(o) => Some(window::conv(o, inputs, &outputs[0])),
        Op::ConvTranspose(o) => Some(window::conv_transpose(o, inputs, &outputs[0])),
        Op::MatMul(o) => Some(matmul::lower(o, inputs, &outputs[0])),
        Op::MatMulInteger(o) => Some(matmul::integer(o, inputs, &outputs[0])),
        Op::Attention(o) => Some(attention::lower(o, inputs, &outputs[0], target)),
        Op::Random(o) => Some(random::random(o, &outputs[0])),
        Op::Resize(o) => resize::resize(o, &inputs[0], &outputs[0]),
        Op::Recurrent(o) => recurrent::lower(o, inputs, outputs),
        Op::Linalg(o) => linalg::lower(*o, inputs),
        Op::Unique(_) => None,
    }
}
