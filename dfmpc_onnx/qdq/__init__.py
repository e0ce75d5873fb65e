"""The quantized form of a graph: placement of Q and DQ, storage of codes, and reading both back."""
