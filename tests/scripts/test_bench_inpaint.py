"""The inpainting benchmark: its metrics against values worked out by hand, and the whole script on two tiny photos."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import bench_inpaint  # noqa: E402
from benchlib import frechet, metrics, peers, photos, report, reuse, runner  # noqa: E402

from maerestore.hub.digest import model_digest  # noqa: E402
from maerestore.hub.save import save_autoencoder  # noqa: E402
from maerestore.masking import FAMILIES  # noqa: E402
from maerestore.model import MAEConfig, MaskedAutoencoder  # noqa: E402

# Stands in for the evaluation networks: a distance that can be worked out by hand.
NETS = """
import torch

def lpips_squeeze(spatial=False):
    def distance(a, b):
        difference = (a - b).abs().mean(1, keepdim=True)
        return difference if spatial else difference.mean((2, 3), keepdim=True)
    return distance

def MobileNetV2():
    return lambda x: torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)
"""


RECORDS = [
    {"photo": photo, "size": 64, "family": "thin", "method": method, "coverage": 0.1, "psnr": psnr, "lpips": lpips}
    for method, values in {
        "peer a": ((20, 0.5), (30, 0.5)),
        "peer b": ((21, 0.6), (27, 0.6)),
        "ours": ((22, 0.4), (31, 0.2)),
    }.items()
    for photo, (psnr, lpips) in zip("xy", values, strict=True)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos (one wider than high, one smaller than 32 px), a random model and stand-in evaluation networks."""
    folder = tmp_path_factory.mktemp("bench")
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for name, (height, width) in {"a.png": (40, 56), "b.jpg": (24, 24)}.items():
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / "photos" / name)
    (folder / "photos" / "notes.txt").write_text("no photo")
    config = MAEConfig(image_size=32, patch_size=8, embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=16,
                       decoder_depth=1, decoder_num_heads=2, mask_embed=True)  # fmt: skip
    save_autoencoder(MaskedAutoencoder(config), folder / "model")
    (folder / "nets").mkdir()
    (folder / "nets" / "nets.py").write_text(NETS)
    return folder


def gray(values: np.ndarray) -> np.ndarray:
    """(H, W) values as an (H, W, 3) picture."""
    return np.repeat(values.clip(0, 255).astype(np.uint8)[..., None], 3, -1)


def holed() -> tuple[np.ndarray, np.ndarray]:
    """A vertical ramp (16, 16, 3) and a hole in it."""
    picture = np.repeat(np.linspace(40, 190, 16).round().astype(np.uint8)[:, None, None], 16, 1).repeat(3, 2)
    mask = np.zeros((16, 16), bool)
    mask[5:11, 5:11] = True
    return picture, mask


