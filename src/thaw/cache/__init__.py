"""The cache: arrays under content keys, its budget, atomic writes, checkpoints."""
