"""Measure autoencoders: masked MSE on photographs, k-NN accuracy of their features on labelled sets.

    python scripts/bench_backbone.py --photos PHOTOS --labelled SETS --model old=weights --model new=runs/x/model

Beside the models of each size stands a twin of random weights. Masked MSE: centre squares at the model's own size,
75 % of the patches removed at random (the paper's masking), on pixels in the model's normalisation; three masks a
photograph, drawn from the seed and the photo's name. k-NN: features of whole pictures with nothing hidden, the class
token and the mean of the patches; cosine similarity, k = 20, votes weighted by exp(similarity / 0.07), as in DINO. A
labelled set is a folder with NAME-train-*.tar, NAME-val-*.tar (WebDataset: .webp, .jpg or .png beside .cls).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import torch
from benchlib.photos import SUFFIXES, BenchError, Entry, centre_square, find_photos, open_photo
from benchlib.results import check_targets, write_json
from PIL import Image
from tqdm import tqdm

from maerestore.errors import MaerestoreError
from maerestore.hub.fetch import resolve_model
from maerestore.hub.load import load_autoencoder
from maerestore.model import MaskedAutoencoder

NEIGHBOURS, TEMPERATURE, MASKS = 20, 0.07, 3


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of photographs for the masked MSE")
    parser.add_argument("--labelled", type=Path, help="folder of labelled sets for k-NN")
    parser.add_argument(
        "--model", action="append", metavar="[NAME=]MODEL", help="bundled name, folder, file or Hub repository"
    )
    parser.add_argument(
        "--bf16", action="store_true", help="compute features in bfloat16 (faster on recent processors)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--plot", type=Path, help="picture to write")
    return parser.parse_args(argv)


def load_models(names: list[str]) -> dict[str, MaskedAutoencoder]:
    """The models, and after those of each configuration their random twin."""
    models: dict[str, MaskedAutoencoder] = {}
    for item in names:
        name, _, source = item.rpartition("=")
        name = name or source
        models[name] = load_autoencoder(resolve_model(source))
    configs = {model.config: name for name, model in models.items()}
    for config, name in configs.items():
        torch.manual_seed(0)
        models["random weights" if len(configs) == 1 else f"{name}, random weights"] = MaskedAutoencoder(config).eval()
    return models


def to_model(model: MaskedAutoencoder, squares: list[np.ndarray]) -> torch.Tensor:
    """(S, S, 3) uint8 pictures to a normalised batch."""
    batch = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 255
    return model.normalize(batch.mean(1, keepdim=True) if model.config.in_chans == 1 else batch)


@torch.inference_mode()
def masked_mse(model: MaskedAutoencoder, entries: list[Entry], seed: int) -> float:
    """Mean over photographs and masks of the loss over 75 % removed patches."""
    side = model.config.image_size
    length = model.config.grid_size**2
    losses = []
    for entry in entries:
        images = to_model(model, [centre_square(open_photo(entry), side)]).expand(MASKS, -1, -1, -1)
        digest = hashlib.sha256(f"{seed}/{entry.name}".encode()).digest()
        noise = np.random.default_rng(int.from_bytes(digest, "little")).random((MASKS, length), np.float32)
        losses.append(float(model(images, 0.75, torch.from_numpy(noise)).loss))
    return float(np.mean(losses))


def labelled_pictures(folder: Path, split: str) -> tuple[list[Image.Image], torch.Tensor]:
    """Pictures and class indices of one split of a labelled set."""
    tars = sorted(folder.glob(f"*-{split}-*.tar"))
    if not tars:
        raise BenchError(f"{folder}: no *-{split}-*.tar in there")
    pictures, labels = [], []
    for path in tars:
        with tarfile.open(path) as tar:
            content = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}
        for name, data in sorted(content.items()):
            if Path(name).suffix in SUFFIXES:
                pictures.append(Image.open(io.BytesIO(data)).convert("RGB"))
                labels.append(int(content[str(Path(name).with_suffix(".cls"))]))
    return pictures, torch.tensor(labels)


@torch.inference_mode()
def features(model: MaskedAutoencoder, pictures: list[Image.Image], bf16: bool) -> dict[str, torch.Tensor]:
    """Class token and mean of the patches of every picture's centre square, nothing hidden: (M, D) each, length 1."""
    found: dict[str, list[torch.Tensor]] = {"class token": [], "mean": []}
    for i in range(0, len(pictures), 64):
        squares = [centre_square(picture, model.config.image_size) for picture in pictures[i : i + 64]]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            latent = model.encode(to_model(model, squares))[0].float()
        found["class token"].append(latent[:, 0])
        found["mean"].append(latent[:, 1:].mean(1))
    return {name: torch.nn.functional.normalize(torch.cat(parts), dim=1) for name, parts in found.items()}


def knn_accuracy(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, truth: torch.Tensor) -> float:
    """Share of the test pictures whose weighted neighbours vote for the right class."""
    similarity, nearest = (test @ train.T).topk(min(NEIGHBOURS, len(train)), dim=1)
    votes = torch.zeros(len(test), int(labels.max()) + 1)
    votes.scatter_add_(1, labels[nearest], (similarity / TEMPERATURE).exp())
    return float((votes.argmax(1) == truth).float().mean())


def plot(rows: dict[str, dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    keys = list(next(iter(rows.values())))
    size = (3.6 * len(keys), 0.6 * len(rows) + 1.4)
    figure, axes = plt.subplots(1, len(keys), figsize=size, sharey=True, squeeze=False)
    for axis, key in zip(axes[0], keys, strict=True):
        values = [row[key] for row in rows.values()]
        colors = ["#bbbbbb" if name.endswith("random weights") else "#4477aa" for name in rows]
        axis.bar_label(axis.barh(list(rows), values, color=colors), fmt="%.3f", padding=3)
        axis.set(title=key, xlim=(0, 1.3 * max(values)))
    axes[0][0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    try:
        check_targets(args.json, picture=args.plot)
        if not args.photos and not args.labelled:
            raise BenchError("give --photos, --labelled or both")
        models = load_models(args.model or ["default"])
        rows: dict[str, dict[str, float]] = {name: {} for name in models}
        if args.photos:
            entries = find_photos(args.photos)
            for name, model in tqdm(models.items(), desc="masked MSE", leave=False):
                rows[name][f"masked MSE ({len(entries)} photos)"] = masked_mse(model, entries, args.seed)
        for folder in sorted(p for p in args.labelled.iterdir() if p.is_dir()) if args.labelled else []:
            train, labels = labelled_pictures(folder, "train")
            test, truth = labelled_pictures(folder, "val")
            for name, model in tqdm(models.items(), desc=folder.name, leave=False):
                stored, asked = features(model, train, args.bf16), features(model, test, args.bf16)
                for pooling in stored:
                    accuracy = knn_accuracy(stored[pooling], labels, asked[pooling], truth)
                    rows[name][f"k-NN {folder.name}, {pooling}"] = accuracy
    except (MaerestoreError, BenchError, tarfile.TarError, OSError) as err:
        print(f"bench_backbone: {err}", file=sys.stderr)
        return 2
    keys = list(next(iter(rows.values())))
    print("| model | " + " | ".join(keys) + " |\n|---" + "|---:" * len(keys) + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{row[key]:.3f}" for key in keys) + " |")
    if args.json:
        facts = {
            "bf16": args.bf16,
            "seed": args.seed,
            "neighbours": NEIGHBOURS,
            "temperature": TEMPERATURE,
            "rows": rows,
        }
        write_json(args.json, facts)
    if args.plot:
        plot(rows, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
