"""Keeps log output apart from results."""

from __future__ import annotations

import logging
import sys

import structlog


def quiet_logs() -> None:
    """Send logs of level warning and above to stderr; stdout is for results."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # Look it up now: it may be replaced later.
    )
