"""The benchmark of augmentations, on tiny pictures with a tiny network."""

from __future__ import annotations

import io
import json
import math
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import bench_augment
from benchlib.augment_data import Batches, balanced, hold_out, load_data
from benchlib.augment_methods import ERASING, METHODS, Augmentation, Context, normalize
from benchlib.augment_speed import measure_speed
from benchlib.augment_table import format_table, paired, pool, summarise
from benchlib.augment_train import Recipe, Trainer, train_cell
from benchlib.photos import BenchError

CPU = torch.device("cpu")
COLORS = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]


def write_tar(path: Path, each: int, seed: int) -> None:
    """Pictures of three classes: a colour and some noise."""
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w") as tar:
        for i in range(3 * each):
            noisy = np.clip(np.array(COLORS[i % 3]) + rng.normal(0, 25, (40, 48, 3)), 0, 255).astype(np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(noisy).save(buffer, "WEBP", lossless=True)
            for name, data in ((f"p{i:03d}.webp", buffer.getvalue()), (f"p{i:03d}.cls", str(i % 3).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled") / "colours"
    folder.mkdir()
    write_tar(folder / "colours-train-000000.tar", 20, 0)
    write_tar(folder / "colours-val-000000.tar", 6, 1)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    from maerestore.hub.save import save_autoencoder
    from maerestore.model import MAEConfig, MaskedAutoencoder

    torch.manual_seed(0)
    sizes = {"image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    decoder = {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}
    target = tmp_path_factory.mktemp("model") / "tiny"
    save_autoencoder(MaskedAutoencoder(MAEConfig(**sizes, **decoder)), target)
    return str(target)


TINY = Recipe(network="tiny", side=16, batch_size=12, epochs=6, lr=0.5, precision="fp32")


@pytest.fixture
def bench(folder: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """bench(*options): exit code, stdout, stderr and the JSON file, if there is one."""

    def run(*options: Any) -> tuple[int, str, str, Any]:
        arguments = ["--data", folder, "--model", model, "--network", "tiny", "--side", 16, "--epochs", 1,
                     "--batch-size", 12, "--precision", "fp32", "--device", "cpu", "--json", tmp_path / "r.json",
                     *options]  # fmt: skip
        capsys.readouterr()
        code = bench_augment.main(list(map(str, arguments)))
        path = tmp_path / "r.json"
        return code, *capsys.readouterr(), json.loads(path.read_text()) if path.exists() else None

    return run


# --- data -----------------------------------------------------------------------------------------------------------


def test_pictures_are_decoded_with_their_classes(folder: Path) -> None:
    data = load_data(str(folder), 16)
    assert (data.name, data.classes, len(data.train), len(data.test)) == ("colours", 3, 60, 18)
    assert (data.train.images.shape, data.test.images.shape) == ((60, 3, 20, 20), (18, 3, 16, 16))
    assert data.train.images.dtype == torch.uint8
    for split in (data.train, data.test):
        assert torch.equal(split.images.float().mean((2, 3)).argmax(1), split.labels)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "a-val-0.tar").unlink(), "needs tars"),
        (lambda f: (f / "a-val-0.tar").write_bytes(b"x" * 600), "not a readable tar"),
        (lambda f: drop_labels(f / "a-train-0.tar"), r"p000\.cls is missing"),
    ],
)
def test_data_that_does_not_fit_is_refused(tmp_path: Path, break_it: Callable[[Path], Any], message: str) -> None:
    write_tar(tmp_path / "a-train-0.tar", 2, 0)
    write_tar(tmp_path / "a-val-0.tar", 2, 0)
    break_it(tmp_path)
    with pytest.raises(BenchError, match=message):
        load_data(str(tmp_path), 16)


def drop_labels(path: Path) -> None:
    with tarfile.open(path) as old:
        kept = [(m, old.extractfile(m).read()) for m in old if m.name.endswith(".webp")]
    with tarfile.open(path, "w") as new:
        for member, data in kept:
            new.addfile(member, io.BytesIO(data))


def test_a_subset_is_balanced_and_depends_on_the_seed() -> None:
    labels = torch.arange(100) % 5
    rows = balanced(labels, 0.1, seed=0)
    assert labels[rows].bincount().tolist() == [2] * 5
    assert torch.equal(rows, balanced(labels, 0.1, seed=0))
    assert not torch.equal(rows, balanced(labels, 0.1, seed=1))
    assert torch.equal(balanced(labels, 1, seed=3), torch.arange(100))


def test_held_out_pictures_are_not_trained_on(folder: Path) -> None:
    data = load_data(str(folder), 16)
    held = hold_out(data, 0.25)
    assert (len(held.train), len(held.test)) == (45, 15)
    assert held.test.images.shape[2:] == (16, 16)
    assert held.test.labels.bincount().tolist() == [5, 5, 5]
    kept = {row.numpy().tobytes() for row in held.train.images}
    gone = [row for row in data.train.images if row.numpy().tobytes() not in kept]
    assert len(gone) == 15


def test_batches_pass_over_all_pictures_and_follow_the_seed(folder: Path) -> None:
    split = load_data(str(folder), 16).train
    one, two, other = (iter(Batches(split, 16, 16, seed, (0.35, 1.0))) for seed in (0, 0, 1))
    first, second = [next(one) for _ in range(15)], [next(two) for _ in range(15)]
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True))
    assert not torch.equal(first[0][0], next(other)[0])
    labels = torch.cat([b for _, b in first])  # 240 rows are four passes
    assert labels.bincount().tolist() == [80, 80, 80]
    assert first[0][0].dtype == torch.uint8
    assert first[0][0].shape == (16, 3, 16, 16)


