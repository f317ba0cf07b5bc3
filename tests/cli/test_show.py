"""`maerestore show`, in process, with a tiny random model."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from maerestore.cli import show as verb

from .conftest import contents, noise


@pytest.fixture
def show(command: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[int, str, str]]:
    """show(photo, *options): exit code, stdout and stderr, with the tiny model on the CPU."""
    return functools.partial(command, "show")


def test_the_picture_stands_beside_the_photo(show: Any, folder: Path) -> None:
    code, out, err = show(folder / "photo.png")
    assert (code, err) == (0, "")
    with Image.open(folder / "photo_show.png") as sheet:
        assert out.startswith(f"{folder / 'photo_show.png'}: {sheet.width} x {sheet.height} pixels in ")
        assert sheet.format == "PNG"
    assert sorted(contents(folder)) == ["mask.png", "photo.png", "photo_show.png"]


def test_it_is_what_the_function_draws(show: Any, folder: Path, model_folder: Path) -> None:
    from maerestore.hub.load import load_autoencoder
    from maerestore.show import show_grid

    options = ["--mask-ratio", "0.5", "0.9", "--seed", "3", "4", "--policy", "block", "--size", "40", "--quiet"]
    assert show(folder / "photo.png", "-o", folder / "grid.png", *options) == (0, "", "")
    expected = show_grid(load_autoencoder(model_folder), noise(), (0.5, 0.9), (3, 4), "block", size=40)
    with Image.open(folder / "grid.png") as sheet:
        assert np.array_equal(np.asarray(sheet), np.asarray(expected))


def test_a_mask_file_says_what_is_hidden(show: Any, folder: Path, model_folder: Path) -> None:
    from maerestore.hub.load import load_autoencoder
    from maerestore.show import show_grid

    from .conftest import hole

    assert show(folder / "photo.png", "--mask", folder / "mask.png")[0] == 0
    expected = show_grid(load_autoencoder(model_folder), noise(), mask=hole())
    with Image.open(folder / "photo_show.png") as sheet:
        assert np.array_equal(np.asarray(sheet), np.asarray(expected))


@pytest.mark.parametrize("kind", ["gray", "palette", "16 bit", "rgba", "turned", "jpeg"])
def test_any_photo_is_read(show: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("photo.jpg" if kind in ("turned", "jpeg") else "photo.png")
    image = Image.fromarray(noise())
    if kind == "16 bit":
        image = Image.fromarray(noise(channels=None).astype(np.uint16) * 257)
    elif kind != "turned":
        image = image.convert({"gray": "L", "palette": "P", "rgba": "RGBA"}.get(kind, "RGB"))
    exif = Image.Exif()
    if kind == "turned":
        exif[0x0112] = 6
    image.save(path, exif=exif)
    assert show(path)[0] == 0
    with Image.open(tmp_path / "photo_show.png") as sheet:
        # 48 x 60 pixels become 32 x 40, each drawn as 7 x 7; turned upright the panel is 280 high.
        assert sheet.height == 8 + 20 + 4 + (280 if kind == "turned" else 224) + 8


@pytest.mark.parametrize("verb", ["show", "augment"])
def test_colours_under_transparent_pixels_are_not_drawn(command: Any, folder: Path, verb: str) -> None:
    pixels = np.asarray(Image.open(folder / "photo.png").convert("RGBA")).copy()
    pixels[:10, :, 3] = 0
    drawn = []
    for name, hidden in (("a", (255, 0, 255)), ("b", (255, 255, 255))):
        pixels[:10, :, :3] = hidden
        Image.fromarray(pixels).save(folder / f"{name}.png")
        grid = ["--grid", "--seed", "0"] if verb == "augment" else []
        code, _, err = command(verb, folder / f"{name}.png", *grid, "-o", folder / f"{name}_drawn.png")
        assert (code, err) == (0, "")
        drawn.append((folder / f"{name}_drawn.png").read_bytes())
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize("name", ["grid.jpg", "grid.webp", "grid.tif"])
def test_the_suffix_says_the_format(show: Any, folder: Path, name: str) -> None:
    assert show(folder / "photo.png", "-o", folder / name)[0] == 0
    with Image.open(folder / name) as sheet:
        assert sheet.format == {"jpg": "JPEG", "webp": "WEBP", "tif": "TIFF"}[name.split(".")[1]]


def test_a_folder_gets_the_default_name(show: Any, folder: Path) -> None:
    (folder / "out").mkdir()
    assert show(folder / "photo.png", "-o", folder / "out")[0] == 0
    assert list(contents(folder / "out")) == ["photo_show.png"]


def test_nothing_is_overwritten_unless_asked_for(show: Any, folder: Path) -> None:
    (folder / "photo_show.png").write_bytes(b"mine")
    before = contents(folder)
    code, _, err = show(folder / "photo.png")
    assert (code, contents(folder)) == (2, before)
    assert "photo_show.png' exists" in err
    assert show(folder / "photo.png", "-o", folder / "mask.png", "--mask", folder / "mask.png")[0] == 2
    assert contents(folder) == before
    assert show(folder / "photo.png", "--overwrite")[0] == 0
    assert contents(folder)["photo_show.png"] != b"mine"


BAD = {
    "no photo": ("{0}/none.png", "none.png"),
    "broken photo": ("{0}/broken.png", "broken.png"),
    "folder as photo": ("{0}", "folder"),
    "root as photo": ("/", "is a folder"),
    "long photo": ("{0}/long.png", "more than 16384"),
    "ratio": ("{0}/photo.png --mask-ratio 1.5", "'1.5' is no number from 0 to 1"),
    "ratio is nan": ("{0}/photo.png --mask-ratio nan", "'nan' is no number from 0 to 1"),
    "ratio is text": ("{0}/photo.png --mask-ratio most", "'most' is no number from 0 to 1"),
    "seed": ("{0}/photo.png --seed -1", "-1"),
    "large seed": ("{0}/photo.png --seed 9223372036854775808", "is too large: at most 9223372036854775807"),
    "policy": ("{0}/photo.png --policy stripes", "invalid choice: 'stripes'"),
    "size": ("{0}/photo.png --size 4", "size 4 is smaller than a patch"),
    "no mask": ("{0}/photo.png --mask {0}/none.png", "none.png"),
    "mask size": ("{0}/photo.png --mask {0}/small.png", "--resize-mask"),
    "mask and ratio": ("{0}/photo.png --mask {0}/mask.png --mask-ratio 0.5", "leave out --mask-ratio"),
    "mask and policy": ("{0}/photo.png --mask {0}/mask.png --policy grid", "leave out --policy"),
    "suffix": ("{0}/photo.png -o {0}/grid.xyz", "'.xyz'"),
    "colours": ("{0}/photo.png -o {0}/grid.gif --model nonesuch", "GIF cannot hold the colours"),
    "output folder": ("{0}/photo.png -o {0}/none/grid.png", "does not exist"),
    "model": ("{0}/photo.png --model {0}/none", "no model"),
    "no model": ("{0}/photo.png --model {0}", "config.json"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line_and_leaves_no_file(show: Any, folder: Path, case: str) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    Image.fromarray(noise(10, 12)).save(folder / "small.png")
    Image.fromarray(noise(2, 9000)).save(folder / "long.png")
    options, message = BAD[case]
    before = contents(folder)
    code, out, err = show(*(option.format(folder) for option in options.split()))
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith("maerestore show: ")
    assert contents(folder) == before


def test_a_mask_of_another_size_can_be_scaled(show: Any, folder: Path) -> None:
    Image.new("L", (12, 10), 255).save(folder / "small.png")
    assert show(folder / "photo.png", "--mask", folder / "small.png", "--resize-mask")[0] == 0


def test_an_encoder_cannot_be_shown(show: Any, folder: Path, tmp_path_factory: Any) -> None:
    from maerestore.hub.save import save_autoencoder
    from maerestore.model import MAEConfig, MaskedAutoencoder

    from .conftest import SETTINGS

    encoder = tmp_path_factory.mktemp("encoder")
    save_autoencoder(MaskedAutoencoder(MAEConfig(**{**SETTINGS, "decoder_depth": 0})), encoder)
    before = contents(folder)
    code, _, err = show(folder / "photo.png", "--model", encoder)
    assert code == 2
    assert "encoder only" in err
    assert err.count("\n") == 1
    assert contents(folder) == before


def test_the_policies_are_those_of_the_masks() -> None:
    from maerestore.masking.patches import POLICIES

    assert verb._POLICIES == POLICIES
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    assert parser.parse_args(["photo.png"]).mask_ratio is None
