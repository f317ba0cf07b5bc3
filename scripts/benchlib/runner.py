"""The run itself: every hole filled by every method, measured, and kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from .frechet import Embedder, crop_corners, crops_per_hole, frechet_distance
from .metrics import Lpips, confidence_rank, measure, texture_ratio
from .peers import Method, timed
from .photos import BenchError, Entry, centre_square, file_digest, mask_for, open_photo, spread
from .report import Record
from .reuse import Earlier, Key, check_photos
from .sheet import Sheet

SAVE_EVERY = 60.0  # seconds

TRUTH = ""  # stands for the photo itself among the crops
CONFIDENCE = "confidence"


class KnownPixelsError(AssertionError):
    """A model gave back other known pixels than it was given."""


@dataclass
class Plan:
    """What is run.

    Attributes:
        entries: the photos.
        sizes: in pixels.
        families: of holes.
        seed: of the holes.
        enlarge: photos that would have to be enlarged by more are left out of a size.
        methods: fills by name.
        checked: those among them whose known pixels must come back as they were.
        models: by name, for those whose confidence is looked at.
        reused: names of methods that are only in `earlier`.
        earlier: what need not be run again.
        lpips: network, or None.
        embedder: network, or None.
        sheet_photos: how many photos get onto the sheet.
    """

    entries: list[Entry]
    sizes: list[int]
    families: list[str]
    seed: int
    enlarge: float
    methods: dict[str, Method]
    checked: frozenset[str] = frozenset()
    models: dict[str, Any] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    earlier: Earlier = field(default_factory=Earlier)
    lpips: Lpips | None = None
    embedder: Embedder | None = None
    sheet_photos: int = 0


@dataclass
class Outcome:
    """What a run gave.

    Attributes:
        sheet: its rows.
        photos: facts of each photo.
        records: one per fill.
        crops: embeddings by fill; `TRUTH` stands for the photo.
        taken: how many records of each method were reused.
        skipped: (name, size) of photos too small for a size.
    """

    sheet: Sheet
    photos: list[dict[str, Any]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    crops: dict[Key, np.ndarray] = field(default_factory=dict)
    taken: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, int]] = field(default_factory=list)


def survey(plan: Plan) -> tuple[list[dict[str, Any]], list[tuple[str, int]]]:
    """Facts of the photos, and which are too small for which size.

    Raises:
        BenchError: a photo that cannot be read, or a size that all are too small for.
    """
    facts = []
    for entry in plan.entries:
        picture = open_photo(entry)
        digest = file_digest(entry.path)
        facts.append({"name": entry.name, "sha256": digest, "width": picture.width, "height": picture.height})
    skipped = []
    for size in plan.sizes:
        small = [f["name"] for f in facts if min(f["width"], f["height"]) * plan.enlarge < size]
        if len(small) == len(facts):
            raise BenchError(
                f"every photo would be enlarged by more than {plan.enlarge:g} for {size} px: see --enlarge"
            )
        skipped += [(name, size) for name in small]
    return facts, skipped


def check_reused(plan: Plan, skipped: list[tuple[str, int]]) -> None:
    """Refuse methods that the earlier runs did not measure on everything that this one does.

    Raises:
        BenchError: it names a fill that is missing.
    """
    for method in plan.reused:
        for entry in plan.entries:
            for size in plan.sizes:
                for family in plan.families if (entry.name, size) not in skipped else ():
                    if (entry.name, size, family, method) not in plan.earlier.records:
                        raise BenchError(f"--reuse has no {method} for {entry.name}, {family}, {size} px")


def run(plan: Plan, save: Callable[[Outcome], None]) -> Outcome:
    """Fill every hole with every method.

    Args:
        plan: what to do.
        save: called with what there is about once a minute, so that a run cut off leaves what it measured.
    """
    outcome = Outcome(Sheet(["photo", "masked", *plan.methods]))
    outcome.photos, outcome.skipped = survey(plan)
    check_photos(plan.earlier, outcome.photos)
    check_reused(plan, outcome.skipped)
    on_sheet = {entry.name for entry in spread(plan.entries, plan.sheet_photos)} if plan.sheet_photos else set()
    warm_up(plan.methods)
    tasks = [
        (entry, size) for entry in plan.entries for size in plan.sizes if (entry.name, size) not in outcome.skipped
    ]
    used = {size: sum(s == size for _, s in tasks) for size in plan.sizes}
    saved = time.monotonic()
    total = len(tasks) * len(plan.families) * (len(plan.methods) + len(plan.reused))
    with tqdm(total=total, unit="fill", smoothing=0.1) as bar:
        for entry, size in tasks:
            photo = centre_square(open_photo(entry), size)
            for family in plan.families:
                count = crops_per_hole(used[size] * len(plan.families))
                fills = _one_hole(plan, outcome, entry.name, family, photo, count, bar)
                if entry.name in on_sheet and size == plan.sizes[0]:
                    mask = mask_for(plan.seed, family, entry.name, size)
                    outcome.sheet.add(f"{entry.name}  {family}", photo, mask, fills)
            if time.monotonic() - saved > SAVE_EVERY:
                save(outcome)
                saved = time.monotonic()
    return outcome


def _one_hole(
    plan: Plan, outcome: Outcome, name: str, family: str, photo: np.ndarray, crops: int, bar: Any
) -> list[np.ndarray]:
    """Fill one hole with every method; returns a picture for each that is run, black where a fill was reused."""
    size = len(photo)
    mask = mask_for(plan.seed, family, name, size)
    corners = crop_corners(plan.seed, family, name, mask, crops)
    # No method may see what it is to find.
    holed = photo.copy()
    holed[mask] = 127
    if plan.embedder is not None:
        truth = (name, size, family, TRUTH)
        stored = plan.earlier.crops.get(truth, ())
        outcome.crops[truth] = stored[:crops] if len(stored) >= crops else plan.embedder(photo, corners)  # type: ignore[assignment]
    fills = []
    for label in (*plan.methods, *plan.reused):
        key = (name, size, family, label)
        bar.update()
        if key in plan.earlier.records:
            outcome.records.append(plan.earlier.records[key])
            outcome.taken[label] = outcome.taken.get(label, 0) + 1
            if key in plan.earlier.crops:
                outcome.crops[key] = plan.earlier.crops[key]
            if label in plan.methods:
                fills.append(np.zeros_like(photo))
            continue
        fill, seconds = timed(plan.methods[label], holed, mask)
        if label in plan.checked:
            check_known(fill, photo, mask, f"{label}, {name}, {family}, {size} px")
        fills.append(fill)
        record = {
            "photo": name,
            "size": size,
            "family": family,
            "method": label,
            "coverage": float(mask.mean()),
            **measure(photo, fill, mask, plan.lpips),
            "texture_photo": texture_ratio(photo, mask),
            "seconds": seconds,
        }
        model = plan.models.get(label)
        if hasattr(model, CONFIDENCE):
            smooth = model.inpaint(holed, mask, sharp=False)
            record["spearman"] = confidence_rank(photo, smooth, mask, model.confidence(holed, mask))
        outcome.records.append(record)
        if plan.embedder is not None:
            outcome.crops[key] = plan.embedder(fill, corners)
    return fills


def frechet_rows(plan: Plan, outcome: Outcome) -> list[Record]:
    """A distance per size and method, None for reused methods without enough stored crops."""
    rows: list[Record] = []
    for size in plan.sizes if plan.embedder is not None else ():
        truths = {key: crops for key, crops in outcome.crops.items() if key[1] == size and key[3] == TRUTH}
        truth = np.concatenate(list(truths.values()))
        for method in (*plan.methods, *plan.reused):
            theirs = [outcome.crops.get((*key[:3], method), ()) for key in truths]
            enough = all(len(a) >= len(b) for a, b in zip(theirs, truths.values(), strict=True))
            distance = None
            if enough:
                # Fewer crops of a hole are the first of more.
                same = [np.asarray(a)[: len(b)] for a, b in zip(theirs, truths.values(), strict=True)]
                distance = frechet_distance(np.concatenate(same), truth)
            rows.append({"size": size, "method": method, "crops": len(truth), "distance": distance})
    return rows


def check_known(fill: np.ndarray, photo: np.ndarray, mask: np.ndarray, what: str) -> None:
    """Refuse a fill that is not the photo outside the hole.

    Raises:
        KnownPixelsError: another shape, type or known pixel.
    """
    if fill.shape != photo.shape or fill.dtype != photo.dtype:
        raise KnownPixelsError(f"{what}: {fill.dtype} {fill.shape} came back for {photo.dtype} {photo.shape}")
    changed = int((fill != photo).any(-1)[~mask].sum())
    if changed:
        raise KnownPixelsError(f"{what}: {changed} known pixels came back changed")


def warm_up(methods: dict[str, Method]) -> None:
    """Run each method once on a small picture: first calls load and compile things that are no part of a fill."""
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    for method in methods.values():
        method(picture, mask)
