"""Backbones, the parameters that train, adapters, stages and heat maps; `prefix` splits off the static part."""
