//! Shapes, strides and views.

use std::fmt;
use std::ops::Deref;

use smallvec::SmallVec;

use super::DType;
use crate::error::{Error, Result};

/// The highest rank a tensor may have.
pub const MAX_RANK: usize = 16;

/// The lengths of a tensor's axes, outermost first. A scalar has none.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(SmallVec<[usize; 6]>);

impl Shape {
    /// From lengths.
    pub fn new(dims: &[usize]) -> Self {
        Self(SmallVec::from_slice(dims))
    }

    /// Number of elements; an error if it, times eight bytes, does not fit in memory's address range, or the rank
    /// exceeds [`MAX_RANK`].
    pub fn checked_len(&self) -> Result<usize> {
        if self.0.len() > MAX_RANK {
            return Err(Error::invalid_argument(format!(
                "shape {self} has rank {}, at most {MAX_RANK} is possible",
                self.0.len()
            )));
        }
        // Zero-length axes do not excuse absurd ones: strides are computed from all of them.
        let mut product: usize = 1;
        for &d in &self.0 {
            product = product.checked_mul(d.max(1)).filter(|&p| p <= (isize::MAX as usize) / 16).ok_or_else(
                || Error::invalid_argument(format!("shape {self} has too many elements to address")),
            )?;
        }
        Ok(self.len())
    }

    /// Number of elements (1 for a scalar).
    pub fn len(&self) -> usize {
        self.0.iter().product()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.0.contains(&0)
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// Row-major strides in elements.
    pub fn strides(&self) -> SmallVec<[isize; 6]> {
        let mut strides: SmallVec<[isize; 6]> = SmallVec::from_elem(1, self.0.len());
        for i in (0..self.0.len().saturating_sub(1)).rev() {
            strides[i] = strides[i + 1] * self.0[i + 1].max(1) as isize;
        }
        strides
    }

    /// NumPy's broadcasting of two shapes.
    pub fn broadcast(&self, other: &Shape) -> Result<Shape> {
        let rank = self.rank().max(other.rank());
        let mut out = SmallVec::from_elem(1, rank);
        for (i, o) in out.iter_mut().enumerate() {
            let a = (i + self.rank()).checked_sub(rank).map_or(1, |j| self.0[j]);
            let b = (i + other.rank()).checked_sub(rank).map_or(1, |j| other.0[j]);
            *o = match (a, b) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => {
                    return Err(Error::invalid_argument(format!(
                        "shapes {self} and {other} cannot be broadcast together: {a} against {b} on axis {i}"
                    )));
                }
            };
        }
        Ok(Shape(out))
    }
}

impl Deref for Shape {
    type Target = [usize];
    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl From<&[usize]> for Shape {
    fn from(dims: &[usize]) -> Self {
        Self::new(dims)
    }
}

impl From<Vec<usize>> for Shape {
    fn from(dims: Vec<usize>) -> Self {
        Self(SmallVec::from_vec(dims))
    }
}

impl<const N: usize> From<[usize; N]> for Shape {
    fn from(dims: [usize; N]) -> Self {
        Self::new(&dims)
    }
}

impl FromIterator<usize> for Shape {
    fn from_iter<I: IntoIterator<Item = usize>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, d) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str(if self.0.len() == 1 { ",)" } else { ")" })
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A dtype and a shape: a tensor without its bytes, row-major.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Axis lengths.
    pub shape: Shape,
}

impl TensorType {
    /// From its parts.
    pub fn new(dtype: DType, shape: impl Into<Shape>) -> Self {
        Self { dtype, shape: shape.into() }
    }

    /// Bytes of a row-major tensor of this type.
    pub fn bytes(&self) -> usize {
        self.shape.len() * self.dtype.size()
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, self.shape)
    }
}

impl fmt::Debug for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where the elements of a view lie in a buffer, in elements: element `i` is at `offset + sum(i[k] * strides[k])`.
/// A stride of 0 repeats (broadcast); a negative one walks backwards.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Layout {
    /// Axis lengths.
    pub shape: Shape,
    /// Step per axis, in elements.
    pub strides: SmallVec<[isize; 6]>,
    /// First element, in elements from the start of the buffer.
    pub offset: usize,
}

impl Layout {
    /// Row-major from the start of a buffer.
    pub fn contiguous(shape: impl Into<Shape>) -> Self {
        let shape = shape.into();
        let strides = shape.strides();
        Self { shape, strides, offset: 0 }
    }

