"""Where a program's log goes."""

from __future__ import annotations

import logging


def log_to_stderr(*, verbose: bool) -> None:
    """Logs warnings, or with `verbose` what happens too; of libraries only what is ours to know."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s", force=True
    )
    for library in ("aiortc", "aioice"):  # what clients do wrong is theirs to know
        logging.getLogger(library).setLevel(logging.CRITICAL)
