//! The models of `bench`, written as ONNX: multi-layer perceptrons with seeded normal weights.
//!
//! ONNX is protocol buffers; the dozen fields that are needed are encoded here (field numbers from onnx.proto).

#[path = "message.rs"]
mod message;

use message::Message;

/// ONNX bytes of linear layers of these widths with ReLU between them: input "x" (batch, first), output "y" (batch, last).
#[allow(dead_code)] // not of the GPU's benchmarks, which share this file
pub(crate) fn mlp(widths: &[usize]) -> Vec<u8> {
    mlp_of(widths, Width::Float32)
}

/// Element types of these models.
#[derive(Clone, Copy)]
pub(crate) enum Width {
    Float32,
    #[allow(dead_code)] // of the GPU's benchmarks, which share this file
    Bfloat16,
}

/// [`mlp`] of another element type.
pub(crate) fn mlp_of(widths: &[usize], width: Width) -> Vec<u8> {
    let mut graph = Message::default();
    let mut random = Normal::new(1);
    let layers = widths.len() - 1;
    let mut last = "x".to_owned();
    let mut initializers = Vec::new();
    for (i, pair) in widths.windows(2).enumerate() {
        let [from, to] = [pair[0], pair[1]];
        let scale = 1.0 / (from as f32).sqrt();
        let weights: Vec<f32> = (0..from * to).map(|_| random.next() * scale).collect();
        let bias: Vec<f32> = (0..to).map(|_| random.next()).collect();
        let (w, b) = (format!("w{i}"), format!("b{i}"));
        initializers.push(tensor(&w, &[to, from], &weights, width));
        initializers.push(tensor(&b, &[to], &bias, width));
        let end = i + 1 == layers;
        let out = if end { "y".to_owned() } else { format!("h{i}") };
        let gemm = node("Gemm", &format!("linear{i}"), &[&last, &w, &b], &out);
        let transposed = Message::default().str(1, "transB").int(3, 1).int(20, 2); // name, i, type = INT
        graph = graph.message(1, &gemm.message(5, &transposed));
        if !end {
            last = format!("r{i}");
            graph = graph.message(1, &node("Relu", &format!("relu{i}"), &[&out], &last));
        }
    }
    graph = initializers.iter().fold(graph.str(2, "mlp"), |graph, t| graph.message(5, t));
    graph = graph.message(11, &value("x", widths[0], width)).message(12, &value("y", widths[layers], width));
    let opset = Message::default().str(1, "").int(2, 17);
    Message::default().int(1, 8).str(2, "streampool bench").message(7, &graph).message(8, &opset).0
}

fn node(op: &str, name: &str, inputs: &[&str], output: &str) -> Message {
    let taking = inputs.iter().fold(Message::default(), |m, input| m.str(1, input));
    taking.str(2, output).str(3, name).str(4, op)
}

fn tensor(name: &str, dims: &[usize], values: &[f32], width: Width) -> Message {
    let shaped = dims.iter().fold(Message::default(), |m, &d| m.int(1, d as i64));
    let raw: Vec<u8> = match width {
        Width::Float32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        // The upper half: truncated, which is good enough for weights drawn at random.
        Width::Bfloat16 => values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect(),
    };
    shaped.int(2, width.code()).str(8, name).bytes(9, &raw) // data_type, name, raw_data
}

/// A float input or output ("batch", width).
fn value(name: &str, columns: usize, width: Width) -> Message {
    let new = Message::default;
    let shape = new().message(1, &new().str(2, "batch")).message(1, &new().int(1, columns as i64));
    let tensor = new().int(1, width.code()).message(2, &shape);
    new().str(1, name).message(2, &new().message(1, &tensor))
}

impl Width {
    /// ONNX's number for it.
    fn code(self) -> i64 {
        match self {
            Width::Float32 => 1,
            Width::Bfloat16 => 16,
        }
    }
}

/// Normal numbers: Box and Muller over SplitMix64.
pub(crate) struct Normal(u64);

impl Normal {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        // In (0, 1]: its logarithm exists.
        (((z ^ z >> 31) >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn next(&mut self) -> f32 {
        let (u, v) = (self.uniform(), self.uniform());
        ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_numbers_have_mean_0_and_variance_1() {
        let mut r = Normal::new(7);
        let v: Vec<f32> = (0..100_000).map(|_| r.next()).collect();
        let mean = v.iter().sum::<f32>() / 1e5;
        let variance = v.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn varints_are_little_endian_groups_of_seven() {
        assert_eq!(Message::default().int(1, 300).0, [0x08, 0xac, 0x02]);
    }
}
