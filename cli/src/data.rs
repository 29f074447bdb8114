//! From an `.npz` file to requests, and from answers back to one.

use streampool::{Error, Result};
use streampool::{HostTensor, TensorType};
use streampool_npz::Npz;

/// What splitting needs to know of a model's input: its name and its first axis.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) first_axis: FirstAxis,
}

/// The first axis of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstAxis {
    /// The input is a scalar.
    None,
    /// Any length.
    Free,
    /// This length alone.
    Fixed(usize),
}

/// A data set cut into requests.
#[derive(Debug)]
pub(crate) struct Requests {
    /// For each request the inputs, in the order of the model's.
    pub(crate) inputs: Vec<Vec<HostTensor>>,
    /// For each request how many rows of the data it holds; `None` if the data could not be cut.
    pub(crate) rows: Option<Vec<usize>>,
}

impl Requests {
    /// Cuts `data` into requests of `batch` rows, or of as many as the model wants if it is not free.
    ///
    /// # Errors
    /// `is_invalid_argument` if an input's array is missing or the data have no rows.
    pub(crate) fn new(inputs: &[Input], data: &Npz, batch: usize) -> Result<Self> {
        let arrays: Vec<&HostTensor> = inputs
            .iter()
            .map(|input| {
                data.get(&input.name).ok_or_else(|| {
                    Error::invalid_argument(format!(
                        "the data have no array '{}'; they have {}, the model's inputs are {}",
                        input.name,
                        list(data.names()),
                        list(inputs.iter().map(|i| i.name.as_str()))
                    ))
                })
            })
            .collect::<Result<_>>()?;
        let Some((n, rows)) = cut(inputs, &arrays, batch) else {
            return Ok(Self { inputs: vec![arrays.into_iter().cloned().collect()], rows: None });
        };
        if n == 0 {
            return Err(Error::invalid_argument("the data have no rows"));
        }
        let mut out = Self { inputs: Vec::new(), rows: Some(Vec::new()) };
        let mut start = 0;
        while start < n {
            let take = rows.min(n - start);
            out.inputs.push(arrays.iter().map(|a| slice(a, start, take)).collect::<Result<_>>()?);
            out.rows.get_or_insert_default().push(take);
            start += take;
        }
        Ok(out)
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<_> = names.map(|n| format!("'{n}'")).collect();
    if quoted.is_empty() { "none".into() } else { quoted.join(", ") }
}

/// Rows of the data and rows per request; `None` if the data are one request.
fn cut(inputs: &[Input], arrays: &[&HostTensor], batch: usize) -> Option<(usize, usize)> {
    let n = *arrays.first()?.ty().shape.first()?;
    if arrays.iter().any(|a| a.ty().shape.first() != Some(&n)) {
        return None;
    }
    let mut rows = batch;
    let mut fixed = None;
    for input in inputs {
        match input.first_axis {
            FirstAxis::None => return None,
            FirstAxis::Free => {}
            FirstAxis::Fixed(f) => {
                if f == 0 || n % f != 0 || fixed.is_some_and(|g| g != f) {
                    return None;
                }
                fixed = Some(f);
                rows = f;
            }
        }
    }
    Some((n, rows))
}

/// Rows `start..start + rows` of the first axis.
fn slice(a: &HostTensor, start: usize, rows: usize) -> Result<HostTensor> {
    let mut shape = a.ty().shape.to_vec();
    let row_bytes = a.bytes().len() / shape[0];
    shape[0] = rows;
    HostTensor::from_bytes(
        TensorType { dtype: a.ty().dtype, shape: shape.into() },
        &a.bytes()[start * row_bytes..][..rows * row_bytes],
    )
}

/// Puts the answers of all requests together along the first axis; `None` where an output has no axis of the request's rows.
pub(crate) fn join(requests: &Requests, answers: &[Vec<HostTensor>]) -> Result<Vec<Option<HostTensor>>> {
    let outputs = answers.first().map_or(0, Vec::len);
    (0..outputs).map(|o| join_one(requests, answers.iter().map(|a| &a[o]))).collect()
}

fn join_one<'a>(
    requests: &Requests,
    parts: impl Iterator<Item = &'a HostTensor> + Clone,
) -> Result<Option<HostTensor>> {
    let Some(first) = parts.clone().next() else { return Ok(None) };
    let Some(rows) = &requests.rows else { return Ok(Some(first.clone())) };
    let fits = |part: &HostTensor, rows: usize| {
        part.ty().dtype == first.ty().dtype
            && part.ty().shape.first() == Some(&rows)
            && part.ty().shape[1..] == first.ty().shape[1..]
    };
    if !parts.clone().zip(rows).all(|(p, &r)| fits(p, r)) {
        return Ok(None);
    }
    let mut shape = first.ty().shape.to_vec();
    shape[0] = rows.iter().sum();
    let mut out = HostTensor::zeros(TensorType { dtype: first.ty().dtype, shape: shape.into() })?;
    let mut at = 0;
    for part in parts {
        out.bytes_mut()[at..][..part.bytes().len()].copy_from_slice(part.bytes());
        at += part.bytes().len();
    }
    Ok(Some(out))
}

