"""The fit of the blend: known shares come back, and the whole script writes what the pipeline reads."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import fit_blend  # noqa: E402
from fit_blend import KNOTS, fit_shares, held_out_photos  # noqa: E402


def test_known_shares_come_back() -> None:
    rng = np.random.default_rng(0)
    distance = rng.uniform(0, KNOTS[-1], 20_000)
    wanted = np.linspace(0, 1, len(KNOTS)) ** 2
    share = np.interp(distance, KNOTS, wanted)
    step = rng.normal(size=(20_000, 3))  # coarse - harmonic
    truth = share[:, None] * step + rng.normal(scale=0.3, size=step.shape)  # truth - harmonic
    found = fit_shares(distance, (truth * step).sum(1), (step**2).sum(1))
    np.testing.assert_allclose(found, wanted, atol=0.03)


def test_knots_that_no_pixel_is_near_follow_their_neighbours() -> None:
    distance = np.full(100, 2.0)
    found = fit_shares(distance, np.full(100, 0.5), np.ones(100))
    np.testing.assert_allclose(found, 0.5, atol=0.01)


def test_photographs_are_decoded_as_in_training(tmp_path: Path) -> None:
    """Upright, 16 bits scaled and not clipped, on white; a corrupt one is passed over."""
    from maerestore.train.packing import held_out

    names = [name for name in (f"{i}.png" for i in range(2000)) if held_out(name)][:12]
    top = np.zeros((40, 40, 3), np.uint8)
    top[:20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    Image.fromarray(np.rot90(top).copy()).save(tmp_path / names[0], exif=exif)
    Image.fromarray(np.full((40, 40), 0x8000, np.uint16)).save(tmp_path / names[1])
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(tmp_path / names[2])
    (tmp_path / names[3]).write_bytes(b"\xff\xd8broken")
    for name in names[4:]:
        Image.new("RGB", (40, 40), (7, 7, 7)).save(tmp_path / name)
    found = {photo.mean(): photo for photo in held_out_photos(tmp_path, 20, 40)}
    assert len(held_out_photos(tmp_path, 20, 40)) == 11
    assert sorted(round(float(mean), 2) for mean in found) == [0.03, 0.5, 0.5, 1.0]
    assert any(np.array_equal(photo, top / np.float32(255)) for photo in found.values())


@pytest.mark.slow
def test_the_script_writes_settings_that_the_pipeline_reads(tiny_model, tmp_path: Path) -> None:
    from maerestore import Inpainter
    from maerestore.hub.refiner import save_refiner
    from maerestore.hub.save import save_autoencoder
    from maerestore.model.refiner import Refiner, RefinerConfig
    from maerestore.train.packing import held_out

    (tmp_path / "photos").mkdir()
    names = [name for name in (f"{i}.png" for i in range(1000)) if held_out(name)][:8]
    for name in names:
        noise = np.random.default_rng(len(name)).integers(0, 256, (70, 90, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / name)
    save_autoencoder(tiny_model(mask_embed=True), tmp_path / "model")
    command = [str(tmp_path / "model"), "--photos", str(tmp_path / "photos"), "--size", "64", "--window", "24"]
    assert fit_blend.main(command) == 0
    settings = json.loads((tmp_path / "model/config.json").read_text())["fill"]
    inpainter = Inpainter.from_pretrained(str(tmp_path / "model"), device="cpu")
    assert inpainter.size == settings["size"] == 24
    assert inpainter.smooth == settings["smooth"] == 1.0
    assert inpainter.curve.share == tuple(settings["curve"]["share"])

    # A refiner beside it draws fills of its own; the curve is the autoencoder's.
    config = RefinerConfig(
        feature_dim=inpainter.model.config.decoder_embed_dim, widths=(4, 4, 8, 8), dilations=(1,), feature_layer=1
    )
    refiner = Refiner(config)
    torch.nn.init.constant_(refiner.head.bias, 0.5)
    save_refiner(refiner, tmp_path / "model", None)
    assert fit_blend.main(command) == 0
    assert json.loads((tmp_path / "model/config.json").read_text())["fill"] == settings


def test_a_run_folder_is_its_model_and_a_model_of_others_is_refused_before_the_work(
    tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from maerestore.hub.save import save_autoencoder

    photos = [np.random.default_rng(i).random((32, 32, 3)).astype(np.float32) for i in range(2)]
    monkeypatch.setattr(fit_blend, "held_out_photos", lambda *_: photos)
    monkeypatch.setattr(fit_blend, "FAMILIES", ["centre"])
    save_autoencoder(tiny_model(mask_embed=True), tmp_path / "run/model", {"samples": 3})
    (tmp_path / "run/checkpoint.pt").write_bytes(b"")
    command = [str(tmp_path / "run"), "--photos", "-", "--size", "32"]
    assert fit_blend.main(command) == 0
    written = json.loads((tmp_path / "run/model/config.json").read_text())
    assert written["fill"]["size"] == 32
    assert written["training"] == {"samples": 3}
    assert {path.name for path in (tmp_path / "run/model").iterdir()} == {"config.json", "model.safetensors"}

    monkeypatch.setattr(fit_blend, "Inpainter", None)  # nothing is read for it
    config = tmp_path / "run/model/config.json"
    config.write_text(json.dumps({"model_type": "vit_mae"}))
    assert fit_blend.main(command) == 2
    assert "not a model of this package" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["model", "photos"])
def test_bad_input_is_one_line(tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path if missing == "model" else ROOT / "weights"
    assert fit_blend.main(["--photos", str(tmp_path / "nowhere"), str(model)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("fit_blend: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize("option", [("--smooth", "nan"), ("--smooth", "-1"), ("--window", "3"), ("--window", "-32")])
def test_what_no_model_could_be_loaded_with_is_not_written(
    option: tuple[str, str], tiny_model, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from maerestore.hub.save import save_autoencoder

    save_autoencoder(tiny_model(mask_embed=True), tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    assert fit_blend.main([str(tmp_path), "--photos", str(tmp_path), *option]) == 2
    assert capsys.readouterr().err.startswith("fit_blend: --smooth and --window do not fit")
    assert (tmp_path / "config.json").read_bytes() == before