class TestMetrics:
    """Known errors, and nothing outside the hole counts for the hole's metrics."""

    def test_hole_values(self) -> None:
        truth = np.full((4, 4, 3), 100, np.uint8)
        mask = np.zeros((4, 4), bool)
        mask[0, :2] = True
        fill = truth.copy()
        fill[0, 0] += 10
        fill[0, 1] -= 20
        fill[3] = 0
        assert metrics.hole_l1(truth, fill, mask) == pytest.approx(15 / 255)
        assert metrics.hole_psnr(truth, fill, mask) == pytest.approx(10 * math.log10(255**2 / 250))

    def test_perfect_fill(self) -> None:
        picture, mask = holed()
        values = metrics.measure(picture, picture, mask)
        assert values == {"psnr": metrics.PSNR_CAP, "l1": 0, "ssim": pytest.approx(1), "texture": None}

    def test_ssim_of_flat_pictures(self) -> None:
        # Without variance only the luminance term is left.
        a, b = np.full((16, 16, 3), 50, np.uint8), np.full((16, 16, 3), 100, np.uint8)
        c = (0.01 * 255) ** 2
        assert metrics.ssim(a, b) == pytest.approx((2 * 50 * 100 + c) / (50**2 + 100**2 + c))

    def test_lpips_whole_and_hole(self, folder: Path) -> None:
        picture, mask = holed()
        fill = picture.copy()
        fill[mask] = picture[mask] + 51  # 0.4 in [-1, 1]
        whole, hole = metrics.Lpips(folder / "nets")(picture, fill, mask)
        assert hole == pytest.approx(0.4, abs=1e-5)
        assert whole == pytest.approx(0.4 * mask.mean(), abs=1e-5)

    def test_texture_ratio(self) -> None:
        rng = np.random.default_rng(0)
        mask = np.zeros((96, 96), bool)
        mask[24:72, 24:72] = True
        noise = rng.normal(0, 10, (96, 96))
        same = (128 + noise).round()
        assert metrics.texture_ratio(gray(same), mask) == pytest.approx(1, abs=0.15)
        # Half the amplitude is a quarter of the energy; a step at the rim is no texture.
        faint = (128 + np.where(mask, noise / 2 + 60, noise)).round()
        assert metrics.texture_ratio(gray(faint), mask) == pytest.approx(0.25, abs=0.05)
        flat = np.where(mask, 100, same)
        assert metrics.texture_ratio(gray(flat), mask) < 0.01
        assert metrics.texture_ratio(gray(np.full((96, 96), 100)), mask) == 1
        # Far pixels do not count.
        far = np.where(np.arange(96)[:, None] < 96, same, 0)
        wide = np.pad(far, ((0, 0), (0, 60)), constant_values=100)
        assert metrics.texture_ratio(gray(wide), np.pad(mask, ((0, 0), (0, 60)))) == pytest.approx(1, abs=0.3)
        thin = np.zeros((96, 96), bool)
        thin[40:43] = True
        assert metrics.texture_ratio(gray(same), thin) is None

    def test_confidence_rank(self) -> None:
        truth = np.full((32, 32, 3), 100, np.uint8)
        mask = np.zeros((32, 32), bool)
        mask[:, 4:] = True
        error = np.repeat(np.repeat(np.arange(16).reshape(4, 4), 8, 0), 8, 1)  # one value a block
        fill = truth + error[..., None].astype(np.uint8)
        sure = 1 - error / 20
        assert metrics.confidence_rank(truth, fill, mask, sure) == pytest.approx(1)
        assert metrics.confidence_rank(truth, fill, mask, error / 20) == pytest.approx(-1)
        # By hand: 16 blocks, doubts of two neighbours in rank swapped: 1 - 6 * 2 / (16 * 255).
        swapped = np.where(error == 3, 4, np.where(error == 4, 3, error))
        assert metrics.confidence_rank(truth, fill, mask, 1 - swapped / 20) == pytest.approx(1 - 12 / 4080)
        assert metrics.confidence_rank(truth, fill, mask, np.ones((32, 32))) is None
        small = np.zeros((32, 32), bool)
        small[:8, :16] = True
        assert metrics.confidence_rank(truth, fill, small, sure) is None


