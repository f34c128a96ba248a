"""A run's folder: what a study leaves behind, written and read."""
