"""What a server counts, and how Prometheus reads it. Nothing here knows a message: labels come from closed sets.

Several processes that share `PROMETHEUS_MULTIPROC_DIR` (gunicorn.conf.py makes that folder) are counted together, and whichever of
them is asked tells the sums. Without it each process knows itself alone, and tells of its own memory and time as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.values import MutexValue, ValueClass

import errors
from records import CIRCUITS, SECOND, VAULT_NAMES, Circuit, Counts, VaultName

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""The buckets of latency: from a message in memory (0.1–0.3 ms) to whoever waits for a passphrase and a slow database."""

METHODS = frozenset(("GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS"))
"""Those that an address may take; what else a client may write as a method counts as `other`."""

REASONS = (
    "Unexpected",
    *(
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.MayflyError) and not issubclass(kind, errors.StartRefused)
    ),
)
"""What a request may be refused for: the errors that are told, and a fault of ours."""

# When each began to be counted is of no use, and several processes together could not tell.
disable_created_metrics()  # type: ignore[no-untyped-call]


def method_of(method: str) -> str:
    """The method, or `other`."""
    return method if method in METHODS else "other"


@dataclass(frozen=True, slots=True)
class VaultMetrics:
    """The counters of one vault."""

    created: Counter
    opened: Counter
    """Views taken, and openings of messages without a view limit."""
    repeated: Counter
    """Under a lease: nothing was taken."""
    read: Counter
    """By a safe method, which uses nothing up."""
    burned: Counter
    """By the sender."""
    taken_down: Counter
    locked: Counter
    """By the last wrong passphrase."""
    purged: Counter
    purges_failed: Counter


@dataclass(frozen=True, slots=True)
class StoreFigures:
    """What is told of a store at a scrape; `counts` None if it does not answer."""

    counts: Counts | None
    circuit: Circuit


class Metrics:
    """The counters of one server. Those of vaults and reasons begin at zero: Prometheus sees no step from nothing to one."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._durations = Histogram(
            "mayfly_request_duration_seconds",
            "From when a request's body was there until its answer was.",
            ["route", "method", "status"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._duration_of: dict[tuple[str, str, str], Histogram] = {}
        refused = self._counter("requests_refused", "Requests answered by an error, by its class.", "reason")
        self._refused = {reason: refused.labels(reason) for reason in REASONS}
        created = self._counter("messages_created", "Messages stored.", "vault")
        opened = self._counter(
            "messages_opened", "Messages answered: openings, repeats of one under its lease, readings by GET.", "vault", "kind"
        )
        burned = self._counter("messages_burned", "Messages destroyed before their time.", "vault", "by")
        purged = self._counter("messages_purged", "Messages that the purge removed.", "vault")
        failed = self._counter("purges_failed", "Runs of the purge that did not end.", "vault")
        self.vaults: dict[VaultName, VaultMetrics] = {
            name: VaultMetrics(
                created=created.labels(name),
                opened=opened.labels(name, "opening"),
                repeated=opened.labels(name, "repeat"),
                read=opened.labels(name, "reading"),
                burned=burned.labels(name, "sender"),
                taken_down=burned.labels(name, "admin"),
                locked=burned.labels(name, "passphrases"),
                purged=purged.labels(name),
                purges_failed=failed.labels(name),
            )
            for name in VAULT_NAMES
        }
        self.shared = ValueClass is not MutexValue
        """Whether all processes of the server are counted together."""

    def _counter(self, name: str, help_: str, *labels: str) -> Counter:
        return Counter(f"mayfly_{name}", help_, labels, registry=self._registry)

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request. `route` and `method` must come from closed sets: `web.paths.route_of`, `method_of`."""
        key = (route, method, f"{status // 100}xx")
        duration = self._duration_of.get(key)
        if duration is None:
            duration = self._duration_of[key] = self._durations.labels(*key)
        duration.observe(seconds)

    def refused(self, reason: str) -> None:
        """Count a request that was answered by an error; `reason` is one of REASONS."""
        self._refused[reason].inc()

    def text(self, stores: Mapping[VaultName, StoreFigures]) -> bytes:
        """All of it in Prometheus's text format, version 0.0.4."""
        own = [_AllProcesses()] if self.shared else [self._registry, _process()]
        return b"".join(generate_latest(collector) for collector in (*own, _Stores(stores)))


class _AllProcesses:
    """What the processes of this server have counted, the dead ones too."""

    def collect(self) -> Iterable[Metric]:
        files = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("*.db")
        # A process that starts makes its file empty, and then fills it.
        begun = [str(file) for file in files if file.stat().st_size]
        return MultiProcessCollector.merge(begun)  # type: ignore[no-untyped-call, no-any-return]


def _process() -> CollectorRegistry:
    """What the library knows of a process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class _Stores:
    """Tells of the stores as they were found at this scrape. Of one that does not answer there is nothing but that."""

    def __init__(self, stores: Mapping[VaultName, StoreFigures]) -> None:
        self._stores = stores

    def collect(self) -> Iterator[Metric]:
        told = {name: store.counts for name, store in self._stores.items()}
        yield _gauge("up", "1 if the store answers.", [((name,), counts is not None) for name, counts in told.items()])
        for what, help_, figure in _FIGURES:
            yield _gauge(what, help_, [((name,), figure(counts)) for name, counts in told.items() if counts])
        circuits = [((name, state), state == store.circuit) for name, store in self._stores.items() for state in CIRCUITS]
        yield _gauge("circuit", "1 at the state of its circuit breaker.", circuits, "state")


_FIGURES: tuple[tuple[str, str, Callable[[Counts], float]], ...] = (
    ("messages", "Messages that can be read.", lambda counts: counts.stored),
    ("messages_due", "Messages that nobody can read any more, for the purge to remove.", lambda counts: counts.expired),
    ("overdue_seconds", "How long the row that waits longest for the purge has done so.", lambda counts: counts.overdue / SECOND),
    ("used_bytes", "Bytes used of the quota.", lambda counts: counts.used_bytes),
    ("quota_bytes", "At this many bytes creating stops.", lambda counts: counts.quota_bytes),
)


def _gauge(what: str, help_: str, values: Iterable[tuple[tuple[str, ...], float]], *labels: str) -> Metric:
    family = GaugeMetricFamily(f"mayfly_store_{what}", help_, labels=["vault", *labels])
    for labels_, value in values:
        family.add_metric(labels_, float(value))
    return family
