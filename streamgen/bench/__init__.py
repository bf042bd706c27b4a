"""Load and latency, measured from outside: a client of the service, which it imports nothing of."""