def test_a_whole_crop_is_the_picture_or_its_mirror_image() -> None:
    from benchlib.augment_data import Split

    images = torch.randint(0, 256, (64, 3, 16, 16), dtype=torch.uint8)
    stream = Batches(Split(images, torch.arange(64)), 64, 16, 0, (1.0, 1.0))
    stream.scale = (1e6, 1e6)  # whatever the aspect, both sides are cut to the whole
    crops, rows = next(iter(stream))
    same = (crops == images[rows]).flatten(1).all(1)
    mirrored = (crops == images[rows].flip(3)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 10 < same.sum() < 54


# --- methods --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_every_method_keeps_shapes_and_changes_about_what_it_says(name: str, model: str) -> None:
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    before, labels = images.clone(), torch.arange(64) % 3
    torch.manual_seed(0)
    augment = Augmentation(METHODS[name], Context(3, 0, CPU, model, "fp32"))
    changed, soft = [], []
    for _ in range(8):
        x, targets = augment(images, labels)
        assert (x.shape, x.dtype) == (images.shape, torch.float32)
        changed.append((x != normalize(images)).flatten(1).any(1).float().mean().item())
        soft.append(targets.ndim == 2)
        if targets.ndim == 2:
            assert torch.allclose(targets.sum(1), torch.ones(64))
    assert torch.equal(images, before)
    assert any(soft) == (name in ("MixUp", "CutMix", "MAEAugment + CutMix"))
    share = np.mean(changed)
    if name == "none":
        assert share == 0
    elif name == "MixUp":
        assert share > 0.9
    elif name == "MAEAugment + CutMix":
        assert share > 0.5
    else:
        assert 0.25 < share < 0.75
    if name in ("MAEAugment random", "MAEAugment attention-keep"):
        kept = (x == normalize(images)).all(1).float().mean((1, 2))
        hidden = 1 - kept[kept < 1]
        assert ((hidden > 0.35) & (hidden < 0.8)).all()


def test_both_boxes_of_coarse_dropout_are_the_same() -> None:
    images = torch.full((32, 3, 32, 32), 130, dtype=torch.uint8) + torch.arange(32, dtype=torch.uint8)
    mean, telea = (Augmentation(METHODS[name], Context(3, 4, CPU)) for name in ERASING[1:])
    holes = [(augment(images, torch.zeros(32).long())[0] != normalize(images)).any(1) for augment in (mean, telea)]
    assert (holes[1] & ~holes[0]).sum() == 0  # Telea may find the very colour again
    assert holes[1].sum() > 0.5 * holes[0].sum() > 0


# --- training -------------------------------------------------------------------------------------------------------


def test_the_rate_rises_and_falls() -> None:
    recipe = Recipe(lr=1.0, batch_size=64, warmup=0.1)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001
    assert Recipe(lr=1.0, batch_size=32).rate(10, 100) == 0.5


def test_a_network_learns_colours_and_a_seed_repeats_itself(folder: Path) -> None:
    data = load_data(str(folder), 16)
    cell = train_cell(data, "none", 0, 1.0, TINY, CPU)
    assert cell["accuracy"] > 0.9
    assert (cell["steps"], cell["trained_on"], cell["tested"]) == (30, 60, 18)
    assert cell["correct"] == round(18 * cell["accuracy"])
    again = train_cell(data, "none", 0, 1.0, TINY, CPU)
    assert (again["loss"], again["accuracy"]) == (cell["loss"], cell["accuracy"])
    assert train_cell(data, "none", 1, 1.0, TINY, CPU)["loss"] != cell["loss"]


def test_a_subset_gets_as_many_steps(folder: Path) -> None:
    cell = train_cell(load_data(str(folder), 16), "RandomErasing", 0, 0.1, TINY, CPU)
    assert (cell["steps"], cell["trained_on"]) == (30, 6)


@pytest.mark.parametrize("name", ["RandomErasing", "CoarseDropout (Telea)", "MAEAugment + CutMix"])
def test_methods_repeat_themselves(name: str, folder: Path, model: str) -> None:
    data = load_data(str(folder), 16)
    recipe = Recipe(**{**TINY.to_dict(), "epochs": 1})
    first, second = (train_cell(data, name, 2, 0.5, recipe, CPU, model)["loss"] for _ in range(2))
    assert first == second


def test_resnet18_takes_a_step() -> None:
    trainer = Trainer(Recipe(side=32), 10, CPU, seed=0)
    x, labels = torch.randn(4, 3, 32, 32), torch.arange(4)
    first = trainer.step(x, labels, 0.005)
    for _ in range(3):
        last = trainer.step(x, labels, 0.005)
    assert last < first
    assert sum(p.numel() for p in trainer.network.parameters()) == 11_181_642
    groups = trainer.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [5e-4, 0.0]
    assert all(p.ndim == 1 for p in groups[1]["params"])


# --- table ----------------------------------------------------------------------------------------------------------


def cell(method: str, seed: int, accuracy: float, data: str = "d", fraction: float = 1.0) -> dict[str, Any]:
    return {"data": data, "fraction": fraction, "seed": seed, "method": method, "accuracy": accuracy,
            "images_per_second": 100.0 + seed, "augment_share": 0.1}  # fmt: skip


OURS, THEIRS, WORSE = (0.62, 0.65, 0.68), (0.60, 0.61, 0.65), (0.50, 0.70, 0.60)
CELLS = [
    cell(method, seed, value)
    for method, values in (("MAEAugment random", OURS), ("CoarseDropout", THEIRS), ("RandomErasing", WORSE))
    for seed, value in enumerate(values)
]


def test_means_deviations_and_tests_are_those_worked_out_by_hand() -> None:
    rows = {row["method"]: row for row in summarise(CELLS)}
    ours, best = rows["MAEAugment random"], rows["CoarseDropout"]
    # 62, 65, 68: mean 65, deviations -3, 0, 3, variance 18 / 2
    assert (ours["mean"], ours["sd"], ours["seeds"]) == (pytest.approx(65), pytest.approx(3), 3)
    # 60, 61, 65: mean 62, variance (4 + 1 + 9) / 2
    assert (best["mean"], best["sd"]) == (pytest.approx(62), pytest.approx(math.sqrt(7)))
    assert ours["against"] == best["against"] == "CoarseDropout"  # RandomErasing has a mean of 60
    assert best["test"] is None
    # differences 2, 4, 3: mean 3, variance 1, standard error 1 / sqrt(3), t = 3 sqrt(3), 2 degrees of freedom,
    # for which p = 1 - t / sqrt(t^2 + 2)
    t = 3 * math.sqrt(3)
    assert ours["test"]["difference"] == pytest.approx(3)
    assert ours["test"]["standard_error"] == pytest.approx(1 / math.sqrt(3))
    assert ours["test"]["t"] == pytest.approx(t)
    assert ours["test"]["p"] == pytest.approx(1 - t / math.sqrt(t * t + 2))
    assert ours["test"]["pairs"] == 3
    assert ours["images_per_second"] == 101


def test_the_table_shows_them_best_first() -> None:
    lines = format_table(summarise(CELLS)).splitlines()
    assert "against CoarseDropout" in lines[0]
    shown = " ".join(lines[2].split())
    assert shown == "MAEAugment random 65.00 3.00 3 +3.00 0.58 5.20 0.035 101 10.0%"
    assert lines[3].split()[:5] == ["CoarseDropout", "62.00", "2.65", "3", "-"]
    assert lines[4].split()[:6] == ["RandomErasing", "60.00", "10.00", "3", "-2.00", "5.69"]  # -10, 9, -5


def test_what_one_seed_leaves_undefined_is_a_dash() -> None:
    rows = summarise([cell("none", 0, 0.5), cell("CoarseDropout", 0, 0.4)])
    assert rows[0]["sd"] is None
    assert (rows[0]["test"]["difference"], rows[0]["test"]["t"]) == (pytest.approx(10), None)
    assert format_table(rows).splitlines()[2].split()[1:8] == ["50.00", "-", "1", "+10.00", "-", "-", "-"]
    assert paired([1.0, 2.0], [0.0, 1.0]) == {"difference": 1, "standard_error": 0, "t": None, "p": None, "pairs": 2}


def test_only_seeds_that_both_have_are_paired() -> None:
    rows = summarise([*CELLS, cell("MAEAugment random", 3, 0.99)])
    ours = next(row for row in rows if row["method"] == "MAEAugment random")
    assert (ours["seeds"], ours["test"]["pairs"], ours["test"]["difference"]) == (4, 3, pytest.approx(3))


def test_a_baseline_of_fewer_seeds_is_not_the_best() -> None:
    lucky = [cell("CoarseDropout (Telea)", 0, 0.9), cell("MAEAugment random", 3, 0.99)]
    assert {row["against"] for row in summarise([*CELLS, *lucky])} == {"CoarseDropout"}
    other = [{**c, "data": "e"} for c in CELLS]
    assert {(row["against"], row["pairs"]) for row in pool([*CELLS, *other, *lucky]) if "random" in row["method"]} == {
        ("CoarseDropout", 6)
    }


def test_data_sets_are_pooled_by_pairs() -> None:
    assert pool(CELLS) == []
    more = [cell("MAEAugment random", 0, 0.3, "e"), cell("CoarseDropout", 0, 0.2, "e")]
    row = next(row for row in pool([*CELLS, *more]) if row["method"] == "MAEAugment random")
    # differences 2, 4, 3, 10
    assert (row["against"], row["pairs"], row["difference"]) == ("CoarseDropout", 4, pytest.approx(4.75))
    assert row["standard_error"] == pytest.approx(np.std([2, 4, 3, 10], ddof=1) / 2)


# --- the whole ------------------------------------------------------------------------------------------------------


def test_a_grid_is_trained_printed_drawn_and_kept(bench: Callable[..., Any], tmp_path: Path) -> None:
    code, out, err, result = bench("--seeds", 0, 1, "--plot", tmp_path / "p.png")
    assert (code, err) == (0, "")
    assert len(result["cells"]) == len(METHODS) * 2 * 2
    assert "colours, 100 % of the training part" in out
    assert "colours, 10 % of the training part" in out
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width > 500
    used = {c["method"]: c["model_sha256"] is not None for c in result["cells"]}
    assert used == {name: name.startswith("MAE") for name in METHODS}
    assert len(result["rows"]) == len(METHODS) * 2
    ours = [c["accuracy"] for c in result["cells"] if (c["method"], c["fraction"]) == ("MixUp", 1)]
    row = next(r for r in result["rows"] if (r["method"], r["fraction"]) == ("MixUp", 1))
    assert row["mean"] == pytest.approx(100 * sum(ours) / 2)


def test_a_run_that_was_cut_off_goes_on(bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[Any, ...]] = []
    real = train_cell

    def counted(data: Any, method: str, seed: int, fraction: float, *rest: Any) -> Any:
        if len(trained) == 3:
            raise KeyboardInterrupt
        trained.append((method, seed, fraction))
        return real(data, method, seed, fraction, *rest)

    monkeypatch.setattr(bench_augment, "train_cell", counted)
    grid = ["--methods", "none", "CoarseDropout", "MAEAugment random", "--seeds", 0, 1, "--fractions", 1]
    code, _, err, result = bench(*grid)
    assert code == 130
    assert "finished cells are in" in err
    first = result["cells"]
    assert len(first) == 3
    trained.clear()
    code, _, _, result = bench(*grid)
    assert code == 0
    assert trained == [("none", 1, 1.0), ("CoarseDropout", 1, 1.0), ("MAEAugment random", 1, 1.0)]
    assert result["cells"][:3] == first
    trained.clear()
    assert bench(*grid)[0] == 0
    assert trained == []


def test_other_weights_train_only_what_uses_them_again(
    bench: Callable[..., Any], model: str, tmp_path: Path, folder: Path
) -> None:
    grid = ["--methods", "none", "MAEAugment random", "--seeds", 0, "--fractions", 1]
    before = bench(*grid)[3]["cells"]
    from maerestore.hub.save import save_autoencoder
    from maerestore.model import MaskedAutoencoder

    other = MaskedAutoencoder.from_pretrained(model)
    with torch.no_grad():
        other.mask_token += 1
    save_autoencoder(other, tmp_path / "other")
    _, out, _, result = bench(*grid, "--model", tmp_path / "other")
    assert "trained again, another model: colours, 100 %, seed 0, MAEAugment random" in out
    after = {c["method"]: c for c in result["cells"]}
    assert after["none"] == before[0]
    assert after["MAEAugment random"]["model_sha256"] != before[1]["model_sha256"]


def test_other_settings_are_not_mixed_in(bench: Callable[..., Any]) -> None:
    grid = ["--methods", "none", "--seeds", 0, "--fractions", 1]
    assert bench(*grid)[0] == 0
    code, _, err, _ = bench(*grid, "--epochs", 2)
    assert (code, err.count("\n")) == (2, 1)
    assert "was made with recipe" in err


def test_held_out_cells_have_a_name_of_their_own(bench: Callable[..., Any]) -> None:
    result = bench("--methods", "none", "--seeds", 0, "--fractions", 1, "--hold-out", 0.2)[3]
    assert [c["data"] for c in result["cells"]] == ["colours (held out)"]
    assert result["cells"][0]["tested"] == 12


def test_time_that_is_up_starts_no_cell(bench: Callable[..., Any]) -> None:
    code, out, _, result = bench("--methods", "none", "--seeds", 0, 1, "--minutes", 0)
    assert code == 0
    assert "cells left: run again to go on" in out
    assert len(result["cells"]) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nonesuch"], "no data folder nonesuch"),
        (["--model", "nonesuch"], "no model 'nonesuch'"),
        (["--data", "torchvision:CIFAR10:nonesuch"], "CIFAR-10 is not in nonesuch"),
        (["--plot", "nonesuch/p.png"], "no folder"),
        (["--device", "gpu"], "unknown device 'gpu'"),
    ],
)
def test_bad_input_gets_one_line(bench: Callable[..., Any], options: list[str], message: str) -> None:
    code, _, err, result = bench(*options)
    assert (code, err.count("\n"), result) == (2, 1, None)
    assert message in err


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    for text in ("{", "[]", '{"format": 7}'):
        (tmp_path / "r.json").write_text(text)
        assert bench_augment.main(["--data", "x", "--json", str(tmp_path / "r.json")]) == 2
        assert (tmp_path / "r.json").read_text() == text


