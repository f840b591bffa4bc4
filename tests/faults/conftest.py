"""The tiny world of the end-to-end tests, with faults in it."""

from __future__ import annotations

from tests.e2e.conftest import raykd, server, world

__all__ = ["raykd", "server", "world"]
