//! The kinds of device that kernels are made for, and whether kernels keep to what these have.

use std::collections::BTreeSet;

use streampool_conformance::Cases;
use streampool_core::op::{Attention, DType, F32, Layout, Op, Operand, Place};
use streampool_kernels::{Dialect, Kernel, Target, lower};

/// The kind of device with all there is, and the name of its architecture.
pub(crate) const HOPPER: (Target, &str) = (Target { shared: 227 << 10, clusters: true }, "sm_90");

/// The others that differ in what a block has: compute capability 8.0, and 8.6 as well as 8.9.
pub(crate) const OLDER: [(Target, &str); 2] =
    [(Target { shared: 163 << 10, clusters: false }, "sm_80"), (Target::LEAST, "sm_86")];

/// Bytes of shared memory that the kernel's text declares.
fn declared(kernel: &Kernel) -> usize {
    let text = kernel.source(Dialect::Host);
    let each = text.split("SHARED ").skip(1).map(|rest| {
        let (declaration, _) = rest.split_once(';').expect("a declaration ends");
        let (ctype, names) = declaration.split_once(' ').expect("a type and names");
        let size = match ctype {
            "double" | "i64" | "u64" => 8,
            "float" | "i32" | "u32" | "int" => 4,
            "f16" | "bf16" | "u16" | "i16" => 2,
            "u8" | "i8" | "bool" => 1,
            _ => panic!("{}: bytes of '{ctype}' are not known here", kernel.what),
        };
        let elements = |name: &str| -> usize {
            let lengths =
                name.split('[').skip(1).map(|n| n.trim_end().trim_end_matches(']').parse::<usize>());
            lengths.map(|n| n.unwrap_or_else(|e| panic!("{}: {e} in '{declaration}'", kernel.what))).product()
        };
        names.split(',').map(elements).sum::<usize>() * size
    });
    each.sum()
}

/// Panics if a block of `kernel` needs more than `target` has.
pub(crate) fn fits(kernel: &Kernel, target: Target) {
    let (asked, declared) = (kernel.shared as usize, declared(kernel));
    assert!(
        asked + declared <= target.shared,
        "{}: asks for {asked} bytes of shared memory and declares {declared}, of {}",
        kernel.what,
        target.shared
    );
    assert!(declared <= 48 << 10, "{}: declares {declared} bytes, more than a kernel may", kernel.what);
    assert!(kernel.cluster == 1 || target.clusters, "{}: clusters of {}", kernel.what, kernel.cluster);
}

#[test]
fn no_kernel_needs_more_than_its_device_has() {
    let mut cases = Cases::new(1);
    cases.all();
    let mut seen = BTreeSet::new();
    for (target, _) in OLDER.into_iter().chain([HOPPER]) {
        for case in &cases.list {
            for kernel in lower(&case.op, &case.inputs, &case.outputs, target).expect("cases have kernels") {
                fits(&kernel, target);
                seen.insert(kernel.name);
            }
        }
    }
    assert!(seen.len() > 1000, "{} kernels", seen.len());
}

/// Keys and values of a length for which shared memory is enough on one device and not on the other.
#[test]
fn attention_takes_shared_memory_where_there_is_enough() {
    let operand =
        |place, shape: &[usize]| Operand { place, dtype: DType::F16, layout: Layout::contiguous(shape) };
    let shape = [1, 4, 320, 64];
    let inputs: Vec<Operand> = (0..3).map(|i| operand(Place::Input(i), &shape)).collect();
    let outputs = [operand(Place::Output(0), &[1, 4, 320, 64])];
    let op = Attention { scale: F32::new(0.125), causal: false, mask: false, merge_heads: false };
    let made = |target| {
        let kernels = lower(&Op::Attention(op.clone()), &inputs, &outputs, target).expect("a kernel");
        kernels.iter().for_each(|k| fits(k, target));
        kernels[0].shared
    };
    assert_eq!(made(HOPPER.0), 320 * 288 + 16);
    assert_eq!(made(OLDER[0].0), 320 * 288 + 16);
    assert_eq!(made(Target::LEAST), 0);
}
