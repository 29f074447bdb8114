//! One opaque error with predicates.
//!
//! An error belongs to the call that caused it. Its text says what was asked, what there was and the way out;
//! its kind is read through predicates, so that new kinds can be added without breaking anyone.

use std::fmt;
use std::sync::Arc;

/// `Result` with streampool's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call did not do what was asked.
///
/// Cloning is cheap: one failure of a shared compile reaches every thread that waited for it.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: Kind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    OutOfMemory,
    PoolExhausted,
    Forked,
    ShutDown,
    DeviceLost,
    InvalidArgument,
    InvalidModel,
    Unsupported,
    Timeout,
    Io,
    Internal,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $make:ident, $is:ident, $kind:ident;)*) => {
        impl Error {
            $(
                $(#[$doc])*
                pub fn $make(message: impl Into<String>) -> Self {
                    Self::new(Kind::$kind, message.into())
                }
                #[doc = concat!("Whether this is an error made by [`Error::", stringify!($make), "`].")]
                pub fn $is(&self) -> bool {
                    self.0.kind == Kind::$kind
                }
            )*
        }
    };
}

kinds! {
    /// The device (or the limit the user set) has no room. State is consistent and other threads go on.
    out_of_memory, is_out_of_memory, OutOfMemory;
    /// Every stream of the pool is in use and the policy says not to wait, or the wait ended.
    pool_exhausted, is_pool_exhausted, PoolExhausted;
    /// The process is the child of a fork: the parent's device cannot be used in it.
    forked, is_forked, Forked;
    /// The device was closed.
    shut_down, is_shut_down, ShutDown;
    /// The device failed and will not work again in this process.
    device_lost, is_device_lost, DeviceLost;
    /// The caller's arguments do not fit: a shape, a dtype, a name, a size.
    invalid_argument, is_invalid_argument, InvalidArgument;
    /// A model or data file is damaged, hostile or contradicts itself.
    invalid_model, is_invalid_model, InvalidModel;
    /// The request is well formed but not implemented here.
    unsupported, is_unsupported, Unsupported;
    /// A deadline passed.
    timeout, is_timeout, Timeout;
    /// The operating system refused a file operation.
    io, is_io, Io;
    /// A promise inside streampool was broken; please report it.
    internal, is_internal, Internal;
}

impl Error {
    fn new(kind: Kind, message: String) -> Self {
        Self(Arc::new(Inner { kind, message, source: None }))
    }

    /// The same kind of error, its text led by where it happened: `"{place}: {text}"`.
    #[must_use]
    pub fn context(self, place: impl fmt::Display) -> Self {
        let message = format!("{place}: {}", self.0.message);
        Self(Arc::new(Inner { kind: self.0.kind, message, source: None }))
    }

    /// The same error with the underlying cause attached, for `std::error::Error::source`.
    #[must_use]
    pub fn caused_by(self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let (kind, message) = (self.0.kind, self.0.message.clone());
        Self(Arc::new(Inner { kind, message, source: Some(source.into()) }))
    }

    /// The kind as one stable, machine-readable word: `"out_of_memory"`, `"invalid_argument"`, ...
    pub fn code(&self) -> &'static str {
        match self.0.kind {
            Kind::OutOfMemory => "out_of_memory",
            Kind::PoolExhausted => "pool_exhausted",
            Kind::Forked => "forked",
            Kind::ShutDown => "shut_down",
            Kind::DeviceLost => "device_lost",
            Kind::InvalidArgument => "invalid_argument",
            Kind::InvalidModel => "invalid_model",
            Kind::Unsupported => "unsupported",
            Kind::Timeout => "timeout",
            Kind::Io => "io",
            Kind::Internal => "internal",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.0.message)?;
        if let Some(source) = &self.0.source {
            write!(f, " (caused by: {source})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_keeps_the_kind() {
        let e = Error::out_of_memory("asked 1 MiB").context("node 'conv1'");
        assert!(e.is_out_of_memory() && !e.is_timeout());
        assert_eq!(e.to_string(), "node 'conv1': asked 1 MiB");
        assert_eq!(e.code(), "out_of_memory");
    }

    #[test]
    fn source_is_kept() {
        let e = Error::io("cannot read 'x'").caused_by(std::io::Error::other("disk"));
        assert_eq!(std::error::Error::source(&e).unwrap().to_string(), "disk");
        assert_eq!(format!("{e:?}"), "Io: cannot read 'x' (caused by: disk)");
    }
}
