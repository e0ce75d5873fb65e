"""Decisions on weights: rebuilding a layer at a width, and what errors cost a network's output."""
