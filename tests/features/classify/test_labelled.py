from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maerestore import InputError, MaerestoreError
from maerestore.features.classify.labelled import (
    are_tables,
    find_labelled,
    numbers_of,
    read_labelled,
    read_labels,
    split,
)
from maerestore.features.table import FACTS_NAME, write_table

from .conftest import paint


def shard(path: Path, labels: list[str]) -> Path:
    """A tar of pictures with a .cls beside each."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "PNG")
    with tarfile.open(path, "w") as tar:
        for number, label in enumerate(labels):
            for name, data in ((f"{number}.png", content.getvalue()), (f"{number}.cls", label.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def test_folders_name_the_classes(tmp_path):
    items = find_labelled([paint(tmp_path / "photos", 2)])
    assert [item.label for item in items] == ["blue"] * 2 + ["green"] * 2 + ["red"] * 2


def test_numbers_in_tars_count_lines_of_the_list_beside(tmp_path):
    tar = shard(tmp_path / "a.tar", ["1", "0", "2", "own name"])
    assert [item.label for item in find_labelled([tar])] == ["1", "0", "2", "own name"]
    (tmp_path / "classes.txt").write_text("tench\nEnglish springer\n")
    assert [item.label for item in find_labelled([tar])] == ["English springer", "tench", "2", "own name"]


def test_an_image_without_a_class_is_named(tmp_path):
    Image.new("RGB", (8, 8)).save(paint(tmp_path / "photos", 1) / "stray.png")
    with pytest.raises(InputError, match=r"1 of 4 images has no class, the first is .*stray\.png"):
        find_labelled([tmp_path / "photos"])


def test_a_csv_says_which_images_and_which_classes(tmp_path):
    paint(tmp_path / "photos", 1)
    (tmp_path / "labels.csv").write_text("path,label\nphotos/blue/0_0.png,sky\n\nphotos/red/0_0.png, fire \n")
    items = find_labelled([tmp_path / "photos"], tmp_path / "labels.csv")
    assert [(Path(item.name).parent.name, item.label) for item in items] == [("blue", "sky"), ("red", "fire")]
    (tmp_path / "labels.csv").write_text("photos/none.png,sky\n")
    with pytest.raises(InputError, match=r"'photos/none\.png', which is not among"):
        find_labelled([tmp_path / "photos"], tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a.png\n", "line 1"),
        (b"a.png,\n", "line 1"),
        (b"", "no label"),
        (b"path,label\n", "no label"),
        (b"\xff,a\n", "cannot be read"),
    ],
)
def test_a_csv_that_holds_no_labels_is_refused(tmp_path, content, words):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_labels(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tables_keep_the_rows_that_have_a_feature(table, tmp_path):
    whole = table(np.ones((3, 2), np.float32), ["a", "b", "a"])
    whole.errors[1], whole.features[1] = "damaged", np.nan
    write_table(whole, tmp_path / "one.npy")
    write_table(table(np.zeros((1, 2), np.float32), ["b"], "more"), tmp_path / "two.safetensors")
    joined = read_labelled([tmp_path / "one.npy", tmp_path / "two.safetensors"])
    told = []
    again = read_labelled([tmp_path / "one.npy"], failed=lambda name, reason: told.append((name, reason)))
    assert (len(again), told) == (2, [("train/1.png", "damaged")])
    assert joined.names == ["train/0.png", "train/2.png", "more/0.png"]
    assert joined.labels == ["a", "a", "b"]
    (tmp_path / "labels.csv").write_text("train/2.png,cat\n")
    assert read_labelled([tmp_path / "one.npy"], tmp_path / "labels.csv").labels == ["cat"]
    write_table(table(np.zeros((1, 2), np.float32), ["b"], fingerprint="0" * 64), tmp_path / "two.safetensors")
    with pytest.raises(InputError, match="another model"):
        read_labelled([tmp_path / "one.npy", tmp_path / "two.safetensors"])


def test_sources_are_tables_or_images(tmp_path):
    assert are_tables([Path("a.parquet"), Path("b.npy")])
    assert not are_tables([Path("photos"), Path("a.tar")])
    (tmp_path / "odd.npy").mkdir()
    assert not are_tables([tmp_path / "odd.npy"])
    with pytest.raises(InputError, match="table of features, other sources are images"):
        are_tables([Path("photos"), Path("a.parquet")])


def test_a_split_takes_its_share_of_every_class():
    labels = ["a"] * 50 + ["b"] * 10 + ["c"] * 2 + ["d"]
    train, validation = split(labels, 0.2, seed=1)
    assert sorted([*train, *validation]) == list(range(len(labels)))
    held = [labels[i] for i in validation]
    assert [held.count(name) for name in "abcd"] == [10, 2, 1, 0]
    assert np.array_equal(split(labels, 0.2, seed=1)[1], validation)
    assert not np.array_equal(split(labels, 0.2, seed=2)[1], validation)
    kept = [labels[i] for i in split(labels, 0.99)[0]]
    assert set(kept) == set("abcd")
    assert len(split(labels, 0)[1]) == 0
    with pytest.raises(MaerestoreError, match="share"):
        split(labels, 1.0)


def test_a_class_that_was_not_fitted_is_named():
    with pytest.raises(InputError, match=r"class 'bird' is not among the 2 fitted ones \(cat, dog\)"):
        numbers_of(["cat", "bird"], ["cat", "dog"])


def test_a_folder_of_tables_is_a_table(tmp_path, table):
    folder = tmp_path / "features"
    folder.mkdir()
    (folder / FACTS_NAME).write_text("{}")
    whole = table(np.eye(4, dtype=np.float32), ["a", "b", "a", "b"])
    for number in range(2):
        write_table(whole.rows([2 * number, 2 * number + 1]), folder / f"shard-{number}.parquet")
    assert are_tables([folder])
    assert read_labelled([folder]).labels == whole.labels
