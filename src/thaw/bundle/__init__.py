"""Bundles: trained models ready to use elsewhere."""
