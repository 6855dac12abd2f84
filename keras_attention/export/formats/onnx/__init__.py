"""The ONNX writer: tracing, operators, weights."""
