"""A snapshot as Prometheus reads it. Every metric of the line stands here, with what it means."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from line_worker import __version__
from line_worker.hub.challenge import RESULTS
from line_worker.hub.observed import BOUNDS, Histogram
from line_worker.hub.snapshot import Snapshot
from line_worker.verdicts import StationState, StopCause

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "line_worker_"
_EDGES = (*(str(bound) for bound in BOUNDS), "+Inf")
_process = ProcessCollector(registry=None)

Values = dict[tuple[str, ...], float]
Histograms = dict[tuple[str, ...], Histogram]


class Exposition:
    """One scrape: the metrics of `seen` at `now`, and of this process."""

    def __init__(self, seen: Snapshot, now: float) -> None:
        self._seen, self._now = seen, now

    def text(self) -> bytes:
        """Return the text format."""
        return bytes(generate_latest(self))

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield from self._station()
        yield from self._parts()
        yield from self._ways_out()
        yield from self._drift()
        yield from self._alarms()
        yield from self._canaries()
        yield from self._challenges()
        yield from _process.collect()

    def _station(self) -> Iterator[Metric]:
        seen = self._seen
        yield _gauge("info", "always 1", ("line", "bundle", "version"), {(seen.line, seen.bundle, __version__): 1})
        states: Values = {(state.name,): float(state is seen.state) for state in StationState}
        yield _gauge("state", "1 for the state that the station is in", ("state",), states)
        yield _gauge("workers", "workers that are ready", (), {(): seen.workers})
        yield _counter("workers_recycled", "workers that had grown and made room", (), {(): seen.recycled})
        ready: Values = {(camera,): float(ready) for camera, ready in seen.sources.items()}
        yield _gauge("source_ready", "whether the camera gives frames", ("camera",), ready)
        yield _gauge("loop_age_seconds", "since the hub's loop was last seen to turn", (), {(): self._now - seen.at})

    def _parts(self) -> Iterator[Metric]:
        seen, by_camera = self._seen, ("camera",)
        outcomes: Values = {name: float(n) for name, n in seen.outcomes.items()}
        yield _counter("outcomes", "parts decided", ("camera", "verdict", "reason"), outcomes)
        ages: Values = {(camera,): self._now - at for camera, at in seen.decided_at.items()}
        yield _gauge("last_decision_age_seconds", "since a part was last decided by more than time", by_camera, ages)
        yield _gauge("open_parts", "parts announced and not yet released", (), {(): seen.open_parts})
        yield _gauge("queue_parts", "parts that wait for a worker", (), {(): seen.waiting})
        yield _gauge("leased_parts", "parts that workers hold", (), {(): seen.leases})
        refused: Values = {(what,): float(n) for what, n in seen.refused.items()}
        yield _counter("refused", "what came late, twice or wrong and changed nothing", ("what",), refused)
        staged: Histograms = {(camera, stage): one for (camera, stage), one in seen.stages.items()}
        yield _histogram("stage_seconds", "a worker's time by stage", ("camera", "stage"), staged)
        decision: Histograms = {(camera,): one for camera, one in seen.decision.items()}
        yield _histogram("decision_seconds", "from the trigger to the decision", by_camera, decision)
        slack: Histograms = {(camera,): one for camera, one in seen.slack.items()}
        yield _histogram("slack_seconds", "left of the deadline when the outcome was offered", by_camera, slack)

    def _ways_out(self) -> Iterator[Metric]:
        seen, by_sink = self._seen, ("sink",)
        lag: Values = {(sink.name,): seen.newest_row - sink.acked for sink in seen.sinks if sink.durable}
        yield _gauge("outbox_lag_rows", "rows that a durable sink has not acknowledged", by_sink, lag)
        reachable: Values = {(sink.name,): float(sink.reachable) for sink in seen.sinks}
        yield _gauge("sink_reachable", "whether the sink reaches its other side", by_sink, reachable)
        dropped: Values = {(sink.name,): sink.taps_lost for sink in seen.sinks}
        yield _counter("frame_copies_dropped", "copies of frames that a recorder did not get", by_sink, dropped)
        yield _gauge("journal_error", "1 while the journal cannot be written", (), {(): bool(seen.journal_error)})
        yield _gauge("journal_rows_owed", "rows that wait for the journal", (), {(): seen.owed_rows})

    def _drift(self) -> Iterator[Metric]:
        for name, what, values in (
            ("share", "share of the last passed parts with a p-value below 0.1", "share"),
            ("share_limit", "the share that raises the alarm", "limit"),
            ("median_p_value", "0.5 while nothing drifts", "median"),
            ("parts", "passed parts that the share is taken of", "parts"),
            ("alarm", "1 while scores drift", "alarm"),
        ):
            found: Values = {(drift.camera,): float(getattr(drift, values)) for drift in self._seen.drift}
            yield _gauge(f"drift_{name}", what, ("camera",), found)

    def _alarms(self) -> Iterator[Metric]:
        seen = self._seen
        causes: Values = {(cause.name,): float(cause is seen.stop_line) for cause in StopCause}
        yield _gauge("stop_line", "1 for the cause that the PLC reads; NONE: the line may run", ("cause",), causes)
        alarms: Values = {(alarm.cause.name, alarm.camera): 1.0 for alarm in seen.alarms}
        yield _gauge("alarm", "1 until the operator acknowledges it", ("cause", "camera"), alarms)

    def _canaries(self) -> Iterator[Metric]:
        by_camera, seen = ("camera",), self._seen.canaries
        for name, what in (
            ("sent", "canaries that a worker was given"),
            ("failed", "canaries that failed, as they must"),
            ("missed", "canaries that passed: the station did not see the defect"),
        ):
            yield _counter(f"canaries_{name}", what, by_camera, {(c,): getattr(one, name) for c, one in seen.items()})
        ages: Values = {(camera,): self._now - one.judged_at for camera, one in seen.items()}
        yield _gauge("canary_age_seconds", "since one was judged, or since the hub's start", by_camera, ages)

    def _challenges(self) -> Iterator[Metric]:
        by_camera, seen = ("camera",), self._seen.challenges
        results: Values = {(c, name): float(one.result == name) for c, one in seen.items() for name in RESULTS}
        yield _gauge("challenge", "1 for how the last challenge went", ("camera", "result"), results)
        left: Values = {(camera,): one.left for camera, one in seen.items()}
        yield _gauge("challenge_parts_left", "known-bad parts that are still to come", by_camera, left)
        ages: Values = {(camera,): self._now - one.met_at for camera, one in seen.items() if one.ever}
        yield _gauge("challenge_age_seconds", "since a challenge was last met", by_camera, ages)


def _gauge(name: str, what: str, labels: tuple[str, ...], values: Values) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, what, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _counter(name: str, what: str, labels: tuple[str, ...], values: Values) -> Metric:
    family = CounterMetricFamily(PREFIX + name, what, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _histogram(name: str, what: str, labels: tuple[str, ...], values: Histograms) -> Metric:
    family = HistogramMetricFamily(PREFIX + name, what, labels=labels)
    for key, one in values.items():
        family.add_metric(key, list(zip(_EDGES, accumulate(one.counts), strict=True)), one.total)
    return family
