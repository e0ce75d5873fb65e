"""The pass manager, recipes, settings and the facts that passes leave for each other."""
