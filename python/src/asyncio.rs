//! Runs that an event loop awaits: a few threads serve all requests.
//!
//! A request is a call of the model with its arguments. It waits in one queue for the next free thread; its future is settled on the
//! loop's thread. Cancelling the future takes the request out of its place, and with it what it held, unless it has begun.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use crate::model::PyModel;

/// What a request holds.
struct Request {
    model: Py<PyModel>,
    args: Py<PyTuple>,
    kwargs: Option<Py<PyDict>>,
    event_loop: Py<PyAny>,
    future: Py<PyAny>,
}

/// A request's place: empty once it was begun or cancelled.
type Place = Arc<Mutex<Option<Request>>>;

/// The threads and their queue, of one process.
struct Crew {
    pid: u32,
    queue: Mutex<Queue>,
    news: Condvar,
}

#[derive(Default)]
struct Queue {
    places: VecDeque<Place>,
    threads: usize,
    idle: usize,
}

/// Frees what a request holds when its future is cancelled.
#[pyclass(frozen, name = "Cancel", module = "streampool._native")]
pub(crate) struct PyCancel(Place);

#[pymethods]
impl PyCancel {
    fn __call__(&self, future: &Bound<'_, PyAny>) -> PyResult<()> {
        if future.call_method0("cancelled")?.is_truthy()? {
            let request = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(request);
        }
        Ok(())
    }
}

/// This process's crew: a forked child has none of its parent's threads.
fn crew() -> Arc<Crew> {
    static CREW: Mutex<Option<Arc<Crew>>> = Mutex::new(None);
    let mut crew = CREW.lock().unwrap_or_else(PoisonError::into_inner);
    let pid = std::process::id();
    match &*crew {
        Some(crew) if crew.pid == pid => crew.clone(),
        _ => {
            let new = Arc::new(Crew { pid, queue: Mutex::default(), news: Condvar::new() });
            // A parent's crew may be locked for ever: it is left as it is.
            std::mem::forget(crew.replace(new.clone()));
            new
        }
    }
}

/// `Model.run_async`.
pub(crate) fn submit<'py>(
    model: &Bound<'py, PyModel>,
    args: &Bound<'py, PyTuple>,
    kwargs: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    static RUNNING_LOOP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let py = model.py();
    let event_loop = RUNNING_LOOP.import(py, "asyncio", "get_running_loop")?.call0()?;
    let future = event_loop.call_method0("create_future")?;
    let place: Place = Arc::new(Mutex::new(Some(Request {
        model: model.clone().unbind(),
        args: args.clone().unbind(),
        kwargs: kwargs.map(|k| k.clone().unbind()),
        event_loop: event_loop.unbind(),
        future: future.clone().unbind(),
    })));
    future.call_method1("add_done_callback", (PyCancel(place.clone()),))?;
    let crew = crew();
    let start = {
        let mut queue = crew.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.places.push_back(place);
        let most = std::thread::available_parallelism().map_or(1, usize::from);
        let start = queue.idle < queue.places.len() && queue.threads < most;
        queue.threads += usize::from(start);
        start
    };
    crew.news.notify_one();
    if start {
        let own = crew.clone();
        let thread = std::thread::Builder::new().name("streampool-async".into()).spawn(move || serve(&own));
        if thread.is_err() {
            let mut queue = crew.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.threads -= 1;
            if queue.threads == 0 {
                return Err(pyo3::exceptions::PyRuntimeError::new_err(
                    "run_async: the system starts no more threads",
                ));
            }
        }
    }
    Ok(future)
}

/// A thread's life. No lock is held while Python runs.
fn serve(crew: &Crew) {
    loop {
        let place = {
            let mut queue = crew.queue.lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                if let Some(place) = queue.places.pop_front() {
                    break place;
                }
                queue.idle += 1;
                queue = crew.news.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.idle -= 1;
            }
        };
        let Some(request) = place.lock().unwrap_or_else(PoisonError::into_inner).take() else { continue };
        // Once the interpreter ends, this never returns; the thread goes with the process.
        Python::attach(|py| answer(py, request));
    }
}

fn answer(py: Python<'_>, request: Request) {
    let Request { model, args, kwargs, event_loop, future } = request;
    let result = model.bind(py).call(args.bind(py), kwargs.as_ref().map(|k| k.bind(py)));
    drop((args, kwargs, model));
    static SETTLE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let settled = SETTLE.import(py, "streampool._asyncio", "settle").and_then(|settle| {
        let (value, error) = match result {
            Ok(value) => (Some(value), None),
            Err(error) => (None, Some(error.into_value(py))),
        };
        event_loop.bind(py).call_method1("call_soon_threadsafe", (settle, future, value, error))
    });
    // The loop was closed: nobody waits any more.
    drop(settled);
}
