"""The reference evaluator: an ONNX artifact computed as ONNX defines it, node by node."""
