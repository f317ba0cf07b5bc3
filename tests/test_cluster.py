"""What of Ray can be tested without Ray."""

from __future__ import annotations

import importlib.util

import pytest

from maerestore.cluster import check_ray, share_of
from maerestore.errors import MaerestoreError


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "expected"),
    [
        ([{"CPU": 8}], "auto", None, (8, 1, 0, 1)),
        ([{"CPU": 8}], "auto", 2, (2, 4, 0, 4)),
        ([{"CPU": 8}], "auto", 3, (3, 2, 0, 2)),
        ([{"CPU": 2}], "auto", 4, (4, 0.5, 0, 1)),
        ([{"CPU": 4}, {"CPU": 4}], "auto", 1, (1, 4, 0, 4)),  # an actor lives on one machine
        ([{"CPU": 4}, {"CPU": 4}], "auto", 3, (3, 2, 0, 2)),
        ([{"CPU": 3}, {"CPU": 3}], "auto", 3, (3, 1, 0, 1)),
        ([{"CPU": 0}, {"CPU": 4}], "auto", None, (4, 1, 0, 1)),  # a head that does not work
        ([{"CPU": 16, "GPU": 2}, {"CPU": 16, "GPU": 2}], "cuda", None, (4, 8, 1, 8)),
        ([{"CPU": 16, "GPU": 2}], "auto", 1, (1, 8, 1, 8)),
        ([{"CPU": 16, "GPU": 2}], "auto", 4, (4, 4, 0.5, 4)),  # two on each
        ([{"CPU": 3, "GPU": 1}], "auto", 4, (4, 0.75, 0.25, 1)),
        ([{"CPU": 16, "GPU": 2}], "cpu", None, (16, 1, 0, 1)),
    ],
)
def test_shares(nodes: list[dict[str, float]], device: str, workers: int | None, expected: tuple[float, ...]) -> None:
    share = share_of(nodes, device, workers)
    assert (share.actors, share.cpus, share.gpus, share.threads) == expected


@pytest.mark.parametrize("nodes", [[{"CPU": 4}], []])
def test_a_gpu_that_no_machine_has(nodes: list[dict[str, float]]) -> None:
    with pytest.raises(MaerestoreError, match=r"no GPU.*device='cpu'"):
        share_of(nodes, "cuda")


def test_no_machine_to_work_on() -> None:
    with pytest.raises(MaerestoreError, match="no CPU"):
        share_of([{"memory": 1.0}], "auto")


@pytest.mark.parametrize("missing", ["ray", "pyarrow", "pandas"])
def test_a_missing_package_is_named_with_its_remedy(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found("json"))
    with pytest.raises(MaerestoreError) as caught:
        check_ray()
    assert str(caught.value) == f"the engine ray needs {missing}: pip install 'maerestore[ray]'"
