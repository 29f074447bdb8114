"""Memory shared with NumPy and others: who copies, who does not, and who keeps whom alive."""

import array
import gc
import pickle
import sys
import weakref

import numpy as np
import pytest
import streampool as sp
from streampool import nn

NUMPY_DTYPES = ["float32", "float64", "float16", "int8", "uint8", "int32", "int64", "bool"]


@pytest.fixture
def cpu():
    return sp.Device("cpu")


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_from_numpy_shares_memory_on_the_cpu(cpu, dtype):
    x = np.arange(24).reshape(2, 3, 4).astype(dtype)
    t = sp.from_numpy(x, device=cpu)
    assert t.dtype.name == dtype
    assert cpu.memory_allocated() == 0
    np.testing.assert_array_equal(t.numpy(), x)
    assert np.shares_memory(t.numpy(), x)
    x[0, 0, 0] = 1 - x[0, 0, 0]
    np.testing.assert_array_equal(t.numpy(), x)
    assert sp.tensor(x, device=cpu).numpy() is not x
    assert not np.shares_memory(sp.tensor(x, device=cpu).numpy(), x)


def test_from_numpy_takes_any_strides(device, rng):
    base = rng.standard_normal((6, 5, 4)).astype(np.float32)
    for x in (
        base.T,
        base[::-1],
        base[::2, :, ::-1],
        base[:, 1:1],
        np.broadcast_to(base[:1], (3, 5, 4)),
        base[1, 2, 3:4][0],
    ):
        if not isinstance(x, np.ndarray):
            continue
        t = sp.from_numpy(x)
        np.testing.assert_array_equal(t.numpy(), x)
        np.testing.assert_allclose((t * 2).numpy(), x * 2)
    record = np.zeros(5, [("a", "i1"), ("x", "<f4")])
    record["x"] = range(5)
    np.testing.assert_array_equal(sp.from_numpy(record["x"]).numpy(), record["x"])


def test_read_only_arrays_are_read(device, rng):
    x = rng.standard_normal(7)
    x.flags.writeable = False
    np.testing.assert_array_equal((sp.from_numpy(x) + 1).numpy(), x + 1)


def test_an_array_lives_as_long_as_its_tensor(cpu):
    x = np.arange(1000.0)
    count = sys.getrefcount(x)
    t = sp.from_numpy(x, device=cpu)[1:]
    assert sys.getrefcount(x) == count + 1
    y = t + 0
    del t
    gc.collect()
    assert sys.getrefcount(x) == count
    assert y.sum().item() == x[1:].sum()


def test_a_tensor_lives_as_long_as_its_array(device):
    t = sp.randn(500)
    copy = t.numpy(copy=True)
    alive = weakref.ref(t)
    view = t.numpy()[10:]
    del t
    gc.collect()
    assert (alive() is not None) == (device.type == "cpu")
    np.testing.assert_array_equal(view, copy[10:])
    del view
    gc.collect()
    assert alive() is None
    assert device.memory_allocated() == 0


def test_numpy_of_a_tensor_is_read_only_unless_copied(cpu):
    t = sp.ones(3, device=cpu)
    with pytest.raises(ValueError, match="read-only"):
        t.numpy()[0] = 2
    t.numpy(copy=True)[0] = 2
    np.array(t)[0] = 2
    assert t.tolist() == [1, 1, 1]


def test_numpy_functions_take_tensors(device, rng):
    x = rng.standard_normal((3, 4)).astype(np.float32)
    t = sp.tensor(x)
    assert np.asarray(t, dtype=np.float64).dtype == np.float64
    np.testing.assert_allclose(np.sum(np.asarray(t)), x.sum(), rtol=1e-5)
    assert isinstance(x * t, sp.Tensor)
    np.testing.assert_allclose((x * t).numpy(), x * x, rtol=1e-6)
    with pytest.raises(ValueError, match="without a copy"):
        t.__array__(np.float64, copy=False)


