//! Every operation against an independent, naive reference on fresh random inputs.

mod common;
mod elementwise;
mod indexing;
mod linalg;
mod movement;
mod normalize;
mod products;
mod random;
#[allow(clippy::needless_range_loop)] // indices as in the equations
mod recurrent;
#[allow(clippy::needless_range_loop)]
mod reductions;
mod windows;
