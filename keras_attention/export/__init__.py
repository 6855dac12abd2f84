"""Artifacts: models as SavedModel, ONNX or LiteRT, written, verified and run."""
