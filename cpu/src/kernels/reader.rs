//! Rows of memory as slices of numbers.

use std::any::TypeId;
use std::mem::MaybeUninit;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::map::{narrow_bf16, widen_bf16};
use super::storage::Storage;
use crate::simd::multiversion;

/// Elements that are brought in at a time when they cannot be used where they lie.
pub(crate) const PART: usize = 512;

/// Where parts are brought in.
pub(crate) struct Buffer<C>([C; PART]);

impl<C: Copy + Default> Buffer<C> {
    pub(crate) fn new() -> Self {
        Self([C::default(); PART])
    }
}

/// Calls `f` with the row of `n` elements that lie `stride` apart, as numbers: in one piece where they lie if they can be used there, else in
/// parts of [`PART`].
///
/// # Safety
/// The elements are readable and nobody writes them meanwhile.
#[inline(always)]
pub(crate) unsafe fn read_row<T: Storage>(
    first: *const T,
    stride: isize,
    n: usize,
    buffer: &mut Buffer<T::Compute>,
    mut f: impl FnMut(&[T::Compute]),
) {
    // SAFETY: passed on from the caller; equal types have equal layouts.
    unsafe {
        if stride == 1 && TypeId::of::<T>() == TypeId::of::<T::Compute>() {
            f(std::slice::from_raw_parts(first.cast::<T::Compute>(), n));
            return;
        }
        let buffer = &mut buffer.0;
        let mut at = 0;
        while at < n {
            let part = PART.min(n - at);
            load(first.offset(at as isize * stride), stride, &mut buffer[..part]);
            f(&buffer[..part]);
            at += part;
        }
    }
}

/// Reads elements that lie `stride` apart.
///
/// # Safety
/// `to.len()` elements are readable.
pub(crate) unsafe fn load<T: Storage>(first: *const T, stride: isize, to: &mut [T::Compute]) {
    // SAFETY: passed on from the caller; equal types have equal layouts.
    unsafe {
        if stride == 1 && TypeId::of::<T>() == TypeId::of::<f16>() {
            let to = std::slice::from_raw_parts_mut(to.as_mut_ptr().cast::<f32>(), to.len());
            std::slice::from_raw_parts(first.cast::<f16>(), to.len()).convert_to_f32_slice(to);
        } else if stride == 1 && TypeId::of::<T>() == TypeId::of::<bf16>() {
            let to = std::slice::from_raw_parts_mut(to.as_mut_ptr().cast::<f32>(), to.len());
            widen_bf16(std::slice::from_raw_parts(first.cast::<u16>(), to.len()), to);
        } else if stride == 2 {
            every_second(first, to);
        } else {
            for (i, t) in to.iter_mut().enumerate() {
                *t = first.offset(i as isize * stride).read().get();
            }
        }
    }
}

/// [`load`] for a stride of 2, which vectors can do.
///
/// # Safety
/// As [`load`].
unsafe fn every_second<T: Storage>(first: *const T, to: &mut [T::Compute]) {
    let Some((end, pairs)) = to.split_last_mut() else { return };
    // SAFETY: passed on from the caller: the last element's neighbour may not be there, so it is read alone.
    unsafe {
        let from = std::slice::from_raw_parts(first.cast::<[T; 2]>(), pairs.len());
        *end = first.add(2 * from.len()).read().get();
        take_first(from, pairs);
    }
}

multiversion! {
    fn take_first[T: Storage](from: &[[T; 2]], to: &mut [T::Compute]) {
        for (t, f) in to.iter_mut().zip(from) {
            *t = f[0].get();
        }
    }
}

/// Writes numbers, rounded to memory's precision.
///
/// # Safety
/// `from.len()` elements are writable.
pub(crate) unsafe fn store<T: Storage>(first: *mut T, from: &[T::Compute]) {
    // SAFETY: passed on from the caller; equal types have equal layouts.
    unsafe {
        if TypeId::of::<T>() == TypeId::of::<f16>() {
            let from = std::slice::from_raw_parts(from.as_ptr().cast::<f32>(), from.len());
            std::slice::from_raw_parts_mut(first.cast::<f16>(), from.len()).convert_from_f32_slice(from);
        } else if TypeId::of::<T>() == TypeId::of::<bf16>() {
            let from = std::slice::from_raw_parts(from.as_ptr().cast::<f32>(), from.len());
            narrow_bf16(from, std::slice::from_raw_parts_mut(first.cast::<u16>(), from.len()));
        } else if TypeId::of::<T>() == TypeId::of::<T::Compute>() {
            std::ptr::copy(from.as_ptr().cast::<T>(), first, from.len());
        } else {
            for (i, &x) in from.iter().enumerate() {
                first.add(i).write(T::put(x));
            }
        }
    }
}

/// `n` numbers of scratch memory as a slice.
///
/// # Safety
/// `memory` is valid for `n` elements, aligned, and this caller's own for `'a`.
pub(crate) unsafe fn scratch<'a, C: Copy + Default>(memory: *mut u8, n: usize) -> &'a mut [C] {
    // SAFETY: passed on from the caller. The elements are written before they are borrowed as initialised.
    unsafe {
        let slice = std::slice::from_raw_parts_mut(memory.cast::<MaybeUninit<C>>(), n);
        for x in &mut *slice {
            x.write(C::default());
        }
        std::slice::from_raw_parts_mut(memory.cast::<C>(), n)
    }
}
