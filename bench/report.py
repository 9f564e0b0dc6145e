"""What a run showed: a table for the screen, `results.json` for machines, and whether what is required holds."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from bench.load import CONNECTIONS, MESSAGE_BYTES, Load
from bench.servers import SETTINGS, Memory

PACKAGES = "flask werkzeug jinja2 cryptography granian uvloop gunicorn limits snappass redis psutil".split()

RATIOS = {
    "create_vs_snappass": ("mayfly: create", "snappass: create"),
    "read_vs_snappass": ("mayfly: read", "snappass: open_once"),
    "open_once_vs_snappass": ("mayfly: open_once", "snappass: open_once"),
    "form_create_vs_snappass": ("mayfly: form_create", "snappass: form_create"),
    "create_vs_flask_hello": ("mayfly: create", "flask hello: hello"),
    "read_vs_flask_hello": ("mayfly: read", "flask hello: hello"),
    "open_once_vs_flask_hello": ("mayfly: open_once", "flask hello: hello"),
    "form_create_vs_flask_hello": ("mayfly: form_create", "flask hello: hello"),
    "html_read_vs_flask_hello": ("mayfly: html_read", "flask hello: hello"),
}
"""CPU per request of the first divided by that of the second: below 1 Mayfly needs less. SnapPass has no reading but the one that
deletes, so both readings stand against that one."""

REQUIRED = {
    "create_vs_snappass": 0.5,
    "read_vs_snappass": 0.5,
    "create_vs_flask_hello": 4.0,
    "read_vs_flask_hello": 4.0,
    "bytes_per_message_1k": 1.8,
}
"""The largest value that is good enough. `bytes_per_message_1k` is resident memory beyond idle, in bytes a byte stored."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One operation in one round."""

    cpu_us: float
    load: Load


@dataclass(frozen=True, slots=True)
class Growth:
    """Memory of a server that was just started, and after `messages` of 1,000 bytes."""

    messages: int
    idle: Memory
    full: Memory

    def per_byte(self, kind: str) -> float:
        grown: int = getattr(self.full, kind) - getattr(self.idle, kind)
        return grown / (self.messages * MESSAGE_BYTES)


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the rounds, and the least and the most of them."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(*(round(value, 3) for value in (median(values), min(values), max(values))))

    def show(self, digits: int = 0) -> str:
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f}–{self.most:,.{digits}f})"


Samples = dict[str, list[Sample]]


def results(machine: dict[str, Any], samples: Samples, growth: dict[str, Growth], rounds: int, seconds: int) -> dict[str, Any]:
    """The whole run as plain values."""
    ratios = _ratios(samples)
    if "mayfly" in growth:
        per_byte = round(growth["mayfly"].per_byte("rss"), 3)
        ratios["bytes_per_message_1k"] = Spread(per_byte, per_byte, per_byte)
    return {
        "machine": machine,
        "settings": {
            "rounds": rounds,
            "seconds": seconds,
            "connections": CONNECTIONS,
            "message_bytes": MESSAGE_BYTES,
            "servers": SETTINGS,
        },
        "operations": {
            title: {
                "cpu_us_per_request": asdict(Spread.of([sample.cpu_us for sample in rows])),
                "requests_per_second": asdict(Spread.of([sample.load.requests / sample.load.seconds for sample in rows])),
                "p50_ms": asdict(Spread.of([sample.load.p50_ms for sample in rows])),
                "p99_ms": asdict(Spread.of([sample.load.p99_ms for sample in rows])),
                "requests": sum(sample.load.requests for sample in rows),
            }
            for title, rows in samples.items()
        },
        "memory": {
            server: {
                **asdict(grown),
                "rss_bytes_per_byte": round(grown.per_byte("rss"), 3),
                "pss_bytes_per_byte": round(grown.per_byte("pss"), 3),
            }
            for server, grown in growth.items()
        },
        "ratios": {name: asdict(ratio) for name, ratio in ratios.items()},
        "required": {
            name: {"at_most": bound, "holds": ratios[name].median <= bound} for name, bound in REQUIRED.items() if name in ratios
        },
    }


def _ratios(samples: Samples) -> dict[str, Spread]:
    """Ratios round by round, so that a machine that is slower for a while is slower for both."""
    return {
        name: Spread.of([a.cpu_us / b.cpu_us for a, b in zip(samples[ours], samples[theirs], strict=True)])
        for name, (ours, theirs) in RATIOS.items()
        if samples.get(ours) and samples.get(theirs)
    }


def show(found: dict[str, Any]) -> str:
    """The run as text: machine, operations, memory, ratios and whether what is required holds."""
    lines = [f"{name}: {value}" for name, value in found["machine"].items() if name != "packages"]
    lines.append(" ".join(f"{name} {number}" for name, number in found["machine"]["packages"].items()))
    settings = found["settings"]
    lines += [f"{name}: {text}" for name, text in settings["servers"].items()]
    lines += [
        f"wrk with one thread and {settings['connections']} connections; messages of {settings['message_bytes']:,} bytes",
        f"median of {settings['rounds']} rounds of {settings['seconds']} s (least–most)",
        "",
        f"{'operation':28}{'CPU µs a request':>24}{'requests/s':>26}{'p50 ms':>22}{'p99 ms':>24}",
    ]
    columns = (("cpu_us_per_request", 24, 0), ("requests_per_second", 26, 0), ("p50_ms", 22, 2), ("p99_ms", 24, 2))
    for title, row in found["operations"].items():
        lines.append(f"{title:28}" + "".join(f"{Spread(**row[name]).show(digits):>{width}}" for name, width, digits in columns))
    lines += ["", f"{'memory MiB, RSS (PSS)':28}{'idle':>20}{'full':>20}{'messages':>12}{'bytes a byte stored':>24}"]
    for server, row in found["memory"].items():
        idle, full = (f"{row[state]['rss'] / 2**20:.1f} ({row[state]['pss'] / 2**20:.1f})" for state in ("idle", "full"))
        per_byte = f"{row['rss_bytes_per_byte']:.2f} ({row['pss_bytes_per_byte']:.2f})"
        lines.append(f"{server:28}{idle:>20}{full:>20}{row['messages']:>12,}{per_byte:>24}")
    lines += ["", "CPU a request, Mayfly's divided by the other's; memory beyond idle in bytes a byte stored"]
    for name, ratio in found["ratios"].items():
        required = found["required"].get(name)
        verdict = f"at most {required['at_most']}: {'holds' if required['holds'] else 'DOES NOT HOLD'}" if required else ""
        lines.append(f"{name:28}{Spread(**ratio).show(2):>24}  {verdict}".rstrip())
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What the run ran on; asked before it starts, for the load that others put on the machine."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "python": sys.version.split()[0],
        "wrk": _first_words(["wrk", "-v"], 2),
        "redis": _first_words(["redis-server", "--version"], 3),
        "packages": {name: version(name) for name in PACKAGES if find_spec(name)},
    }


def _first_words(command: list[str], words: int) -> str:
    return " ".join(subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()[:words])
