//! streampool.
