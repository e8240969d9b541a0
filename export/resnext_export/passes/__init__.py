"""ONNX to ONNX, each pass named by its verb."""
