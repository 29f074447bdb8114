"""torch is an extra: the package neither needs nor imports it."""

from __future__ import annotations

import subprocess
import sys


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_nothing_imports_torch() -> None:
    done = run(
        "import sys, streampool as sp, streampool.verify.rows, streampool._cli._run\n"
        "sp.mm(sp.randn(4, 4), sp.randn(4, 4))\n"
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


def test_compile_without_torch_says_how_to_get_it() -> None:
    done = run(
        "import sys\nsys.modules['torch'] = None\nimport streampool as sp\n"
        "try:\n    sp.compile(object(), ())\n"
        "except sp.Unsupported as e:\n    assert \"pip install 'streampool[torch]'\" in str(e), e\n"
        "else:\n    raise SystemExit('it compiled')"
    )
    assert done.returncode == 0, done.stderr
