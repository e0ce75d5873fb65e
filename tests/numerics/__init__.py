"""Tests of the numerics: a slow, obvious loop as the reference, and laws that hold for any weight."""
