from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt

from maerestore.inpaint.pair import HARDLY_MEANT

from .conftest import HEIGHT, WIDTH, hole, noise, save_mask

Fill = Callable[..., int]


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


# --- what is filled


def _turned(path: Path, pixels: np.ndarray, orientation: int) -> None:
    """Save so that a viewer that heeds the EXIF orientation shows `pixels`."""
    stored = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }[orientation](pixels)  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif.tobytes())


@pytest.mark.parametrize("of_mask", [1, 6, 7])
@pytest.mark.parametrize("of_photo", range(1, 9))
def test_photo_and_mask_are_turned_upright(of_photo: int, of_mask: int, fill: Fill, tmp_path: Path) -> None:
    pixels, mask = noise(), hole()
    _turned(tmp_path / "photo.png", pixels, of_photo)
    _turned(tmp_path / "mask.png", mask.astype(np.uint8) * 255, of_mask)
    assert fill(tmp_path / "photo.png", tmp_path / "mask.png", "--quiet", "--sharp", "off") == 0
    with Image.open(tmp_path / "photo_filled.png") as image:
        assert image.getexif().get(0x0112, 1) == 1
        filled = np.asarray(image)
    assert filled.shape == pixels.shape
    np.testing.assert_array_equal(filled[~mask], pixels[~mask])
    assert (filled[mask] != pixels[mask]).any(-1).mean() > 0.9


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("sharp", ["auto", "off"])
def test_dilate_grows_the_hole_by_so_many_pixels(n: int, sharp: str, fill: Fill, folder: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:28, 25:36] = True
    save_mask(folder / "mask.png", mask)
    assert fill(folder / "photo.png", folder / "mask.png", "--dilate", n, "--sharp", sharp, "--quiet") == 0
    changed = (read(folder / "photo.png") != read(folder / "photo_filled.png")).any(-1)
    distance = distance_transform_edt(~mask)
    assert not changed[distance >= n + 0.5].any()
    assert changed[distance <= n - 0.5].mean() > 0.95
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (20 - n, 27 + n, 25 - n, 35 + n)


def test_feather_changes_the_fill_only(fill: Fill, folder: Path) -> None:
    for n in (0, 6):
        out = folder / f"{n}.png"
        assert (
            fill(folder / "photo.png", folder / "mask.png", "--feather", n, "--sharp", "off", "--quiet", "-o", out) == 0
        )
        np.testing.assert_array_equal(read(out)[~hole()], read(folder / "photo.png")[~hole()])
    assert (read(folder / "0.png") != read(folder / "6.png"))[hole()].any()


def test_mask_white_keep_fills_what_is_black(fill: Fill, folder: Path) -> None:
    save_mask(folder / "keep.png", ~hole())
    assert fill(folder / "photo.png", folder / "mask.png", "-o", folder / "1.png", "--quiet") == 0
    assert (
        fill(folder / "photo.png", folder / "keep.png", "--mask-white", "keep", "-o", folder / "2.png", "--quiet") == 0
    )
    np.testing.assert_array_equal(read(folder / "1.png"), read(folder / "2.png"))


def test_a_photo_whose_object_was_erased_is_its_own_mask(fill: Fill, folder: Path) -> None:
    image = np.dstack([noise(), np.full((HEIGHT, WIDTH), 255, np.uint8)])
    image[hole()] = 0
    Image.fromarray(image).save(folder / "cut.png")
    assert fill(folder / "cut.png", folder / "cut.png", "--quiet", "--sharp", "off") == 0
    filled = read(folder / "cut_filled.png")
    np.testing.assert_array_equal(filled[~hole()], image[~hole()])
    assert (filled[..., 3] == 255).all()
    assert filled[hole()][:, :3].mean() > 50


