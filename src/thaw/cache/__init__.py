"""The cache: arrays under content keys, how much it may hold, files written whole, checkpoints."""