/// How many of `labels` are where the last axis of `scores` is greatest, and of how many; `None` if they do not belong together.
pub(crate) fn accuracy(scores: &HostTensor, labels: &HostTensor) -> Option<(usize, usize)> {
    let n = labels.ty().shape.len();
    let [rows, classes] = scores.ty().shape[..] else { return None };
    if rows != n || n == 0 || classes == 0 || labels.ty().dtype.is_float() {
        return None;
    }
    let right = (0..n).filter(|&i| {
        // The first of equals, as NumPy's argmax has it; NaN never wins.
        let mut best = (f64::NEG_INFINITY, 0);
        for c in 0..classes {
            let score = scores.get(i * classes + c).to_f64();
            if score > best.0 {
                best = (score, c as i64);
            }
        }
        best.1 == labels.get(i).to_i64()
    });
    Some((right.count(), n))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, first_axis: FirstAxis) -> Input {
        Input { name: name.into(), first_axis }
    }

    fn data(arrays: &[(&str, &[usize])]) -> Npz {
        let arrays = arrays
            .iter()
            .map(|(name, dims)| {
                let n: usize = dims.iter().product();
                let values: Vec<i32> = (0..n as i32).collect();
                ((*name).to_owned(), HostTensor::from_slice(*dims, &values).unwrap())
            })
            .collect();
        Npz { arrays }
    }

    fn rows(inputs: &[Input], data: &Npz, batch: usize) -> Option<Vec<usize>> {
        Requests::new(inputs, data, batch).unwrap().rows
    }

    #[test]
    fn data_are_cut_along_a_free_axis() {
        let d = data(&[("x", &[7, 2]), ("y", &[7]), ("labels", &[3])]);
        let inputs = [input("x", FirstAxis::Free), input("y", FirstAxis::Free)];
        let r = Requests::new(&inputs, &d, 3).unwrap();
        assert_eq!(r.rows, Some(vec![3, 3, 1]));
        assert_eq!(r.inputs[1][0].as_slice::<i32>().unwrap(), [6, 7, 8, 9, 10, 11]);
        assert_eq!(r.inputs[2][1].as_slice::<i32>().unwrap(), [6]);
        let joined = join(&r, &r.inputs).unwrap();
        assert_eq!(joined[0].as_ref(), d.get("x"));
        assert_eq!(joined[1].as_ref(), d.get("y"));
    }

    #[test]
    fn a_fixed_axis_decides_the_rows() {
        let d = data(&[("x", &[6, 2])]);
        assert_eq!(rows(&[input("x", FirstAxis::Fixed(2))], &d, 1), Some(vec![2, 2, 2]));
        assert_eq!(rows(&[input("x", FirstAxis::Fixed(6))], &d, 1), Some(vec![6]));
        // The model refuses that one, with its own words.
        assert_eq!(rows(&[input("x", FirstAxis::Fixed(4))], &d, 1), None);
        assert_eq!(rows(&[input("x", FirstAxis::None)], &d, 1), None);
    }

    #[test]
    fn data_of_different_lengths_are_one_request() {
        let d = data(&[("x", &[6, 2]), ("y", &[5])]);
        assert_eq!(rows(&[input("x", FirstAxis::Free), input("y", FirstAxis::Free)], &d, 1), None);
    }

    #[test]
    fn a_missing_array_names_what_is_there() {
        let d = data(&[("picture", &[6, 2])]);
        let e = Requests::new(&[input("image", FirstAxis::Free)], &d, 1).unwrap_err();
        assert!(e.is_invalid_argument());
        assert_eq!(
            e.to_string(),
            "the data have no array 'image'; they have 'picture', the model's inputs are 'image'"
        );
        let d = data(&[("x", &[0, 2])]);
        assert!(
            Requests::new(&[input("x", FirstAxis::Free)], &d, 1).unwrap_err().to_string().contains("no rows")
        );
    }

    #[test]
    fn outputs_without_the_rows_are_not_joined() {
        let d = data(&[("x", &[4, 2])]);
        let r = Requests::new(&[input("x", FirstAxis::Free)], &d, 2).unwrap();
        let scalar = || vec![HostTensor::from_slice([0; 0], &[1_i32]).unwrap()];
        assert_eq!(join(&r, &[scalar(), scalar()]).unwrap(), [None]);
    }

    #[test]
    fn accuracy_counts_the_greatest() {
        let scores = HostTensor::from_slice([3, 2], &[0.1_f32, 0.9, 0.8, 0.2, f32::NAN, -1.0]).unwrap();
        let labels = HostTensor::from_slice([3], &[1_i64, 1, 1]).unwrap();
        assert_eq!(accuracy(&scores, &labels), Some((2, 3)));
        assert_eq!(accuracy(&labels, &labels), None);
    }
}
