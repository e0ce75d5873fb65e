"""Reports: their data, and text, JSON and pictures made of it."""
