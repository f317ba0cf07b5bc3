"""Views of a folder, written once."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maerestore.augment import cache
from maerestore.augment.cache import view_rng, write_views
from maerestore.augment.core import MaskedViews
from maerestore.augment.settings import ViewSettings
from maerestore.augment.sources import MANIFEST, plan_views
from maerestore.hub.digest import model_digest
from maerestore.image import InputError

from .conftest import save_random


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    sizes = {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    decoder = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    return save_random(tmp_path_factory.mktemp("tiny") / "model", **sizes, **decoder)


@pytest.fixture
def settings(model: str) -> ViewSettings:
    return ViewSettings(model=model)


def pixels(height: int = 40, width: int = 48, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels)).astype(np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two folders and several sizes."""
    folder = tmp_path / "photos"
    (folder / "cats").mkdir(parents=True)
    (folder / "dogs").mkdir()
    Image.fromarray(pixels(seed=1)).save(folder / "cats/a.png")
    Image.fromarray(pixels(seed=2)).save(folder / "cats/b.png")
    Image.fromarray(pixels(64, 32, seed=3)).save(folder / "dogs/a.webp", lossless=True)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"no image")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_views_keep_folders_names_and_formats(photos: Path, tmp_path: Path, settings: ViewSettings) -> None:
    before = files(photos)
    report = write_views(photos, tmp_path / "out", 2, settings)
    names = ["cats/a_1.png", "cats/a_2.png", "cats/b_1.png", "cats/b_2.png", "dogs/a_1.webp", "dogs/a_2.webp"]
    assert list(files(tmp_path / "out")) == [*names, MANIFEST]
    assert (report.images, report.written, report.present, report.skipped) == (3, 6, 0, [])
    assert files(photos) == before


def test_a_view_is_what_the_engine_makes_of_the_name_and_the_seed(
    photos: Path, tmp_path: Path, settings: ViewSettings
) -> None:
    import torch

    write_views(photos, tmp_path / "out", 2, settings, seed=5, precision="fp32")
    engine = MaskedViews(settings, precision="fp32")
    image = torch.from_numpy(np.asarray(Image.open(photos / "dogs/a.webp")).copy()).permute(2, 0, 1)[None]
    expected = engine.render(image, engine.draw(1, view_rng(5, "dogs/a.webp", 2), (64, 32)))
    made = np.asarray(Image.open(tmp_path / "out/dogs/a_2.webp"))
    source, wanted = (x[0].permute(1, 2, 0).numpy() for x in (image, expected))
    assert np.abs(made.astype(int) - wanted).max() <= 1
    visible = (wanted == source).all(axis=2)
    assert 0.2 < visible.mean() < 0.65
    assert np.array_equal(made[visible], source[visible])


def test_every_view_differs_and_a_second_run_makes_the_same(
    photos: Path, tmp_path: Path, settings: ViewSettings
) -> None:
    for out in ("one", "two"):
        write_views(photos, tmp_path / out, 3, settings)
    one, two = (files(tmp_path / out) for out in ("one", "two"))
    assert one == two
    assert len(set(one.values())) == len(one)
    write_views(photos, tmp_path / "three", 3, settings, seed=1)
    assert not set(files(tmp_path / "three").values()) & (set(one.values()))


def test_names_alone_decide_not_the_neighbours(photos: Path, tmp_path: Path, settings: ViewSettings) -> None:
    write_views(photos, tmp_path / "one", 1, settings, batch_size=1, precision="fp32")
    (photos / "cats/a.png").unlink()
    write_views(photos, tmp_path / "two", 2, settings, precision="fp32")
    for name in ("cats/b_1.png", "dogs/a_1.webp"):
        first, second = (np.asarray(Image.open(tmp_path / out / name)).astype(int) for out in ("one", "two"))
        assert np.abs(first - second).max() <= 1


def test_a_run_that_was_cut_off_goes_on(photos: Path, tmp_path: Path, settings: ViewSettings) -> None:
    write_views(photos, tmp_path / "whole", 2, settings)

    class Cut(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise Cut

    with pytest.raises(Cut):
        write_views(photos, tmp_path / "out", 2, settings, batch_size=1, progress=stop)
    begun = files(tmp_path / "out")
    assert set(begun) == {"cats/a_1.png", "cats/a_2.png", "cats/b_1.png", "cats/b_2.png", MANIFEST}
    times = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in begun}
    report = write_views(photos, tmp_path / "out", 2, settings)
    assert (report.written, report.present) == (2, 4)
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == time for name, time in times.items())
    assert files(tmp_path / "out").keys() == files(tmp_path / "whole").keys()
    assert write_views(photos, tmp_path / "out", 4, settings).written == 6


