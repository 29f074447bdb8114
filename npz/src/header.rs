//! The header of a `.npy` file: a Python dictionary literal with the keys `descr`, `fortran_order` and `shape`.

use streampool_core::op::{DType, Shape, TensorType};
use streampool_core::{Error, Result};

/// The longest header that is read. NumPy's own loader stops at 10,000 characters.
const LONGEST: usize = 64 << 10;

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) ty: TensorType,
    /// Whether elements are stored most significant byte first.
    pub(crate) big_endian: bool,
    /// Whether the first axis varies fastest.
    pub(crate) fortran_order: bool,
    /// Bytes of magic, version, length and text together.
    pub(crate) bytes: usize,
}

/// Reads magic, version and header text.
pub(crate) fn read(from: &mut impl std::io::Read) -> Result<Header> {
    let mut start = [0_u8; 8];
    fill(from, &mut start)?;
    if &start[..6] != b"\x93NUMPY" {
        return Err(Error::invalid_model("not a .npy array: it does not start with \\x93NUMPY"));
    }
    let (text_bytes, bytes) = match start[6] {
        1 => {
            let mut n = [0_u8; 2];
            fill(from, &mut n)?;
            (u16::from_le_bytes(n) as usize, 10)
        }
        2 | 3 => {
            let mut n = [0_u8; 4];
            fill(from, &mut n)?;
            (u32::from_le_bytes(n) as usize, 12)
        }
        v => {
            return Err(Error::unsupported(format!(".npy format version {v}; 1, 2 and 3 are read")));
        }
    };
    if text_bytes > LONGEST {
        return Err(Error::invalid_model(format!(
            "the .npy header claims {text_bytes} bytes, at most {LONGEST} are read"
        )));
    }
    let mut text = vec![0; text_bytes];
    fill(from, &mut text)?;
    let text = std::str::from_utf8(&text).map_err(|_| Error::invalid_model("the .npy header is not text"))?;
    let mut header = parse(text).map_err(|e| e.context("the .npy header"))?;
    header.bytes = bytes + text_bytes;
    Ok(header)
}

fn fill(from: &mut impl std::io::Read, to: &mut [u8]) -> Result<()> {
    from.read_exact(to).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            Error::invalid_model("truncated: the file ends inside its .npy header")
        }
        _ => damaged(e),
    })
}

/// An I/O error while reading: damage if the archive reader says so, else the operating system's.
pub(crate) fn damaged(e: std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput | std::io::ErrorKind::Other => {
            Error::invalid_model(format!("damaged data: {e}")).caused_by(e)
        }
        std::io::ErrorKind::UnexpectedEof => {
            Error::invalid_model("truncated: the file ends inside an array").caused_by(e)
        }
        _ => Error::io(format!("cannot read: {e}")).caused_by(e),
    }
}

/// Version 1.0 header bytes for a row-major little-endian array, padded so that data starts at a multiple of 64.
pub(crate) fn write(ty: &TensorType) -> Vec<u8> {
    let descr = match ty.dtype {
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::F16 => "<f2",
        // NumPy has no bfloat16; ml_dtypes, which adds it, stores it as two opaque bytes.
        DType::BF16 => "<V2",
        DType::I8 => "|i1",
        DType::U8 => "|u1",
        DType::I32 => "<i4",
        DType::I64 => "<i8",
        DType::Bool => "|b1",
    };
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {}, }}", ty.shape);
    let padded = (10 + text.len() + 1).next_multiple_of(64);
    while 10 + text.len() + 1 < padded {
        text.push(' ');
    }
    text.push('\n');
    // At most 16 axes of 20 digits: far below the 65,535 that two bytes can say.
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out
}

fn parse(text: &str) -> Result<Header> {
    let mut p = Parser { rest: text };
    let (mut descr, mut fortran_order, mut shape) = (None, None, None);
    p.expect('{')?;
    while !p.accept('}') {
        let key = p.string()?;
        p.expect(':')?;
        let twice = match key {
            "descr" => descr.replace(p.descr()?).is_some(),
            "fortran_order" => fortran_order.replace(p.boolean()?).is_some(),
            "shape" => shape.replace(p.shape()?).is_some(),
            other => return Err(Error::invalid_model(format!("unknown key '{other}'"))),
        };
        if twice {
            return Err(Error::invalid_model(format!("the key '{key}' occurs twice")));
        }
        if !p.accept(',') {
            p.expect('}')?;
            break;
        }
    }
    if !p.rest.trim().is_empty() {
        return Err(Error::invalid_model("text after the dictionary's end"));
    }
    let missing = |key| Error::invalid_model(format!("the key '{key}' is missing"));
    let (dtype, big_endian) = descr.ok_or_else(|| missing("descr"))?;
    let shape = Shape::from(shape.ok_or_else(|| missing("shape"))?);
    shape.checked_len().map_err(|e| Error::invalid_model(e.to_string()))?;
    Ok(Header {
        ty: TensorType { dtype, shape },
        big_endian,
        fortran_order: fortran_order.ok_or_else(|| missing("fortran_order"))?,
        bytes: 0,
    })
}