@pytest.mark.parametrize("photo", ["cut", "photo"])
def test_a_soft_edge_is_erased_too(photo: str, fill: Fill, folder: Path) -> None:
    alpha = (255 * np.clip(distance_transform_edt(~hole()) / 6, 0, 1)).astype(np.uint8)
    image = np.dstack([noise(), alpha])
    image[alpha == 0] = 0
    Image.fromarray(image).save(folder / "cut.png")
    assert fill(folder / f"{photo}.png", folder / "cut.png", "--quiet", "--sharp", "off") == 0
    filled, known = read(folder / f"{photo}_filled.png"), alpha == 255
    np.testing.assert_array_equal(filled[known], read(folder / f"{photo}.png")[known])
    assert (filled[~known][:, :3] != noise()[~known]).any(-1).mean() > 0.9
    assert filled.shape[2] == 3 or (filled[..., 3] == 255).all()


def test_what_else_such_a_photo_shows_does_not_matter(fill: Fill, folder: Path) -> None:
    """Of few colours, with a part that is bright, and fewer than half of its pixels left."""
    image = np.full((HEIGHT, WIDTH, 4), (9, 9, 20, 255), np.uint8)
    image[:6, :6, :3] = 250
    image[10:, 5:, 3] = 0
    Image.fromarray(image).save(folder / "cut.png")
    assert fill(folder / "cut.png", folder / "cut.png", "--quiet", "--sharp", "off") == 0
    filled, known = read(folder / "cut_filled.png"), image[..., 3] > 0
    np.testing.assert_array_equal(filled[known], image[known])
    assert (filled[~known][:, 3] == 255).all()


def test_resize_mask_brings_the_mask_to_the_photos_size(fill: Fill, folder: Path) -> None:
    save_mask(folder / "large.png", np.kron(hole(), np.ones((3, 3), bool)))
    assert fill(folder / "photo.png", folder / "mask.png", "-o", folder / "1.png", "--quiet") == 0
    assert fill(folder / "photo.png", folder / "large.png", "--resize-mask", "-o", folder / "2.png", "--quiet") == 0
    np.testing.assert_array_equal(read(folder / "1.png"), read(folder / "2.png"))


@pytest.mark.parametrize("sharp", ["auto", "off"])
def test_a_seed_gives_the_same_file_twice(sharp: str, fill: Fill, folder: Path) -> None:
    for name in ("1.png", "2.png"):
        options = ("--seed", 5, "--sharp", sharp, "--quiet", "-o", folder / name)
        assert fill(folder / "photo.png", folder / "mask.png", *options) == 0
    assert (folder / "1.png").read_bytes() == (folder / "2.png").read_bytes()


def test_sharp_off_differs_from_sharp_auto(fill: Fill, folder: Path) -> None:
    for sharp in ("auto", "off"):
        out = folder / f"{sharp}.png"
        assert fill(folder / "photo.png", folder / "mask.png", "--sharp", sharp, "--quiet", "-o", out) == 0
    assert (read(folder / "auto.png") != read(folder / "off.png"))[hole()].any()


# --- where it goes


