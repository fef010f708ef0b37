"""What holds for every test."""

from __future__ import annotations

import structlog


def pytest_configure() -> None:
    """Log exceptions as plain text: drawn with frames and variables, a single one takes seconds."""
    *others, _ = structlog.get_config()["processors"]
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*others, renderer])
