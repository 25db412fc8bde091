"""Lowering: torch or ONNX -> Relax -> kernels."""