def test_the_default_name_lies_beside_the_photo(
    fill: Fill, folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    (folder / "photo.png").rename(folder / "My photo.v2.PNG")
    assert fill(folder / "My photo.v2.PNG", folder / "mask.png", "--quiet") == 0
    assert (folder / "My photo.v2_filled.PNG").is_file()
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("slash", ["", "/"])
def test_an_output_folder_gets_the_photos_name(slash: str, fill: Fill, folder: Path) -> None:
    (folder / "out").mkdir()
    assert fill(folder / "photo.png", folder / "mask.png", "-o", f"{folder / 'out'}{slash}", "--quiet") == 0
    assert [path.name for path in (folder / "out").iterdir()] == ["photo.png"]


def test_relative_names(fill: Fill, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert fill("photo.png", "mask.png", "-o", "out.webp", "--quiet") == 0
    assert read(folder / "out.webp").shape == (HEIGHT, WIDTH, 3)


def test_overwrite_replaces_the_output_and_even_the_photo(fill: Fill, folder: Path) -> None:
    before = read(folder / "photo.png")
    (folder / "old.png").write_bytes(b"something old")
    assert fill(folder / "photo.png", folder / "mask.png", "-o", folder / "old.png", "--overwrite", "--quiet") == 0
    options = ("-o", folder / "photo.png", "--overwrite", "--quiet")
    assert fill(folder / "photo.png", folder / "mask.png", *options) == 0
    np.testing.assert_array_equal(read(folder / "old.png"), read(folder / "photo.png"))
    np.testing.assert_array_equal(read(folder / "photo.png")[~hole()], before[~hole()])


# --- several fills, and how sure they are


def test_samples_writes_numbered_files_that_differ_in_the_hole(fill: Fill, folder: Path) -> None:
    (folder / "photo_filled.png").write_bytes(b"an earlier fill, which nothing here replaces")
    assert fill(folder / "photo.png", folder / "mask.png", "--samples", 3, "--quiet") == 0
    before = read(folder / "photo.png")
    fills = [read(folder / f"photo_filled_{k}.png") for k in (1, 2, 3)]
    for picture in fills:
        np.testing.assert_array_equal(picture[~hole()], before[~hole()])
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (fills[first] != fills[second]).any()
    assert len(list(folder.iterdir())) == 2 + 1 + 3


def test_the_numbers_of_many_samples_sort_by_name(fill: Fill, folder: Path) -> None:
    options = ("--samples", 10, "--sharp", "off", "--quiet", "-o", folder / "new.png")
    assert fill(folder / "photo.png", folder / "mask.png", *options) == 0
    assert sorted(path.name for path in folder.glob("new*")) == [f"new_{k:02d}.png" for k in range(1, 11)]


def test_confidence_is_a_grey_map_white_where_the_photo_is_known(fill: Fill, folder: Path) -> None:
    options = ("--confidence", folder / "sure.png", "--dilate", 1, "--quiet")
    assert fill(folder / "photo.png", folder / "mask.png", *options) == 0
    sure = read(folder / "sure.png")
    assert sure.shape == (HEIGHT, WIDTH)
    assert sure.dtype == np.uint8
    known = distance_transform_edt(~hole()) > 1
    assert (sure[known] == 255).all()
    assert (sure[~known] < 255).all()
    assert (folder / "photo_filled.png").is_file()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_is_as_asked(precision: str, fill: Fill, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fill(folder / "photo.png", folder / "mask.png", "--json", "--precision", precision) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == precision


# --- what is said


def test_json_says_what_was_done(fill: Fill, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fill(folder / "photo.png", folder / "mask.png", "--json", "--seed", 3) == 0
    captured = capsys.readouterr()
    said = json.loads(captured.out)
    assert captured.err == ""
    assert said["holes"] == 2
    assert said["pixels_filled"] == hole().sum()
    assert said["size"] == [WIDTH, HEIGHT]
    assert said["mode"] == "RGB"
    assert said["seed"] == 3
    assert Path(said["output"]) == folder / "photo_filled.png"
    assert Path(said["output"]).is_file()
    assert said["outputs"] == [said["output"]]
    assert said["confidence"] is None
    assert {"read", "load", "harmonic", "coarse", "write"} <= set(said["seconds"])
    assert all(isinstance(value, float) and value >= 0 for value in said["seconds"].values())


def test_json_counts_the_pixels_of_a_dilated_hole(fill: Fill, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fill(folder / "photo.png", folder / "mask.png", "--json", "--dilate", 2) == 0
    distance = distance_transform_edt(~hole())
    filled = json.loads(capsys.readouterr().out)["pixels_filled"]
    assert (distance <= 1.5).sum() <= filled <= (distance <= 2.5).sum()


def test_quiet_prints_nothing(fill: Fill, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert fill(folder / "photo.png", folder / "mask.png", "--quiet") == 0
    assert capfd.readouterr() == ("", "")


def test_otherwise_one_line_names_the_output(fill: Fill, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert fill(folder / "photo.png", folder / "mask.png") == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    assert str(folder / "photo_filled.png") in out
    assert "2 holes" in out
    assert str(hole().sum()) in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import maerestore
    from maerestore.cli.main import main

    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert maerestore.__version__ in capsys.readouterr().out


def test_the_help_says_where_the_autoencoders_time_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    from maerestore.cli.main import main

    with pytest.raises(SystemExit, match="0"):
        main(["inpaint", "--help"])
    assert "refine includes the autoencoder" in " ".join(capsys.readouterr().out.split())


# --- what is seldom meant


def test_a_photo_that_looks_like_a_mask_is_pointed_out(
    fill: Fill, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(noise()).convert("L").save(tmp_path / "photo.png")
    save_mask(tmp_path / "mask.png", hole())
    for photo, mask, warned in (("photo", "mask", False), ("mask", "photo", True)):
        assert fill(tmp_path / f"{photo}.png", tmp_path / f"{mask}.png", "--sharp", "off") == 0
        told = capsys.readouterr().err
        assert ("the photo comes first" in told) == warned
        assert told.count("\n") == warned  # and not, too, that the mask looks like a photo
    assert fill(tmp_path / "mask.png", tmp_path / "photo.png", "--sharp", "off", "--quiet", "--overwrite") == 0
    assert capsys.readouterr().err == ""


def test_a_mask_of_nearly_all_is_pointed_out(fill: Fill, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inverted = np.ones((HEIGHT, WIDTH), bool)
    inverted[20:28, 25:36] = False
    save_mask(folder / "mask.png", inverted)
    assert inverted.mean() > HARDLY_MEANT
    for white, other, warned in (("hole", "keep", True), ("keep", "hole", False)):
        options = ("--sharp", "off", "--overwrite", "--mask-white", white)
        assert fill(folder / "photo.png", folder / "mask.png", *options) == 0
        told = capsys.readouterr().err
        assert (f"if that is what to keep, add --mask-white {other}" in told) == warned
        assert told.count("\n") == warned


def _painted_photo() -> np.ndarray:
    """A copy of a photo in which the hole was painted white."""
    photo = noise()
    photo[hole()] = 255
    return photo


@pytest.mark.parametrize("looks_so", [noise(channels=1)[..., 0], _painted_photo(), noise() // 2 + 60])
def test_a_mask_that_looks_like_a_photograph_is_pointed_out(
    looks_so: np.ndarray, fill: Fill, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(looks_so).save(folder / "mask.png")
    for white, light in (("hole", "filled"), ("keep", "kept")):
        options = ("--sharp", "off", "--overwrite", "--mask-white", white)
        assert fill(folder / "photo.png", folder / "mask.png", *options) == 0
        told = capsys.readouterr().err
        assert "mask.png' looks like a photograph, not a mask: " in told
        assert f"what is light in it is {light}" in told
        assert told.count("\n") == 1
    assert fill(folder / "photo.png", folder / "mask.png", "--sharp", "off", "--overwrite", "--quiet") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("quality", [None, 75, 30])
@pytest.mark.parametrize("kind", ["soft", "very soft", "gradient", "gray paint", "green paint", "layer"])
def test_masks_with_levels_between_are_no_photographs(
    kind: str, quality: int | None, fill: Fill, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.zeros((240, 320), np.uint8)
    cv2.circle(pixels, (150, 120), 80, 255, -1)
    if "soft" in kind:
        pixels = cv2.GaussianBlur(pixels, (0, 0), 12 if kind == "soft" else 60)
    elif kind == "gradient":
        pixels[:] = np.linspace(0, 255, 320).astype(np.uint8)
    elif "paint" in kind:
        color = [160, 160, 160] if kind == "gray paint" else [0, 230, 0]
        pixels = ((pixels[..., None] > 0) * color).astype(np.uint8)
    elif kind == "layer":
        pixels = np.dstack([noise(240, 320), pixels])
    suffix = ".png" if quality is None or kind == "layer" else ".jpg"
    Image.fromarray(pixels).save(folder / f"mask{suffix}", quality=quality or 75)
    Image.fromarray(noise(240, 320)).save(folder / "photo.png")
    assert fill(folder / "photo.png", folder / f"mask{suffix}", "--sharp", "off") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("suffix", "warned"),
    [
        *((suffix, True) for suffix in (".jpg", ".webp", ".bmp", ".gif")),
        *((suffix, False) for suffix in (".png", ".tif", ".ppm")),
    ],
)
def test_bits_that_a_format_loses_are_pointed_out(
    suffix: str, warned: bool, fill: Fill, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = np.random.default_rng(0).integers(1, 65535, (HEIGHT, WIDTH), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "photo.png")
    save_mask(tmp_path / "mask.png", hole())
    out = tmp_path / f"out{suffix}"
    assert fill(tmp_path / "photo.png", tmp_path / "mask.png", "-o", out, "--sharp", "off") == 0
    assert ("8 of the photo's 16 bits" in capsys.readouterr().err) == warned


INKS = bytes(16) + b"CMYK" + bytes(16) + b"acsp" + bytes(88)


@pytest.mark.parametrize(("name", "profile", "warned"), [("out.png", INKS, True), ("out.tif", INKS, False),
                                                         ("out.png", None, False)])  # fmt: skip
def test_an_ink_profile_that_a_format_loses_is_pointed_out(
    name: str, profile: bytes | None, warned: bool, fill: Fill, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(noise(channels=4), "CMYK").save(folder / "inks.tif", icc_profile=profile)
    assert fill(folder / "inks.tif", folder / "mask.png", "-o", folder / name, "--sharp", "off") == 0
    assert ("without the photo's ink profile" in capsys.readouterr().err) == warned


def test_metadata_that_is_damaged_is_pointed_out(fill: Fill, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(noise()).save(folder / "photo.png", icc_profile=b"garbage", exif=b"Exif\0\0garbage")
    assert fill(folder / "photo.png", folder / "mask.png", "--sharp", "off") == 0
    told = capsys.readouterr().err.splitlines()
    assert [line.removeprefix("maerestore inpaint: warning: the photo's ") for line in told] == [
        "colour profile is damaged and left out", "EXIF is damaged and left out"
    ]  # fmt: skip
    assert b"garbage" not in (folder / "photo_filled.png").read_bytes()


@pytest.mark.parametrize(("mode", "profile", "suffix", "lost"), [
    ("RGB", "Display P3", ".bmp", "colour profile, EXIF and XMP, PNG and TIFF keep them"),
    ("RGB", "sRGB IEC61966-2.1", ".bmp", "EXIF and XMP, PNG and TIFF keep them"),
    ("RGB", "s\0R\0G\0B", ".ppm", "EXIF and XMP, PNG and TIFF keep them"),
    ("RGB", "linear sRGB", ".ppm", "colour profile, EXIF and XMP, PNG and TIFF keep them"),
    ("L", "gray", ".gif", "colour profile, EXIF and XMP, PNG and TIFF keep them"),
    ("L", "gray", ".webp", "colour profile, PNG and TIFF keep it"),
    *(("RGB", "Display P3", suffix, "") for suffix in (".png", ".tif", ".jpg", ".webp")),
    *(("L", "gray", suffix, "") for suffix in (".png", ".tif", ".jpg")),
])  # fmt: skip
def test_metadata_that_a_format_has_no_place_for_is_pointed_out(
    mode: str, profile: str, suffix: str, lost: str, fill: Fill, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    icc = bytes(16) + (b"GRAY" if mode == "L" else b"RGB ") + bytes(16) + b"acsp" + bytes(88) + profile.encode()
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    Image.fromarray(noise()).convert(mode).save(folder / "a.jpg", icc_profile=icc, exif=exif, xmp=b"<x:xmpmeta/>")
    assert fill(folder / "a.jpg", folder / "mask.png", "-o", folder / f"out{suffix}", "--sharp", "off") == 0
    told = capsys.readouterr().err
    out = folder / f"out{suffix}"
    assert told == (f"maerestore inpaint: warning: '{out}' is written without the photo's {lost}\n" if lost else "")


def test_what_was_filled_is_counted(fill: Fill, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for corner, told in ((1, "1 hole filled (1 pixel) in "), (2, "1 hole filled (4 pixels) in ")):
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[20 : 20 + corner, 30 : 30 + corner] = True
        save_mask(folder / "mask.png", mask)
        assert fill(folder / "photo.png", folder / "mask.png", "--overwrite", "--sharp", "off") == 0
        assert told in capsys.readouterr().out
