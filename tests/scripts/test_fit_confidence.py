"""The fit of the confidence: known constants come back, and the whole script prints what it found."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from fit_confidence import fit, main, measured  # noqa: E402

from maerestore.inpaint.confidence import BASE, REACH, SPREAD, TEXTURE, UNIT, Clues, expected_error  # noqa: E402


def random_clues(count: int = 80_000) -> Clues:
    rng = np.random.default_rng(0)
    return Clues(rng.uniform(0, 0.1, count), rng.uniform(0, 60, count), rng.uniform(0, 0.05, count))


def test_known_constants_come_back() -> None:
    seen = random_clues()
    chance = np.random.default_rng(1).exponential(1, len(seen.texture))  # 1 in the mean
    error = expected_error(seen) * chance
    found = fit(seen, error, REACH)
    np.testing.assert_allclose([found.texture, found.base, found.spread], [TEXTURE, BASE, SPREAD], rtol=0.1)
    assert fit(seen, expected_error(seen), REACH).rest < 1e-3 < fit(seen, expected_error(seen), 2 * REACH).rest


def test_no_constant_is_below_zero() -> None:
    seen = random_clues()
    found = fit(seen, 0.5 * seen.texture - 0.2 * seen.spread, REACH)
    assert (found.base, found.spread) == (0, 0)
    assert found.texture > 0.3


def test_the_clues_are_those_of_the_map(tiny_model) -> None:
    from maerestore import Inpainter

    inpainter = Inpainter(tiny_model(mask_embed=True), precision="fp32")
    photo = np.random.default_rng(0).random((60, 70, 3), dtype=np.float32)
    mask = np.zeros((60, 70), bool)
    mask[20:40, 10:50] = True
    seen, error = measured(inpainter, photo, mask, draws=3, seed=5)
    sure = inpainter.confidence(photo, mask, draws=3, seed=5)
    np.testing.assert_allclose(np.exp(-expected_error(seen) / UNIT), sure[mask], rtol=1e-4)
    fill = inpainter.inpaint(photo, mask, sharp=False)
    np.testing.assert_allclose(error, np.abs(fill - photo).mean(-1)[mask], rtol=1e-5)


def test_the_script_prints_constants_for_each_reach(tiny_model, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from maerestore.hub.save import save_autoencoder
    from maerestore.train.packing import held_out

    (tmp_path / "photos").mkdir()
    for name in [name for name in (f"{i}.png" for i in range(1000)) if held_out(name)][:8]:
        noise = np.random.default_rng(len(name)).integers(0, 256, (70, 90, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / name)
    save_autoencoder(tiny_model(mask_embed=True), tmp_path / "model")
    before = (tmp_path / "model/config.json").read_bytes()
    command = [str(tmp_path / "model"), "--photos", str(tmp_path / "photos"), "--size", "48", "--draws", "2",
               "--reach", "5", "9"]  # fmt: skip
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("8 photographs, ")
    names = [line.split()[:2] for line in lines[2:]]
    assert names == [["committed", f"{REACH:.1f}"], ["fitted", "5.0"], ["fitted", "9.0"]]
    assert (tmp_path / "model/config.json").read_bytes() == before


@pytest.mark.parametrize("missing", ["model", "photos"])
def test_bad_input_is_one_line(tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "none" if missing == "model" else ROOT / "weights"
    assert main(["--photos", str(tmp_path / "nowhere"), str(model)]) == 2
    told = capsys.readouterr().err
    assert told.startswith("fit_confidence: ")
    assert told.count("\n") == 1
