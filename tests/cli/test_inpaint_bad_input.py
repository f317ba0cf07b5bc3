"""Bad input ends with exit code 2 and one line on stderr; no file appears or changes."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import maerestore

from .conftest import HEIGHT, WIDTH, contents, hole, noise, save_mask

Fill = Callable[..., int]


@pytest.fixture
def refuse(fill: Fill, folder: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """refuse(photo, mask, *options): the one line said; asserts the exit code and that the folder did not change."""

    def run(photo: Any = folder / "photo.png", mask: Any = folder / "mask.png", *options: Any) -> str:
        before = contents(folder)
        capfd.readouterr()
        try:
            code: Any = fill(photo, mask, *options)
        except SystemExit as stop:  # by argparse
            code = stop.code
        assert code == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("maerestore inpaint: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        assert len(err) > 30
        assert "Traceback" not in err
        assert contents(folder) == before
        return err

    return run


# --- photos and masks


def _spoilt(path: Path, how: str) -> Path:
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "only a header":
        path.write_bytes(path.read_bytes()[:33])
    elif how == "no image":
        path.write_text("hello\n" * 100)
    elif how == "animated":
        frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue")]
        frames[0].save(path, format="PNG", save_all=True, append_images=frames[1:])
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    return path


SPOILT = ["missing", "empty", "truncated", "only a header", "no image", "animated", "a folder"]


@pytest.mark.parametrize("which", ["photo", "mask"])
@pytest.mark.parametrize("how", SPOILT)
def test_a_bad_file_is_named(how: str, which: str, refuse: Callable[..., str], folder: Path) -> None:
    path = _spoilt(folder / f"{which}.png", how)
    assert path.name in refuse()


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".tif"])
def test_animations_of_other_formats(suffix: str, refuse: Callable[..., str], folder: Path) -> None:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue")]
    frames[0].save(folder / f"many{suffix}", save_all=True, append_images=frames[1:])
    assert "2 " in refuse(folder / f"many{suffix}")


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif", ".bmp", ".gif"])
def test_truncated_photos_of_other_formats(suffix: str, refuse: Callable[..., str], folder: Path) -> None:
    path = folder / f"cut{suffix}"
    Image.fromarray(noise()).save(path)
    refuse(_spoilt(path, "truncated"))


@pytest.mark.parametrize("photo", [*(name for name in ("", ".", "/")), ".."])
def test_folders_and_nothing_as_photo(
    photo: str, refuse: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "inner").mkdir()
    monkeypatch.chdir(folder / "inner")
    said = refuse(photo)
    assert "is a folder" in said
    assert "--table" in said


@pytest.mark.parametrize("url", ["https://example.com/a.jpg", "HTTP://example.com/b/a.png", "s3://bucket/a.jpg"])
def test_a_url_has_to_be_downloaded(url: str, refuse: Callable[..., str], folder: Path) -> None:
    for inputs in ((url, "mask.png"), (folder / "photo.png", url)):
        for options in ((), ("-o", folder / "out.png")):
            said = refuse(*inputs, *options)
            assert f"'{url}' is a URL: download" in said


def test_a_name_that_starts_with_a_dash_can_be_given(
    refuse: Callable[..., str], fill: Fill, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "photo.png").rename("-dash.png")
    assert "given as ./-dash.png)" in refuse("-dash.png")
    assert "given as ./-dash.png)" in refuse("mask.png", "-dash.png")
    assert "given as" not in refuse("-other.png")
    assert fill("./-dash.png", "mask.png", "--sharp", "off", "--quiet") == 0
    assert (folder / "-dash_filled.png").is_file()


@pytest.mark.parametrize(("filled", "problem", "advice"), [
    (False, "no pixel of the mask is light", "draw in white what is to be filled"),
    (True, "no pixel of it is dark", "draw in black what is to be kept"),
])  # fmt: skip
def test_a_mask_of_one_colour_gets_no_advice_that_would_not_help(
    filled: bool, problem: str, advice: str, refuse: Callable[..., str], folder: Path
) -> None:
    said = refuse(mask=save_mask(folder / "plain.png", np.full((HEIGHT, WIDTH), filled)))
    assert "plain.png" in said
    assert problem in said
    assert advice in said
    assert "--mask-white" not in said  # turned round it is refused as well


def test_faint_and_dark_paint_are_named(refuse: Callable[..., str], folder: Path) -> None:
    layer = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    layer[hole()] = (255, 0, 0, 127)
    for name, pixels, problem in (
        ("faint.png", layer, "the paint is at most 50 % opaque"),
        ("ones.png", hole().astype(np.uint8), "the brightest pixel of the mask is 1 of 255"),
        ("red.png", (hole()[..., None] * [255, 0, 0]).astype(np.uint8), "the brightest pixel of the mask is 76 of 255"),
    ):
        Image.fromarray(pixels).save(folder / name)
        said = refuse(mask=folder / name)
        assert f"{name}': " in said
        assert problem in said
        assert "--mask-white" not in said


def test_a_photo_of_which_nothing_was_erased_is_no_mask(refuse: Callable[..., str], folder: Path) -> None:
    assert "erased" in refuse(mask=folder / "photo.png")
    (folder / "link.png").symlink_to("photo.png")
    assert "nothing of it is erased" in refuse(mask=folder / "link.png")
    Image.new("RGBA", (WIDTH, HEIGHT)).save(folder / "gone.png")
    for white in ("hole", "keep"):
        assert "all of it is erased" in refuse(folder / "gone.png", folder / "gone.png", "--mask-white", white)


def test_with_mask_white_keep_the_same_holds_the_other_way(refuse: Callable[..., str], folder: Path) -> None:
    for value in (0, 1):
        mask = save_mask(folder / f"{value}.png", np.full((HEIGHT, WIDTH), bool(value)))
        said = refuse(folder / "photo.png", mask, "--mask-white", "keep")
        assert ("draw in white what is to be kept", "draw in black what is to be filled")[value] in said


def test_a_mask_of_another_size_is_named_with_both_sizes(refuse: Callable[..., str], folder: Path) -> None:
    said = refuse(mask=save_mask(folder / "small.png", hole()[:40, :50]))
    assert "50x40" in said
    assert f"{WIDTH}x{HEIGHT}" in said
    assert "--resize-mask" in said


def test_a_dilated_hole_that_covers_everything(refuse: Callable[..., str], folder: Path) -> None:
    refuse(folder / "photo.png", folder / "mask.png", "--dilate", 100)


@pytest.mark.parametrize("option", ["--dilate", "--feather"])
def test_negative_widths(option: str, refuse: Callable[..., str], folder: Path) -> None:
    assert "-3" in refuse(folder / "photo.png", folder / "mask.png", option, -3)


def test_a_dilation_beyond_every_photo(refuse: Callable[..., str], folder: Path) -> None:
    refuse(folder / "photo.png", folder / "mask.png", "--dilate", 2_000_000_000)


@pytest.mark.parametrize("seed", [2**70, -(2**70), -1, 2**63])
def test_a_seed_beyond_63_bits(seed: int, refuse: Callable[..., str], folder: Path) -> None:
    said = refuse(folder / "photo.png", folder / "mask.png", "--seed", seed)
    assert ("is no whole number of at least 0" if seed < 0 else f"is too large: at most {2**63 - 1}") in said


@pytest.mark.parametrize("value", [0, 255])
def test_a_message_stays_on_one_line_whatever_the_file_is_called(
    value: int, refuse: Callable[..., str], folder: Path
) -> None:
    path = folder / "two\nlines.png"
    Image.new("L", (WIDTH, HEIGHT), value).save(path)
    refuse(mask=path)


@pytest.mark.parametrize("name", ["photo", "mask"])
def test_an_input_that_is_missing_is_said_before_what_is_wrong_with_the_output(
    name: str, refuse: Callable[..., str], folder: Path
) -> None:
    (folder / "photo_filled.png").touch()
    (folder / f"{name}.png").unlink()
    assert f"{name}.png' does not exist" in refuse()


def test_of_more_than_a_photo_and_a_mask_a_table_is_made(refuse: Callable[..., str], folder: Path) -> None:
    assert (
        "unrecognized arguments: c.png mask.png (one photo and its mask are given; many stand in a table: --table"
        in (refuse(folder / "photo.png", "b.png", "c.png", "mask.png"))
    )
    assert "--table" not in refuse(folder / "photo.png", folder / "mask.png", "c.png", "--colour")


# --- outputs


def test_an_output_that_exists(refuse: Callable[..., str], folder: Path) -> None:
    (folder / "photo_filled.png").write_bytes(b"precious")
    assert "--overwrite" in refuse()


@pytest.mark.parametrize("name", ["photo.png", "mask.png"])
@pytest.mark.parametrize("disguise", ["plain", "dotted", "link"])
def test_an_output_that_would_replace_an_input(
    name: str, disguise: str, refuse: Callable[..., str], folder: Path
) -> None:
    out = folder / name
    if disguise == "dotted":
        (folder / "inner").mkdir()
        out = folder / "inner" / ".." / name
    elif disguise == "link":
        out = folder / "link.png"
        out.symlink_to(folder / name)
    assert "would replace the input" in refuse(folder / "photo.png", folder / "mask.png", "-o", out)


@pytest.mark.parametrize("disguise", ["plain", "link", "hard link"])
def test_a_mask_is_not_replaced_even_with_overwrite(disguise: str, refuse: Callable[..., str], folder: Path) -> None:
    out = folder / ("mask.png" if disguise == "plain" else "other.png")
    if disguise == "link":
        out.symlink_to("mask.png")
    elif disguise == "hard link":
        os.link(folder / "mask.png", out)
    inputs = folder / "photo.png", folder / "mask.png"
    assert "would replace the input" in refuse(*inputs, "--overwrite", "-o", out)
    assert "would replace the input" in refuse(*inputs, "--overwrite", "-o", folder / "new.png", "--confidence", out)
    out.rename(folder / "new_2.png")
    inputs = folder / "photo.png", folder / "new_2.png"
    said = refuse(*inputs, "--overwrite", "-o", folder / "new.png", "--samples", 2)
    assert "would replace the input" in said


def test_a_photo_is_not_replaced_by_a_map_of_confidence(refuse: Callable[..., str], folder: Path) -> None:
    said = refuse(folder / "photo.png", folder / "mask.png", "--overwrite", "--confidence", folder / "photo.png")
    assert "is the photo" in said


def test_a_photo_that_is_its_own_mask_may_be_replaced(fill: Fill, folder: Path) -> None:
    Image.fromarray(np.dstack([noise(), np.where(hole(), 0, 255).astype(np.uint8)])).save(folder / "cut.png")
    assert fill(folder / "cut.png", folder / "cut.png", "-o", folder / "cut.png", "--overwrite", "--quiet") == 0
    assert (np.asarray(Image.open(folder / "cut.png"))[..., 3] == 255).all()


def test_messages_speak_of_the_command_and_not_of_python(refuse: Callable[..., str], folder: Path) -> None:
    (folder / "photo_filled.png").touch()
    said = [refuse(), refuse(folder / "photo.png", folder / "mask.png", "-o", folder / "photo.png")]
    for message in said:
        assert "add --overwrite" in message
    save_mask(folder / "mask.png", hole()[:40])
    said.append(refuse(folder / "photo.png", folder / "mask.png", "--overwrite"))
    assert "add --resize-mask." in said[-1]
    assert not any("Python" in message for message in said)


def test_an_output_folder_that_holds_the_photo(refuse: Callable[..., str], folder: Path) -> None:
    assert "would replace the input" in refuse(folder / "photo.png", folder / "mask.png", "-o", folder)


@pytest.mark.parametrize("out", ["none/out.png", "none/", "photo.png/out.png", "out.xyz", "out", "out.svg"])
def test_outputs_that_cannot_be(out: str, refuse: Callable[..., str], folder: Path) -> None:
    refuse(folder / "photo.png", folder / "mask.png", "-o", f"{folder}/{out}")


def test_an_output_folder_that_is_not_there_is_called_one(refuse: Callable[..., str], folder: Path) -> None:
    for options in ((), ("--samples", 2)):
        said = refuse(folder / "photo.png", folder / "mask.png", "-o", f"{folder}/new/", *options)
        assert f"output folder '{folder}/new/' does not exist: create it first" in said


@pytest.mark.parametrize("n", [0, -3, 1001])
def test_a_number_of_samples_that_cannot_be(n: int, refuse: Callable[..., str], folder: Path) -> None:
    assert str(n) in refuse(folder / "photo.png", folder / "mask.png", "--samples", n)


def test_a_numbered_output_that_exists(refuse: Callable[..., str], folder: Path) -> None:
    (folder / "new_2.png").write_bytes(b"mine")
    assert "new_2.png" in refuse(folder / "photo.png", folder / "mask.png", "--samples", 2, "-o", folder / "new.png")


@pytest.mark.parametrize("name", ["", "photo.png", "mask.png", "new.png", "sure.txt", "nowhere/sure.png"])
def test_a_confidence_file_that_cannot_be(name: str, refuse: Callable[..., str], folder: Path) -> None:
    options = ("-o", folder / "new.png", "--confidence", folder / name)
    assert (name or folder.name) in refuse(folder / "photo.png", folder / "mask.png", *options)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_is_closed(refuse: Callable[..., str], folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir()
    closed.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        assert "permission" in refuse(folder / "photo.png", folder / "mask.png", "-o", closed / "out.png")
    finally:
        closed.chmod(stat.S_IRWXU)


def test_a_folder_that_the_system_says_is_closed(
    refuse: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode, **_: not mode & os.W_OK)
    assert "permission" in refuse(folder / "photo.png", folder / "mask.png", "-o", folder / "out.png")


def test_transparency_that_the_format_cannot_hold(refuse: Callable[..., str], folder: Path) -> None:
    Image.fromarray(noise(channels=4)).save(folder / "clear.png")
    refuse(folder / "clear.png", folder / "mask.png", "-o", folder / "out.jpg")


@pytest.mark.parametrize(
    ("photo", "options"),
    [
        ("clear.png", ("-o", "out.jpg")),
        ("clear.png", ("-o", "out.ppm", "--samples", "2")),
        ("photo.png", ("-o", "out.gif")),
        ("photo.png", ("--dilate", "-1")),
        ("photo.png", ("--dilate", "100")),
        ("photo.png", ("--feather", "-1")),
        ("photo.png", ("--seed", "-1")),
        ("wide.png", ("-o", "out.png", "--confidence", "sure.webp")),
    ],
)
def test_what_can_be_known_at_once_is_said_before_the_model_is_loaded(
    photo: str, options: tuple[str, ...], folder: Path
) -> None:
    Image.fromarray(noise(channels=4)).save(folder / "clear.png")
    Image.new("L", (17_000, 2), 9).save(folder / "wide.png")
    mask = "mask.png"
    if photo == "wide.png":
        mask = save_mask(folder / "scratch.png", np.indices((2, 17_000))[1] < 9).name
    before = contents(folder)
    code = (
        "import sys\nfrom maerestore.cli.main import main\ntry:\n    code = main(sys.argv[1:])\n"
        "except SystemExit as stop:\n    code = stop.code\nprint(code, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "inpaint", photo, mask, *options]
    done = subprocess.run(
        command, cwd=folder, env=_environment(), capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.split() == ["2", "False"]
    assert done.stderr.count("\n") == 1
    assert contents(folder) == before


def test_an_erased_photo_can_become_a_jpeg(fill: Fill, folder: Path) -> None:
    image = np.dstack([noise(), np.where(hole(), 0, 255).astype(np.uint8)])
    Image.fromarray(image).save(folder / "cut.png")
    assert fill(folder / "cut.png", folder / "mask.png", "-o", folder / "out.jpg", "--sharp", "off", "--quiet") == 0


# --- a write that fails


def _broken_writer(error: BaseException) -> Callable[..., None]:
    def write(photo: Any, file: Any, quality: Any) -> None:
        file.write(b"half a file")
        file.flush()
        raise error

    return write


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_leaves_no_partial_file(
    overwrite: bool, refuse: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maerestore.image import encode

    monkeypatch.setitem(encode._WRITERS, "PNG", _broken_writer(OSError(errno.ENOSPC, "No space left on device")))
    options: tuple[str, ...] = ()
    if overwrite:
        (folder / "photo_filled.png").write_bytes(b"precious")
        options = ("--overwrite",)
    said = refuse(folder / "photo.png", folder / "mask.png", *options)
    assert said.endswith("cannot be written (No space left on device): free space or choose another output.\n")


def test_a_move_that_fails_leaves_no_partial_file(
    refuse: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", fail)
    assert refuse().endswith("cannot be written (Permission denied): choose another output.\n")


@pytest.mark.parametrize(("error", "code"), [(MemoryError(), 2), (KeyboardInterrupt(), 130)])
@pytest.mark.parametrize("stage", ["fill", "write"])
def test_an_interrupt_leaves_no_partial_file(
    stage: str,
    error: BaseException,
    code: int,
    fill: Fill,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from maerestore.image import encode
    from maerestore.inpaint import pipeline

    def fail(*_: Any, **__: Any) -> None:
        raise error

    if stage == "fill":
        monkeypatch.setattr(pipeline, "coarse_fill", fail)
    else:
        monkeypatch.setitem(encode._WRITERS, "PNG", _broken_writer(error))
    before = contents(folder)
    assert fill(folder / "photo.png", folder / "mask.png") == code
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert contents(folder) == before


# --- models


@pytest.fixture
def bad_model(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the model folder, to be spoilt."""
    copy = tmp_path_factory.mktemp("bad")
    for name in ("config.json", "model.safetensors"):
        (copy / name).write_bytes((model_folder / name).read_bytes())
    return copy


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["missing", "empty", "no image", "truncated", "a folder"])
def test_a_model_folder_with_a_bad_file(
    how: str, name: str, refuse: Callable[..., str], folder: Path, bad_model: Path
) -> None:
    _spoilt(bad_model / name, how)
    assert name in refuse(folder / "photo.png", folder / "mask.png", "--model", bad_model)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "other"},
        {"autoencoder": None},
        {"autoencoder": {"image_size": "large"}},
        {"autoencoder": {"image_size": 33}},
        {"autoencoder": {"colour": 1}},
    ],
)
def test_a_model_folder_with_a_bad_config(
    change: dict[str, Any], refuse: Callable[..., str], folder: Path, bad_model: Path
) -> None:
    config = json.loads((bad_model / "config.json").read_text())
    (bad_model / "config.json").write_text(json.dumps(config | change))
    refuse(folder / "photo.png", folder / "mask.png", "--model", bad_model)