def test_a_failed_write_leaves_no_half_file(photos: Path, tmp_path: Path, settings: ViewSettings, monkeypatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("maerestore.image.output.os.replace", fail)
    with pytest.raises(InputError, match="No space left"):
        write_views(photos, tmp_path / "out", 1, settings)
    assert files(tmp_path / "out") == {}


KINDS = ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"]


@pytest.mark.parametrize("kind", KINDS)
def test_mode_depth_and_alpha_are_kept(tmp_path: Path, settings: ViewSettings, kind: str) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    source = Image.fromarray(pixels())
    if kind == "I;16":
        source = Image.fromarray(pixels(channels=1)[:, :, 0].astype(np.uint16) * 256 + 7)
    elif kind == "RGBA":
        source.putalpha(Image.fromarray(pixels(channels=1, seed=9)[:, :, 0]))
    else:
        source = source.convert("L").convert(kind) if kind in ("1", "LA") else source.convert(kind)
    name = "a.tif" if kind == "CMYK" else "a.png"
    source.save(folder / name)
    write_views(folder, tmp_path / "out", 1, settings)
    with Image.open(tmp_path / "out" / name.replace("a.", "a_1.")) as view:
        assert (view.mode, view.size) == (Image.open(folder / name).mode, (48, 40))
        if kind in ("LA", "RGBA"):
            assert view.getchannel("A").tobytes() == source.getchannel("A").tobytes()
        same = np.asarray(view) == np.asarray(source)
        same = same.all(axis=2) if same.ndim == 3 else same
        assert 0.1 < same.mean() < 1


def test_metadata_stays(tmp_path: Path, settings: ViewSettings) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x010F] = "maker"
    Image.fromarray(pixels()).save(folder / "a.jpg", exif=exif, dpi=(72, 72))
    write_views(folder, tmp_path / "out", 1, settings)
    with Image.open(tmp_path / "out/a_1.jpg") as view:
        assert (view.format, view.getexif()[0x010F]) == ("JPEG", "maker")


def test_quality_makes_small_files(photos: Path, tmp_path: Path, settings: ViewSettings) -> None:
    write_views(photos / "dogs", tmp_path / "exact", 1, settings)
    write_views(photos / "dogs", tmp_path / "small", 1, settings, quality=30)
    exact, small = ((tmp_path / out / "a_1.webp").stat().st_size for out in ("exact", "small"))
    assert small < 0.5 * exact


def test_png_of_any_source_without_names_that_meet(tmp_path: Path, settings: ViewSettings) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "a.jpg", "a.bmp"):
        Image.fromarray(pixels()).save(folder / name)
    Image.fromarray(pixels()).save(folder / "a.avif")
    write_views(folder, tmp_path / "png", 1, settings, file_format="png")
    assert set(files(tmp_path / "png")) == {"a_1.png", "a.jpg_1.png", "a.bmp_1.png", "a.avif_1.png", MANIFEST}
    jpeg, view = np.asarray(Image.open(folder / "a.jpg")), np.asarray(Image.open(tmp_path / "png/a.jpg_1.png"))
    assert 0.1 < (jpeg == view).all(axis=2).mean() < 0.9  # what is visible is exact
    write_views(folder, tmp_path / "own", 1, settings)
    assert set(files(tmp_path / "own")) == {"a_1.png", "a_1.jpg", "a_1.bmp", "a.avif_1.png", MANIFEST}