class TestFrechet:
    """The distance against its closed form, and the places of the crops."""

    def test_shift_and_scale(self) -> None:
        rng = np.random.default_rng(0)
        a = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5))
        assert frechet.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
        assert frechet.frechet_distance(a, a + 2) == pytest.approx(5 * 4)
        # Covariances C and 9 C: tr(C) + 9 tr(C) - 2 * 3 tr(C); and the means are apart by twice that of a.
        expected = 4 * np.trace(np.cov(a, rowvar=False)) + np.sum((2 * a.mean(0)) ** 2)
        assert frechet.frechet_distance(a, 3 * a) == pytest.approx(expected)

    def test_one_dimension_and_singular(self) -> None:
        a, b = np.array([[0.0], [2.0], [4.0]]), np.array([[1.0], [2.0], [9.0]])
        expected = (2 - 4) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
        assert frechet.frechet_distance(a, b) == pytest.approx(expected)
        few = np.random.default_rng(0).normal(size=(4, 20))  # far fewer samples than dimensions
        assert frechet.frechet_distance(few, few + 1) == pytest.approx(20)

    def test_against_scipy(self) -> None:
        from scipy.linalg import sqrtm

        rng = np.random.default_rng(1)
        a, b = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(150, 6)) @ rng.normal(size=(6, 6))
        one, two = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
        expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(one + two - 2 * np.real(sqrtm(one @ two)))
        assert frechet.frechet_distance(a, b) == pytest.approx(expected)

    def test_crops_hold_hole_pixels(self) -> None:
        mask = np.zeros((200, 150), bool)
        mask[0, 140:] = mask[90:120, 60:90] = mask[150:160, 3:9] = True
        corners = frechet.crop_corners(0, "thin", "a.png", mask, 40)
        assert len(set(corners)) > 5
        for top, left in corners:
            crop = mask[top : top + frechet.CROP, left : left + frechet.CROP]
            assert crop.shape == (frechet.CROP, frechet.CROP)
            assert crop.any()
        assert frechet.crop_corners(0, "thin", "a.png", mask, 9) == corners[:9]
        assert frechet.crop_corners(1, "thin", "a.png", mask, 40) != corners
        assert frechet.crops_per_hole(240) == 9
        assert frechet.crops_per_hole(1) == frechet.MAX_OF_A_HOLE

    def test_embedding_sees_the_crops(self, folder: Path) -> None:
        picture = np.zeros((100, 120, 3), np.uint8)
        picture[:, 24:] = (255, 0, 102)
        got = frechet.Embedder(folder / "nets")(picture, [(0, 24)] * 5 + [(4, 24)])
        assert got.shape == (6, 6)
        np.testing.assert_allclose(got[:, :3], [[1, 0, 0.4]] * 6, atol=1e-3)
        np.testing.assert_allclose(got[:, 3:], 0, atol=1e-3)


class TestPeers:
    """Each peer is a fill: known pixels stay, a smooth hole is nearly restored."""

    @pytest.mark.parametrize("name", peers.PEERS)
    def test_fills_a_ramp(self, name: str) -> None:
        picture, mask = holed()
        given = picture.copy()
        given[mask] = 255
        before = given.copy()
        fill = peers.PEERS[name](given, mask)
        assert fill.dtype == np.uint8
        assert fill.shape == picture.shape
        np.testing.assert_array_equal(given, before)
        np.testing.assert_array_equal(fill[~mask], picture[~mask])
        limit = 1 if "harmonic" in name else 30  # a ramp solves Laplace's equation and the biharmonic one
        assert np.abs(fill[mask].astype(int) - picture[mask]).max() <= limit


class TestPhotos:
    """What is measured depends on the seed and the names only."""

    def test_spread_takes_both_ends(self) -> None:
        entries = [photos.Entry(str(i), Path(str(i))) for i in range(10)]
        assert [e.name for e in photos.spread(entries, 4)] == ["0", "3", "6", "9"]
        assert photos.spread(entries, 20) == entries
        assert len(photos.spread(entries, 1)) == 1

    def test_centre_square(self) -> None:
        picture = np.zeros((10, 30, 3), np.uint8)
        picture[:, 10:20] = 200
        square = photos.centre_square(Image.fromarray(picture), 5)
        assert square.shape == (5, 5, 3)
        assert (square == 200).all()

    def test_masks_follow_from_seed_family_and_name(self) -> None:
        mask = photos.mask_for(0, "thick", "a.png", 64)
        np.testing.assert_array_equal(mask, photos.mask_for(0, "thick", "a.png", 64))
        for other in ((1, "thick", "a.png"), (0, "medium", "a.png"), (0, "thick", "b.png")):
            assert (mask != photos.mask_for(*other, 64)).any()


