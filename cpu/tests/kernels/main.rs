//! Every operation against an independent, naive reference on fresh random inputs.

mod common;
mod elementwise;
mod indexing;
mod linalg;
mod movement;
mod normalize;
mod products;
mod random;
mod recurrent;
mod reductions;
mod windows;
