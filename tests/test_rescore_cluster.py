"""Rescoring on a Ray cluster: what one machine gives, also when a node is lost on the way."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from line_worker.cli import main
from line_worker.rescore.run import run
from line_worker.rescore.shares import rescore

TIMES = 4  # the folder is judged so often: enough for a node to be killed in between

clustered = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is missing: make cluster"),
    pytest.mark.skipif("RAY_CLUSTER" not in os.environ, reason="a Ray cluster takes a minute: make cluster"),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning:ray", "ignore::FutureWarning:ray", "ignore::ResourceWarning"
    ),
    pytest.mark.timeout(300),
]


def marked(test: Any) -> Any:
    for mark in clustered:
        test = mark(test)
    return test


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Return a Ray cluster with a head and two nodes, a processor each."""
    import ray
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 100_000_000, "include_dashboard": False}
    found = Cluster(initialize_head=True, head_node_args=small)
    found.nodes = [found.add_node(num_cpus=1, object_store_memory=100_000_000) for _ in range(2)]
    yield found
    ray.shutdown()
    found.shutdown()


@marked
def test_a_cluster_that_loses_a_node_gives_what_one_machine_gives(
    cluster: Any, tiny_bundle: Path, tiny_good: Path, tmp_path: Path
) -> None:
    from line_worker.rescore.cluster import rescore as on_cluster

    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "9.png").write_bytes(b"no picture")
    sources = [*[tiny_good] * TIMES, tmp_path / "odd"]
    alone = list(rescore(sources, tiny_bundle, 1))
    verdicts = on_cluster(sources, tiny_bundle, cluster.address, 3)
    with capture_logs() as logged:
        together = [next(verdicts)]
        while len([entry for entry in logged if entry["event"] == "an actor of the cluster is ready"]) < 3:
            time.sleep(1)  # they start one after the other, while one that is there works
            together.append(next(verdicts))
        cluster.remove_node(cluster.nodes[0], allow_graceful=False)
        together += verdicts
    assert together == alone
    assert [entry for entry in logged if entry["event"] == "an actor of the cluster is lost"]
    # whole, and as a file; interrupted, and on again
    run(sources, tiny_bundle, tmp_path / "alone.parquet", 1, resume=False, as_json=True)
    half = tmp_path / "together.parquet.part"
    half.write_text("".join(json.dumps(verdict) + "\n" for verdict in alone[:7]))
    run(sources, tiny_bundle, tmp_path / "together.parquet", 2, cluster.address, resume=True, as_json=True)
    assert (tmp_path / "alone.parquet").read_bytes() == (tmp_path / "together.parquet").read_bytes()


def test_a_cluster_without_ray_is_refused(
    tiny_bundle: Path, tiny_good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as end:
        main(["rescore", str(tiny_good), "--bundle", str(tiny_bundle), "--cluster", "127.0.0.1:6379"])
    assert end.value.code == 3
    assert "pip install line-worker[cluster]" in capsys.readouterr().err
