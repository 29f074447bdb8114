"""`python -m streampool` as a user meets it: exit codes, what is printed, what is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streampool._cli._run import Requests, accuracy
from streampool._load import Spread, measure, percentile
from streampool._table import digits, human_bytes, seconds, table

ROOT = Path(__file__).parents[2]
MODEL = "models/digits/digits.onnx"
DATA = "models/digits/test.npz"
ATTACKS = ROOT / "attacks"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streampool", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def good(*arguments: str) -> str:
    done = command(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bad(code: int, *arguments: str) -> str:
    done = command(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr


@pytest.mark.parametrize("device", ["cpu", "sim"])
def test_digits_are_read_alike_by_one_thread_and_by_many(device: str, tmp_path: Path) -> None:
    out = tmp_path / "y.npz"
    requests = ("--requests", "900", "--check", "--device", device)
    said = good("run", MODEL, "--input", DATA, "--threads", "3,8", *requests, "--output", str(out), "--json", "-")
    summary = json.loads(said)
    assert summary["all_equal_serial"] is True
    assert round(summary["accuracy"] * 450) == 444
    rows = summary["rows"]
    assert [r["threads"] for r in rows] == [1, 3, 8]
    for row in rows:
        assert row["requests"] == 900
        assert row["answers_differing"] == 0
        assert row["requests_per_second"] > 0
        assert row["streams"] == row["threads"], "each thread has a stream of its own while slots last"
    with np.load(out) as written:
        y = written["probabilities"]
    assert y.shape == (450, 10)
    np.testing.assert_allclose(y.sum(1), 1, rtol=1e-5)


def test_without_a_number_of_requests_whole_rounds_are_made_for_a_second() -> None:
    row = json.loads(good("run", MODEL, "-i", DATA, "-t", "2", "--json", "-"))["rows"][1]
    assert row["requests"] % 450 == 0
    assert row["seconds"] >= 0.7


def test_more_threads_than_streams_all_get_their_answers() -> None:
    options = ("--threads", "32", "--streams", "2", "--requests", "640", "--check")
    assert "all 1,280 answers equal the serial ones, bit for bit" in good("run", MODEL, "--input", DATA, *options)


def test_bench_prints_a_table_json_and_a_picture(tmp_path: Path) -> None:
    plot, report = tmp_path / "p.svg", tmp_path / "r.json"
    times = ("--seconds", "0.03", "--repeats", "2", "--threads", "1,2")
    said = good("bench", "micro", *times, "--plot", str(plot), "--json", str(report))
    assert "calls/s" in said
    rows = json.loads(report.read_text())["rows"]
    assert [r["threads"] for r in rows] == [1, 2]
    for r in rows:
        rate = r["calls_per_second"]
        assert 0 < rate["min"] <= rate["median"] <= rate["max"]
    assert plot.read_text().count("<circle") == 2


def test_inspect_shows_plan_and_fusions() -> None:
    summary = json.loads(good("inspect", MODEL, "--shape", "image=3x1x8x8", "--json", "-"))
    assert summary["plan"]["inputs"]["image"].startswith("f")
    assert summary["plan"]["steps"]
    assert summary["nodes"] == sum(summary["operators"].values()) > 0
    said = good("inspect", MODEL)
    assert "memory per run: arena" in said
    assert "image" in bad(3, "inspect", MODEL, "--shape", "picture=1x1")
    assert "error:" in bad(3, "inspect", MODEL, "--shape", "image=1x2x3x4")


def test_info_names_the_devices() -> None:
    summary = json.loads(good("info", "--json", "-"))
    assert {d["name"] for d in summary["devices"]} >= {"cpu", "sim"}
    assert all(d["streams"] == 32 and d["memory_bytes"] > 0 for d in summary["devices"])


def test_verify_runs_rows_and_reports(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    said = good("verify", "--quick", "--rows", "2,5", "--device", "cpu,sim", "--json", str(report))
    assert "4 passed, 0 failed, 0 not run" in said
    written = json.loads(report.read_text())
    assert [(r["row"], r["device"], r["status"]) for r in written["rows"]] == [
        (n, d, "passed") for n in (2, 5) for d in ("cpu", "sim")
    ]
    assert list(tmp_path.iterdir()) == [report], "nothing half-written stays"


def test_verify_does_not_call_passed_what_did_not_run() -> None:
    said = good("verify", "--quick", "--rows", "2", "--device", "abacus")
    assert "0 passed, 0 failed, 1 not run" in said
    assert "no device 'abacus' here" in said


def test_verify_ends_with_1_if_a_row_fails() -> None:
    code = (
        "import sys, streampool as sp\n"
        "from streampool.verify import work\n"
        "from streampool._cli import main\n"
        "class Wrong:\n"
        "    def __getattr__(self, name): return getattr(sp, name)\n"
        "    def mm(self, a, b): return sp.mm(a, b) * 1.01\n"
        "work.sp = Wrong()\n"
        "sys.exit(main(['verify', '--rows', '2', '--device', 'cpu']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAIL  2 Simple Parallel" in done.stdout


def test_wrong_usage_ends_with_2() -> None:
    for arguments in (
        ("run", MODEL),
        ("run", MODEL, "--input", DATA, "--threads", "0"),
        ("run", MODEL, "--input", DATA, "--threads", "1,x"),
        ("bench", "nothing"),
        ("bench", "--seconds", "nan"),
        ("inspect", MODEL, "--shape", "x=1x-2"),
        ("verify", "--rows", "25"),
        (),
    ):
        assert "usage:" in bad(2, *arguments), arguments


def test_bad_files_end_with_3(tmp_path: Path) -> None:
    assert "no-such" in bad(3, "run", "no-such.onnx", "--input", DATA)
    assert "no-such" in bad(3, "run", MODEL, "--input", "no-such.npz")
    bad(3, "run", DATA, "--input", DATA)
    other = tmp_path / "other.npz"
    np.savez(other, picture=np.zeros((2, 1, 8, 8), np.float32))
    assert "'image'" in bad(3, "run", MODEL, "--input", str(other))
    np.savez(other, image=np.zeros((2, 1, 8, 8)))
    bad(3, "run", MODEL, "--input", str(other))


def test_pickles_are_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "it went off"),)

    np.savez(tmp_path / "x.npz", image=np.array([Bomb()], dtype=object))
    bad(3, "run", MODEL, "--input", str(tmp_path / "x.npz"))
    assert not (tmp_path / "it went off").exists()


def test_too_little_memory_ends_with_4() -> None:
    bad(4, "run", MODEL, "--input", DATA, "--batch", "450", "--requests", "1", "--memory-limit", "1")


def test_a_wrong_answer_ends_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from streampool._cli import _run, main

    right, calls = _run.Job.answer, 0

    def answer(self: _run.Job, i: int) -> dict[str, np.ndarray]:
        nonlocal calls
        calls += 1
        outputs = right(self, i)
        return {k: np.nextafter(v, 2, dtype=v.dtype) for k, v in outputs.items()} if calls == 700 else outputs

    monkeypatch.setattr(_run.Job, "answer", answer)
    monkeypatch.chdir(ROOT)
    assert main(["run", MODEL, "--input", DATA, "--requests", "900", "--check"]) == 1
    assert "check: FAILED: 1 of 900 answers differ" in capsys.readouterr().out


def test_data_are_cut_along_a_free_axis() -> None:
    data = {"x": np.arange(14).reshape(7, 2), "y": np.arange(7)}
    free = {"x": (None, ("n", 2)), "y": (None, ("n",))}
    r = Requests.of(free, data, 3)
    assert r.rows == [3, 3, 1]
    joined = r.join(r.inputs)
    assert joined["x"] is not None
    assert (joined["x"] == data["x"]).all()
    assert Requests.of({"x": (None, (7, 2))}, data, 1).rows == [7]
    assert Requests.of({"x": (None, (2, 2))}, data, 1).rows is None
    assert Requests.of({"x": (None, ())}, data, 1).rows is None
    assert Requests.of({"x": (None, None), "y": (None, None)}, data | {"y": np.arange(5)}, 1).rows is None
    assert r.join([{"s": np.array(1)}] * 3) == {"s": None}


def test_accuracy_counts_the_greatest() -> None:
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [np.nan, -1.0]], np.float32)
    assert accuracy(scores, np.array([1, 1, 1])) == (2, 3)
    assert accuracy(scores, np.array([1.0, 1.0, 1.0])) is None


def test_numbers_for_people() -> None:
    assert (
        table(["threads", "req/s"], [["1", "5"], ["16", "12,345"]])
        == "threads   req/s\n1             5\n16       12,345\n"
    )
    for value, text in ((0.0, "0.000"), (0.1234, "0.123"), (9.999, "10.0"), (99.99, "100"), (1234.5, "1,234")):
        assert digits(value) == text
    assert seconds(1.5e-6) == "1.50 us"
    assert (human_bytes(1023), human_bytes(1536), human_bytes(3 << 30)) == ("1023 B", "1.50 KiB", "3.00 GiB")
    assert percentile([*range(1, 1001)], 99) == 990 / 1e9
    assert Spread.of([4.0, 1.0, 2.0, 3.0]) == Spread(2.5, 1.0, 4.0)


def test_measured_calls_are_made_once_each_and_errors_end_all() -> None:
    seen: list[int] = []
    outcome = measure(4, lambda _: seen.append, calls=1000)
    assert sorted(seen) == list(range(1000))
    assert outcome.calls == 1000

    def fail(i: int) -> None:
        if i == 100:
            raise TimeoutError("the hundredth")

    with pytest.raises(TimeoutError, match="hundredth"):
        measure(4, lambda _: fail, calls=1_000_000)

    def no_room(t: int) -> Callable[[int], object]:
        raise MemoryError(f"thread {t}")

    with pytest.raises(MemoryError):
        measure(2, no_room, seconds=60)
