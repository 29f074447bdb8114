"""The rows' threads again while the interpreter switches threads every microsecond."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from running import DEVICES, pytest, run_row

# Those in which several threads of one process compute; the rest would only be slower.
ROWS = (2, 5, 7, 9, 10, 11, 14, 15, 17)


@pytest.fixture
def every_microsecond() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("every_microsecond")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("number", ROWS)
def test_row_while_threads_switch_every_microsecond(number: int, device: str) -> None:
    assert sys.getswitchinterval() == 1e-6
    run_row(number, device)
