//! RNN, GRU and LSTM: the input's part of all gates by one product beforehand, then a block a sequence and direction that walks through time with the
//! state in shared memory. A warp sums a few rows of the recurrent weights at once.

use streampool_core::op::{
    Cell, DType, F32, Op, Operand, Recurrent, RecurrentActivation, RecurrentDirection,
};

use crate::emit::{fill, register, storage, store};
use crate::{Binding, Kernel};

/// Most bytes of shared memory that a block asks for: what every device of compute capability 8.0 or newer has.
const SHARED: usize = 96 << 10;

/// Most bytes for the input's part of the gates. Where it is longer, each step computes its own.
const SCRATCH: usize = 16 << 20;

/// Rows that a warp sums at once.
const ROWS: usize = 4;

/// A number as text, in the type that sums are made in.
fn number(v: F32, real: &str) -> String {
    format!("({real}){}", crate::emit::float(v.get()))
}

/// `x`, the name of a variable, through an activation.
fn activate(f: RecurrentActivation, x: &str, real: &str) -> String {
    use RecurrentActivation as A;
    let n = |v: F32| number(v, real);
    match f {
        A::Sigmoid => format!("f_sigmoid({x})"),
        A::Tanh => format!("m_tanh({x})"),
        A::Relu => format!("f_relu({x})"),
        A::LeakyRelu(a) => format!("({x} < 0 ? {x} * {} : {x})", n(a)),
        A::ThresholdedRelu(a) => format!("({x} > {} ? {x} : ({real})0)", n(a)),
        A::Affine(a, b) => format!("({x} * {} + {})", n(a), n(b)),
        A::Elu(a) => format!("({x} < 0 ? {} * m_expm1({x}) : {x})", n(a)),
        A::HardSigmoid(a, b) => {
            format!("f_min(f_max({x} * {} + {}, ({real})0), ({real})1)", n(a), n(b))
        }
        A::ScaledTanh(a, b) => format!("({} * m_tanh({x} * {}))", n(a), n(b)),
        A::Softsign => format!("({x} / (({real})1 + m_fabs({x})))"),
        A::Softplus => format!("f_softplus({x})"),
    }
}

/// What differs between directions: the text for the first, or one of both by the direction at hand.
fn by_direction(op: &Recurrent, which: usize, x: &str, real: &str) -> String {
    let each = op.cell.activations();
    let first = activate(op.activations[which], x, real);
    match op.activations.get(each + which) {
        Some(&second) if second != op.activations[which] => {
            format!("(dir == 0 ? {first} : {})", activate(second, x, real))
        }
        _ => first,
    }
}

/// Positions of optional inputs.
struct Inputs {
    bias: Option<usize>,
    lengths: Option<usize>,
    initial_h: Option<usize>,
    initial_c: Option<usize>,
    peephole: Option<usize>,
}

impl Inputs {
    fn of(op: &Recurrent) -> Self {
        let mut next = 3;
        let mut take = |there: bool| {
            there.then(|| {
                next += 1;
                next - 1
            })
        };
        Self {
            bias: take(op.bias),
            lengths: take(op.lengths),
            initial_h: take(op.initial_h),
            initial_c: take(op.initial_c),
            peephole: take(op.peephole),
        }
    }
}

const PROJECT: &str = "
    SHARED @real@ left[16][17];
    SHARED @real@ right[16][17];
    const i32 tx = TID & 15, ty = TID >> 4;
    const i64 column = (i64)(BID % @across@) * 16, row = (i64)(BID / @across@ % @down@) * 16;
    const i64 dir = (i64)(BID / (@across@ull * @down@ull));
    @real@ sum = 0;
    for (i64 k = 0; k < @input@; k += 16) {
        left[ty][tx] = row + ty < @steps@ && k + tx < @input@ ? load(x, (row + ty) * @input@ + k + tx) : 0;
        right[ty][tx] = column + ty < @rows@ && k + tx < @input@ ? load(w, (dir * @rows@ + column + ty) * @input@ + k + tx) : 0;
        BARRIER();
        UNROLL for (int j = 0; j < 16; j++) sum = m_fma(left[ty][j], right[tx][j], sum);
        BARRIER();
    }
    if (row + ty < @steps@ && column + tx < @rows@) {
        const i64 time = (row + ty) / @batch@, n = (row + ty) % @batch@;
        projected[((dir * @batch@ + n) * @time@ + time) * @rows@ + column + tx] = sum;
    }
