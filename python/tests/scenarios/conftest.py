"""The rows have watchdogs of their own, with a limit each."""

import pytest


@pytest.fixture(autouse=True)
def watchdog() -> None:
    """In place of the one for all other tests: on a busy machine a row may take longer than a test may."""
