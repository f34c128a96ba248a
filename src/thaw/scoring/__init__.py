"""Scores on the test set."""