    /// Whether the elements lie row-major without gaps (axes of length 1 may have any stride).
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1isize;
        for (&d, &s) in self.shape.iter().zip(&self.strides).rev() {
            if d != 1 && s != expected {
                return self.shape.is_empty();
            }
            expected *= d.max(1) as isize;
        }
        true
    }

    /// One past the highest element that is touched, from the start of the buffer; 0 if there is none.
    pub fn end(&self) -> usize {
        if self.shape.is_empty() {
            return 0;
        }
        let reach: isize =
            self.shape.iter().zip(&self.strides).map(|(&d, &s)| (d as isize - 1) * s.max(0)).sum();
        (self.offset as isize + reach + 1) as usize
    }

    /// The same elements with axes in the order `perm`.
    pub fn permute(&self, perm: &[usize]) -> Self {
        Self {
            shape: perm.iter().map(|&p| self.shape[p]).collect(),
            strides: perm.iter().map(|&p| self.strides[p]).collect(),
            offset: self.offset,
        }
    }

    /// Broadcast to `shape` (NumPy's rules) by strides of 0.
    pub fn broadcast_to(&self, shape: &Shape) -> Result<Self> {
        if self.shape.broadcast(shape)? != *shape {
            return Err(Error::invalid_argument(format!(
                "shape {} cannot be broadcast to {shape}",
                self.shape
            )));
        }
        let lead = shape.rank() - self.shape.rank();
        let strides = (0..shape.rank())
            .map(|i| {
                if i < lead || (self.shape[i - lead] == 1 && shape[i] != 1) {
                    0
                } else {
                    self.strides[i - lead]
                }
            })
            .collect();
        Ok(Self { shape: shape.clone(), strides, offset: self.offset })
    }

    /// The same elements, in the same order, under another shape, if strides can express it without a copy.
    pub fn reshape(&self, shape: &Shape) -> Option<Self> {
        if shape.len() != self.shape.len() {
            return None;
        }
        if self.is_contiguous() {
            return Some(Self { offset: self.offset, ..Self::contiguous(shape.clone()) });
        }
        // Walk both shapes from the outside, matching groups of axes with equal products; within a group the old
        // axes must be mergeable.
        let old: Vec<(usize, isize)> =
            self.shape.iter().copied().zip(self.strides.iter().copied()).filter(|&(d, _)| d != 1).collect();
        let mut strides: SmallVec<[isize; 6]> = SmallVec::from_elem(0, shape.rank());
        let (mut i, mut j) = (0, 0);
        while i < old.len() {
            let (mut a, start, jstart) = (old[i].0, i, j);
            i += 1;
            let mut b = 1;
            while a != b || b == 1 {
                if b < a {
                    if j == shape.rank() {
                        return None;
                    }
                    b *= shape[j];
                    j += 1;
                } else {
                    if i == old.len() {
                        return None;
                    }
                    a *= old[i].0;
                    i += 1;
                }
            }
            for k in start..i - 1 {
                if old[k].1 != old[k + 1].0 as isize * old[k + 1].1 {
                    return None;
                }
            }
            let mut stride = old[i - 1].1;
            for k in (jstart..j).rev() {
                strides[k] = stride;
                stride *= shape[k] as isize;
            }
        }
        Some(Self { shape: shape.clone(), strides, offset: self.offset })
    }

    /// `len` elements of `axis` from `start`, every `step`-th (`step` may be negative: then it walks down from `start`).
    pub fn slice(&self, axis: usize, start: usize, len: usize, step: isize) -> Self {
        let mut out = self.clone();
        if len > 0 {
            out.offset = (out.offset as isize + start as isize * out.strides[axis]) as usize;
        }
        let mut dims: SmallVec<[usize; 6]> = SmallVec::from_slice(&out.shape);
        dims[axis] = len;
        out.shape = Shape(dims);
        out.strides[axis] *= step;
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcasting_follows_numpy() {
        let s = |d: &[usize]| Shape::new(d);
        assert_eq!(s(&[3, 1]).broadcast(&s(&[4])).unwrap(), s(&[3, 4]));
        assert_eq!(s(&[]).broadcast(&s(&[2, 0])).unwrap(), s(&[2, 0]));
        assert!(s(&[2]).broadcast(&s(&[3])).unwrap_err().is_invalid_argument());
    }

    #[test]
    fn absurd_shapes_are_refused() {
        assert!(Shape::new(&[1 << 40, 1 << 40]).checked_len().is_err());
        assert!(Shape::new(&[0, 1 << 60, 1 << 60]).checked_len().is_err());
        assert_eq!(Shape::new(&[0, 5]).checked_len().unwrap(), 0);
    }

    #[test]
    fn reshape_of_a_transpose_needs_a_copy_but_of_outer_axes_does_not() {
        let t = Layout::contiguous([2, 3, 4]).permute(&[1, 0, 2]);
        assert!(t.reshape(&Shape::new(&[6, 4])).is_none());
        let r = t.reshape(&Shape::new(&[3, 2, 2, 2])).unwrap();
        assert_eq!(r.strides.as_slice(), &[4, 12, 2, 1]);
        let b = Layout::contiguous([1, 4]).broadcast_to(&Shape::new(&[3, 4])).unwrap();
        assert!(b.reshape(&Shape::new(&[12])).is_none());
        assert!(b.reshape(&Shape::new(&[3, 2, 2])).is_some());
    }

    #[test]
    fn slices_walk_both_ways() {
        let l = Layout::contiguous([5, 2]).slice(0, 4, 2, -2);
        assert_eq!((l.offset, l.strides.as_slice(), l.end()), (8, &[-4isize, 1][..], 10));
    }
}
