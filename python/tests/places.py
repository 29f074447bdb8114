"""Where things are in the repository. Not in conftest: there are several modules of that name, and the one loaded last answers to it."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIGITS = ROOT / "models" / "digits"
