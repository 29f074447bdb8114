"""What the rows' tests share: the devices of this build, and a row's verdict as a test's."""

from __future__ import annotations

import pytest
import streampool as sp
from streampool.verify.row import Outcome, run
from streampool.verify.rows import by_number

__all__ = ["DEVICES", "pytest", "run_row"]

# cpu and sim always; cuda and metal where the build and the machine have them.
DEVICES = sp.available_devices()


def run_row(number: int, device: str, *, quick: bool = True) -> Outcome:
    """Runs a row, if `quick` in its quick form; anything but a pass fails the test, or skips it with the row's reason."""
    outcome = run(by_number(number), device, quick=quick)
    if outcome.status == "not run":
        pytest.skip(outcome.figure)
    assert outcome.status == "passed", f"{outcome.figure}\n{outcome.detail}"
    print(outcome.figure)
    return outcome