class TestReport:
    """Means, marks and paired statistics."""

    def test_paired_difference(self) -> None:
        mean, error = report.paired_difference([1, 2, 6], [0, 0, 0])
        assert mean == 3
        assert error == pytest.approx(math.sqrt(7 / 3))
        assert report.paired_difference([2], [1]) == (1, None)

    def test_best_peer_is_taken(self) -> None:
        rows = {row["metric"]: row for row in report.compare(RECORDS, ["ours"], ["peer a", "peer b"])}
        assert rows["psnr"]["against"] == rows["lpips"]["against"] == "peer a"
        assert rows["psnr"]["difference"] == 1.5
        assert rows["psnr"]["standard_error"] == pytest.approx(0.5)
        assert rows["psnr"]["better"]
        assert not report.compare(RECORDS, [], ["peer a"])
        assert rows["lpips"]["difference"] == pytest.approx(-0.2)
        assert "against peer a" in report.format_comparisons(list(rows.values()))

    def test_without_peers_models_meet_the_first(self) -> None:
        rows = report.compare(RECORDS, ["peer b", "ours"], [])
        assert {(row["method"], row["against"]) for row in rows} == {("ours", "peer b")}

    def test_table_marks_the_best(self) -> None:
        lines = report.format_table(report.summarise(RECORDS)).splitlines()
        assert lines[0] == "thin, 64 px, 2 photos, hole 10.0 %"
        marked = {line.split("  ")[0]: [cell.endswith("*") for cell in line.split()[-2:]] for line in lines[2:]}
        assert marked == {"peer a": [False, False], "peer b": [False, False], "ours": [True, True]}


