"""`make bench`: run, show, write `bench/results.json`. Exit code 1 if what is required does not hold, 2 if there is no result."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import load, report, resources, scale, stores
from bench.report import Growth, Samples
from bench.servers import PROJECT, STARTS, BenchFailed, start

READ_LINKS = 1000
PROGRAMS = {"wrk": "wrk", "redis-server": "redis-server"}
"""Each program, and the Debian package it comes from."""
PARTS = ("requests", "memory", "rows", "purge", "start", "large")
STORES_PART = "stores"
"""Only when it is asked for, and by itself: it needs PostgreSQL and takes as long as all the others."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Mayfly against SnapPass and a Flask hello-world.")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=(*PARTS, STORES_PART),
        default=PARTS,
        help="what to measure; all of it takes 20 minutes or more",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="how long each operation of a round takes")
    parser.add_argument("--messages", type=int, default=100_000, help="how many to store for the memory they take")
    parser.add_argument("--rows", type=int, default=1_000_000, help="how many a large store holds")
    parser.add_argument("--only", choices=STARTS, help="measure requests and memory of one server alone, without ratios")
    parser.add_argument("--results", type=Path, default=PROJECT / "bench" / "results.json")
    parser.add_argument("--stores", nargs="+", choices=stores.STORES, default=stores.STORES, help="for the part of that name")
    options = parser.parse_args()
    servers = [options.only] if options.only else [] if STORES_PART in options.parts else list(STARTS)
    needed = [program for program in PROGRAMS if program == "wrk" or "snappass" in servers]
    if missing := [program for program in needed if not shutil.which(program)]:
        print(f"The benchmark needs {' and '.join(missing)}: apt-get install {' '.join(PROGRAMS[name] for name in missing)}")
        return 2
    machine = report.machine()
    kept = json.loads(options.results.read_text()) if options.results.exists() else {}
    try:
        if STORES_PART in options.parts:
            found = stores.measure(options.rows, options.stores)
            options.results.write_text(json.dumps(kept | {STORES_PART: found}, indent=2, ensure_ascii=False) + "\n")
            print(stores.show(found))
            return 0 if found["holds"] else 1
        with tempfile.TemporaryDirectory(prefix="mayfly-bench-") as folder:
            samples, parts = measure(options, servers, Path(folder))
    except BenchFailed as failure:
        print(f"The benchmark failed: {failure}")
        return 2
    settings = {name: getattr(options, name) for name in ("rounds", "seconds", "rows")}
    found = report.results(machine, settings, samples, parts)
    if STORES_PART in kept:
        found[STORES_PART] = kept[STORES_PART]
    options.results.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    print(report.show(found))
    return 0 if all(row["holds"] for row in found["required"].values()) else 1


def measure(options: argparse.Namespace, servers: list[str], folder: Path) -> tuple[Samples, dict[str, Any]]:
    """The parts that are asked for: samples of operations, and what else was measured, by the name of the part."""
    samples: Samples = {}
    parts: dict[str, Any] = {}
    if "requests" in options.parts:
        samples |= measure_rounds(servers, folder, options.rounds, options.seconds)
    if "rows" in options.parts:
        samples |= scale.measure_rows(folder, options.rounds, options.seconds, options.rows, READ_LINKS)
    if "memory" in options.parts:
        parts["memory"] = measure_memory(servers, folder, options.messages)
    if "purge" in options.parts:
        parts["purge"] = scale.measure_purge(folder, options.rounds, options.seconds, options.rows, READ_LINKS)
    if "start" in options.parts:
        parts["start"] = resources.measure_starts(folder, options.rounds)
    if "large" in options.parts:
        parts["large"] = resources.measure_large(folder, options.rounds)
    return samples, parts


def measure_rounds(servers: list[str], folder: Path, rounds: int, seconds: int) -> Samples:
    """Every operation once a round, on servers started afresh for the round."""
    samples: Samples = {operation.title: [] for operation in load.OPERATIONS if operation.server in servers}
    for number in range(1, rounds + 1):
        print(f"round {number} of {rounds}", file=sys.stderr)
        with ExitStack() as stack:
            here = {name: folder / f"{name}-{number}" for name in servers}
            running = {name: stack.enter_context(start(name, here[name])) for name in servers}
            for name in load.FILLS.keys() & running.keys():  # what is to be read, and a warm-up
                load.run(load.FILLS[name], running[name], here[name], load.FILL_SECONDS, READ_LINKS)
            for operation in load.OPERATIONS:
                if server := running.get(operation.server):
                    samples[operation.title].append(scale.sample(operation, server, here[operation.server], seconds))
    return samples


def measure_memory(servers: list[str], folder: Path, messages: int) -> dict[str, Growth]:
    """Memory of a server just started, and after it stored `messages`."""
    growth = {}
    for name in (name for name in load.FILLS if name in servers):
        print(f"memory of {name}", file=sys.stderr)
        here = folder / f"{name}-memory"
        with start(name, here) as server:
            idle = server.memory()
            stored = load.run(load.FILLS[name], server, here, load.FILL_SECONDS, messages).requests
            growth[name] = Growth(stored, idle, server.memory())
    return growth


if __name__ == "__main__":
    sys.exit(main())
