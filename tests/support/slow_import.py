"""A module that says when it is imported, and takes as long as there is a file called $STREAMGEN_TEST_HOLD."""

from __future__ import annotations

import os
import time
from pathlib import Path

print("importing", flush=True)
while Path(os.environ["STREAMGEN_TEST_HOLD"]).exists():
    time.sleep(0.01)