/// A cursor over the literal.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn accept(&mut self, c: char) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, c: char) -> Result<()> {
        if self.accept(c) {
            return Ok(());
        }
        let found: String = self.rest.chars().take(10).collect();
        Err(Error::invalid_model(format!("expected '{c}', found '{found}'")))
    }

    fn string(&mut self) -> Result<&'a str> {
        self.rest = self.rest.trim_start();
        let quote = match self.rest.chars().next() {
            Some(q @ ('\'' | '"')) => q,
            _ => return Err(Error::invalid_model("expected a quoted string")),
        };
        let (value, rest) =
            self.rest[1..].split_once(quote).ok_or_else(|| Error::invalid_model("a string does not end"))?;
        self.rest = rest;
        Ok(value)
    }

    fn boolean(&mut self) -> Result<bool> {
        self.rest = self.rest.trim_start();
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return Ok(value);
            }
        }
        Err(Error::invalid_model("'fortran_order' is neither True nor False"))
    }

    fn shape(&mut self) -> Result<Vec<usize>> {
        let mut dims = Vec::new();
        self.expect('(')?;
        while !self.accept(')') {
            self.rest = self.rest.trim_start();
            let end = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
            let (digits, rest) = self.rest.split_at(end);
            let dim = digits.parse().map_err(|_| {
                let found: String = self.rest.chars().take(24).collect();
                Error::invalid_model(format!("'shape' holds '{found}', which is no axis length"))
            })?;
            dims.push(dim);
            if dims.len() > streampool_core::op::MAX_RANK {
                return Err(Error::invalid_model(format!(
                    "'shape' has more than {} axes",
                    streampool_core::op::MAX_RANK
                )));
            }
            // Python 2 wrote long integers as 3L.
            self.rest = rest.strip_prefix('L').unwrap_or(rest);
            if !self.accept(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(dims)
    }

    /// Element type and whether it is big endian.
    fn descr(&mut self) -> Result<(DType, bool)> {
        self.rest = self.rest.trim_start();
        if self.rest.starts_with('[') {
            return Err(Error::unsupported(
                "structured arrays (a list of fields as dtype); save each field as an array of its own",
            ));
        }
        let descr = self.string()?;
        let (order, kind) = match descr.chars().next() {
            Some(c @ ('<' | '>' | '|' | '=')) => (c, &descr[1..]),
            _ => ('=', descr),
        };
        let dtype = match kind {
            "f4" => DType::F32,
            "f8" => DType::F64,
            "f2" => DType::F16,
            "V2" => DType::BF16,
            "i1" => DType::I8,
            "u1" => DType::U8,
            "i4" => DType::I32,
            "i8" => DType::I64,
            "b1" | "?" => DType::Bool,
            k if k.starts_with('O') => {
                return Err(Error::unsupported(
                    "an object array, stored as a Python pickle: loading one can run any code, so it is refused; \
                     save it with a number dtype",
                ));
            }
            _ => {
                return Err(Error::unsupported(format!(
                    "dtype '{descr}'; float16/32/64, bfloat16 (ml_dtypes), int8/32/64, uint8 and bool are read: convert \
                     with .astype() before saving"
                )));
            }
        };
        Ok((dtype, order == '>'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numpys_own_spelling_is_read() {
        let h = parse("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }     \n").unwrap();
        assert_eq!(h.ty, TensorType { dtype: DType::F32, shape: Shape::new(&[3, 4]) });
        assert!(!h.fortran_order && !h.big_endian);
        let h = parse("{\"shape\":(7L,),'descr':'>i8','fortran_order':True}").unwrap();
        assert_eq!(h.ty, TensorType { dtype: DType::I64, shape: Shape::new(&[7]) });
        assert!(h.fortran_order && h.big_endian);
        assert_eq!(parse("{'descr':'|b1','fortran_order':False,'shape':()}").unwrap().ty.shape.rank(), 0);
    }

    #[test]
    fn damaged_headers_say_what_is_wrong() {
        for (text, part) in [
            ("", "expected '{'"),
            ("{'descr': '<f4'", "expected '}'"),
            ("{'descr': '<f4", "does not end"),
            ("{'descr': '<f4', 'fortran_order': False}", "'shape' is missing"),
            ("{'descr': '<f4', 'descr': '<f4', 'shape': ()}", "twice"),
            ("{'descr': '<f4', 'fortran_order': 0, 'shape': ()}", "neither True nor False"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "no axis length"),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999999,)}",
                "no axis length",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4294967296)}",
                "too many elements",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 4294967296, 4294967296)}",
                "too many elements",
            ),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': ()} import os", "after the dictionary"),
            ("{'evil': 1}", "unknown key"),
        ] {
            let e = parse(text).unwrap_err();
            assert!(e.is_invalid_model() && e.to_string().contains(part), "{text}: {e}");
        }
        let many = format!("{{'shape': ({})}}", "1,".repeat(5000));
        assert!(parse(&many).unwrap_err().to_string().contains("more than 16 axes"));
    }

    #[test]
    fn foreign_dtypes_are_unsupported_by_name() {
        for (descr, part) in [
            ("'|O'", "pickle"),
            ("'<c8'", "<c8"),
            ("'<U5'", "<U5"),
            ("'<u2'", "<u2"),
            ("[('a','<f4')]", "fields"),
        ] {
            let e = parse(&format!("{{'descr': {descr}, 'fortran_order': False, 'shape': ()}}")).unwrap_err();
            assert!(e.is_unsupported() && e.to_string().contains(part), "{descr}: {e}");
        }
    }

    #[test]
    fn a_written_header_reads_back_and_aligns_the_data() {
        for dtype in DType::ALL {
            for dims in [&[][..], &[0], &[5], &[1, 2, 3], &[10; 16]] {
                let ty = TensorType { dtype, shape: Shape::new(dims) };
                let bytes = write(&ty);
                assert_eq!(bytes.len() % 64, 0);
                if ty.shape.checked_len().is_ok() {
                    let h = read(&mut &bytes[..]).unwrap();
                    assert_eq!((h.ty, h.bytes), (ty, bytes.len()));
                }
            }
        }
    }
}
