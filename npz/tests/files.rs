//! Whole `.npz` files: what NumPy wrote, round trips, and damage of every kind.

use std::io::{Cursor, Write};

use proptest::prelude::*;
use streampool_core::op::{DType, HostTensor, Shape, TensorType};
use streampool_npz::{Limits, Npz, read, read_from, write, write_to};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

fn array(dtype: DType, dims: &[usize], seed: u8) -> HostTensor {
    let ty = TensorType { dtype, shape: Shape::new(dims) };
    let mut data: Vec<u8> = (0..ty.bytes()).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
    if dtype == DType::Bool {
        data.iter_mut().for_each(|b| *b &= 1);
    }
    HostTensor::from_bytes(ty, &data).unwrap()
}

fn file_of(arrays: &[(String, HostTensor)]) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    write_to(&mut out, arrays.iter().map(|(n, a)| (n.as_str(), a))).unwrap();
    out.into_inner()
}

fn load(bytes: &[u8]) -> streampool_core::Result<Npz> {
    read_from(Cursor::new(bytes), Limits::default())
}

/// A ZIP of members with these raw contents.
fn raw(members: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn npy(descr: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let text = format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n");
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend_from_slice(&(text.len() as u16).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(data);
    out
}

proptest! {
    #[test]
    fn what_is_written_reads_back(
        specs in prop::collection::vec((0..9_usize, prop::collection::vec(0..5_usize, 0..5), any::<u8>()), 0..6),
    ) {
        let arrays: Vec<_> = specs
            .iter()
            .enumerate()
            .map(|(i, (d, dims, seed))| (format!("a/{i}"), array(DType::ALL[*d], dims, *seed)))
            .collect();
        let file = file_of(&arrays);
        prop_assert_eq!(&file, &file_of(&arrays), "equal arrays give equal bytes");
        prop_assert_eq!(load(&file).unwrap().arrays, arrays);
    }

    /// Any damage gives a result or a typed error that is the file's fault; never a panic.
    #[test]
    fn flipped_and_cut_files_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 0..4), cut in any::<prop::sample::Index>()) {
        let mut file = file_of(&[("x".into(), array(DType::F32, &[3, 5], 1)), ("y".into(), array(DType::I64, &[7], 2))]);
        for (at, mask) in flips {
            let i = at.index(file.len());
            file[i] ^= mask;
        }
        let whole = file.len();
        file.truncate(whole - cut.index(whole));
        if let Err(e) = load(&file) {
            prop_assert!(e.is_invalid_model() || e.is_unsupported(), "{e:?}");
        }
    }
}

#[test]
fn every_truncation_is_an_error() {
    let file = file_of(&[("x".into(), array(DType::F32, &[3, 5], 1))]);
    for n in 0..file.len() {
        assert!(load(&file[..n]).unwrap_err().is_invalid_model(), "cut to {n}");
    }
}

#[test]
fn a_flipped_data_byte_is_caught_by_the_checksum() {
    let member = npy("'<f4'", "False", "(64,)", &[7; 256]);
    let mut file = raw(&[("x.npy", &member)], CompressionMethod::Stored);
    let at = file.windows(8).position(|w| w == [7; 8]).unwrap();
    file[at + 100] ^= 1;
    let e = load(&file).unwrap_err();
    assert!(e.is_invalid_model() && e.to_string().contains("array 'x'"), "{e}");
}

#[test]
fn pickles_are_refused() {
    let member = npy("'|O'", "False", "(1,)", b"\x80\x04cos\nsystem\n");
    let e = load(&raw(&[("evil.npy", &member)], CompressionMethod::Deflated)).unwrap_err();
    assert!(
        e.is_unsupported() && e.to_string().contains("array 'evil'") && e.to_string().contains("pickle"),
        "{e}"
    );
}

#[test]
fn a_bomb_stops_at_the_limit() {
    // 64 MiB of zeros in some 64 KiB of file.
    let member = npy("'<f4'", "False", "(16777216,)", &vec![0; 64 << 20]);
    let file = raw(&[("a.npy", &member), ("b.npy", &member)], CompressionMethod::Deflated);
    assert!(file.len() < 1 << 20);
    let e = read_from(Cursor::new(&file), Limits { total_bytes: 100 << 20, arrays: 10 }).unwrap_err();
    assert!(
        e.is_invalid_model() && e.to_string().contains("array 'b'") && e.to_string().contains("limit"),
        "{e}"
    );
    // Declares little, holds much.
    let liar = npy("'|u1'", "False", "(4,)", &vec![0; 1 << 20]);
    let e = load(&raw(&[("liar.npy", &liar)], CompressionMethod::Deflated)).unwrap_err();
    assert!(e.is_invalid_model() && e.to_string().contains("has more"), "{e}");
    let many: Vec<_> = (0..20).map(|i| (format!("{i}"), array(DType::U8, &[1], 0))).collect();
    let e = read_from(Cursor::new(file_of(&many)), Limits { total_bytes: 1 << 20, arrays: 10 }).unwrap_err();
    assert!(e.is_invalid_model() && e.to_string().contains("20 arrays"), "{e}");
}

