"""Tests that need PyTorch: scripts/test-torch installs it and runs them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MISSING = [name for name in ("torch", "onnxscript") if importlib.util.find_spec(name) is None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Says why they do not run."""
    if MISSING:
        reason = f"{' and '.join(MISSING)} not installed: scripts/test-torch installs and runs these"
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))
