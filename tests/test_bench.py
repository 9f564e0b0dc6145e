"""The benchmark runs, checks what it is answered, and tells what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench import load, report
from bench.report import Sample
from bench.servers import BenchFailed, Server
from tests.requirements import require_program
from tests.serving import PROJECT, Served


@pytest.fixture(autouse=True)
def wrk() -> None:
    require_program("wrk")


def test_a_short_run_writes_well_formed_results(tmp_path: Path) -> None:
    """Every operation of Mayfly is answered and counted; what is required and was measured decides the exit code."""
    results = tmp_path / "results.json"
    run = _bench(
        "--only", "mayfly", "--rounds", "1", "--seconds", "1", "--messages", "2000", "--rows", "2000", "--results", str(results)
    )
    found = json.loads(results.read_text())
    operations = found["operations"]
    assert set(operations) == {
        *(f"mayfly: {name}" for name in "create create_text open_once read form_create html_create html_read".split()),
        *(f"mayfly {rows}: {name}" for rows in ("1k", "1m") for name in ("create", "read")),
    }
    for title, row in operations.items():
        assert row["requests"] > 50, title
        for number in ("cpu_us_per_request", "requests_per_second", "p50_ms", "p99_ms"):
            assert 0 < row[number]["least"] <= row[number]["median"] <= row[number]["most"], (title, number)
    assert found["memory"]["mayfly"]["messages"] >= 2000
    assert found["memory"]["mayfly"]["rss_bytes_per_byte"] > 1
    assert (
        set(found["required"])
        == set(found["ratios"])
        == {name for name in report.REQUIRED if "_vs_flask" not in name and "_vs_snap" not in name}
    )
    for name, row in found["required"].items():
        assert found["ratios"][name]["median"] > 0
        assert row["reached"] <= row["holds"] == (found["ratios"][name]["median"] <= row["at_most"])
        assert name in run.stdout
    holds = all(row["holds"] for row in found["required"].values())
    assert run.returncode == (0 if holds else 1)
    assert ("DOES NOT HOLD" in run.stdout) != holds


@pytest.mark.parametrize("path", ["/message/00000000-0000-4000-8000-000000000000", "/healthz"], ids=["404", "too short"])
def test_an_answer_without_the_message_is_no_result(tmp_path: Path, served: Served, path: str) -> None:
    """wrk counts errors and goes on; the benchmark does not."""
    read = load.operation("mayfly", "read")
    (tmp_path / "fill.links").write_text(f"{path}\n")
    with pytest.raises(BenchFailed, match="mayfly: read"):
        load.run(read, Server("mayfly", served.port, []), tmp_path, 1)


def test_each_link_is_opened_once(tmp_path: Path, served: Served) -> None:
    """The run ends when the links are used up; a second run over them is refused."""
    server = Server("mayfly", served.port, [])
    once = replace(load.operation("mayfly", "open_once"), lease=False)
    links = [served.create(load.MESSAGE, views=1).path for _ in range(100)]
    (tmp_path / "create.links").write_text("".join(f"{link}\n" for link in links))
    assert 80 <= load.run(once, server, tmp_path, 10).requests < 100
    with pytest.raises(BenchFailed, match="mayfly: open_once"):
        load.run(once, server, tmp_path, 10)


def test_one_part_can_be_measured_alone(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    _bench("--parts", "start", "--rounds", "1", "--results", str(results))
    assert set(json.loads(results.read_text())["ratios"]) == {"idle_pss_mb", "start_seconds"}


def test_what_is_required_is_judged_round_by_round() -> None:
    """The median of each round's ratio, not the ratio of medians: a machine that is busy for a round is busy for both."""
    costs = {
        "mayfly: create": (100, 900, 300),
        "snappass: create": (1000, 4500, 1500),
        "mayfly: read": (20, 900, 70),
        "flask hello: hello": (80, 300, 100),
    }
    samples = {title: [_sample(cost) for cost in row] for title, row in costs.items()}
    found = report.results(report.machine(), {"rounds": 3, "seconds": 1}, samples, {})
    assert found["ratios"] == {
        "create_vs_snappass": {"median": 0.2, "least": 0.1, "most": 0.2},
        "create_vs_flask_hello": {"median": 3.0, "least": 1.25, "most": 3.0},
        "read_vs_flask_hello": {"median": 0.7, "least": 0.25, "most": 3.0},
    }
    assert found["required"] == {
        "create_vs_snappass": {"at_most": 0.2, "aim": 0.13, "holds": True, "reached": False},
        "create_vs_flask_hello": {"at_most": 1.35, "aim": 1.0, "holds": False, "reached": False},
        "read_vs_flask_hello": {"at_most": 0.95, "aim": 0.75, "holds": True, "reached": True},
    }
    assert report.show(found).count("DOES NOT HOLD") == 1


def _sample(cpu_us: float) -> Sample:
    return Sample(cpu_us, load.Load(1000, 1.0, 1.0, 2.0, 3.0))


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bench", *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=120)
