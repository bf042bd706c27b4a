#!/usr/bin/env python3
"""Headless latency benchmark over WebRTC, the same as `streamgen bench`: see --help and docs/operations."""

import sys

from streamgen.bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
