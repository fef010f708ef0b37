"""What our modules log does not mix with results."""

from __future__ import annotations

import logging
import sys

import structlog


def quiet_logs() -> None:
    """Send what our modules log to stderr, warnings and worse only; stdout is for results."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # Today's, should it be replaced later.
    )
