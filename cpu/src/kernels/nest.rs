//! Loop nests: the axes that several views share, as few as can be.

use smallvec::SmallVec;

/// Axis lengths or strides; most nests have at most four axes after merging.
pub(crate) type Axes<T> = SmallVec<[T; 4]>;

/// A loop nest over views of one shape: axes of length 1 are dropped and neighbours merged where every view allows it.
#[derive(Clone, Debug)]
pub(crate) struct Nest<const VIEWS: usize> {
    /// Lengths, outermost first. Empty for a single element; the innermost is the longest run that all views step through evenly.
    pub(crate) dims: Axes<usize>,
    /// Strides of each view, in its elements.
    pub(crate) strides: [Axes<isize>; VIEWS],
}

impl<const VIEWS: usize> Nest<VIEWS> {
    /// Of views with the same `shape`.
    pub(crate) fn new(shape: &[usize], strides: [&[isize]; VIEWS]) -> Self {
        let (dims, merged) = merge(shape, &strides);
        let mut merged = merged.into_iter();
        Self { dims, strides: std::array::from_fn(|_| merged.next().unwrap_or_default()) }
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        self.dims.iter().product()
    }

    /// Length of the innermost axis (1 if there is none) and how often it is walked.
    pub(crate) fn rows(&self) -> (usize, usize) {
        match self.dims.split_last() {
            None => (1, 1),
            Some((&inner, outer)) => (inner, outer.iter().product()),
        }
    }

    /// Stride of view `v` along the innermost axis.
    pub(crate) fn inner_stride(&self, v: usize) -> isize {
        self.strides[v].last().copied().unwrap_or(1)
    }

    /// Calls `f` with the offsets of the first element of each row of `rows`, in order.
    #[inline(always)]
    pub(crate) fn walk(&self, rows: std::ops::Range<usize>, mut f: impl FnMut([isize; VIEWS])) {
        if rows.is_empty() {
            return;
        }
        let outer = self.dims.len().saturating_sub(1);
        let mut index: Axes<usize> = Axes::from_elem(0, outer);
        let mut rest = rows.start;
        for axis in (0..outer).rev() {
            index[axis] = rest % self.dims[axis];
            rest /= self.dims[axis];
        }
        let mut offsets: [isize; VIEWS] = std::array::from_fn(|v| self.row_offset(v, rows.start));
        for _ in rows {
            f(offsets);
            for axis in (0..outer).rev() {
                index[axis] += 1;
                let wraps = index[axis] == self.dims[axis];
                for (o, s) in offsets.iter_mut().zip(&self.strides) {
                    *o += if wraps { -s[axis] * (self.dims[axis] as isize - 1) } else { s[axis] };
                }
                if !wraps {
                    break;
                }
                index[axis] = 0;
            }
        }
    }

    /// Offset, in elements of view `v`, of the first element of row `row`.
    pub(crate) fn row_offset(&self, v: usize, row: usize) -> isize {
        let outer = self.dims.len().saturating_sub(1);
        offset_of(&self.dims[..outer], &self.strides[v][..outer], row)
    }
}

/// Drops axes of length 1 and merges neighbours where all `strides` allow it.
pub(crate) fn merge(shape: &[usize], strides: &[&[isize]]) -> (Axes<usize>, Vec<Axes<isize>>) {
    let mut dims: Axes<usize> = Axes::new();
    let mut merged: Vec<Axes<isize>> = vec![Axes::new(); strides.len()];
    for (axis, &d) in shape.iter().enumerate() {
        if d == 1 {
            continue;
        }
        let joins = !dims.is_empty()
            && strides.iter().zip(&merged).all(|(s, m)| m[m.len() - 1] == s[axis] * d as isize);
        if joins {
            let last = dims.len() - 1;
            dims[last] *= d;
            for (s, m) in strides.iter().zip(&mut merged) {
                m[last] = s[axis];
            }
        } else {
            dims.push(d);
            for (s, m) in strides.iter().zip(&mut merged) {
                m.push(s[axis]);
            }
        }
    }
    (dims, merged)
}

/// Offset of the element with row-major index `index` under `dims`.
pub(crate) fn offset_of(dims: &[usize], strides: &[isize], mut index: usize) -> isize {
    let mut offset = 0;
    for (&d, &s) in dims.iter().zip(strides).rev() {
        offset += (index % d) as isize * s;
        index /= d;
    }
    offset
}

/// Strides of a view of `shape` and `strides` broadcast to `target` (NumPy's rules; checked before).
pub(crate) fn broadcast_strides(shape: &[usize], strides: &[isize], target: &[usize]) -> Vec<isize> {
    let lead = target.len() - shape.len();
    (0..target.len())
        .map(|i| if i < lead || (shape[i - lead] == 1 && target[i] != 1) { 0 } else { strides[i - lead] })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contiguous_views_become_one_axis_and_broadcast_ones_do_not() {
        let n = Nest::new(&[2, 3, 1, 4], [&[12, 4, 4, 1], &[12, 4, 9, 1]]);
        assert_eq!((&n.dims[..], &n.strides[1][..]), (&[24][..], &[1isize][..]));
        let n = Nest::new(&[2, 3, 4], [&[12, 4, 1], &[0, 0, 1]]);
        assert_eq!(&n.dims[..], &[6, 4]);
        assert_eq!((n.row_offset(0, 5), n.row_offset(1, 5), n.rows()), (20, 0, (4, 6)));
        let mut seen = vec![];
        n.walk(2..5, |o| seen.push(o));
        assert_eq!(seen, [[8, 0], [12, 0], [16, 0]]);
        let t = Nest::new(&[2, 3, 4], [&[1, 2, 6], &[12, 4, 1]]);
        let mut seen = vec![];
        t.walk(0..6, |o| seen.push(o[0]));
        assert_eq!(seen, [0, 2, 4, 1, 3, 5]);
        let n = Nest::<1>::new(&[], [&[]]);
        assert_eq!((n.len(), n.rows(), n.row_offset(0, 0)), (1, (1, 1), 0));
    }
}