def test_names_that_meet_are_refused(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.jpg.png"):
        Image.fromarray(pixels()).save(tmp_path / name)
    with pytest.raises(InputError, match=r"'a\.jpg' and 'a\.jpg\.png' would have the same names"):
        plan_views(tmp_path, tmp_path / "out", 1, "png")
    plan_views(tmp_path, tmp_path / "out", 1)


def test_unreadable_images_are_skipped_and_named(photos: Path, tmp_path: Path, settings: ViewSettings) -> None:
    (photos / "cats/broken.png").write_bytes(b"no image")
    frames = [Image.fromarray(pixels(seed=seed)) for seed in (1, 2)]
    frames[0].save(photos / "moving.gif", save_all=True, append_images=frames[1:])
    told: list[str] = []
    report = write_views(photos, tmp_path / "out", 1, settings, skip=lambda name, reason: told.append(name))
    assert [name for name, _ in report.skipped] == told == ["cats/broken.png", "moving.gif"]
    assert "not an image" in report.skipped[0][1]
    assert (report.images, report.written) == (5, 3)


def test_out_inside_the_folder_is_no_source(photos: Path, settings: ViewSettings) -> None:
    out = photos / "views"
    assert write_views(photos, out, 1, settings).images == 3
    assert write_views(photos, out, 1, settings).images == 3
    assert write_views(photos, photos / "more", 1, settings).images == 3  # nor are views of another run
    assert [s.name for s in plan_views(out, photos.parent / "views of views", 1)] == [
        "cats/a_1.png",
        "cats/b_1.png",
        "dogs/a_1.webp",
    ]


@pytest.mark.parametrize("out", [".", "cats/..", ".."])
def test_out_around_the_folder_is_refused(photos: Path, out: str) -> None:
    with pytest.raises(InputError, match="would be taken for images"):
        plan_views(photos, photos / out, 1)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_out_is_known_through_a_link(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(photos)
    with pytest.raises(InputError, match="would be taken for images"):
        plan_views(photos, tmp_path / "link", 1)


CHANGES = {
    "seed": {"seed": 1},
    "mask_ratio": {"mask_ratio": 0.5},
    "strategy": {"strategy": "block"},
    "blend": {"blend": 0.5},
    "size": {"size": 16},
    "format": {"file_format": "png"},
    "quality": {"quality": 80},
}


@pytest.mark.parametrize("name", CHANGES)
def test_views_made_otherwise_are_not_mixed(photos: Path, tmp_path: Path, model: str, name: str) -> None:
    write_views(photos, tmp_path / "out", 1, ViewSettings(model=model))
    before = files(tmp_path / "out")
    change = dict(CHANGES[name])
    run = {key: change.pop(key) for key in ("seed", "file_format", "quality") if key in change}
    with pytest.raises(InputError, match=f"holds views with {name}"):
        write_views(photos, tmp_path / "out", 1, ViewSettings(model=model, **change), **run)
    assert files(tmp_path / "out") == before


def test_another_model_and_another_folder_are_not_mixed(
    photos: Path, tmp_path: Path, settings: ViewSettings, model: str
) -> None:
    out = tmp_path / "out"
    write_views(photos, out, 1, settings)
    other = save_random(tmp_path / "other", seed=1, image_size=32, patch_size=8)
    assert model_digest(other) != model_digest(model)
    with pytest.raises(InputError, match="holds views with model_sha256"):
        write_views(photos, out, 1, ViewSettings(model=other))
    with pytest.raises(InputError, match="holds views with folder"):
        write_views(photos / "cats", out, 1, settings)


def test_files_of_others_are_not_taken_for_views(photos: Path, tmp_path: Path, settings: ViewSettings) -> None:
    out = tmp_path / "out"
    (out / "cats").mkdir(parents=True)
    (out / "cats/b_1.png").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"b_1\.png' exists, and is no view"):
        write_views(photos, out, 1, settings)
    assert files(out) == {"cats/b_1.png": b"mine"}


def test_a_run_that_starts_at_the_same_time_shares_the_work(
    photos: Path, tmp_path: Path, settings: ViewSettings, monkeypatch
) -> None:
    """The other one writes its manifest, or all it has, while this one loads the model."""
    alone, out = tmp_path / "alone", tmp_path / "out"
    write_views(photos, alone, 2, settings)
    load = cache.atomic_file

    def after_another(path, *args):
        monkeypatch.setattr(cache, "atomic_file", load)
        write_views(photos, out, 2, other)
        return load(path, *args)

    other = settings
    monkeypatch.setattr(cache, "atomic_file", after_another)
    assert write_views(photos, out, 2, settings).written == 0
    assert files(out) == files(alone)
    out, other = tmp_path / "unlike", replace(settings, blend=0.5)
    monkeypatch.setattr(cache, "atomic_file", after_another)
    with pytest.raises(InputError, match="holds views with blend"):
        write_views(photos, out, 2, settings)


def test_a_damaged_manifest_is_refused(photos: Path, tmp_path: Path, settings: ViewSettings) -> None:
    out = tmp_path / "out"
    write_views(photos, out, 1, settings)
    for text in ("{", "[]", json.dumps({"settings": 3})):
        (out / MANIFEST).write_text(text)
        with pytest.raises(InputError, match="is damaged"):
            write_views(photos, out, 1, settings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"n": 0}, "n must be at least 1, got 0"), ({"file_format": "jpeg"}, "file_format must be one of source, png"),
     ({"seed": -1}, "seed must be at least 0, got -1"), ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
     ({"quality": 101}, "quality must be from 1 to 100, got 101")],
)  # fmt: skip
def test_bad_arguments_are_named(photos: Path, tmp_path: Path, settings, arguments, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_views(photos, tmp_path / "out", **{"settings": settings, **arguments})
    assert not (tmp_path / "out").exists()


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for folder, out, message in (
        ("none", "out", "does not exist"),
        ("file", "out", "is a file"),
        ("empty", "out", "holds no image"),
        ("empty", "file", "output .* is a file"),
    ):
        with pytest.raises(InputError, match=message):
            plan_views(tmp_path / folder, tmp_path / out, 1)


def test_no_model_no_trace(photos: Path, tmp_path: Path) -> None:
    from maerestore.hub.errors import ModelError

    with pytest.raises(ModelError, match="no model"):
        write_views(photos, tmp_path / "out", 1, ViewSettings(model="nonesuch"))
    assert not (tmp_path / "out").exists()
