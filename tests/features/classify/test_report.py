from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from maerestore import InputError, MaerestoreError
from maerestore.features.classify.report import Evaluation, draw_confusion

CLASSES = ("cat", "dog", "a $1 note")


@pytest.fixture
def evaluation():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    return Evaluation.of(labels, np.where(rng.random(200) < 0.7, labels, rng.integers(0, 3, 200)), CLASSES)


def test_the_table_is_scikit_learns():
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, 3, 300), rng.integers(0, 3, 300)
    evaluation = Evaluation.of(labels, predicted, CLASSES)
    assert np.array_equal(evaluation.confusion, confusion_matrix(labels, predicted))
    expected = np.array(precision_recall_fscore_support(labels, predicted)).T
    ours = [[row["precision"], row["recall"], row["f1"], row["images"]] for row in evaluation.by_class()]
    assert np.allclose(ours, expected)
    assert evaluation.accuracy == pytest.approx((labels == predicted).mean())
    assert evaluation.balanced_accuracy == pytest.approx(expected[:, 1].mean())


@pytest.mark.parametrize(("right", "total"), [(0, 10), (7, 10), (10, 10), (522, 850)])
def test_the_interval_is_wilsons(right, total):
    labels = np.zeros(total, int)
    low, high = Evaluation.of(labels, (np.arange(total) >= right).astype(int), ("a", "b")).interval
    z, p = 1.959963984540054, right / total
    centre, half = p + z * z / (2 * total), z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    assert low == pytest.approx((centre - half) / (1 + z * z / total), abs=1e-9)
    assert high == pytest.approx((centre + half) / (1 + z * z / total), abs=1e-9)


def test_a_class_without_images_has_no_recall_and_does_not_count():
    evaluation = Evaluation.of(np.array([0, 0]), np.array([0, 1]), CLASSES)
    assert [row["recall"] for row in evaluation.by_class()] == [0.5, None, None]
    assert [row["precision"] for row in evaluation.by_class()] == [1.0, 0.0, None]
    assert evaluation.balanced_accuracy == 0.5
    assert evaluation.table().splitlines()[3].split() == ["a", "$1", "note", "-", "-", "-", "0"]


def test_the_line_says_which_interval(evaluation):
    low, high = evaluation.interval
    assert evaluation.line() == (
        f"accuracy {evaluation.accuracy:.1%} ({evaluation.correct} of 200), 95% Wilson interval {low:.1%} to {high:.1%}"
    )
    assert evaluation.summary()["interval"] == "95% Wilson"


def test_nothing_to_count_is_refused():
    for labels, predicted in (([], []), ([0], [0, 1])):
        with pytest.raises(MaerestoreError, match="must pair"):
            Evaluation.of(np.array(labels, int), np.array(predicted, int), CLASSES)


def test_the_picture_is_darker_where_more_is_predicted(evaluation, tmp_path):
    path = tmp_path / "confusion.png"
    draw_confusion(evaluation, path)
    assert [p.name for p in tmp_path.iterdir()] == ["confusion.png"]
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        right = np.asarray(picture.convert("L"), float)
    wrong = Evaluation(CLASSES, np.flip(np.diag(evaluation.confusion.sum(1)), 1).copy())
    draw_confusion(wrong, path, overwrite=True)
    with Image.open(path) as picture:
        other = np.asarray(picture.convert("L"), float)
    assert right.shape == other.shape
    assert np.abs(right - other).max() > 100


def test_letters_that_the_font_does_not_have_make_no_noise(tmp_path, recwarn):
    draw_confusion(Evaluation(("猫", "犬"), np.eye(2, dtype=np.int64)), tmp_path / "confusion.png")
    assert [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)] == []


def test_the_picture_of_many_classes_is_drawn_without_names(tmp_path):
    many = Evaluation(tuple(map(str, range(150))), np.eye(150, dtype=np.int64))
    draw_confusion(many, tmp_path / "confusion.png")
    with Image.open(tmp_path / "confusion.png") as picture:
        assert max(picture.size) < 4000


def test_a_picture_is_refused_where_it_cannot_be_written(evaluation, tmp_path):
    with pytest.raises(InputError, match=r"\.png"):
        draw_confusion(evaluation, tmp_path / "confusion.jpg")
    (tmp_path / "confusion.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="--overwrite"):
        draw_confusion(evaluation, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").read_bytes() == b"mine"
