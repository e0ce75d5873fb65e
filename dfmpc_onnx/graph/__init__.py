"""Graphs: reading and editing them, what operators mean, conversion between opsets and types."""
