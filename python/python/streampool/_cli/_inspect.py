"""`inspect`: what a model is, and how it will run."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import streampool as sp

from .._native import inspect_model
from .._table import human_bytes, table
from ._options import Report, add_device, add_report, open_device
from ._run import read_data

Shape = tuple[int, ...]
Interface = Mapping[str, tuple[Any, tuple[int | str, ...] | None]]

NAME = "inspect"
HELP = "show what a model is and how it will run: inputs, outputs, operators, plan with fusions, memory"
EXAMPLES = """\
examples:
  python -m streampool inspect models/digits/digits.onnx
  python -m streampool inspect model.onnx --shape input_ids=1x128 --shape attention_mask=1x128
  python -m streampool inspect model.onnx --input x.npz"""


def shape(text: str) -> tuple[str, Shape]:
    """`image=1x3x224x224`; names may hold '='."""
    name, found, dims = text.rpartition("=")
    try:
        lengths = tuple(int(d) for d in dims.split("x")) if dims else ()
    except ValueError:
        lengths = (-1,)
    if not found or any(n < 0 or n >= 1 << 63 for n in lengths):
        raise argparse.ArgumentTypeError(f"'{text}' is no NAME=AxBxC, as in image=1x3x224x224")
    return name, lengths


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("model", help="the model, an ONNX file")
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--shape",
        type=shape,
        action="append",
        default=[],
        metavar="NAME=AxBxC",
        help="the shape of an input with free axes, which are 1 otherwise",
    )
    given.add_argument(
        "-i",
        "--input",
        metavar="X.npz",
        help="plan for these inputs; needed where shapes inside the model depend on the values of one",
    )
    add_device(parser)
    add_report(parser)


def shapes(inputs: Interface, given: Sequence[tuple[str, Shape]]) -> dict[str, Shape]:
    """Shapes given by the user, else the model's with free axes of length 1; a free axis that one given shape
    names is that long in
    the others, too.
    """
    for name, _ in given:
        if name not in inputs:
            names = "', '".join(inputs)
            raise sp.InvalidArgument(f"--shape: the model has no input '{name}'; its inputs are '{names}'")
    chosen = dict(given)
    symbols: dict[int | str, int] = {}
    for name, lengths in chosen.items():
        for dim, length in zip(inputs[name][1] or (), lengths, strict=False):
            if isinstance(dim, str) and dim != "?":
                symbols[dim] = length
    return {
        name: chosen.get(name) or tuple(d if isinstance(d, int) else symbols.get(d, 1) for d in dims or ())
        for name, (_, dims) in inputs.items()
    }


def main(options: argparse.Namespace) -> int:
    """Runs the command."""
    report = Report(options)
    model = sp.load(options.model, device=open_device(options))
    if options.input:
        data = read_data(options.input)
        missing = [name for name in model.inputs if name not in data]
        if missing:
            names = "', '".join(data)
            raise sp.InvalidArgument(f"--input: the data have no array '{missing[0]}'; they have '{names}'")
        values: dict[str, np.ndarray[Any, Any]] = {name: np.ascontiguousarray(data[name]) for name in model.inputs}
        facts = inspect_model(
            model,
            {name: (str(a.dtype), a.shape) for name, a in values.items()},
            {name: a.tobytes() for name, a in values.items()},
        )
    else:
        lengths = shapes(model.inputs, options.shape)
        types = {name: (dtype or sp.float32, lengths[name]) for name, (dtype, _) in model.inputs.items()}
        # What the user gave must fit; the shapes that we made up may not, and the rest is still worth
        # showing.
        facts = inspect_model(model, types, strict=bool(options.shape))
    summary = {"model": options.model} | facts
    report.say(show(summary))
    report.write(summary)
    return 0


def show(s: Mapping[str, Any]) -> str:
    """All of it for people."""
    opsets = ", ".join(f"{domain} {version}" for domain, version in s["opsets"].items())
    made = f", made by {s['producer']}" if s["producer"] else ""
    out = f"{s['model']}: {s['nodes']} nodes, opset {opsets}{made}\n"
    out += f"weights: {human_bytes(s['weight_bytes'])}\n\n"
    ports = [("input", p) for p in s["inputs"]] + [("output", p) for p in s["outputs"]]
    lines = [
        [
            f"{kind:6} {p['name']}",
            p["dtype"] or "any",
            "any shape" if p["dims"] is None else f"({', '.join(p['dims'])})",
        ]
        for kind, p in ports
    ]
    out += table(["name", "dtype", "shape"], lines, left=3)
    counts = sorted(s["operators"].items(), key=lambda item: (-item[1], item[0]))
    out += "\noperators: " + ", ".join(f"{name} {n}" for name, n in counts) + "\n\n"
    plan = s["plan"]
    if plan is None:
        return out + f"no plan: {s['no_plan']}\n"
    inputs = ", ".join(f"{name} {ty}" for name, ty in plan["inputs"].items())
    out += f"plan for {inputs}: {len(plan['steps'])} steps\n"
    if s["plan_depends_on_values_of"]:
        names = "', '".join(s["plan_depends_on_values_of"])
        out += f"it depends on the values of '{names}', too: another plan is made for each\n"
    steps = [
        [f"{i:4} {step['operation']}", " ".join(step["outputs"]), step["name"], step.get("kernel", "")]
        for i, step in enumerate(plan["steps"])
    ]
    out += table(["step", "writes", "from node", "kernel"], steps, left=4)
    if plan["fused"]:
        out += "\nfusions:\n  " + "\n  ".join(plan["fused"]) + "\n"
    arena, naive, constant = (human_bytes(plan[k]) for k in ("arena_bytes", "naive_bytes", "constant_bytes"))
    return out + (
        f"\nmemory per run: arena {arena} ({naive} without sharing, {plan['in_place']} results in place); "
        f"constants {constant} for all runs together\n"
    )