";

const BEGIN: &str = "
    SHARED_ARENA(arena);
    @real@ *const hidden = (@real@ *)arena;
    @real@ *const more = hidden + @h@;
    @real@ *const sums = more + @h@;
    const i64 dir = (i64)(BID / @batch@u), n = (i64)(BID % @batch@u);
    const i32 lane = TID & 31, warp = TID >> 5;
    i32 length = @time@;
    @lengths@
    const GLOBAL @t@ *const recurrent = r + dir * ((i64)@rows@ * @h@);
    for (i32 k = TID; k < @h@; k += @threads@) {
        hidden[k] = @initial_h@;
        more[k] = @initial_c@;
    }
    @met@
    for (i32 step = 0; step < length; step++) {
        const i64 at = @back@ ? length - 1 - step : step;
";

/// `@to@[row] = the row of @weights@ times @vector@`, of rows `@first@` to `@end@`.
const SUMS: &str = "
        for (i32 row = @first@ + warp * @each@; row < @end@; row += @warps@ * @each@) {
            @real@ sum[@each@];
            UNROLL for (int q = 0; q < @each@; q++) sum[q] = 0;
            for (i32 k = lane; k < @length@; k += 32) {
                const @real@ s = @vector@[k];
                UNROLL for (int q = 0; q < @each@; q++) {
                    const i64 e = row + q < @end@ ? row + q : @end@ - 1;
                    sum[q] = m_fma(load(@weights@, e * @length@ + k), s, sum[q]);
                }
            }
            UNROLL for (int q = 0; q < @each@; q++) {
                UNROLL for (int m = 16; m > 0; m >>= 1) sum[q] += shuffle_xor(sum[q], m);
                if (lane == q && row + q < @end@) @to@[row + q] = sum[q];
            }
        }
";

const END: &str = "
        @met@
    }
    for (i64 step = length; step < @time@; step++) {
        for (i32 k = TID; k < @h@; k += @threads@) { @zero@ }
    }
    for (i32 k = TID; k < @h@; k += @threads@) {
        const i64 to = (dir * @batch@ + n) * @h@ + k;
        @last@
    }
";