#[test]
fn a_name_given_twice_is_refused() {
    let one = npy("'|u1'", "False", "(1,)", &[1]);
    let mut file = raw(&[("a.npy", &one), ("b.npy", &one)], CompressionMethod::Stored);
    // The ZIP writer itself refuses duplicates, so rename b in the local header and in the directory.
    for i in 0..file.len() - 5 {
        if &file[i..i + 5] == b"b.npy" {
            file[i] = b'a';
        }
    }
    let e = load(&file).unwrap_err();
    assert!(e.is_invalid_model() && e.to_string().contains("one name"), "{e}");
    let a = array(DType::U8, &[1], 0);
    let e = write_to(Cursor::new(Vec::new()), [("a", &a), ("a", &a)]).unwrap_err();
    assert!(e.is_invalid_argument() && e.to_string().contains("'a'"), "{e}");
}

#[test]
fn strangers_in_the_archive_are_refused() {
    let e = load(&raw(&[("readme.txt", b"hello")], CompressionMethod::Stored)).unwrap_err();
    assert!(e.is_invalid_model() && e.to_string().contains("readme.txt"), "{e}");
    let e = load(b"PK\x03\x04 no directory").unwrap_err();
    assert!(e.is_invalid_model() && e.to_string().contains("directory"), "{e}");
    assert!(load(b"").unwrap_err().is_invalid_model());
    assert!(load(&raw(&[], CompressionMethod::Stored)).unwrap().arrays.is_empty());
}

#[test]
fn numbers_of_other_byte_order_and_axis_order_are_converted() {
    let member = npy("'>i4'", "True", "(2, 3)", &{
        // Columns first: (0,0) (1,0) (0,1) (1,1) (0,2) (1,2) of [[1, 2, 3], [4, 5, 6]].
        [1_i32, 4, 2, 5, 3, 6].map(i32::to_be_bytes).concat()
    });
    let loaded = load(&raw(&[("x.npy", &member)], CompressionMethod::Deflated)).unwrap();
    let x = loaded.get("x").unwrap();
    assert_eq!(x.bytes(), [1_i32, 2, 3, 4, 5, 6].map(i32::to_le_bytes).concat());
    assert_eq!(*x.ty(), TensorType { dtype: DType::I32, shape: Shape::new(&[2, 3]) });
}

#[test]
fn the_digits_test_set_is_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/digits/test.npz");
    let digits = read(path, Limits::default()).unwrap();
    assert_eq!(digits.names().collect::<Vec<_>>(), ["image", "labels"]);
    let (image, labels) = (digits.get("image").unwrap(), digits.get("labels").unwrap());
    assert_eq!(*image.ty(), TensorType { dtype: DType::F32, shape: Shape::new(&[450, 1, 8, 8]) });
    assert_eq!(*labels.ty(), TensorType { dtype: DType::I64, shape: Shape::new(&[450]) });
    let label = |i: usize| i64::from_le_bytes(labels.bytes()[8 * i..][..8].try_into().unwrap());
    assert!((0..450).all(|i| (0..10).contains(&label(i))));
    let values = image.bytes().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    assert!(values.clone().all(|v| (0.0..=16.0).contains(&v)) && values.sum::<f32>() > 100_000.0);
}

#[test]
fn files_are_named_in_errors_and_left_whole() {
    let folder = std::env::temp_dir().join(format!("streampool-npz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("out.npz");
    let e = read(&path, Limits::default()).unwrap_err();
    assert!(e.is_io() && e.to_string().contains("out.npz"), "{e}");
    let good = array(DType::F16, &[2, 2], 3);
    write(&path, [("good", &good)]).unwrap();
    assert!(write(&path, [("bad", &good), ("bad", &good)]).unwrap_err().is_invalid_argument());
    assert_eq!(read(&path, Limits::default()).unwrap().get("good"), Some(&good));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "no partial file is left");
    std::fs::remove_dir_all(folder).unwrap();
}
