"""Writes onnx's node test cases as files, and ONNX Runtime's score over them. Runs in the virtual environment.

    onnx_cases.py generate DIR     one folder a case: model.onnx, N.in.npz, N.out.npz for each data set; cases.json lists them
    onnx_cases.py score DIR FILE   runs ONNX Runtime's CPU provider over DIR, writes {case: "passed" or why not} to FILE
"""

import json
import multiprocessing
import pathlib
import re
import sys
import warnings

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

# Element types of the conformance target, and those that an array file can hold for us besides.
SCOPE = {"FLOAT", "FLOAT16", "INT64", "BOOL", "INT32", "UINT8", "INT8"}
STORABLE = SCOPE | {"DOUBLE", "BFLOAT16"}

# Cases whose expected values come from NumPy's random generator: no other implementation can give them.
RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


def cases():
    # The cases' own NumPy code divides by zero on purpose.
    warnings.simplefilter("ignore", RuntimeWarning)
    from onnx.backend.test.loader import load_model_tests

    found = sorted(load_model_tests(kind="node"), key=lambda case: case.name)
    assert len({case.name for case in found}) == len(found)
    return found


def element_types(values):
    """The element type's name of each value, or the kind of value if it is no tensor."""
    out = []
    for value in values:
        kind = value.type.WhichOneof("value")
        out.append(TensorProto.DataType.Name(value.type.tensor_type.elem_type) if kind == "tensor_type" else kind)
    return out


def as_array(value):
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value)


def is_random(model):
    nodes = list(model.graph.node)
    for function in model.functions:
        nodes += function.node
    if any(node.op_type in RANDOM for node in nodes):
        return True
    # Dropout drops only in training mode, which is its third input.
    return any(n.op_type == "Dropout" and len(n.input) > 2 and n.input[2] for n in nodes)


def generate(folder):
    index = []
    operators = {}
    for case in cases():
        model = case.model
        target = folder / case.name
        target.mkdir(parents=True)
        (target / "model.onnx").write_bytes(model.SerializeToString())
        types = element_types(model.graph.input), element_types(model.graph.output)
        storable = all(t in STORABLE for t in (*types[0], *types[1]))
        for i, (inputs, outputs) in enumerate(case.data_sets):
            if storable:
                for kind, values, names in (("in", inputs, model.graph.input), ("out", outputs, model.graph.output)):
                    assert len(values) == len(names), case.name
                    np.savez(target / f"{i}.{kind}.npz", **{n.name: as_array(v) for n, v in zip(names, values)})
        if len(model.graph.node) == 1:
            operators[case.name] = model.graph.node[0].op_type
        index.append(
            {
                "name": case.name,
                "operator": None,
                "inputs": types[0],
                "outputs": types[1],
                "in_scope": all(t in SCOPE for t in (*types[0], *types[1])),
                "storable": storable,
                "random": is_random(model),
                "data_sets": len(case.data_sets),
                "rtol": case.rtol,
                "atol": case.atol,
            }
        )
    for entry in index:
        # A function body written out is filed under the operator that it expands.
        plain = re.sub(r"_expanded(_ver\d+)?$", "", entry["name"])
        entry["operator"] = operators.get(plain) or operators.get(entry["name"]) or "other"
    (folder / "cases.json").write_text(json.dumps(index, indent=1))
    print(f"{len(index)} cases, {sum(e['in_scope'] for e in index)} of them with inputs and outputs of {', '.join(sorted(SCOPE))}")


def score_one(name):
    import onnxruntime
    from onnx.backend.test.runner import Runner, _normalize_tensor

    onnxruntime.set_default_logger_severity(4)
    case = ALL[name]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(
            case.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for inputs, outputs in case.data_sets:
            # Scalars come as NumPy's scalar types, which ONNX Runtime does not take.
            feed = {
                i.name: np.asarray(v) if isinstance(v, np.generic) else _normalize_tensor(v)
                for i, v in zip(session.get_inputs(), inputs)
            }
            got = session.run(None, feed)
            Runner.assert_similar_outputs([_normalize_tensor(o) for o in outputs], got, case.rtol, case.atol)
        return name, "passed"
    except Exception as e:  # Whatever ONNX Runtime or NumPy raises is the verdict.
        return name, f"{type(e).__name__}: {str(e).strip()[:200]}"


def load():
    global ALL
    ALL = {case.name: case for case in cases()}


def score(folder, file):
    names = [entry["name"] for entry in json.loads((folder / "cases.json").read_text())]
    results = {}
    # In processes of their own, so that one that dies takes nothing with it.
    with multiprocessing.Pool(multiprocessing.cpu_count(), initializer=load) as pool:
        for name, verdict in pool.imap_unordered(score_one, names, chunksize=20):
            results[name] = verdict
    file.write_text(json.dumps(dict(sorted(results.items())), indent=1))
    print(f"ONNX Runtime passes {sum(v == 'passed' for v in results.values())} of {len(results)}")


if __name__ == "__main__":
    what, folder, *rest = sys.argv[1:]
    if what == "generate":
        generate(pathlib.Path(folder))
    else:
        score(pathlib.Path(folder), pathlib.Path(rest[0]))