/// `None` if the state is larger than a block's shared memory.
pub(crate) fn lower(op: &Recurrent, inputs: &[Operand], outputs: &[Operand]) -> Option<Vec<Kernel>> {
    let x = &inputs[0].layout.shape;
    let (time, batch, input, h) = (x[0], x[1], x[2], op.hidden);
    let dtype = inputs[0].dtype;
    let real = register(dtype);
    let size = if dtype == DType::F64 { 8 } else { 4 };
    let (gates, directions) = (op.cell.gates(), op.direction.count());
    let rows = gates * h;
    let at = Inputs::of(op);
    // Counters are 32 bits wide.
    let too_long = |n: usize| n > i32::MAX as usize / 2;
    if too_long(time) || too_long(rows) || too_long(input) {
        return None;
    }
    let scratch = [time, batch, directions, rows, size].iter().try_fold(1usize, |p, &n| p.checked_mul(n));
    let scratch = scratch.filter(|&bytes| bytes <= SCRATCH).unwrap_or(0);
    let projected = scratch > 0 && input > 0;
    let own = if projected { 0 } else { rows.checked_add(input)? };
    let shared = (2 * h + rows).checked_add(own)?.checked_mul(size)?;
    if shared > SHARED {
        return None;
    }
    let threads = match h {
        0..=16 => 64u32,
        17..=64 => 256,
        65..=256 => 512,
        _ => 1024,
    };
    let common = [
        ("real", real.to_owned()),
        ("t", storage(dtype).to_owned()),
        ("time", time.to_string()),
        ("batch", batch.to_string()),
        ("input", input.to_string()),
        ("h", h.to_string()),
        ("rows", rows.to_string()),
        ("threads", threads.to_string()),
        // Else a step meets once it has its input, before it looks at the state.
        ("met", if projected { "BARRIER();" } else { "" }.to_owned()),
    ];
    let mut kernels = Vec::new();
    if projected && time > 0 {
        let (across, down) = (rows.div_ceil(16), (time * batch).div_ceil(16));
        let text = fill(
            PROJECT,
            &[
                ("across", across.to_string()),
                ("down", down.to_string()),
                ("steps", (time * batch).to_string()),
            ],
        );
        kernels.push(
            Kernel::new("product of all steps", (across * down * directions) as u64, 256)
                .with_barriers()
                .with_scratch(scratch)
                .param(Binding::Input(0), "x", storage(dtype))
                .param(Binding::Input(1), "w", storage(dtype))
                .param(Binding::Scratch, "projected", real)
                .body(fill(&text, &common)),
        );
    }
    let mut kernel = Kernel::new(
        format!("{}, a block of {threads} a sequence", Op::Recurrent(op.clone()).name()),
        (directions * batch) as u64,
        threads,
    )
    .with_barriers()
    .with_shared(shared as u32, 1)
    .with_scratch(if projected { scratch } else { 0 })
    .param(Binding::Input(2), "r", storage(dtype));
    if projected {
        kernel = kernel.param(Binding::Scratch, "projected", real);
    } else {
        kernel = kernel.param(Binding::Input(0), "x", storage(dtype)).param(
            Binding::Input(1),
            "w",
            storage(dtype),
        );
    }
    let optional = [
        (at.bias, "bias", storage(dtype)),
        (at.lengths, "lengths", "i32"),
        (at.initial_h, "initial_h", storage(dtype)),
        (at.initial_c, "initial_c", storage(dtype)),
        (at.peephole, "peephole", storage(dtype)),
    ];
    for (which, name, ctype) in optional {
        if let Some(i) = which {
            kernel = kernel.param(Binding::Input(i), name, ctype);
        }
    }
    for (i, name) in ["y", "y_h", "y_c"].into_iter().enumerate().take(outputs.len()) {
        kernel = kernel.param(Binding::Output(i), name, storage(dtype));
    }
    let state = |there: Option<usize>, name: &str| match there {
        Some(_) => format!("load({name}, (dir * {batch} + n) * {h} + k)"),
        None => "0".to_owned(),
    };
    let lengths = match at.lengths {
        Some(_) => "length = lengths[n] < 0 ? 0 : lengths[n] < length ? lengths[n] : length;",
        None => "",
    };
    let back = match op.direction {
        RecurrentDirection::Forward => "false",
        RecurrentDirection::Reverse => "true",
        RecurrentDirection::Bidirectional => "(dir == 1)",
    };
    let initial_c = state(at.initial_c, "initial_c");
    let mut text = fill(
        BEGIN,
        &[
            ("lengths", lengths.to_owned()),
            ("back", back.to_owned()),
            ("initial_h", state(at.initial_h, "initial_h")),
            ("initial_c", initial_c),
        ],
    );
    let sums = |first: usize, end: usize, weights: &str, vector: &str, length: usize, to: &str| {
        fill(
            SUMS,
            &[
                ("first", first.to_string()),
                ("end", end.to_string()),
                ("each", ROWS.to_string()),
                ("warps", (threads / 32).to_string()),
                ("weights", weights.to_owned()),
                ("vector", vector.to_owned()),
                ("length", length.to_string()),
                ("to", to.to_owned()),
            ],
        )
    };
    if projected {
        text.push_str("        const GLOBAL @real@ *const own = projected + ((dir * @batch@ + n) * @time@ + at) * @rows@;\n");
    } else {
        text.push_str(
            "        @real@ *const own = sums + @rows@;\n        @real@ *const seen = own + @rows@;\n        for (i32 k = TID; k < @input@; k += @threads@) seen[k] = load(x, (at * @batch@ + n) * @input@ + k);\n        BARRIER();\n",
        );
        text.push_str(&sums(0, rows, &format!("w + dir * ((i64){rows} * {input})"), "seen", input, "own"));
    }
    text.push_str(&cell(op, h, rows, real, &at, sums));
    let write = |name: &str, to: &str, value: &str| store(dtype, name, to, value);
    let place = format!("((at * {directions} + dir) * {batch} + n) * {h} + k");
    text = text.replace("@write@", &write("y", &place, "hidden[k]"));
    let mut last = write("y_h", "to", "hidden[k]");
    if outputs.len() > 2 {
        last.push_str(&write("y_c", "to", "more[k]"));
    }
    let zero = format!("((step * {directions} + dir) * {batch} + n) * {h} + k");
    text.push_str(&fill(END, &[("zero", write("y", &zero, "0")), ("last", last)]));
    kernels.push(kernel.body(fill(&text, &common)));
    Some(kernels)
}

