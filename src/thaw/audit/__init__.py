"""The audit of a study's images and splits: issues, duplicates, leaks, label errors."""
