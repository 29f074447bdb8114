//! The kernels' CUDA text, compiled by NVRTC, which needs no GPU: where `$STREAMPOOL_NVRTC` names the library (`pip install nvidia-cuda-nvrtc` has it).

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_void};

use libloading::{Library, Symbol};
use streampool_conformance::Cases;
use streampool_kernels::{Dialect, Kernel, prelude};

use crate::run::kernels;

/// Kernels that are compiled at once: an error then names few.
const AT_ONCE: usize = 200;

/// NVRTC's words on a text; nothing if it compiles.
fn refused(library: &Library, text: &str, architecture: &str) -> Option<String> {
    type Program = *mut c_void;
    let source = CString::new(text).expect("no zeros");
    let options: Vec<CString> =
        [&format!("--gpu-architecture={architecture}"), "--std=c++17", "--fmad=false", "--disable-warnings"]
            .iter()
            .map(|o| CString::new(*o).expect("no zeros"))
            .collect();
    let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
    // SAFETY: the functions have these types (nvrtc.h); strings end with zeros and outlive the calls; the log has the size that NVRTC tells.
    unsafe {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        let missing = "nvrtc.h's functions";
        let create: Symbol<'_, Create> = library.get(b"nvrtcCreateProgram").expect(missing);
        let compile: Symbol<'_, unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int> =
            library.get(b"nvrtcCompileProgram").expect(missing);
        let log_size: Symbol<'_, unsafe extern "C" fn(Program, *mut usize) -> c_int> =
            library.get(b"nvrtcGetProgramLogSize").expect(missing);
        let read_log: Symbol<'_, unsafe extern "C" fn(Program, *mut c_char) -> c_int> =
            library.get(b"nvrtcGetProgramLog").expect(missing);
        let destroy: Symbol<'_, unsafe extern "C" fn(*mut Program) -> c_int> =
            library.get(b"nvrtcDestroyProgram").expect(missing);
        let mut program: Program = std::ptr::null_mut();
        let none = std::ptr::null();
        assert_eq!(create(&mut program, source.as_ptr(), c"kernels.cu".as_ptr(), 0, none, none), 0);
        let code = compile(program, pointers.len() as c_int, pointers.as_ptr());
        let mut size = 0;
        log_size(program, &mut size);
        let mut log = vec![0u8; size.max(1)];
        read_log(program, log.as_mut_ptr().cast());
        destroy(&mut program);
        let log: String = String::from_utf8_lossy(&log).chars().take(3000).collect();
        (code != 0).then(|| format!("code {code}: {log}"))
    }
}

/// NVRTC, if there is one.
fn library() -> Option<Library> {
    let path = std::env::var_os("STREAMPOOL_NVRTC")?;
    // SAFETY: NVRTC's constructors do nothing but set itself up.
    Some(unsafe { Library::new(&path) }.expect("the library loads"))
}

/// Panics if NVRTC is there and does not compile one of `kernels`.
pub(crate) fn check<'a>(kernels: impl IntoIterator<Item = &'a Kernel>, architectures: &[&str]) {
    let Some(library) = library() else { return };
    let all: BTreeMap<&str, &Kernel> = kernels.into_iter().map(|k| (&*k.name, k)).collect();
    let all: Vec<&Kernel> = all.into_values().collect();
    for architecture in architectures {
        for part in all.chunks(AT_ONCE) {
            let text: String = part.iter().map(|k| k.source(Dialect::Cuda)).collect();
            if let Some(why) = refused(&library, &(prelude(Dialect::Cuda) + &text), architecture) {
                panic!("{architecture}: {why}");
            }
        }
    }
    println!("{} kernels compile for {}", all.len(), architectures.join(" and "));
}

#[test]
fn the_text_for_cuda_compiles() {
    let Some(library) = library() else {
        println!("not run: STREAMPOOL_NVRTC names no libnvrtc.so (pip install nvidia-cuda-nvrtc has one)");
        return;
    };
    let mut cases = Cases::new(1);
    cases.all();
    let all: Vec<Kernel> = cases.list.iter().flat_map(kernels).collect();
    check(&all, &["sm_80", "sm_90"]);
    assert!(refused(&library, "not a kernel", "sm_90").is_some(), "NVRTC takes anything");
}
