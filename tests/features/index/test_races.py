"""Another process that writes between a look at an index and the lock."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maerestore.features.index.image_index import ImageIndex
from maerestore.features.index.store import Generations
from maerestore.image import InputError

from .helpers import clustered, toy_table


@pytest.fixture
def before_the_lock(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """before_the_lock(other): the next time that somebody asks for the lock, `other` is called first."""
    writing = Generations.writing

    def arrange(other: Callable[[], Any]) -> None:
        def late(self: Generations, timeout: float = 60.0) -> Any:
            monkeypatch.setattr(Generations, "writing", writing)
            other()
            return writing(self, timeout)

        monkeypatch.setattr(Generations, "writing", late)

    return arrange


OTHER_MODEL = toy_table(clustered(9, seed=1), model="other", fingerprint="0" * 64)
OTHER_LENGTH = toy_table(clustered(9, dim=8))


@pytest.mark.parametrize("other", [OTHER_MODEL, OTHER_LENGTH], ids=["model", "length"])
def test_features_never_join_those_of_another_model_that_came_meanwhile(
    other: Any, tmp_path: Path, before_the_lock: Callable[..., None]
) -> None:
    index = ImageIndex.build(tmp_path / "index", toy_table(clustered(20)))
    before_the_lock(lambda: ImageIndex.build(index.folder, other, overwrite=True))
    with pytest.raises(InputError, match="with other weights or options"):
        index.add(toy_table(clustered(3, seed=2), ["x.png", "y.png", "z.png"]))
    there = ImageIndex.open(index.folder)
    assert there.names == other.names
    assert there.facts["fingerprint"] == other.facts["fingerprint"]


def test_an_index_that_came_meanwhile_is_not_replaced(tmp_path: Path, before_the_lock: Callable[..., None]) -> None:
    before_the_lock(lambda: ImageIndex.build(tmp_path / "index", OTHER_MODEL))
    with pytest.raises(InputError, match="exists: add to it"):
        ImageIndex.build(tmp_path / "index", toy_table(clustered(20)))
    assert ImageIndex.open(tmp_path / "index").facts["model"] == "other"


def test_images_that_came_meanwhile_are_kept(tmp_path: Path, before_the_lock: Callable[..., None]) -> None:
    features = clustered(20)
    names = [f"{i}.png" for i in range(20)]
    index = ImageIndex.build(tmp_path / "index", toy_table(features[:10]))
    before_the_lock(lambda: ImageIndex.open(index.folder).add(toy_table(features[10:15], names[10:15])))
    assert index.add(toy_table(features[12:], names[12:])).added == 5
    assert sorted(index.names) == sorted(names)
    assert np.allclose(index.features([names[14]]), ImageIndex.open(index.folder).features([names[14]]))
