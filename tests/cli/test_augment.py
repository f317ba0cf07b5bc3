"""The `augment` verb in process, with a tiny random model."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maerestore.cli import augment as verb

from .conftest import contents, noise

Augment = Callable[..., tuple[int, str, str]]


@pytest.fixture
def augment(command: Callable[..., tuple[int, str, str]]) -> Augment:
    """augment(photo, *options): exit code, stdout and stderr, with the tiny model on the CPU."""
    return functools.partial(command, "augment")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "cats").mkdir(parents=True)
    Image.fromarray(noise(seed=1)).save(folder / "a.png")
    Image.fromarray(noise(seed=2)).save(folder / "cats/b.png")
    return folder


def test_a_folder_gets_four_views_of_each_image(augment: Augment, photos: Path, tmp_path: Path) -> None:
    code, out, err = augment(photos, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    assert out.startswith(f"{tmp_path / 'out'}: 8 views written in ")
    images = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png"))
    assert images == [f"{stem}_{k}.png" for stem in ("a", "cats/b") for k in (1, 2, 3, 4)]


def test_the_options_reach_the_views(augment: Augment, photos: Path, tmp_path: Path, model_folder: Path) -> None:
    from maerestore.augment.cache import write_views
    from maerestore.augment.settings import ViewSettings

    options = ["-n", 2, "--mask-ratio", 0.3, 0.6, "--strategy", "block", "--blend", 0.5, "--size", 16, "--seed", 7,
               "--batch-size", 3, "--precision", "fp32", "--format", "png", "--quality", 90, "--quiet"]  # fmt: skip
    assert augment(photos, "-o", tmp_path / "one", *options) == (0, "", "")
    settings = ViewSettings((0.3, 0.6), "block", 0.5, str(model_folder), 16)
    write_views(
        photos, tmp_path / "two", 2, settings, seed=7, file_format="png", batch_size=3, precision="fp32", quality=90
    )
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_one_ratio_is_no_range(augment: Augment, photos: Path, tmp_path: Path) -> None:
    assert augment(photos, "-o", tmp_path / "one", "-n", 1, "--mask-ratio", 0.5)[0] == 0
    kept = np.asarray(Image.open(tmp_path / "one/a_1.png")) == noise(seed=1)
    assert 0.4 < kept.all(axis=2).mean() < 0.6


def test_json_says_what_was_done(augment: Augment, photos: Path, tmp_path: Path) -> None:
    augment(photos, "-o", tmp_path / "out", "-n", 1)
    (photos / "broken.png").write_bytes(b"no image")
    code, out, err = augment(photos, "-o", tmp_path / "out", "-n", 2, "--json")
    assert code == 1
    assert err.count("\n") == 1
    assert err.startswith(f"maerestore augment: skipped: '{photos / 'broken.png'}' is not an image")
    done = json.loads(out)
    assert {key: done[key] for key in ("images", "views_each", "written", "present")} == {
        "images": 3, "views_each": 2, "written": 2, "present": 2,
    }  # fmt: skip
    assert [skipped["image"] for skipped in done["skipped"]] == ["broken.png"]
    assert done["settings"]["mask_ratio"] == [0.4, 0.75]


def test_where_no_view_could_be_made_the_exit_code_is_2(augment: Augment, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.jpg").write_bytes(b"no image")
    code, _, err = augment(tmp_path / "broken", "-o", tmp_path / "views", "-n", 1)
    assert code == 2
    assert "is not an image" in err


def test_what_was_skipped_is_counted(augment: Augment, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_bytes(b"no image")
    augment(photos, "-o", tmp_path / "out", "-n", 1)
    code, out, _ = augment(photos, "-o", tmp_path / "out", "-n", 1)
    assert code == 1
    assert ": 0 views written, 2 were there, 1 of 3 images skipped in " in out


def test_the_grid_shows_strategies_and_ratios(augment: Augment, folder: Path) -> None:
    code, out, err = augment(folder / "photo.png", "--grid")
    assert (code, err) == (0, "")
    with Image.open(folder / "photo_views.png") as sheet:
        assert out.startswith(f"{folder / 'photo_views.png'}: {sheet.width} x {sheet.height} pixels in ")
        # 48 x 60 pixels, each drawn as 5 x 5: five strategies down, the original and three ratios across
        assert sheet.height == 8 + 20 + 4 + 5 * 240 + 4 * 8 + 8
        assert sheet.width > 4 * 300


def test_the_grid_is_what_the_function_draws(augment: Augment, folder: Path, model_folder: Path) -> None:
    from maerestore.augment.grid import view_grid, view_panels
    from maerestore.augment.settings import ViewSettings

    options = ["--strategy", "grid", "attention-keep", "--mask-ratio", 0.5, 1, "--seed", 3, "--blend", 0.8]
    out = folder / "grid.jpg"
    assert augment(folder / "photo.png", "--grid", "-o", out, *options)[0] == 0
    rgb = noise().astype(np.float32) / 255
    settings = ViewSettings(model=str(model_folder), blend=0.8)
    expected = view_grid(rgb, settings, ("grid", "attention-keep"), (0.5, 1.0), 3)
    with Image.open(out) as sheet:
        assert (sheet.format, sheet.size) == ("JPEG", expected.size)
        difference = np.abs(np.asarray(sheet).astype(int) - np.asarray(expected))
        assert difference.mean() < 4
    for row in view_panels(rgb, settings, ("grid", "attention-keep"), (0.5, 1.0), 3):
        original, half, all_hidden = row
        assert np.array_equal(original, rgb)
        assert 0.4 < (half == original).all(axis=2).mean() < 0.6
        assert (all_hidden == original).all(axis=2).mean() < 0.01


def test_a_large_photo_is_drawn_small(augment: Augment, tmp_path: Path) -> None:
    Image.fromarray(noise(500, 900)).save(tmp_path / "photo.png")
    assert augment(tmp_path / "photo.png", "--grid", "--strategy", "random", "--mask-ratio", 0.5)[0] == 0
    with Image.open(tmp_path / "photo_views.png") as sheet:
        assert sheet.height == 8 + 20 + 4 + 224 + 8


def test_the_grid_overwrites_only_when_asked(augment: Augment, folder: Path) -> None:
    small = ["--grid", "--strategy", "random", "--mask-ratio", 0.5]
    (folder / "photo_views.png").write_bytes(b"mine")
    code, _, err = augment(folder / "photo.png", *small)
    assert (code, (folder / "photo_views.png").read_bytes()) == (2, b"mine")
    assert "exists" in err
    assert augment(folder / "photo.png", *small, "--overwrite")[0] == 0


BAD = {
    "no folder": ("{0}/none -o {0}/out", "does not exist"),
    "a file": ("{0}/a.png -o {0}/out", "add --grid"),
    "no output": ("{0}", "-o is missing"),
    "output is the folder": ("{0} -o {0}", "would be taken for images"),
    "empty folder": ("{0}/empty -o {0}/out", "holds no image"),
    "ratio": ("{0} -o {0}/out --mask-ratio 1.5", "'1.5' is no number from 0 to 1"),
    "ratio is nan": ("{0} -o {0}/out --mask-ratio nan", "'nan' is no number from 0 to 1"),
    "ratios turned": ("{0} -o {0}/out --mask-ratio 0.7 0.4", "mask_ratio must lie in [0, 1], low first"),
    "three ratios": ("{0} -o {0}/out --mask-ratio 0.1 0.2 0.3", "--mask-ratio takes at most 2 without --grid"),
    "two strategies": ("{0} -o {0}/out --strategy grid block", "--strategy takes at most 1 without --grid"),
    "strategy": ("{0} -o {0}/out --strategy spiral", "spiral"),
    "blend": ("{0} -o {0}/out --blend 2", "'2' is no number from 0 to 1"),
    "number": ("{0} -o {0}/out -n 0", "'0' is no whole number of at least 1"),
    "seed": ("{0} -o {0}/out --seed -1", "'-1' is no whole number of at least 0"),
    "size": ("{0} -o {0}/out --size 4", "size must be at least a patch"),
    "quality": ("{0} -o {0}/out --quality 101", "quality must be from 1 to 100, got 101"),
    "overwrite": ("{0} -o {0}/out --overwrite", "--overwrite goes with --grid"),
    "model": ("{0} -o {0}/out --model nonesuch", "no model 'nonesuch'"),
    "grid of a folder": ("{0} --grid", "is a folder"),
    "grid of nothing": ("{0}/none.png --grid", "does not exist"),
    "grid, number": ("{0}/a.png --grid -n 2", "-n is for a folder's views"),
    "grid, json": ("{0}/a.png --grid --json", "--json is for a folder's views"),
    "grid, strategy": ("{0}/a.png --grid --strategy spiral", "spiral"),
    "grid, model": ("{0}/a.png --grid --model nonesuch", "no model 'nonesuch'"),
    "grid, suffix": ("{0}/a.png --grid -o {0}/grid.xyz", ".xyz"),
    "grid, colours": ("{0}/a.png --grid -o {0}/grid.gif --model nonesuch", "GIF cannot hold the colours"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line(augment: Augment, photos: Path, case: str) -> None:
    command, message = BAD[case]
    (photos / "empty").mkdir()
    before = contents(photos)
    code, out, err = augment(*command.format(photos).split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert contents(photos) == before


def test_an_encoder_alone_leaves_nothing(augment: Augment, photos: Path, tmp_path: Path) -> None:
    import torch

    from maerestore.hub.save import save_autoencoder
    from maerestore.model import MAEConfig, MaskedAutoencoder

    torch.manual_seed(0)
    config = MAEConfig(image_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, decoder_depth=0)
    save_autoencoder(MaskedAutoencoder(config), tmp_path / "encoder")
    code, _, err = augment(photos, "-o", tmp_path / "out", "--model", tmp_path / "encoder")
    assert (code, err.count("\n")) == (2, 1)
    assert not (tmp_path / "out").exists()


def test_a_bad_folder_is_refused_before_torch_is_loaded(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from maerestore.cli.main import main; "
        f"assert main(['augment', {str(tmp_path)!r}, '-o', {str(tmp_path / 'out')!r}]) == 2; "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_choices_are_those_of_the_library() -> None:
    from maerestore.augment.sources import FORMATS
    from maerestore.masking.patches import POLICIES

    assert verb._FORMATS == FORMATS
    assert verb.STRATEGIES == POLICIES