def test_buffers(cpu, rng):
    x = rng.standard_normal((3, 4)).astype(np.float32)
    t = sp.tensor(x, device=cpu)
    view = memoryview(t)
    assert (view.shape, view.strides, view.format, view.readonly) == ((3, 4), (16, 4), "f", True)
    assert view.tolist() == x.tolist()
    assert memoryview(t.t()).tolist() == x.T.tolist()
    assert bytes(t) == x.tobytes() if hasattr(t, "__bytes__") else view.tobytes() == x.tobytes()
    live = cpu.memory_allocated()
    del t
    gc.collect()
    assert cpu.memory_allocated() == live
    view.release()
    gc.collect()
    assert cpu.memory_allocated() < live
    with pytest.raises(BufferError):
        memoryview(sp.ones(2, device="sim"))
    with pytest.raises(BufferError):
        memoryview(sp.ones(2, dtype="bfloat16"))
    assert sp.tensor(array.array("f", [1, 2])).tolist() == [1, 2]


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_dlpack_both_ways_with_numpy(device, rng, dtype):
    x = (rng.standard_normal((4, 5)) * 5).astype(dtype)
    t = sp.tensor(x)
    there = np.from_dlpack(t.t())
    np.testing.assert_array_equal(there, x.T)
    assert not there.flags.writeable or device.type == "sim"
    back = sp.from_dlpack(x[::2, ::-1])
    np.testing.assert_array_equal(back.numpy(), x[::2, ::-1])
    assert back.dtype is t.dtype


def test_dlpack_shares_keeps_and_frees(cpu):
    t = sp.randn(300, device=cpu)
    live = cpu.memory_allocated()
    there = np.from_dlpack(t)
    assert np.shares_memory(there, t.numpy())
    again = sp.from_dlpack(t, device=cpu)
    assert np.shares_memory(again.numpy(), there)
    assert cpu.memory_allocated() == live
    del t, again
    gc.collect()
    assert cpu.memory_allocated() == live
    del there
    gc.collect()
    assert cpu.memory_allocated() == 0
    # A capsule that nobody uses frees what it holds, in both forms.
    t = sp.randn(300, device=cpu)
    capsules = [t.__dlpack__(), t.__dlpack__(max_version=(1, 0)), t.__dlpack__(copy=True)]
    del t, capsules
    gc.collect()
    assert cpu.memory_allocated() == 0


def test_a_capsule_is_used_once(cpu):
    capsule = sp.ones(3, device=cpu).__dlpack__()
    assert sp.from_dlpack(capsule).tolist() == [1, 1, 1]
    with pytest.raises(sp.InvalidArgument, match="not used yet"):
        sp.from_dlpack(capsule)


def test_dlpack_has_no_streams_on_the_host(cpu):
    t = sp.ones(3, device=cpu)
    assert t.__dlpack_device__() == (1, 0)
    t.__dlpack__(stream=None)
    t.__dlpack__(stream=-1)
    with pytest.raises(sp.InvalidArgument, match="stream"):
        t.__dlpack__(stream=1)
    with pytest.raises(BufferError):
        t.__dlpack__(dl_device=(2, 0))
    with pytest.raises(sp.InvalidArgument, match="copy"):
        sp.ones(3, device="sim").__dlpack__(copy=False)


def test_dlpack_refuses_memory_of_other_devices():
    class Gpu:
        def __dlpack_device__(self):
            return (2, 0)

    with pytest.raises(sp.Unsupported, match="host"):
        sp.from_dlpack(Gpu())
    with pytest.raises(sp.Unsupported, match="code 5"):
        sp.from_dlpack(np.ones(2, complex))


def test_bfloat16_goes_through_ml_dtypes(device):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.array([1.5, -2.25, 3e38, 0.1], ml_dtypes.bfloat16)
    t = sp.from_numpy(x)
    assert t.dtype is sp.bfloat16
    np.testing.assert_array_equal(t.numpy(), x)
    assert t.numpy().dtype == x.dtype
    assert t.float().tolist() == x.astype(np.float32).tolist()
    assert t.tolist() == x.astype(np.float32).tolist()


@pytest.mark.parametrize("dtype", [*NUMPY_DTYPES, "bfloat16"])
def test_pickles_hold_the_values(device, rng, dtype):
    t = sp.tensor(rng.standard_normal((3, 4)) * 3).to(dtype=dtype)
    back = pickle.loads(pickle.dumps(t.t()))
    assert back.dtype is t.dtype
    assert back.equal(t.t())
    layer = nn.Linear(3, 2)
    again = pickle.loads(pickle.dumps(layer))
    x = sp.randn(4, 3)
    assert isinstance(again.weight, nn.Parameter)
    assert again(x).equal(layer(x))
    assert pickle.loads(pickle.dumps(sp.float16)) == sp.float16
