"""Writes an ONNX model with all float32 as float16: `onnx_to_f16.py FROM TO`."""

import sys

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, TensorProto, numpy_helper


def narrowed(tensor: TensorProto) -> TensorProto:
    """The same values in float16; finite ones stay finite."""
    if tensor.data_type != TensorProto.FLOAT:
        return tensor
    values = numpy_helper.to_array(tensor)
    if np.isfinite(values).all():
        values = np.clip(values, -65504, 65504)
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)


def convert(graph: GraphProto) -> None:
    """Converts a graph and the graphs inside its nodes, in place."""
    initializers = [narrowed(t) for t in graph.initializer]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                attribute.t.CopyFrom(narrowed(attribute.t))
            elif attribute.type == AttributeProto.GRAPH:
                convert(attribute.g)
            elif node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16


def main() -> None:
    """Converts the file named first into the one named second."""
    source, target = sys.argv[1:3]
    model = onnx.load(source)
    convert(model.graph)
    onnx.save(model, target)


if __name__ == "__main__":
    main()
