"""The benchmark runs, checks what it is answered, and tells what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
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
    run = _bench("--only", "mayfly", "--rounds", "1", "--seconds", "1", "--messages", "2000", "--results", str(results))
    found = json.loads(results.read_text())
    operations = found["operations"]
    assert set(operations) == {f"mayfly: {name}" for name in ("create", "open_once", "read", "form_create", "html_read")}
    for title, row in operations.items():
        assert row["requests"] > 50, title
        for number in ("cpu_us_per_request", "requests_per_second", "p50_ms", "p99_ms"):
            assert 0 < row[number]["least"] <= row[number]["median"] <= row[number]["most"], (title, number)
    assert found["memory"]["mayfly"]["messages"] >= 2000
    assert found["memory"]["mayfly"]["rss_bytes_per_byte"] > 1
    assert set(found["required"]) == set(found["ratios"]) == {"bytes_per_message_1k"}
    holds = found["required"]["bytes_per_message_1k"]["holds"]
    assert run.returncode == (0 if holds else 1)
    assert ("bytes_per_message_1k" in run.stdout) and ("DOES NOT HOLD" in run.stdout) != holds


@pytest.mark.parametrize("path", ["/message/00000000-0000-4000-8000-000000000000", "/healthz"], ids=["404", "too short"])
def test_an_answer_without_the_message_is_no_result(tmp_path: Path, served: Served, path: str) -> None:
    """wrk counts errors and goes on; the benchmark does not."""
    read = next(operation for operation in load.OPERATIONS if operation.title == "mayfly: read")
    (tmp_path / "fill.links").write_text(f"{path}\n")
    with pytest.raises(BenchFailed, match="mayfly: read"):
        load.run(read, Server("mayfly", served.port, []), tmp_path, 1)


def test_each_link_is_opened_once(tmp_path: Path, served: Served) -> None:
    """The run ends when the links are used up; a second run over them is refused."""
    server = Server("mayfly", served.port, [])
    once = next(operation for operation in load.OPERATIONS if operation.title == "mayfly: open_once")
    links = [served.create(load.MESSAGE, views=1).path for _ in range(100)]
    (tmp_path / "create.links").write_text("".join(f"{link}\n" for link in links))
    assert 80 <= load.run(once, server, tmp_path, 10).requests < 100
    with pytest.raises(BenchFailed, match="mayfly: open_once"):
        load.run(once, server, tmp_path, 10)


def test_what_is_required_is_judged_round_by_round() -> None:
    """The median of each round's ratio, not the ratio of medians: a machine that is busy for a round is busy for both."""
    costs = {
        "mayfly: create": (100, 900, 300),
        "snappass: create": (200, 900, 1000),
        "mayfly: read": (200, 900, 500),
        "flask hello: hello": (40, 300, 100),
    }
    samples = {title: [_sample(cost) for cost in row] for title, row in costs.items()}
    found = report.results(report.machine(), samples, {}, rounds=3, seconds=1)
    assert found["ratios"] == {
        "create_vs_snappass": {"median": 0.5, "least": 0.3, "most": 1.0},
        "create_vs_flask_hello": {"median": 3.0, "least": 2.5, "most": 3.0},
        "read_vs_flask_hello": {"median": 5.0, "least": 3.0, "most": 5.0},
    }
    assert found["required"] == {
        "create_vs_snappass": {"at_most": 0.5, "holds": True},
        "create_vs_flask_hello": {"at_most": 4.0, "holds": True},
        "read_vs_flask_hello": {"at_most": 4.0, "holds": False},
    }
    assert report.show(found).count("DOES NOT HOLD") == 1


def _sample(cpu_us: float) -> Sample:
    return Sample(cpu_us, load.Load(1000, 1.0, 1.0, 2.0))


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "bench", *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=120)
