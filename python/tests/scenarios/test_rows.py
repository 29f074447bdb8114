"""The rows' names are those that the report of `cargo xtask verify` looks for."""

import re
from pathlib import Path

from streampool.verify.rows import ROWS


def test_rows_are_those_of_the_report() -> None:
    report = Path(__file__).parents[3] / "xtask" / "src" / "verify" / "python.rs"
    listed = re.search(r"const ROWS: \[&str; 24\] = \[(.*?)\];", report.read_text(), re.DOTALL)
    assert listed
    assert [row.name for row in ROWS] == re.findall(r'"(.*?)"', listed[1])
    assert [row.number for row in ROWS] == list(range(1, 25))
