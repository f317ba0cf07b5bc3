"""Pixels of a JPEG that were not changed come back as they were stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from maerestore.image import Photo, read_photo, write_photo
from maerestore.image.jpeg_planes import recomposed

HOLE = np.s_[48:80, 64:112]
NEAR = np.s_[32:96, 48:128]  # blocks that the hole, or colours next to it, may reach into


def save(
    path: Path, subsampling: int, orientation: int = 1, size: tuple[int, int] = (144, 176), **options: object
) -> None:
    """A picture with sharp coloured edges, whose stored pixels have an orientation."""
    rng = np.random.default_rng(3)
    cells = rng.integers(0, 256, (size[0] // 6 + 1, size[1] // 6 + 1, 3)).astype(np.uint8)
    picture = Image.fromarray(np.repeat(np.repeat(cells, 6, axis=0), 6, axis=1)[: size[0], : size[1]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(path, quality=85, subsampling=subsampling, exif=exif, **options)


def filled(photo: Photo) -> tuple[Photo, np.ndarray]:
    """The photo with a gray hole; True far from it."""
    mask, far = np.zeros(photo.size[::-1], bool), np.ones(photo.size[::-1], bool)
    mask[HOLE], far[NEAR] = True, False
    return photo.with_fill(np.full((*mask.shape, 3), 0.5, np.float32), mask), far


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_known_pixels_stay_but_for_a_rare_rounding(subsampling: int, progressive: bool, tmp_path: Path) -> None:
    save(tmp_path / "in.jpg", subsampling, progressive=progressive)
    photo = read_photo(tmp_path / "in.jpg")
    changed, far = filled(photo)
    write_photo(changed, tmp_path / "out.jpg")
    after = read_photo(tmp_path / "out.jpg").samples.astype(int)
    difference = np.abs(after - photo.samples).max(axis=2)
    assert difference[far].max() <= 4
    assert (difference[far] > 0).mean() < 0.02
    assert np.abs(after[60:68, 80:96] - 128).max() <= 3


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_photos_that_were_turned_keep_their_blocks_too(orientation: int, subsampling: int, tmp_path: Path) -> None:
    save(tmp_path / "in.jpg", subsampling, orientation)
    photo = read_photo(tmp_path / "in.jpg")
    changed, far = filled(photo)
    write_photo(changed, tmp_path / "out.jpg")
    difference = np.abs(read_photo(tmp_path / "out.jpg").samples.astype(int) - photo.samples).max(axis=2)[far]
    if subsampling == 1 and orientation >= 5:  # half the width becomes half the height, which cannot be written
        assert difference.mean() < 8
    else:
        assert difference.max() <= 8
        assert difference.mean() < 1
    with Image.open(tmp_path / "in.jpg") as before, Image.open(tmp_path / "out.jpg") as after:
        sideways = subsampling == 1 and orientation >= 5
        assert JpegImagePlugin.get_sampling(after) == (0 if sideways else subsampling)
        for key, table in before.quantization.items():
            square = np.reshape(table, (8, 8))
            assert after.quantization[key] == list((square.T if orientation >= 5 else square).flat)


@pytest.mark.parametrize("size", [(143, 175), (97, 129), (144, 175)])
def test_sides_that_end_within_a_block(size: tuple[int, int], tmp_path: Path) -> None:
    save(tmp_path / "in.jpg", 2, size=size)
    photo = read_photo(tmp_path / "in.jpg")
    changed, far = filled(photo)
    write_photo(changed, tmp_path / "out.jpg")
    difference = np.abs(read_photo(tmp_path / "out.jpg").samples.astype(int) - photo.samples).max(axis=2)
    assert (
        difference[: size[0] // 16 * 16, : size[1] // 16 * 16][far[: size[0] // 16 * 16, : size[1] // 16 * 16]].max()
        <= 4
    )


def test_what_was_in_the_hole_is_nowhere_in_the_new_file(tmp_path: Path) -> None:
    gray = np.full((144, 176, 3), 128, np.uint8)
    gray[HOLE] = (255, 0, 0)
    Image.fromarray(gray).save(tmp_path / "in.jpg", quality=95, subsampling=2)
    photo = read_photo(tmp_path / "in.jpg")
    mask = np.zeros((144, 176), bool)
    mask[46:82, 62:114] = True  # the red, and the pixels that it bled into
    write_photo(photo.with_fill(np.full((144, 176, 3), 128 / 255, np.float32), mask), tmp_path / "out.jpg")
    assert np.ptp(read_photo(tmp_path / "out.jpg").samples.astype(int), axis=2).max() < 12


def test_metadata_that_was_taken_off_is_not_written_again(tmp_path: Path) -> None:
    for subsampling in (0, 1, 2):
        save(tmp_path / "in.jpg", subsampling, comment=b"secret", xmp=b"<x:xmpmeta/>", dpi=(300, 300))
        photo = read_photo(tmp_path / "in.jpg")
        bare = replace(photo.metadata, comment=None, xmp=None, exif=None, dpi=None)
        write_photo(replace(photo, metadata=bare), tmp_path / "out.jpg", overwrite=True)
        data = (tmp_path / "out.jpg").read_bytes()
        assert b"secret" not in data
        assert b"xmpmeta" not in data
        assert b"Exif" not in data


def test_where_the_file_does_not_help_the_photo_is_written_from_its_pixels(tmp_path: Path) -> None:
    save(tmp_path / "in.jpg", 2)
    photo = read_photo(tmp_path / "in.jpg")
    settings = photo.metadata.jpeg
    assert settings is not None
    assert recomposed(photo.samples, settings) is not None
    assert recomposed(photo.samples[:-16], settings) is None  # cut
    for other in (
        replace(settings, encoded=None),
        replace(settings, encoded=b"damaged"),
        replace(settings, encoded=settings.encoded[:300] if settings.encoded else b""),
        replace(settings, subsampling=-1),
        replace(settings, keep_rgb=True),
    ):
        assert recomposed(photo.samples, other) is None
    damaged = replace(photo.metadata, jpeg=replace(settings, encoded=b"damaged"))
    write_photo(replace(photo, metadata=damaged), tmp_path / "out.jpg")
    assert read_photo(tmp_path / "out.jpg").size == photo.size


def test_a_given_quality_has_tables_of_its_own(tmp_path: Path) -> None:
    save(tmp_path / "in.jpg", 2)
    write_photo(read_photo(tmp_path / "in.jpg"), tmp_path / "out.jpg", quality=40)
    with Image.open(tmp_path / "in.jpg") as before, Image.open(tmp_path / "out.jpg") as after:
        assert after.quantization != before.quantization


def test_the_last_column_of_an_odd_width_does_not_creep(tmp_path: Path) -> None:
    picture = np.full((32, 17, 3), (40, 90, 160), np.uint8)
    picture[:, 16:] = (220, 30, 40)
    Image.fromarray(picture).save(tmp_path / "in.jpg", quality=95, subsampling=1)
    first = read_photo(tmp_path / "in.jpg")
    write_photo(first, tmp_path / "out.jpg")
    for _ in range(4):
        write_photo(read_photo(tmp_path / "out.jpg"), tmp_path / "out.jpg", overwrite=True)
    last = read_photo(tmp_path / "out.jpg").samples[:, -1].astype(int)
    assert np.abs(last - first.samples[:, -1]).max() <= 12


@pytest.mark.parametrize("size", [(144, 176), (143, 175)])
def test_photos_over_pillow_s_own_limit_keep_their_pixels(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "in.jpg", 2, size=size)
    photo = read_photo(tmp_path / "in.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    settings = photo.metadata.jpeg
    assert settings is not None
    assert recomposed(photo.samples, settings) is not None


def test_rgb_coded_files_that_say_they_are_subsampled_can_be_written(tmp_path: Path) -> None:
    save(tmp_path / "in.jpg", 0)
    photo = read_photo(tmp_path / "in.jpg")
    settings = photo.metadata.jpeg
    assert settings is not None
    coded = replace(photo.metadata, jpeg=replace(settings, keep_rgb=True, subsampling=2))
    write_photo(replace(photo, metadata=coded), tmp_path / "out.jpg")
    assert read_photo(tmp_path / "out.jpg").size == photo.size
