"""Checks of this installation, on this machine: `python -m streampool verify`.

24 rows, on every device: fork, exit, spawn, churn, hand-over, out of memory, exhaustion, speed. Each compares
its results with a
serial run and asserts that nothing is left at the end. Nothing is imported here: rows that start hundreds of
processes need little.
"""
