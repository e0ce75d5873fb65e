"""One file a pass: the graph before, the graph after, the refusals with their reasons."""
