//! Random number generators.

use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use streampool::Generator;

/// A source of random numbers. The n-th call with a seed gives the same numbers on every device and whatever other threads do; threads
/// that share a generator get distinct numbers in the order of their calls.
#[pyclass(frozen, name = "Generator", module = "streampool")]
pub(crate) struct PyGenerator {
    inner: Mutex<Arc<Generator>>,
}

/// PyTorch's default seed, so that programs that set none get the same numbers each time.
const SEED: u64 = 67_280_421_310_721;

static DEFAULT: Mutex<Option<Arc<Generator>>> = Mutex::new(None);

/// What a `generator=` argument means.
pub(crate) fn parse(ob: Option<&Bound<'_, PyGenerator>>) -> Arc<Generator> {
    match ob {
        Some(generator) => generator.get().get(),
        None => {
            let mut default = DEFAULT.lock().unwrap_or_else(|e| e.into_inner());
            default.get_or_insert_with(|| Arc::new(Generator::new(SEED))).clone()
        }
    }
}

impl PyGenerator {
    fn get(&self) -> Arc<Generator> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn set(&self, generator: Generator) {
        *self.inner.lock().unwrap_or_else(|e| e.into_inner()) = Arc::new(generator);
    }
}

#[pymethods]
impl PyGenerator {
    #[new]
    #[pyo3(signature = (seed=SEED))]
    fn new(seed: u64) -> Self {
        Self { inner: Mutex::new(Arc::new(Generator::new(seed))) }
    }

    /// Starts anew from a seed. Returns itself.
    fn manual_seed(slf: Py<Self>, seed: u64) -> Py<Self> {
        slf.get().set(Generator::new(seed));
        slf
    }

    /// The seed.
    fn initial_seed(&self) -> u64 {
        self.get().state().0
    }

    /// The seed, and how many calls were made.
    fn get_state(&self) -> (u64, u64) {
        self.get().state()
    }

    /// Goes to where `get_state` said it was.
    fn set_state(&self, state: (u64, u64)) {
        self.set(Generator::at(state.0, state.1));
    }

    fn __repr__(&self) -> String {
        let (seed, calls) = self.get().state();
        format!("Generator(seed={seed}, calls={calls})")
    }
}

/// Seeds the generator that is meant when none is given.
#[pyfunction]
fn manual_seed(seed: u64) {
    *DEFAULT.lock().unwrap_or_else(|e| e.into_inner()) = Some(Arc::new(Generator::new(seed)));
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(manual_seed, m)?)
}
