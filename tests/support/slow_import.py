"""A module that takes a while to import, and says so."""

from __future__ import annotations

import time

print("importing", flush=True)
time.sleep(0.5)
