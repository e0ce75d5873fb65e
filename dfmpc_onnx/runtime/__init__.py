"""onnxruntime: sessions, and single nodes run in it."""
