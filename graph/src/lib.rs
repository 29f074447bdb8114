//! ONNX to plan.
