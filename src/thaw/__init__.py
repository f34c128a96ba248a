"""How much of a pretrained network should you thaw? Measure it on your own images."""
