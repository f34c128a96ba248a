"""What several tests need: images, sources, the command line, small studies, made-up runs."""

from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared"
"""The folder with real photographs and weights, beside the checkout."""