class TestScript:
    """The whole run."""

    def test_every_method_and_file(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = ["--photos", str(folder / "photos"), "--evalnets", str(folder / "nets"), "--sizes", "32", "48",
                   "--model", f"first={folder / 'model'}", "--model", str(folder / "model"), "--device", "cpu",
                   "--json", str(tmp_path / "out.json"), "--sheet", str(tmp_path / "out.jpg")]  # fmt: skip
        assert bench_inpaint.main(command) == 0
        printed = capsys.readouterr().out
        assert "1 of 2 photos are smaller than 32 px" in printed
        assert "2 of 2 photos are smaller than 48 px" in printed
        assert "known pixels: identical" in printed
        assert "left out" not in printed

        result = json.loads((tmp_path / "out.json").read_text())
        methods = [*peers.PEERS, "first", "model"]
        assert {(v["photo"], v["size"], v["family"], v["method"]) for v in result["values"]} == {
            (p, s, f, m) for p in ("a.png", "b.jpg") for s in (32, 48) for f in FAMILIES for m in methods
        }
        always = ("psnr", "l1", "ssim", "lpips", "lpips_hole", "seconds")
        assert all(math.isfinite(value[name]) for value in result["values"] for name in always)
        assert result["complete"]
        assert [(row["size"], row["method"]) for row in result["frechet"]] == [
            (s, m) for s in (32, 48) for m in methods
        ]
        assert all(row["distance"] >= 0 and row["crops"] == 2 * 4 * 32 for row in result["frechet"])
        ranks = [value["spearman"] for value in result["values"] if value["method"] == "first"]
        assert any(rank is not None and -1 <= rank <= 1 for rank in ranks)
        assert [p["name"] for p in result["photos"]] == ["a.png", "b.jpg"]
        assert result["settings"]["models"]["first"]["model_sha256"] == model_digest(folder / "model")
        row = result["means"][0]
        same = [v for v in result["values"] if all(v[k] == row[k] for k in ("size", "family", "method"))]
        assert row["psnr"] == pytest.approx(np.mean([v["psnr"] for v in same]))
        first, second = ([v["psnr"] for v in result["values"] if v["method"] == m] for m in ("first", "model"))
        assert first == second  # one model under two names

        with Image.open(tmp_path / "out.jpg") as sheet:
            assert sheet.format == "JPEG"
            assert sheet.size == (22 + (2 + len(methods)) * 36, 22 + 2 * len(FAMILIES) * 36)

    def test_as_a_command_on_a_part(self, folder: Path, tmp_path: Path) -> None:
        command = [sys.executable, str(ROOT / "scripts" / "bench_inpaint.py"), "--photos", str(folder / "photos"),
                   "--sizes", "32", "--families", "centre", "--limit", "1", "--no-peers", "--model",
                   f"m={folder / 'model'}", "--json", str(tmp_path / "out.json")]  # fmt: skip
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "LPIPS and the Frechet distance are left out" in done.stdout
        result = json.loads((tmp_path / "out.json").read_text())
        assert result["photos_in_folder"] == 2
        assert result["paired"] == []
        assert [(v["family"], v["method"], "lpips" in v) for v in result["values"]] == [("centre", "m", False)]

    def test_reuse(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        common = ["--photos", str(folder / "photos"), "--evalnets", str(folder / "nets"), "--sizes", "32",
                  "--families", "centre", "thick"]  # fmt: skip
        old, new = tmp_path / "old.json", tmp_path / "new.json"
        assert bench_inpaint.main([*common, "--peers-only", "--json", str(old)]) == 0
        earlier = json.loads(old.read_text())
        # Only a reused value can be one that no method gives.
        for value in earlier["values"]:
            value["psnr"] += 1000
        del earlier["values"][0]  # of a run that was cut off
        old.write_text(json.dumps(earlier))
        model = ["--model", f"m={folder / 'model'}", "--reuse", str(old), "--json", str(new)]
        capsys.readouterr()
        assert bench_inpaint.main([*common, *model, "--anew", "harmonic", "--plot", str(tmp_path / "p.png")]) == 0
        printed = capsys.readouterr().out
        assert "telea (reused)" in printed
        assert "\nharmonic (reused)" not in printed
        assert "reused: 4 of biharmonic from old.json" in printed
        result = json.loads(new.read_text())
        old_ones = {(v["method"], v["psnr"] > 500) for v in result["values"]}
        assert old_ones == {("telea", True), ("telea", False), ("navier-stokes", True), ("biharmonic", True),
                            ("harmonic", False), ("patchmatch", True), ("m", False)}  # fmt: skip
        # The distance comes from the stored crops, as if it had been run.
        assert [r for r in result["frechet"] if r["method"] != "m"] == earlier["frechet"]
        assert Image.open(tmp_path / "p.png").size[0] > 400

        # Without their crops the rest can still be had; and a method that this run does not know comes along.
        reuse.crops_path(old).unlink()
        assert bench_inpaint.main([*common, *model, "--no-peers", "--families", "thick"]) == 0
        result = json.loads(new.read_text())
        assert {r["method"]: r["distance"] is None for r in result["frechet"]} == {
            "m": False, **dict.fromkeys(peers.PEERS, True)}  # fmt: skip
        assert result["settings"]["methods"]["telea"] == "peer"
        assert {row["against"] for row in result["paired"]} <= set(peers.PEERS)

    def test_reuse_is_refused(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        common = ["--photos", str(folder / "photos"), "--sizes", "32", "--families", "centre", "--peers-only"]
        old = tmp_path / "old.json"
        assert bench_inpaint.main([*common, "--limit", "1", "--json", str(old)]) == 0
        good = old.read_text()
        rest = ["--peers-only", "--reuse", str(old)]
        base = ["--photos", str(folder / "photos"), "--sizes", "32"]
        other = json.loads(good)
        other["photos"][0]["sha256"] = "0"
        for command, text, message in (
            ([*common, "--reuse", str(old), "--seed", "1"], good, "has seed 0, this run 1"),
            (
                [*common, "--reuse", str(old), "--evalnets", str(folder / "nets")],
                good,
                "has lpips False, this run True",
            ),
            ([*common, "--reuse", str(old)], json.dumps(other), "another photo a.png"),
            ([*common, "--reuse", str(old)], "[]", "cannot be read as a result"),
            ([*common, "--reuse", str(old)], good.replace('"format": 2', '"format": 1'), "has format 1"),
            ([*common, "--reuse", str(tmp_path / "none.json")], good, "cannot be read"),
            (
                [*base, "--no-peers", "--model", f"m={folder / 'model'}", *rest[1:]],
                good,
                "has no telea for a.png, thin",
            ),
        ):
            old.write_text(text)
            assert bench_inpaint.main(command) == 2
            assert message in capsys.readouterr().err.strip().splitlines()[-1]

    def test_small_photos_are_left_out(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = ["--photos", str(folder / "photos"), "--peers-only", "--families", "centre", "--json",
                   str(tmp_path / "out.json")]  # fmt: skip
        assert bench_inpaint.main([*command, "--sizes", "64", "32"]) == 0
        printed = capsys.readouterr().out
        assert "1 of 2 photos would be enlarged more than 2 times for 64 px and were left out" in printed
        assert "1 of 2 photos are smaller than 64 px and were enlarged" in printed
        result = json.loads((tmp_path / "out.json").read_text())
        assert {(v["photo"], v["size"]) for v in result["values"]} == {("a.png", 64), ("a.png", 32), ("b.jpg", 32)}
        assert result["skipped"] == [{"photo": "b.jpg", "size": 64}]
        assert bench_inpaint.main([*command, "--sizes", "100"]) == 2
        assert "every photo would be enlarged by more than 2 for 100 px" in capsys.readouterr().err

    def test_user_errors(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        good, model = str(folder / "photos"), str(folder / "model")
        (tmp_path / "broken.png").write_bytes(b"no picture")
        for command, text in (
            (["--photos", str(tmp_path / "none")], "no photo folder"),
            (["--photos", str(folder / "model")], "no photos in"),
            (["--photos", str(tmp_path), "--model", model, "--sizes", "32"], "broken.png cannot be read"),
            (["--photos", good, "--model", str(tmp_path / "none")], "no model"),
            (["--photos", good, "--model", model, "--model", model], "two methods are called 'model'"),
            (["--photos", good, "--model", f"telea={model}"], "two methods are called 'telea'"),
            (["--photos", good, "--evalnets", str(tmp_path)], "no nets.py"),
            (["--photos", good, "--model", model, "--xphoto", str(tmp_path / "none")], "cannot be run"),
            (["--photos", good, "--model", model, "--xphoto", "/bin/false"], "died (exit code 1)"),
            (["--photos", good, "--model", model, "--onnx", "x"], "give NAME=FILE"),
            (["--photos", good, "--model", model, "--onnx", f"x={tmp_path / 'none'}"], "no file"),
            (["--photos", good, "--model", model, "--onnx", "fsr=none"], "two methods are called 'fsr'"),
            (["--photos", good, "--model", model, "--onnx", f"x={tmp_path / 'broken.png'}"], "cannot be loaded"),
            (["--photos", good, "--json", str(tmp_path / "none" / "out.json")], "no folder"),
        ):
            assert bench_inpaint.main(command) == 2
            message = capsys.readouterr().err.strip().splitlines()[-1]
            assert message.startswith("bench_inpaint: ")
            assert text in message

    def test_changed_known_pixels_are_refused(self) -> None:
        picture, mask = holed()
        fill = picture.copy()
        fill[mask] = 0
        runner.check_known(fill, picture, mask, "m")
        fill[0, 0, 1] += 1
        with pytest.raises(runner.KnownPixelsError, match="1 known pixels"):
            runner.check_known(fill, picture, mask, "m")
        with pytest.raises(runner.KnownPixelsError, match="float32"):
            runner.check_known(picture.astype(np.float32), picture, mask, "m")


def test_a_run_folder_is_a_model(folder: Path, tmp_path: Path) -> None:
    from benchlib.models import load_models

    (tmp_path / "model").symlink_to(folder / "model")
    (tmp_path / "checkpoint.pt").write_bytes(b"of training")
    _, facts, models = load_models([f"old={tmp_path}", f"same={folder / 'model'}"], "cpu", smooth=True)
    assert set(models) == {"old", "same"}
    assert len({fact["model_sha256"] for fact in facts.values()}) == 1
