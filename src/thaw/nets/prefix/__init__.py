"""The prefix/suffix split: what of a network cannot change while it trains, computed once per image."""
