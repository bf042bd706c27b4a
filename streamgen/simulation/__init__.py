"""The service's own scheduler, sessions and pacing in virtual time, with an engine that only takes its time."""
