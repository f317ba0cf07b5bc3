from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maerestore import InputError, MaerestoreError
from maerestore.features.classify.head_config import HeadConfig
from maerestore.features.classify.labelled import (
    are_tables,
    check_apart,
    find_labelled,
    numbers_of,
    read_labelled,
    read_labels,
    split,
)
from maerestore.features.table_files import FACTS_NAME, write_table

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
    (tmp_path / "classes.txt").write_text("tench\nEnglish springer\ncassette player\n")
    named = ["English springer", "tench", "cassette player", "own name"]
    assert [item.label for item in find_labelled([tar])] == named
    tar.rename(tmp_path / "b.TAR")
    assert [item.label for item in find_labelled([tmp_path / "b.TAR"])] == named


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\nb\n", r"'.*a\.tar/2\.png' is of class 2, for which .* has no name"),
        (b"a\nb\n\nc\n", "of class 2, for which"),  # a blank line counts, and has no name
        (b"crane\nheron\ncrane\n", "lines 1 and 3 are both 'crane'"),
        ("Möwe\nStar\nElster\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_a_list_of_classes_that_does_not_fit_is_refused(tmp_path, content, words):
    tar = shard(tmp_path / "a.tar", ["0", "1", "2"])
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        find_labelled([tar])
    assert "classes.txt" in str(caught.value)


def test_blank_lines_of_a_list_of_classes_count(tmp_path):
    tar = shard(tmp_path / "a.tar", ["0", "2", "3"])
    (tmp_path / "classes.txt").write_bytes("a\r\n\r\nb\r\nc\u2028d\r\n".encode())
    with pytest.raises(InputError, match=r"'c\\u2028d' cannot be used"):
        find_labelled([tar])
    (tmp_path / "classes.txt").write_bytes(b"a\r\n\r\nb\r\nc\r\n")
    assert [item.label for item in find_labelled([tar])] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "name",
    [
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "Canis\u00a0lupus",
        "👩\u200d🚀",
        "soft\u00adhyphen",
        "\ue000",
    ],
)
def test_names_of_all_languages_are_classes(tmp_path, name):
    (paint(tmp_path / "photos", 1) / "red").rename(tmp_path / "photos" / name)
    labels = {item.label for item in find_labelled([tmp_path / "photos"])}
    assert labels == {"blue", "green", name}
    facts = {"counts": (1, 1, 1), "dim": 2, "model": "default", "fingerprint": "f", "options": {}}
    config = HeadConfig("knn", tuple(labels), chosen={"k": 1, "temperature": 0.07}, **facts)
    assert name in config.classes


@pytest.mark.parametrize("name", ["tab\t", "two\nlines", "two\u2028lines", "bell\x07", " ", "\x85"])
def test_a_class_with_a_name_that_no_head_keeps_is_named_before_the_work(tmp_path, table, name):
    (paint(tmp_path / "photos", 1) / "red").rename(tmp_path / "photos" / name)
    write_table(table(np.eye(2, dtype=np.float32), ["a", name]), tmp_path / "t.npy")
    for find, source in ((find_labelled, tmp_path / "photos"), (read_labelled, tmp_path / "t.npy")):
        with pytest.raises(InputError) as caught:
            find([source])
        assert f"the class {name!a} cannot be used" in str(caught.value)


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


@pytest.mark.parametrize("source", ["photos", "absolute", "linked", "../here/photos"])
def test_paths_of_a_csv_count_from_its_own_folder(tmp_path, monkeypatch, table, source):
    (tmp_path / "here/csv").mkdir(parents=True)
    photos = paint(tmp_path / "here/photos", 1)
    (tmp_path / "here/linked").symlink_to("photos")
    monkeypatch.chdir(tmp_path / "here")
    source = photos if source == "absolute" else Path(source)
    Path("l.csv").write_text("photos/blue/0_0.png,sky\nphotos/red/0_0.png,fire\n")
    Path("csv/l.csv").write_text("../photos/blue/0_0.png,sky\n../photos/red/0_0.png,fire\n")
    for labels in (Path("l.csv"), tmp_path / "here/l.csv", Path("csv/l.csv"), tmp_path / "here/csv/l.csv"):
        assert [item.label for item in find_labelled([source], labels)] == ["sky", "fire"]
    made = table(np.eye(2, dtype=np.float32), ["x", "x"])
    made.names[:] = [f"{source}/blue/0_0.png", f"{source}/red/0_0.png"]
    write_table(made, Path("t.npy"))
    assert read_labelled([Path("t.npy")], Path("csv/l.csv")).labels == ["sky", "fire"]
    Path("csv/l.csv").write_text("../photos/blue/0_0.png,sky\na\0b/0.png,sea\n")
    with pytest.raises(InputError, match="which is not among the images given"):
        find_labelled([source], Path("csv/l.csv"))


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


