//! A node's attributes.

use std::sync::Arc;

use bytes::Bytes;
use streampool_core::op::Constant;
use streampool_core::{Error, Result};

use super::Graph;

/// A decoded attribute.
#[derive(Clone, Debug)]
pub(crate) enum Attr {
    Float(f32),
    Int(i64),
    Str(Bytes),
    Tensor(Arc<Constant>),
    Graph(Arc<Graph>),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Strings(Vec<Bytes>),
    /// A kind that no supported operator reads; the text says which, for errors.
    Unsupported(String),
}

impl Attr {
    fn kind(&self) -> &str {
        match self {
            Attr::Float(_) => "a float",
            Attr::Int(_) => "an integer",
            Attr::Str(_) => "a string",
            Attr::Tensor(_) => "a tensor",
            Attr::Graph(_) => "a graph",
            Attr::Floats(_) => "floats",
            Attr::Ints(_) => "integers",
            Attr::Strings(_) => "strings",
            Attr::Unsupported(what) => what,
        }
    }
}

/// Attributes by name, in the file's order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attrs(pub(crate) Vec<(String, Attr)>);

macro_rules! getter {
    ($name:ident, $variant:ident, $ty:ty, $what:literal) => {
        pub(crate) fn $name(&self, name: &str) -> Result<Option<$ty>> {
            match self.get(name) {
                None => Ok(None),
                Some(Attr::$variant(v)) => Ok(Some(v)),
                Some(other) => Err(self.mismatch(name, $what, other)),
            }
        }
    };
}

impl Attrs {
    pub(crate) fn get(&self, name: &str) -> Option<&Attr> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, a)| a)
    }

    fn mismatch(&self, name: &str, want: &str, got: &Attr) -> Error {
        if let Attr::Unsupported(what) = got {
            return Error::unsupported(format!("attribute '{name}' is {what}, which is not supported"));
        }
        Error::invalid_model(format!("attribute '{name}' should be {want}, the file has {}", got.kind()))
    }

    getter!(int_opt, Int, &i64, "an integer");
    getter!(float_opt, Float, &f32, "a float");
    getter!(bytes_opt, Str, &Bytes, "a string");
    getter!(tensor, Tensor, &Arc<Constant>, "a tensor");
    getter!(graph, Graph, &Arc<Graph>, "a graph");
    getter!(ints_opt, Ints, &Vec<i64>, "integers");
    getter!(floats_opt, Floats, &Vec<f32>, "floats");
    getter!(strings_opt, Strings, &Vec<Bytes>, "strings");

    pub(crate) fn int(&self, name: &str, default: i64) -> Result<i64> {
        Ok(self.int_opt(name)?.copied().unwrap_or(default))
    }

    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        Ok(self.int(name, i64::from(default))? != 0)
    }

    pub(crate) fn float(&self, name: &str, default: f32) -> Result<f32> {
        Ok(self.float_opt(name)?.copied().unwrap_or(default))
    }

    pub(crate) fn ints(&self, name: &str) -> Result<Option<&[i64]>> {
        Ok(self.ints_opt(name)?.map(Vec::as_slice))
    }

    pub(crate) fn str<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str> {
        match self.bytes_opt(name)? {
            None => Ok(default),
            Some(b) => std::str::from_utf8(b)
                .map_err(|_| Error::invalid_model(format!("attribute '{name}' is not UTF-8 text"))),
        }
    }

    /// Like [`Attrs::int`], for attributes that must be there.
    pub(crate) fn required_int(&self, name: &str) -> Result<i64> {
        self.int_opt(name)?
            .copied()
            .ok_or_else(|| Error::invalid_model(format!("attribute '{name}' is missing; it is required")))
    }
}
