"""Settles the futures of `Model.run_async`, on their event loop's thread."""

from asyncio import Future
from typing import Any


def settle(future: "Future[Any]", value: Any, error: BaseException | None) -> None:
    """Gives a future its result, unless it was cancelled meanwhile."""
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)
