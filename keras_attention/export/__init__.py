"""Artifacts: SavedModel and ONNX, written, verified, opened, described."""
