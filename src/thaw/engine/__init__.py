"""Engines: where the items of a plan run. An engine is a `map`."""