@pytest.mark.parametrize(
    "settings",
    [
        {"curve": {"distance": [0, 1], "share": [0]}},
        {"curve": {"distance": [0, 1], "share": [0, 2]}},
        {"curve": {"distance": [0, 1], "shares": [0, 1]}},
        {"curve": {"distance": ["a"], "share": [0]}},
        {"curve": None},
        {"curve": [0, 1]},
        {"smooth": "a little"},
        {"size": [32]},
        *(value for value in ({"size": -8}, {"size": 5}, {"smooth": float("inf")})),
        [1, 2],
        "curve",
        3,
    ],
)
def test_a_model_folder_with_bad_fill_settings(
    settings: Any, refuse: Callable[..., str], folder: Path, bad_model: Path
) -> None:
    config = json.loads((bad_model / "config.json").read_text())
    (bad_model / "config.json").write_text(json.dumps(config | {"fill": settings}))
    refuse(folder / "photo.png", folder / "mask.png", "--model", bad_model)


@pytest.mark.parametrize("name", ["nonesuch", "", "a/b/c", "no such folder/", "@main"])
def test_an_unknown_model_name(name: str, refuse: Callable[..., str], folder: Path) -> None:
    assert "default" in refuse(folder / "photo.png", folder / "mask.png", "--model", name)


