"""Model files: read, checked, written. ONNX protobufs alone; no graph is edited here."""
