"""Measure the pretraining engine beside a plain loop in the style of the reference code, on the same model and device.

    python scripts/bench_pretrain.py scripts/recipes/default-gpu.yaml --photos PHOTOS --json out.json --plot out.png
    python scripts/bench_pretrain.py RECIPE --photos PHOTOS --model vit_base --set batch_size=512

The plain loop decodes, crops and flips each photograph in DataLoader workers every time it is seen (torchvision's
transforms), does not compile, and uses unfused AdamW and the paper's 75 % random masking; its file bytes lie in memory,
so no disk slows it. A third row runs the engine with the same masking and optimiser, so that the machinery alone
differs. Share of peak: forward and backward floating-point operations, counted, per second, over what a large matrix
product of the same type reaches on the device in the same run. Photographs seen per second count whole steps.
"""

from __future__ import annotations

import argparse
import io
import itertools
import platform
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from benchlib.cost import clock, counted_gflop, peak_tflops
from benchlib.photos import BenchError
from benchlib.results import check_targets, write_json
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from maerestore.errors import MaerestoreError
from maerestore.model import MaskedAutoencoder
from maerestore.precision import trains_in_bf16
from maerestore.train.packing import DataError, find_images, pack
from maerestore.train.pretrain import Pretrainer
from maerestore.train.pretrain_recipe import PretrainRecipe
from maerestore.train.recipe_file import load_recipe

SIZES: dict[str, dict[str, Any]] = {
    "vit_small": {"embed_dim": 384, "depth": 12, "num_heads": 6, "decoder_embed_dim": 256, "decoder_depth": 4,
                  "decoder_num_heads": 8, "patch_size": 16, "image_size": 224},
    "vit_base": {"embed_dim": 768, "depth": 12, "num_heads": 12, "decoder_embed_dim": 512, "decoder_depth": 8,
                 "decoder_num_heads": 16, "patch_size": 16, "image_size": 224},
    "vit_large": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "decoder_embed_dim": 512, "decoder_depth": 8,
                  "decoder_num_heads": 16, "patch_size": 16, "image_size": 224},
}  # fmt: skip


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--photos", type=Path, nargs="+", required=True, help="folders of images, or tars")
    parser.add_argument("--limit", type=int, default=2000, help="photographs to use (default 2000)")
    parser.add_argument("--model", choices=sorted(SIZES), help="a published size instead of the recipe's model")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="replace a recipe's setting")
    parser.add_argument("--steps", type=int, default=30, help="steps to time, after 5 that are not (default 30)")
    parser.add_argument("--workers", type=int, default=4, help="decoding workers of the plain loop")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--plot", type=Path, help="picture to write")
    args = parser.parse_args(argv)
    if args.steps < 1 or args.workers < 0:
        parser.error("--steps must be at least 1, --workers 0")
    return args


# --- the peer -------------------------------------------------------------------------------------------------------


