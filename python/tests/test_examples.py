"""The examples run as their first lines say, and say what they promise."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "python" / "examples"
MODELS = Path(os.environ.get("STREAMPOOL_CACHE", ROOT / ".cache")) / "models"


def need(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_the_first_example_of_a_page(page: str) -> None:
    """As a reader pastes it, from the repository's root; and the answers are right."""
    code = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)[0]
    check = """
import numpy as np
answers = np.concatenate(next(x for x in (globals().get("answers"), globals().get("logits")) if x is not None))
assert (answers.argmax(1) == np.load("models/digits/test.npz")["labels"]).sum() == 444
print("right")
"""
    done = subprocess.run(
        [sys.executable, "-c", code + check], capture_output=True, text=True, timeout=120, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("right\n")


def test_thread_pool() -> None:
    said = run("01_thread_pool.py", "4")
    assert "4 threads:" in said
    assert "444 of 450 digits read right; both runs give the same answers" in said


@pytest.mark.parametrize("device", ["cpu", "sim"])
def test_hand_over(device: str) -> None:
    assert f"120 results of 3 producers and 2 consumers on '{device}' equal the serial ones" in run(
        "02_hand_over.py", device
    )


def test_batch_job() -> None:
    need("pandas", "tqdm")
    assert "of 2,000 rows right" in run("04_batch_job.py", "2000")


SERVER = """
import json, runpy, sys
from concurrent.futures import ThreadPoolExecutor
from fastapi.testclient import TestClient
import numpy as np
app = runpy.run_path(sys.argv[1])["app"]
with TestClient(app) as client:
    sentences = ["a cat sits on the mat", "a kitten rests on a rug", "the stock market fell today"]
    def ask(_):
        answer = client.post("/embed", json={"sentences": sentences})
        assert answer.status_code == 200, answer.text
        return answer.json()["embeddings"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(32)))
    assert all(a == answers[0] for a in answers)
    assert client.post("/embed", json={"sentences": []}).status_code == 422
    assert client.get("/health").json()["streams_running"] == 0
    e = np.array(answers[0])
    print(json.dumps({"shape": e.shape, "norms": np.linalg.norm(e, axis=1).tolist(), "near": e[0] @ e[1], "far": e[0] @ e[2]}))
"""


def test_embeddings_server() -> None:
    need("fastapi", "httpx", "tokenizers")
    if not (MODELS / "minilm.onnx").exists():
        pytest.skip("MiniLM is not there: scripts/fetch-models minilm")
    done = subprocess.run(
        [sys.executable, "-c", SERVER, str(EXAMPLES / "03_embeddings_server.py")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts["shape"] == [3, 384]
    assert all(abs(n - 1) < 1e-5 for n in facts["norms"])
    assert facts["near"] > facts["far"] + 0.3, "sentences of one meaning are near"


def test_notebook_keeps_what_it_printed() -> None:
    book = json.loads((EXAMPLES / "05_threads_and_memory.ipynb").read_text())
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert code
    assert all(cell["execution_count"] for cell in code), "every cell was executed"
    kinds = {kind for cell in code for output in cell["outputs"] for kind in output.get("data", {})}
    assert "image/png" in kinds or "image/svg+xml" in kinds
    assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"])
