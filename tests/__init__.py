"""Tests, one file a module and one a pass; graphs.py holds the networks that they share."""