/// One step: `own` has the input's part of the gates, `hidden` the state, `more` the cell (LSTM) or the state after the reset (GRU).
fn cell(
    op: &Recurrent,
    h: usize,
    rows: usize,
    real: &str,
    at: &Inputs,
    sums: impl Fn(usize, usize, &str, &str, usize, &str) -> String,
) -> String {
    // Parts of gate `g` of unit `k`.
    let input = |g: usize| {
        let bias =
            at.bias.map_or(String::new(), |_| format!(" + load(bias, dir * {} + {} + k)", 2 * rows, g * h));
        format!("(own[{} + k]{bias})", g * h)
    };
    let state = |g: usize| {
        let bias = at
            .bias
            .map_or(String::new(), |_| format!(" + load(bias, dir * {} + {} + k)", 2 * rows, rows + g * h));
        format!("(sums[{} + k]{bias})", g * h)
    };
    let gate = |g: usize| format!("{} + {}", input(g), state(g));
    let clipped = |x: String| match op.clip {
        Some(c) => format!("f_min(f_max({x}, -{c}), {c})", c = number(c, real)),
        None => x,
    };
    let f = |which: usize, x: &str| by_direction(op, which, x, real);
    let each = |body: String| {
        format!("        for (i32 k = TID; k < @h@; k += @threads@) {{\n            {body}\n        }}\n")
    };
    let meet = "        BARRIER();\n";
    let let_ = |name: &str, value: String| format!("const {real} {name} = {value}; ");
    let mut text = String::new();
    match op.cell {
        Cell::Rnn => {
            text += &sums(0, rows, "recurrent", "hidden", h, "sums");
            text += meet;
            text += &each(format!("{}hidden[k] = {}; @write@", let_("g", clipped(gate(0))), f(0, "g")));
        }
        Cell::Gru { linear_before_reset } => {
            text +=
                &sums(0, if linear_before_reset { rows } else { 2 * h }, "recurrent", "hidden", h, "sums");
            text += meet;
            let reset = format!("{}{}", let_("p", clipped(gate(1))), let_("reset", f(0, "p")));
            let candidate = if linear_before_reset {
                format!("{reset}{}", let_("c", clipped(format!("{} + reset * {}", input(2), state(2)))))
            } else {
                text += &each(format!("{reset}more[k] = hidden[k] * reset;"));
                text += meet;
                text += &sums(2 * h, rows, "recurrent", "more", h, "sums");
                text += meet;
                let_("c", clipped(gate(2)))
            };
            text += &each(format!(
                "{}{}{candidate}hidden[k] = (({real})1 - update) * {} + update * hidden[k]; @write@",
                let_("g", clipped(gate(0))),
                let_("update", f(0, "g")),
                f(1, "c"),
            ));
        }
        Cell::Lstm { input_forget } => {
            text += &sums(0, rows, "recurrent", "hidden", h, "sums");
            text += meet;
            let peep = |gate: usize, cell: &str| match at.peephole {
                Some(_) => format!(" + load(peephole, dir * {} + {} + k) * {cell}", 3 * h, gate * h),
                None => String::new(),
            };
            let with = |g: usize, p: usize, cell: &str| clipped(format!("{}{}", gate(g), peep(p, cell)));
            let forget = if input_forget {
                let_("forget", format!("({real})1 - take"))
            } else {
                format!("{}{}", let_("f", with(2, 2, "old")), let_("forget", f(0, "f")))
            };
            text += &each(
                [
                    let_("old", "more[k]".into()),
                    let_("i", with(0, 0, "old")),
                    let_("take", f(0, "i")),
                    forget,
                    let_("c", clipped(gate(3))),
                    let_("cell", format!("forget * old + take * {}", f(1, "c"))),
                    let_("o", with(1, 1, "cell")),
                    let_("out", f(0, "o")),
                    format!("more[k] = cell; hidden[k] = out * {}; @write@", f(2, "cell")),
                ]
                .concat(),
            );
        }
    }
    text
}
