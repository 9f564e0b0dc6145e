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
    "html_create_vs_snappass": ("mayfly: html_create", "snappass: html_create"),
    "create_vs_flask_hello": ("mayfly: create", "flask hello: hello"),
    "create_text_vs_flask_hello": ("mayfly: create_text", "flask hello: hello"),
    "read_vs_flask_hello": ("mayfly: read", "flask hello: hello"),
    "open_once_vs_flask_hello": ("mayfly: open_once", "flask hello: hello"),
    "form_create_vs_flask_hello": ("mayfly: form_create", "flask hello: hello"),
    "html_read_vs_flask_hello": ("mayfly: html_read", "flask hello: hello"),
    "create_1m_vs_1k": ("mayfly 1m: create", "mayfly 1k: create"),
    "read_1m_vs_1k": ("mayfly 1m: read", "mayfly 1k: read"),
}
"""CPU per request of the first divided by that of the second: below 1 Mayfly needs less. SnapPass has no reading but the one that
deletes, so both readings stand against that one."""

REQUIRED = {
    "create_vs_flask_hello": (1.35, 1.0),
    "read_vs_flask_hello": (0.95, 0.75),
    "open_once_vs_flask_hello": (1.45, 1.2),
    "form_create_vs_flask_hello": (1.6, 1.2),
    "html_read_vs_flask_hello": (2.2, 1.8),
    "create_vs_snappass": (0.20, 0.13),
    "read_vs_snappass": (0.20, 0.13),
    "bytes_per_message_1k": (1.8, 1.3),
    "create_1m_vs_1k": (1.2, 1.05),
    "read_1m_vs_1k": (1.2, 1.05),
    "purge_1m_seconds_vs_insert": (0.8, 0.5),
    "purge_slice_p99_ms": (5, 2),
    "reader_p99_during_purge": (3, 2),
    "idle_pss_mb": (75, 60),
    "start_seconds": (4, 3),
    "large_message_peak": (4, 4),
}
"""The largest value that is good enough, and the one that is aimed at.

`bytes_per_message_1k`: resident memory beyond idle, in bytes a byte stored. `purge_1m_seconds_vs_insert`: CPU time of the purge
of a million messages, divided by that of putting them raw into the same SQLite. `reader_p99_during_purge`: divided by that of an
idle server. `start_seconds`: to the first answer, divided by the time to import flask and cryptography. `large_message_peak`:
memory beyond that after the start, in multiples of a message of 10 MB."""


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


def results(machine: dict[str, Any], settings: dict[str, Any], samples: Samples, parts: dict[str, Any]) -> dict[str, Any]:
    """The whole run as plain values. `parts` is what was measured beside requests, by the name of the part."""
    ratios = _ratios(samples) | {name: Spread.of(values) for name, values in _measures(parts).items()}
    return {
        "machine": machine,
        "settings": {"connections": CONNECTIONS, "message_bytes": MESSAGE_BYTES, "servers": SETTINGS, **settings},
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
            for server, grown in parts.get("memory", {}).items()
        },
        **{name: rows for name, rows in parts.items() if name != "memory"},
        "ratios": {name: asdict(ratio) for name, ratio in ratios.items()},
        "required": {
            name: {
                "at_most": at_most,
                "aim": aim,
                "holds": ratios[name].median <= at_most,
                "reached": ratios[name].median <= aim,
            }
            for name, (at_most, aim) in REQUIRED.items()
            if name in ratios
        },
    }


def _measures(parts: dict[str, Any]) -> dict[str, list[float]]:
    """What is required beside CPU per request, one number a round."""
    found: dict[str, list[float]] = {}
    if "mayfly" in parts.get("memory", {}):
        found["bytes_per_message_1k"] = [parts["memory"]["mayfly"].per_byte("rss")]
    if purges := parts.get("purge"):
        found["purge_1m_seconds_vs_insert"] = [row["purge_seconds"] / row["insert_seconds"] for row in purges]
        found["purge_slice_p99_ms"] = [row["slice_ms"]["p99"] for row in purges]
        found["reader_p99_during_purge"] = [row["purging_p99_ms"] / row["idle_p99_ms"] for row in purges]
    if starts := parts.get("start"):
        found["idle_pss_mb"] = [row["pss_mb"] for row in starts]
        found["start_seconds"] = [row["seconds"] / row["import_seconds"] for row in starts]
    if larges := parts.get("large"):
        found["large_message_peak"] = [max(row.values()) for row in larges]
    return found


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
    ]
    if found["operations"]:
        lines += ["", f"{'operation':28}{'CPU µs a request':>24}{'requests/s':>26}{'p50 ms':>22}{'p99 ms':>24}"]
    columns = (("cpu_us_per_request", 24, 0), ("requests_per_second", 26, 0), ("p50_ms", 22, 2), ("p99_ms", 24, 2))
    for title, row in found["operations"].items():
        lines.append(f"{title:28}" + "".join(f"{Spread(**row[name]).show(digits):>{width}}" for name, width, digits in columns))
    if found["memory"]:
        lines += ["", f"{'memory MiB, RSS (PSS)':28}{'idle':>20}{'full':>20}{'messages':>12}{'bytes a byte stored':>24}"]
    for server, row in found["memory"].items():
        idle, full = (f"{row[state]['rss'] / 2**20:.1f} ({row[state]['pss'] / 2**20:.1f})" for state in ("idle", "full"))
        per_byte = f"{row['rss_bytes_per_byte']:.2f} ({row['pss_bytes_per_byte']:.2f})"
        lines.append(f"{server:28}{idle:>20}{full:>20}{row['messages']:>12,}{per_byte:>24}")
    lines += ["", f"{'ratios and what is required':28}{'':>24}{'at most':>10}{'aim':>8}"]
    for name, ratio in found["ratios"].items():
        line = f"{name:28}{Spread(**ratio).show(2):>24}"
        if required := found["required"].get(name):
            verdict = "reached" if required["reached"] else "holds" if required["holds"] else "DOES NOT HOLD"
            line += f"{required['at_most']:>10}{required['aim']:>8}  {verdict}"
        lines.append(line)
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
