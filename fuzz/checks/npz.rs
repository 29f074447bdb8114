//! Any bytes as `.npz` and as `.npy`: a typed error or arrays within the limits; what was read is written and read again the same.

use std::io::Cursor;

use streampool_npz::{Limits, read_from, read_npy, write_npy};

const LIMIT: usize = 1 << 20;

pub(crate) fn check(data: &[u8]) {
    let limits = Limits { total_bytes: LIMIT, arrays: 16 };
    match read_from(Cursor::new(data), limits) {
        Ok(file) => {
            let total: usize = file.names().filter_map(|name| file.get(name)).map(|a| a.bytes().len()).sum();
            assert!(total <= LIMIT, "the limit was exceeded");
        }
        Err(error) => assert!(!error.is_internal(), "a file is never the library's fault: {error}"),
    }
    match read_npy(&mut &*data, LIMIT) {
        Ok(array) => {
            assert!(array.bytes().len() <= LIMIT);
            let mut written = Vec::new();
            write_npy(&mut written, &array).expect("memory takes everything");
            let again = read_npy(&mut &*written, LIMIT).expect("what we write we read");
            assert!(again.ty() == array.ty() && again.bytes() == array.bytes());
        }
        Err(error) => assert!(!error.is_internal(), "a file is never the library's fault: {error}"),
    }
}