def test_an_unknown_model_on_the_hub(refuse: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("404 Client Error\nwith a second line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert "nobody/nothing" in refuse(folder / "photo.png", folder / "mask.png", "--model", "nobody/nothing")


def test_a_device_that_is_not_there(refuse: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "cuda" in refuse(folder / "photo.png", folder / "mask.png", "--device", "cuda")


# --- the real exit code


def _environment() -> dict[str, str]:
    root = str(Path(maerestore.__file__).parents[1])
    return os.environ | {"PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", "")}


def _command(*arguments: Any, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "maerestore", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=_environment(), capture_output=True, text=True, timeout=120, check=False
    )


def test_the_process_ends_with_2_after_one_line(folder: Path) -> None:
    (folder / "photo.png").write_bytes(b"no image")
    before = contents(folder)
    done = _command("inpaint", "photo.png", "mask.png", cwd=folder)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "photo.png" in done.stderr
    assert contents(folder) == before


def test_the_process_ends_with_0_and_says_nothing_when_quiet(folder: Path, model_folder: Path) -> None:
    options = ("--model", model_folder, "--device", "cpu", "--quiet")
    done = _command("inpaint", "photo.png", "mask.png", *options, cwd=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (folder / "photo_filled.png").is_file()


@pytest.mark.parametrize("arguments", [[], ["inpaint"], ["nonsense"], ["inpaint", "a.png", "b.png", "--dilate", "x"]])
def test_wrong_usage_ends_with_2_and_no_traceback(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from maerestore.cli.main import main

    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("maerestore")
    assert err.count("\n") == 1