def test_the_cost_is_a_share_of_the_step_of_the_same_round(monkeypatch: pytest.MonkeyPatch) -> None:
    now, rounds = [0.0], [0]

    def step(*rest: Any) -> None:
        rounds[0] += 1
        now[0] += 0.1 * rounds[0]  # the machine gets slower

    def ours(images: torch.Tensor, labels: torch.Tensor) -> None:
        now[0] += 0.02 * rounds[0]

    monkeypatch.setattr("benchlib.augment_speed._clock", lambda device: now[0])
    monkeypatch.setattr(Trainer, "step", step)
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    first, second = measure_speed(images, {"ours": ours}, CPU, rounds=3, recipe=Recipe(network="tiny"))
    # rounds 2, 3 and 4 count: 0.3 s in the middle, for 4 images
    assert (first["name"], first["share"], first["ms"]) == ("step", 1, pytest.approx(75))
    assert (second["name"], second["share"], second["ms"]) == ("ours", pytest.approx(0.2), pytest.approx(15))


def test_speed_measures_every_contender(bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_augment, "SIDE", 32)
    code, out, _, result = bench("--methods", "none", "--seeds", 0, "--fractions", 1, "--speed", "--speed-batch", 2)
    assert code == 0
    names = [row["name"] for row in result["speed"]["rows"]]
    assert names[0] == "step"
    assert {"CoarseDropout (Telea), in a loader", "MixUp, per batch", "RandomElasticTransform, per batch",
            "MAEAugment random, in a loader", "MAEAugment random, per batch"} <= set(names)  # fmt: skip
    assert all(row["ms"] > 0 for row in result["speed"]["rows"])
    assert "cost of an augmented image at 32 px" in out
