use streampool_core::op::*;
use streampool_kernels::*;
fn main() {
    let dtype = DType::F16;
    let o = |n: u32, s: &[usize]| Operand { place: Place::Input(n), dtype, layout: Layout::contiguous(s) };
    let mut text = prelude(Dialect::Cuda);
    let mut emit = |k: Kernel| {
        eprintln!("{} {} grid {} threads {} shared {}", k.name, k.what, k.grid, k.threads, k.shared);
        text.push_str(&k.source(Dialect::Cuda));
    };
    let gelu = Map::unary(Unary::Gelu);
    for m in [128usize, 16] {
        let op = MatMul { bias: true, ..MatMul::default() };
        let qkv = [o(0, &[m, 384]), o(1, &[384, 384]), o(2, &[384])];
        emit(
            product(
                &Product {
                    op: &op,
                    inputs: &qkv,
                    output: &o(3, &[m, 384]),
                    constant: true,
                    clusters: true,
                    siblings: Some((3, m * 384)),
                    then: None,
                    norm: None,
                },
                |_| true,
            )
            .unwrap(),
        );
        let ffn = [o(0, &[m, 384]), o(1, &[384, 1536]), o(2, &[1536])];
        emit(
            product(
                &Product {
                    op: &op,
                    inputs: &ffn,
                    output: &o(3, &[m, 1536]),
                    constant: true,
                    clusters: true,
                    siblings: None,
                    then: Some(&gelu),
                    norm: None,
                },
                |_| true,
            )
            .unwrap(),
        );
        let op = MatMul { bias: true, residual: true, ..MatMul::default() };
        let norm = LayerNorm {
            axis: 1,
            epsilon: F32::new(1e-5),
            rms: false,
            scale: true,
            bias: true,
            residual: false,
        };
        for k in [384usize, 1536] {
            let ins = [o(0, &[m, k]), o(1, &[k, 384]), o(2, &[384]), o(3, &[m, 384])];
            let n = [o(0, &[m, 384]), o(4, &[384]), o(5, &[384])];
            emit(
                product(
                    &Product {
                        op: &op,
                        inputs: &ins,
                        output: &o(3, &[m, 384]),
                        constant: true,
                        clusters: true,
                        siblings: None,
                        then: None,
                        norm: Some((&norm, &n)),
                    },
                    |_| true,
                )
                .unwrap(),
            );
        }
        let q = |n: u32| Operand {
            place: Place::Input(n),
            dtype,
            layout: Layout::contiguous([1, m, 12, 32]).permute(&[0, 2, 1, 3]),
        };
        let att =
            Op::Attention(Attention { scale: F32::new(0.17), causal: false, mask: true, merge_heads: true });
        let out = o(0, &[1, m, 12, 32]);
        for k in lower(&att, &[q(0), q(1), q(2), o(3, &[1, 1, m, m])], &[out]).unwrap() {
            emit(k);
        }
    }
    std::fs::write("/tmp/cuda5/kernels.cu", text).unwrap();
}
