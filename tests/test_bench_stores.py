"""The benchmark's part `stores` purges what it says, is read meanwhile, and judges what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.requirements import require_program
from tests.serving import PROJECT

pytest.importorskip("psycopg")


@pytest.mark.long
def test_a_short_run_measures_every_store_and_keeps_other_results(tmp_path: Path) -> None:
    require_program("wrk")
    results = tmp_path / "results.json"
    results.write_text('{"operations": {"before": 1}}')
    run = subprocess.run(
        [sys.executable, "-m", "bench", "--parts", "stores", "--rows", "2000", "--results", str(results)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    kept = json.loads(results.read_text())
    found = kept["stores"]
    assert kept["operations"] == {"before": 1}
    assert [(row["store"], row["purged"]) for row in found["purges"]] == [
        (store, rows) for store in ("memory", "file", "postgresql") for rows in (20, 200, 2000)
    ]
    for row in found["purges"]:
        for kind in ("busy", "calm"):
            assert 0 < row[kind]["idle_p99_ms"] <= row[kind]["idle_most_ms"]
            assert 0 < row[kind]["purging_p99_ms"] <= row[kind]["purging_most_ms"]
            assert row[kind]["bytes_before"] > 2 * row["purged"] * 1000
    judged = [found[f"reader_p99_during_purge_{store}"] for store in ("memory", "file", "postgresql")]
    assert found["holds"] == all(ratio <= found["at_most"] for ratio in judged)
    assert run.returncode == (0 if found["holds"] else 1), run.stderr
