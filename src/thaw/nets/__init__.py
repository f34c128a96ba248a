"""Backbones, which of their parameters train, and the split into what is static and what moves."""
