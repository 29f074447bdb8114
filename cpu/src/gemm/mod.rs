//! Matrix products in `f32` (and `f16`, `bf16`, summed in `f32`): the code that decides the speed of the device.
//!
//! From the inside out: [`tile`] keeps a small tile of the result in registers; [`pack`] brings the operands into the form it reads;
//! [`epilogue`] is what happens between the sum and the store; [`product`] cuts a product into tiles, blocks that
//! fit the caches, and tasks for several cores.
//!
//! Every element of a result is one sum over k in ascending order, by fused multiply-adds from zero. Its bits depend on its row
//! of A, its column of B and whether the instruction set has fused multiply-add; not on m, n, the strides, the
//! blocking, or the number of cores (INV-14).

pub(crate) mod epilogue;
pub(crate) mod half;
pub(crate) mod pack;
pub(crate) mod product;
mod repeat;
pub(crate) mod tile;

pub(crate) use epilogue::{Addend, Epilogue, Rect};
pub(crate) use pack::{PackedB, Source};
pub(crate) use product::{B, Form, Output, Product, Sink, Spec};
pub(crate) use repeat::Repeat;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
