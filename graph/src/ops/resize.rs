//! Resize and its old name Upsample.

use streampool_core::Error;
use streampool_core::op::{CoordinateMode, F32, NearestMode, Op, Resize, ResizeMode};

use super::{Operator, op};
use crate::ir::Node;
use crate::lower::{LResult, Lower, View, axis};

pub(super) const OPS: &[Operator] = &[
    op("Upsample", 7, upsample),
    op("Resize", 10, |lo, n| {
        let (x, scales) = (lo.input(n, 0)?, lo.input(n, 1)?);
        let scales = lo.floats(&scales)?;
        old(lo, n, x, scales)
    }),
    op("Resize", 11, resize),
];

fn upsample(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let scales = match n.attrs.floats_opt("scales")? {
        Some(s) => s.iter().map(|&s| f64::from(s)).collect(),
        None => {
            let s = lo.input(n, 1)?;
            lo.floats(&s)?
        }
    };
    old(lo, n, x, scales)
}

/// Before operator set 11: coordinates divide by the scale, nearest rounds down.
fn old(lo: &mut Lower<'_>, n: &Node, x: View, scales: Vec<f64>) -> LResult<()> {
    let mode = match n.attrs.str("mode", "nearest")? {
        "nearest" => ResizeMode::Nearest(NearestMode::Floor),
        "linear" | "bilinear" => ResizeMode::Linear { antialias: false },
        other => return Err(Error::unsupported(format!("mode '{other}' is not supported")).into()),
    };
    let all: Vec<usize> = (0..x.rank()).collect();
    let (sizes, scales) = by_scales(&x, &all, &scales)?;
    finish(lo, n, x, sizes, scales, CoordinateMode::Asymmetric, mode, Vec::new())
}

fn by_scales(x: &View, axes: &[usize], given: &[f64]) -> LResult<(Vec<usize>, Vec<F32>)> {
    if given.len() != axes.len() {
        return Err(Error::invalid_argument(format!(
            "{} scales are given for {} axes",
            given.len(),
            axes.len()
        ))
        .into());
    }
    let mut sizes = x.shape().to_vec();
    let mut scales = vec![F32::new(1.0); x.rank()];
    for (&a, &s) in axes.iter().zip(given) {
        let len = (sizes[a] as f64 * f64::from(s as f32)).floor();
        if !s.is_finite() || s <= 0.0 || len > 2f64.powi(40) {
            return Err(Error::invalid_argument(format!("a scale of {s} is impossible")).into());
        }
        sizes[a] = len as usize;
        scales[a] = F32::new(s as f32);
    }
    Ok((sizes, scales))
}

