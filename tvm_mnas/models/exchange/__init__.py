"""Networks from elsewhere: ONNX files and torch's exported programs, as torch networks."""
