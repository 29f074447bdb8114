"""What goes wrong, as exceptions. Each says what was asked, what there was, and the way out."""

import builtins


class StreampoolError(Exception):
    """Anything that streampool raises on purpose."""


class OutOfMemoryError(StreampoolError, MemoryError):
    """The device, or the limit that was set, has no room. Nothing is broken: other threads go on."""


class PoolExhaustedError(StreampoolError):
    """Every stream of the pool is in use, and the policy says not to wait, or the wait ended."""


class ForkError(StreampoolError):
    """The process came from a fork and cannot use its parent's device: use the "spawn" method, or open a device."""


class ShutDownError(StreampoolError):
    """The device was closed."""


class DeviceLostError(StreampoolError):
    """The device failed and will not work again in this process."""


class InvalidArgument(StreampoolError, ValueError):
    """Arguments that do not fit: a shape, a dtype, a name, a size."""


class OutOfRange(InvalidArgument, IndexError):
    """An index or axis that is not there."""


class InvalidModel(StreampoolError, ValueError):
    """A model or data file is damaged, hostile, or contradicts itself."""


class Unsupported(StreampoolError, NotImplementedError):
    """Well formed, but not implemented here."""


class TimeoutError(StreampoolError, builtins.TimeoutError):
    """A deadline passed."""


class FileError(StreampoolError, OSError):
    """The operating system refused a file operation."""


class InternalError(StreampoolError, RuntimeError):
    """A promise inside streampool was broken, or a fault was injected; please report it."""


BY_CODE: dict[str, type[StreampoolError]] = {
    "out_of_memory": OutOfMemoryError,
    "pool_exhausted": PoolExhaustedError,
    "forked": ForkError,
    "shut_down": ShutDownError,
    "device_lost": DeviceLostError,
    "invalid_argument": InvalidArgument,
    "out_of_range": OutOfRange,
    "invalid_model": InvalidModel,
    "unsupported": Unsupported,
    "timeout": TimeoutError,
    "io": FileError,
    "internal": InternalError,
}

for _class in {StreampoolError, *BY_CODE.values()}:
    _class.__module__ = "streampool"
