"""A DiT over several devices: a ring of ranks, each with some of the blocks."""
