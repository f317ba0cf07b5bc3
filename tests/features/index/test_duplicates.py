"""Near-duplicates by features alone; tables have no pictures, so that `verify=False` links what is similar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maerestore.features.index import duplicates
from maerestore.features.index.image_index import ImageIndex

from .helpers import cosines, toy_table

KINDS = ("flat", "hnsw", "ivfpq")


def planted(common: float = 0.0) -> np.ndarray:
    """(400, 32): unrelated but for a common part, 0 = 1 exactly; 2 ~ 3 ~ 4; 10 to 49 are nearly one."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 32))
    features[1] = features[0]
    features[3:5] = features[2] + 0.05 * rng.normal(size=(2, 32))
    features[10:50] = features[10] + 0.02 * rng.normal(size=(40, 32))
    return (features + common).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("common", [0.0, 5.0])
def test_groups_are_found_by_every_kind(tmp_path: Path, kind: str, common: float) -> None:
    index = ImageIndex.build(tmp_path / "index", toy_table(planted(common)), kind=kind)
    groups = [{int(name[:-4]) for name in group.names} for group in index.duplicates(0.95, verify=False)]
    assert groups == [set(range(10, 50)), {2, 3, 4}, {0, 1}]  # 40 are more than the neighbours first asked for
    assert index.duplicates(0.95, verify=False)[2].scores == [1.0, 1.0]


def test_uncentred_similarities_are_those_of_a_query(tmp_path: Path) -> None:
    features = planted(common=5)
    index = ImageIndex.build(tmp_path / "index", toy_table(features))
    [everything] = index.duplicates(0.9, centred=False, verify=False)
    assert len(everything.names) == 400
    order = [int(name[:-4]) for name in everything.names]
    assert np.allclose(everything.scores, cosines(features[order[:1]], features[order])[0], atol=2e-3)


def test_the_largest_file_comes_first(tmp_path: Path) -> None:
    table = toy_table(planted())
    table.sizes[:5] = [5, 7, 1, 2, 3]
    groups = ImageIndex.build(tmp_path / "index", table).duplicates(0.95, verify=False)
    assert [group.names for group in groups[1:]] == [["4.png", "3.png", "2.png"], ["1.png", "0.png"]]


def test_a_link_is_never_the_one_to_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("1.png").write_bytes(b"1")
    Path("0.png").symlink_to("1.png")
    Path("2.png").symlink_to("1.png")
    index = ImageIndex.build(tmp_path / "index", toy_table(np.repeat(planted()[:1], 3, axis=0)))
    for verify in (False, True):
        [group] = index.duplicates(1.0, verify=verify)
        assert group.names == ["1.png", "0.png", "2.png"]


@pytest.mark.parametrize("kind", KINDS)
def test_chains_are_one_group(tmp_path: Path, kind: str) -> None:
    features = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32)
    angle = np.radians([0, 15, 30, 45, 60])  # neighbours at 0.966, the ends at 0.5
    features[:5] = np.cos(angle)[:, None] * features[0] + np.sin(angle)[:, None] * features[1]
    features[:5] *= 8 / np.linalg.norm(features[:5], axis=1, keepdims=True)
    index = ImageIndex.build(tmp_path / "index", toy_table(features), kind=kind)
    [group] = index.duplicates(0.93, verify=False)
    assert sorted(group.names) == [f"{i}.png" for i in range(5)]
    assert min(group.scores) < 0.8


@pytest.mark.parametrize("n", [2, 3, 50])
def test_a_few_equal_images_are_one_group(tmp_path: Path, n: int) -> None:
    features = np.repeat(planted()[:1], n, axis=0)
    index = ImageIndex.build(tmp_path / "index", toy_table(features))
    for verify in (False, True):
        [group] = index.duplicates(1.0, verify=verify)
        assert (len(group.names), set(group.scores)) == (n, {1.0})


@pytest.mark.parametrize("kind", KINDS)
def test_removed_images_are_no_duplicates(tmp_path: Path, kind: str) -> None:
    index = ImageIndex.build(tmp_path / "index", toy_table(planted()), kind=kind)
    index.remove(["0.png", "3.png"])
    names = [set(group.names) for group in index.duplicates(0.95, verify=False)]
    assert names == [{f"{i}.png" for i in range(10, 50)}, {"2.png", "4.png"}]


@pytest.mark.parametrize("threshold", [0, -0.5, 1.1, float("nan")])
def test_thresholds_are_checked(tmp_path: Path, threshold: float) -> None:
    index = ImageIndex.build(tmp_path / "index", toy_table(planted()[:9]))
    with pytest.raises(ValueError, match="threshold must be above 0 and at most 1, got"):
        index.duplicates(threshold)


def test_too_many_pairs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maerestore.features.index.duplicates._MOST_PAIRS", 100)
    index = ImageIndex.build(tmp_path / "index", toy_table(planted()))
    with pytest.raises(ValueError, match="links more than 100 pairs: give a higher one"):
        index.duplicates(0.95, verify=False)


def test_in_a_large_collection_only_what_is_more_similar_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = ImageIndex.build(tmp_path / "index", toy_table(planted()))
    links, tries = duplicates._links, []

    def too_many_at_first(*args: Any) -> Any:
        tries.append(args)
        return None if len(tries) <= 2 else links(*args)

    monkeypatch.setattr(duplicates, "_links", too_many_at_first)
    assert index.duplicates_with_report().threshold == pytest.approx(0.9)
    monkeypatch.setattr(duplicates, "_links", lambda *args: None)
    with pytest.raises(ValueError, match=r"threshold 0\.93 links more than"):
        index.duplicates()
    with pytest.raises(ValueError, match=r"threshold 0\.85 links more than"):
        index.duplicates(0.85)


def test_the_default_threshold_depends_on_whether_pictures_are_compared(tmp_path: Path) -> None:
    index = ImageIndex.build(tmp_path / "index", toy_table(planted()))
    assert [index.duplicates_with_report(verify=verify).threshold for verify in (True, False)] == [0.8, 0.93]
    assert index.duplicates(verify=False) == index.duplicates(0.93, verify=False)
