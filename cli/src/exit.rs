//! How the process ends; `streampool --help` lists the codes.

use streampool::Error;

/// Why a command ended without doing what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A check failed; it was said where.
    Check,
    /// An error of the library.
    Error(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Error(e)
    }
}

impl Failure {
    /// The exit code. Wrong usage, 2, is clap's own.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Failure::Check => 1,
            Failure::Error(e) if e.is_internal() => 5,
            Failure::Error(e)
                if e.is_out_of_memory()
                    || e.is_pool_exhausted()
                    || e.is_forked()
                    || e.is_shut_down()
                    || e.is_device_lost()
                    || e.is_timeout() =>
            {
                4
            }
            Failure::Error(_) => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_that_help_documents() {
        let code = |e: Error| Failure::from(e).code();
        assert_eq!(Failure::Check.code(), 1);
        for e in
            [Error::invalid_model(""), Error::unsupported(""), Error::io(""), Error::invalid_argument("")]
        {
            assert_eq!(code(e), 3);
        }
        for e in [
            Error::out_of_memory(""),
            Error::pool_exhausted(""),
            Error::device_lost(""),
            Error::timeout(""),
            Error::shut_down(""),
            Error::forked(""),
        ] {
            assert_eq!(code(e), 4);
        }
        assert_eq!(code(Error::internal("")), 5);
    }
}
