"""The refiner's sharp picture gets a share of its mean one, and gives it back."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from maerestore import MaskedAutoencoder
from maerestore.hub.refiner import load_refiner, save_refiner
from maerestore.hub.save import save_autoencoder
from maerestore.model import MAEConfig
from maerestore.model.refiner import Refined, Refiner, RefinerConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
import mix_heads


def run_script(*arguments: object) -> int:
    return mix_heads.main([str(argument) for argument in arguments])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = MAEConfig(
        image_size=32, patch_size=8, embed_dim=16, depth=1, num_heads=2,
        decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2,
    )  # fmt: skip
    refiner = Refiner(RefinerConfig(feature_dim=16, feature_layer=1, widths=(4, 4, 8, 8), dilations=(1,)))
    torch.nn.init.normal_(refiner.head.weight, std=0.1)
    save_autoencoder(MaskedAutoencoder(config), tmp_path)
    save_refiner(refiner, tmp_path, {"samples": 5}, dtype=torch.float32)
    return tmp_path


@torch.inference_mode()
def drawn(model: Path) -> Refined:
    refiner = load_refiner(model)
    assert refiner is not None
    generator = torch.Generator().manual_seed(1)
    photo, coarse = torch.rand(2, 1, 3, 32, 32, generator=generator)
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    return refiner(photo, mask, coarse, coarse, torch.rand(1, 16, 4, 4, generator=generator))


def test_the_sharp_picture_lies_between_the_two_and_can_be_had_back(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = drawn(model)
    for share in (0.25, 0.4, 0):  # each in the place of the one before
        assert run_script(model, "--share", share) == 0
        assert capsys.readouterr().err == ""
        now = drawn(model)
        torch.testing.assert_close(now.mean, before.mean, atol=1e-2, rtol=0)  # the file has half precision
        torch.testing.assert_close(now.sharp, (1 - share) * before.sharp + share * before.mean, atol=1e-2, rtol=0)
        notes = json.loads((model / "config.json").read_text())["refiner"]["training"]
        assert notes == {"samples": 5, "mean_share": share}
    assert (before.sharp - before.mean).abs().max() > 0.1  # or nothing was seen


@pytest.mark.parametrize("share", ["1", "-0.1", "nan"])
def test_a_share_that_is_none_changes_nothing(model: Path, share: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = (model / "refiner.safetensors").read_bytes()
    assert run_script(model, "--share", share) == 2
    assert capsys.readouterr().err == f"mix_heads: --share must lie in [0, 1), got {float(share):g}\n"
    assert (model / "refiner.safetensors").read_bytes() == before


def test_a_model_without_a_refiner_is_told(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((model / "config.json").read_text())
    del config["refiner"]
    (model / "config.json").write_text(json.dumps(config))
    assert run_script(model, "--share", 0.4) == 2
    assert capsys.readouterr().err == f"mix_heads: {model}: has no refiner\n"
