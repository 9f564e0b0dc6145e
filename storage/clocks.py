"""How the time of a database is known between two looks at its clock."""

from __future__ import annotations

import time

CLOCK_SECONDS = 5.0
"""How long a measurement of a database's clock is good for."""


def since_boot_ms() -> float:
    """The time since this machine's boot. Its sleep counts, and nobody sets it. (Where there is no such clock, the monotonic.)"""
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)) / 1_000_000
