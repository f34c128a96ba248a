"""Where and in which precision networks run, and the batches that they are given."""
