"""Training: the one loop, the learning-rate search, and the device and precision they run in."""
