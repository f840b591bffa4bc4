"""`raykd doctor --address` on a real cluster of one node."""

from __future__ import annotations

from pathlib import Path

import pytest

from raykd.preflight import cluster_doctor as doctor_cluster


def test_every_node_is_asked_and_nothing_is_left(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, dashboard = doctor_cluster.inspect_cluster(tmp_path, "auto")
    assert node.error is None and "same versions, the only one" in node.detail and "CPU 4" in node.detail
    assert list(tmp_path.iterdir()) == []
    assert dashboard.what == "dashboard" and dashboard.error is None
    # A node that sees another file than the one that was written, and one whose packages are others.
    monkeypatch.setattr(doctor_cluster, "version", lambda name: "0.0")
    (node, _) = doctor_cluster.inspect_cluster(tmp_path, "auto")
    assert "has other versions" in str(node.error) and "(here 0.0)" in str(node.error)