def test_a_csv_that_gives_an_image_two_classes_is_refused(tmp_path):
    paint(tmp_path / "photos", 1)
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\nphotos/blue/0_0.png,sky\nphotos/red/0_0.png,fire\nphotos/blue/0_0.png,sea\n")
    with pytest.raises(InputError, match=r"line 4: .* is of the class 'sea' here, and of 'sky' in line 2"):
        read_labels(labels)
    # One image under two names.
    absolute = (tmp_path / "photos/blue/0_0.png").as_posix()
    labels.write_text(f"photos/blue/0_0.png,sky\n{absolute},sea\n")
    with pytest.raises(InputError, match=r"line 2: .* is of the class 'sea' here, and of 'sky' in line 1"):
        find_labelled([tmp_path / "photos"], labels)
    labels.write_text(f"photos/blue/0_0.png,sky\n{absolute},sky\nphotos/red/0_0.png,fire\n")
    assert [item.label for item in find_labelled([tmp_path / "photos"], labels)] == ["sky", "fire"]


def test_an_image_under_two_names_counts_once(tmp_path, monkeypatch):
    photos = paint(tmp_path / "photos", 2)
    (tmp_path / "linked").symlink_to(photos)
    monkeypatch.chdir(tmp_path)
    items = find_labelled([Path("photos"), photos, Path("linked")])
    assert [item.name for item in items] == [item.name for item in find_labelled([Path("photos")])]
    with pytest.raises(
        InputError, match=r"'photos/blue/0_0\.png' and .* are the same image, of the classes 'blue' and 'p"
    ):
        find_labelled([Path("photos"), tmp_path])


def test_images_to_train_and_to_validate_on_are_told_apart_by_where_they_lie(tmp_path, monkeypatch, table):
    photos = paint(tmp_path / "photos", 1)
    shard(tmp_path / "a.tar", ["x", "y"])
    monkeypatch.chdir(tmp_path)
    for one, other in ((Path("photos"), photos), (Path("a.tar"), tmp_path / "a.tar")):
        with pytest.raises(InputError, match=r"(3|2) images are both to train and to validate on, such as"):
            check_apart(find_labelled([one]), find_labelled([other]))
    check_apart(find_labelled([Path("a.tar")]), find_labelled([photos]))
    made = [table(np.eye(1, dtype=np.float32), ["x"]) for _ in range(2)]
    made[0].names[0], made[1].names[0] = "photos/blue/0_0.png", str(photos / "blue/0_0.png")
    with pytest.raises(InputError, match="1 image is both"):
        check_apart(*made)


def test_a_row_that_is_in_two_tables_counts_once(tmp_path, table):
    whole = table(np.eye(4, dtype=np.float32), ["a", "b", "a", None])
    whole.errors[3], whole.features[3] = "damaged", np.nan
    write_table(whole, tmp_path / "one.npy")
    write_table(whole.rows([1, 3]), tmp_path / "two.safetensors")
    told = []
    joined = read_labelled([tmp_path / f for f in ("one.npy", "one.npy", "two.safetensors")],
                           failed=lambda name, reason: told.append(name))  # fmt: skip
    assert joined.names == whole.names[:3]
    assert told == whole.names[3:]


@pytest.mark.parametrize(("change", "words"), [("features", "different features"), ("labels", "different labels")])
def test_a_name_that_stands_for_two_images_is_refused(tmp_path, table, change, words):
    write_table(table(np.eye(2, dtype=np.float32), ["a", "b"]), tmp_path / "one.npy")
    features = np.eye(2, dtype=np.float32)[::-1] if change == "features" else np.eye(2, dtype=np.float32)
    write_table(table(features, ["a", "b"] if change == "features" else ["b", "b"]), tmp_path / "two.npy")
    paths = [tmp_path / "one.npy", tmp_path / "two.npy"]
    with pytest.raises(InputError, match=rf"'train/0\.png' has {words} in .*one\.npy' and in .*two\.npy'"):
        read_labelled(paths)
    if change == "labels":  # which do not matter where a list gives them, or where nothing is fitted
        (tmp_path / "labels.csv").write_text("train/0.png,x\ntrain/1.png,y\n")
        assert read_labelled(paths, tmp_path / "labels.csv").labels == ["x", "y"]


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


def test_thousands_of_classes_are_held_out_as_few_are() -> None:
    asked = []

    class Label(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            asked.append(other)
            return str.__eq__(self, other)  # type: ignore[arg-type]

    labels = [Label(i % 97) for i in range(970)]
    train, validation = split(labels, 0.2, seed=3)
    assert len(asked) < 2 * len(labels)  # and not once for each class
    # The draws of earlier releases: classifiers are fitted and compared on them.
    rng, held = np.random.default_rng(3), []
    for name in sorted({str(i) for i in range(97)}):
        held += rng.permutation(np.arange(int(name), 970, 97))[:2].tolist()
    assert (validation.tolist(), len(train)) == (sorted(held), 970 - 2 * 97)


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