fn resize(lo: &mut Lower<'_>, n: &Node) -> LResult<()> {
    let x = lo.input(n, 0)?;
    let rank = x.rank();
    let axes: Vec<usize> = match n.attrs.ints("axes")? {
        Some(list) => list.iter().map(|&a| axis(a, rank)).collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    let filled = |lo: &Lower<'_>, i: usize| -> LResult<Option<View>> {
        Ok(lo.optional(n, i)?.filter(|v| !v.shape().is_empty()))
    };
    let (sizes, scales) = match (filled(lo, 2)?, filled(lo, 3)?) {
        (Some(s), None) => {
            let given = lo.floats(&s)?;
            by_scales(&x, &axes, &given)?
        }
        (_, Some(s)) => {
            let given = lo.ints(&s)?;
            by_sizes(n, &x, &axes, &given)?
        }
        (None, None) => return Err(Error::invalid_model("neither scales nor sizes are given").into()),
    };
    let antialias = n.attrs.flag("antialias", false)?;
    let mode = match n.attrs.str("mode", "nearest")? {
        "nearest" => ResizeMode::Nearest(match n.attrs.str("nearest_mode", "round_prefer_floor")? {
            "round_prefer_floor" => NearestMode::RoundPreferFloor,
            "round_prefer_ceil" => NearestMode::RoundPreferCeil,
            "floor" => NearestMode::Floor,
            "ceil" => NearestMode::Ceil,
            other => {
                return Err(Error::invalid_model(format!("nearest_mode '{other}' does not exist")).into());
            }
        }),
        "linear" => ResizeMode::Linear { antialias },
        "cubic" => ResizeMode::Cubic {
            a: F32::new(n.attrs.float("cubic_coeff_a", -0.75)?),
            exclude_outside: n.attrs.flag("exclude_outside", false)?,
            antialias,
        },
        other => return Err(Error::invalid_model(format!("mode '{other}' does not exist")).into()),
    };
    let mut roi = Vec::new();
    let coordinates = match n.attrs.str("coordinate_transformation_mode", "half_pixel")? {
        "half_pixel" => CoordinateMode::HalfPixel,
        "half_pixel_symmetric" => CoordinateMode::HalfPixelSymmetric,
        "pytorch_half_pixel" => CoordinateMode::PytorchHalfPixel,
        "align_corners" => CoordinateMode::AlignCorners,
        "asymmetric" => CoordinateMode::Asymmetric,
        "tf_crop_and_resize" => {
            let region = filled(lo, 1)?
                .ok_or_else(|| Error::invalid_model("tf_crop_and_resize needs a region (roi)"))?;
            let given = lo.floats(&region)?;
            if given.len() != 2 * axes.len() {
                return Err(Error::invalid_argument(format!(
                    "roi has {} entries for {} axes",
                    given.len(),
                    axes.len()
                ))
                .into());
            }
            roi = vec![(F32::new(0.0), F32::new(1.0)); rank];
            for (i, &a) in axes.iter().enumerate() {
                roi[a] = (F32::new(given[i] as f32), F32::new(given[axes.len() + i] as f32));
            }
            CoordinateMode::TfCropAndResize {
                extrapolation: F32::new(n.attrs.float("extrapolation_value", 0.0)?),
            }
        }
        other => return Err(Error::unsupported(format!("coordinate mode '{other}' is not supported")).into()),
    };
    finish(lo, n, x, sizes, scales, coordinates, mode, roi)
}

fn by_sizes(n: &Node, x: &View, axes: &[usize], given: &[i64]) -> LResult<(Vec<usize>, Vec<F32>)> {
    if given.len() != axes.len() || given.iter().any(|&s| s < 0) {
        return Err(Error::invalid_argument(format!("sizes {given:?} do not fit {} axes", axes.len())).into());
    }
    let mut sizes = x.shape().to_vec();
    let mut scales = vec![F32::new(1.0); x.rank()];
    let ratio = |a: usize, s: i64| s as f64 / x.shape()[a].max(1) as f64;
    let ratios = axes.iter().zip(given).map(|(&a, &s)| ratio(a, s));
    let common = match n.attrs.str("keep_aspect_ratio_policy", "stretch")? {
        "stretch" => None,
        "not_larger" => ratios.reduce(f64::min),
        "not_smaller" => ratios.reduce(f64::max),
        other => {
            return Err(
                Error::invalid_model(format!("keep_aspect_ratio_policy '{other}' does not exist")).into()
            );
        }
    };
    for (&a, &s) in axes.iter().zip(given) {
        match common {
            Some(c) => {
                sizes[a] = (c * x.shape()[a] as f64 + 0.5).floor() as usize;
                scales[a] = F32::new(c as f32);
            }
            None => {
                sizes[a] = s as usize;
                scales[a] = F32::new(ratio(a, s) as f32);
            }
        }
    }
    Ok((sizes, scales))
}

#[allow(clippy::too_many_arguments)]
fn finish(
    lo: &mut Lower<'_>,
    n: &Node,
    x: View,
    sizes: Vec<usize>,
    scales: Vec<F32>,
    coordinates: CoordinateMode,
    mode: ResizeMode,
    roi: Vec<(F32, F32)>,
) -> LResult<()> {
    if sizes.contains(&0) {
        let y = lo.filled(streampool_core::op::Scalar::from_f64(x.dtype, 0.0), &sizes.into())?;
        return lo.set(n, 0, y);
    }
    let y = lo.emit1(Op::Resize(Resize { sizes, scales, coordinates, mode, roi }), &[x])?;
    lo.set(n, 0, y)
}
