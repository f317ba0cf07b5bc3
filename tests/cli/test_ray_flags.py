"""stdout while a Ray cluster works: a process connected to one prints there, from a thread, and no setting stops it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from maerestore import cluster
from maerestore.cli.main import main

from .conftest import hole, noise, save_mask


@pytest.fixture
def loud_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that works in this process, and prints what Ray prints when it runs a task again."""

    @contextlib.contextmanager
    def connect(address: str | None = None) -> Iterator[None]:
        print("(raylet) Task MapBatches failed. There are 3 retries remaining")
        yield

    def run(_: Any, work: Any, arguments: dict[str, Any], tasks: Sequence[Any], share: Any) -> Iterator[Any]:
        print("(raylet) A worker died or was killed")
        yield from map(work(**arguments), tasks)

    monkeypatch.setattr(cluster, "check_ray", lambda: None)
    monkeypatch.setattr(cluster, "ray_cluster", connect)
    monkeypatch.setattr(cluster, "nodes_of", lambda _: [{"CPU": 1.0}])
    monkeypatch.setattr(cluster, "run_actors", run)


@pytest.mark.parametrize("verb", ["features", "inpaint"])
def test_json_alone_gets_to_stdout(
    verb: str,
    loud_cluster: None,
    model_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(noise()).save("a.png")
    save_mask(Path("mask.png"), hole())
    Path("pairs.csv").write_text("photo,mask\na.png,mask.png\n")
    of = {
        "features": ["features", "a.png", "-o", "a.npy", "--size", "32"],
        "inpaint": ["inpaint", "--table", "pairs.csv", "-o", "filled"],
    }
    shared = ["--model", str(model_folder), "--device", "cpu", "--engine", "ray", "--json"]
    assert main([*of[verb], *shared]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (told["engine"], told["errors"], err) == ("ray", [], "")
    assert {"features": told.get("computed"), "inpaint": told.get("written")}[verb] == 1
