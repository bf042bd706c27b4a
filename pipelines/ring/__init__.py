"""A DiT's blocks over several devices, one behind the other in a ring."""
