"""What holds for every test."""

from __future__ import annotations

import structlog
from hypothesis import settings

# An example that takes long says that the machine is busy, not that the code is wrong; pytest's timeout ends a hang.
settings.register_profile("headrace", deadline=None)
settings.load_profile("headrace")


def pytest_runtest_setup() -> None:
    """Take back how a test before configured the log: commands, for example, let warnings pass alone.

    Exceptions are logged as plain text: drawn with frames and variables, a single one takes seconds.
    """
    structlog.reset_defaults()
    *others, _ = structlog.get_config()["processors"]
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*others, renderer])
