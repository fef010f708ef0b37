"""Headrace core."""

from __future__ import annotations

__version__ = "0.1.0"
"""The version of every package of this repository; see docs/release.md."""
