"""Quantizers, moments and closed forms: numpy in, numpy out. No onnx, no files, no hidden randomness."""
