"""Which sessions' chunks run now: pure decisions, and the loop that carries them out."""