class EncodedPhotos(Dataset[torch.Tensor]):
    """File bytes in memory, decoded each time, as an ImageFolder does."""

    def __init__(self, files: list[bytes], side: int, model: MaskedAutoencoder) -> None:
        self.files = files
        statistics = model.config.mean, model.config.std
        self.transform = v2.Compose([
            v2.RandomResizedCrop(side, scale=(0.2, 1.0), interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(), v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*statistics),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(io.BytesIO(self.files[index])).convert("RGB"))


def plain_loop(recipe: PretrainRecipe, files: list[bytes], device: torch.device, steps: int, workers: int) -> dict:
    """Images per second, and the share of the time spent waiting for the loader."""
    side = recipe.side(0)
    model = MaskedAutoencoder(recipe.config).to(device).train()
    loader = DataLoader(
        EncodedPhotos(files, side, model), recipe.batch_size, shuffle=True, drop_last=True, num_workers=workers,
        pin_memory=device.type == "cuda", persistent_workers=workers > 0,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=False, foreach=False)
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    waited = start = 0.0
    for step in range(steps + 5):
        if step == 5:
            clock(device)
            waited, start = 0.0, time.perf_counter()
        mark = clock(device)
        images = next(batches).to(device, non_blocking=True)
        waited += time.perf_counter() - mark
        with torch.autocast(
            device.type, torch.bfloat16, enabled=trains_in_bf16(recipe.precision, device.type == "cpu")
        ):
            loss = model(images, mask_ratio=0.75).loss
        loss.item()  # the reference logs every step
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seconds = clock(device) - start
    return {"images_per_second": steps * recipe.batch_size / seconds, "data_share": waited / seconds}


# --- the engine -----------------------------------------------------------------------------------------------------


def engine(recipe: PretrainRecipe, packed: Path, steps: int, cpu: bool) -> dict[str, float]:
    """The trainer itself, its own log's figures; the first 5 steps, with compilation, are not counted."""
    with tempfile.TemporaryDirectory() as folder:
        run = Pretrainer(recipe, packed, Path(folder), cpu=cpu, workers=0)
        waited = whole = start = 0.0
        for step in range(steps + 5):
            if step == 5:
                start = clock(run.device)
            _, timed = run._train_step(timed=step % 4 == 1)
            if step >= 5 and timed:
                waited, whole = waited + timed[0], whole + timed[1]
        seconds = clock(run.device) - start
        return {
            "images_per_second": steps * recipe.batch_size / seconds,
            "data_share": waited / whole,
            "gflop_per_image": counted_gflop(run),
        }


def plot(rows: dict[str, dict[str, float]], path: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2), sharey=True)
    names = list(rows)
    kinds = {
        "images_per_second": "images per second",
        "share_of_peak": "share of peak",
        "data_share": "waiting for data",
    }
    for axis, (key, label) in zip(axes, kinds.items(), strict=True):
        values = [rows[name][key] * (1 if key == "images_per_second" else 100) for name in names]
        bars = axis.barh(names, values, color=["#999999", "#4477aa", "#4477aa"])
        axis.bar_label(bars, fmt="%.0f" if key == "images_per_second" else "%.1f %%", padding=3)
        axis.set(title=label, xlim=(0, 1.25 * max(values) + 1e-9))
        axis.invert_yaxis() if axis is axes[0] else None
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    try:
        check_targets(args.json, picture=args.plot)
        recipe = load_recipe(args.recipe, args.set)
        if args.model:
            recipe = recipe.but(model={**SIZES[args.model], "mask_embed": True}, resolution=[])
        files = [data for _, data in itertools.islice(find_images(args.photos), args.limit)]
        if len(files) < recipe.batch_size:
            raise DataError(f"{len(files)} photographs are fewer than the batch of {recipe.batch_size}")
        device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
        random.seed(0)
        same = recipe.but(optimizer="adamw", masking={"mask_ratio": 0.75})
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "photos"
            source.mkdir()
            for i, data in enumerate(files):
                (source / f"{i:06d}.png").write_bytes(data)  # Pillow reads what it is, not what it is called
            pack([source], Path(folder) / "packed", recipe.decoded_side, workers=args.workers or 1)
            peak = peak_tflops(device, "bf16" if trains_in_bf16(recipe.precision, device.type == "cpu") else "fp32")
            rows = {
                "plain loop": plain_loop(same, files, device, args.steps, args.workers),
                "engine, same masking and optimiser": engine(same, Path(folder) / "packed", args.steps, args.cpu),
                "engine, as the recipe says": engine(recipe, Path(folder) / "packed", args.steps, args.cpu),
            }
    except (MaerestoreError, BenchError) as err:
        print(f"bench_pretrain: {err}", file=sys.stderr)
        return 2
    rows["plain loop"]["gflop_per_image"] = rows["engine, same masking and optimiser"]["gflop_per_image"]
    base = rows["plain loop"]["images_per_second"]
    print(f"{'':36} images/s   x plain   GFLOP/image   share of peak   waiting for data")
    for name, row in rows.items():
        row["share_of_peak"] = row["images_per_second"] * row["gflop_per_image"] / 1e3 / peak
        print(
            f"{name:36} {row['images_per_second']:8.0f} {row['images_per_second'] / base:9.2f} "
            f"{row['gflop_per_image']:13.2f} {row['share_of_peak']:15.1%} {row['data_share']:18.1%}"
        )
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    print(f"{name}, {threads} thread(s), {recipe.precision}, batch {recipe.batch_size}, crops of {recipe.side(0)} px, "
          f"matrix product {peak:.2f} TFLOP/s")  # fmt: skip
    if args.json:
        facts = {"device": name, "threads": threads, "torch": torch.__version__, "peak_tflops": peak,
                 "recipe": recipe.to_dict(), "steps": args.steps, "rows": rows}  # fmt: skip
        write_json(args.json, facts)
    if args.plot:
        plot(rows, args.plot, f"{name}, {args.model or args.recipe.stem}, batch {recipe.batch_size}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
