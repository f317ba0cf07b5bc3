"""Views of a whole folder, written once: an offline cache for machines that are too slow to make them while training.

    FOLDER/cats/a.jpg    ->    OUT/cats/a_1.jpg, OUT/cats/a_2.jpg, ...

A view depends on the seed, the image's path inside the folder and its number alone. It keeps the image's size, mode,
depth and metadata, and every pixel that was not hidden, but for the losses of JPEG. `maerestore-augment.json` in OUT
says how the views were made.

Reference: "Masked Autoencoders are Robust Data Augmentors", https://arxiv.org/abs/2206.04846.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maerestore.augment.settings import ViewSettings
from maerestore.augment.sources import MANIFEST, Source, plan_views
from maerestore.image import InputError, Photo, atomic_file, read_photo, write_photo
from maerestore.image.convert import fit
from maerestore.image.errors import quoted
from maerestore.image.output import format_of

if TYPE_CHECKING:
    from maerestore.augment.core import Draw, MaskedViews

_MOST_PIXELS = 1 << 24  # of the views that are held at once, unless a single one is larger


@dataclass
class CacheReport:
    """What `write_views` did.

    Attributes:
        images: found in the folder.
        written: views that were made now.
        present: views that were there.
        skipped: (name, reason) of images that cannot be read.
    """

    images: int = 0
    written: int = 0
    present: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


def write_views(
    folder: Path,
    out: Path,
    n: int = 4,
    settings: ViewSettings | None = None,
    *,
    seed: int = 0,
    file_format: str = "source",
    batch_size: int = 32,
    device: str = "cpu",
    precision: str = "auto",
    quality: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    skip: Callable[[str, str], None] | None = None,
) -> CacheReport:
    """Write n views of every image of a folder; those that are there are kept, so that a run that was cut off goes on.

    Convention:
        Each view is written whole or not at all. Images of one size are computed together. The views of a run that
        was cut off equal those of one that was not, up to the rounding of the device.

    Args:
        folder, out, n, file_format: as for `plan_views`; `out` is made where it is missing.
        settings: of the views.
        seed: of the views, at least 0.
        batch_size: views that are computed at once, at most.
        device: "cpu", "cuda", ...
        precision: "auto", "fp32" or "bf16".
        quality: 1 to 100, of views in JPEG and WebP; by default a JPEG keeps its own, and WebP has no loss.
        progress: called with the numbers of images done and found.
        skip: called with name and reason of an image that cannot be read; it is left out.

    Returns:
        what was done.

    Raises:
        InputError: as `plan_views`; or `out` holds views that were made otherwise, or files that this function did not
            write; or a view cannot be written.
        ModelError: no such model.

    Example:
        >>> report = write_views(Path("photos"), Path("views"), n=2, seed=0)             # doctest: +SKIP
        >>> report.written, report.skipped                                               # doctest: +SKIP
        (24, [])
    """
    settings = settings or ViewSettings()
    if seed < 0 or batch_size < 1:
        name, value = ("seed", seed) if seed < 0 else ("batch_size", batch_size)
        raise InputError(f"{name} must be at least {0 if seed < 0 else 1}, got {value}")
    if quality is not None and not 1 <= quality <= 100:
        raise InputError(f"quality must be from 1 to 100, got {quality}")
    sources = plan_views(folder, out, n, file_format)
    facts = _facts(folder, settings, seed, file_format, quality)
    resumes = _made_alike(out, sources, facts)
    from maerestore.augment.core import MaskedViews
    from maerestore.augment.models import load

    engine = MaskedViews(settings, device, precision)
    if not resumes:
        if not settings.changes_nothing:  # settings and models that do not fit leave nothing behind
            engine.grid()
            load(settings.model, device)
        _make_folder(out)
        try:
            with atomic_file(out / MANIFEST) as file:
                file.write((json.dumps({"settings": facts}, indent=1) + "\n").encode())
        except InputError:
            if not _made_alike(out, sources, facts):  # but another process that makes the same was faster
                raise
    report = CacheReport(images=len(sources))
    batches = _Batches(engine, batch_size, quality)
    for done, source in enumerate(sources):
        missing = [k for k, path in enumerate(source.views, 1) if not path.exists()]
        report.present += len(source.views) - len(missing)
        if missing:
            try:
                photo = _fitted(source)
            except InputError as err:
                report.skipped.append((source.name, str(err)))
                if skip is not None:
                    skip(source.name, str(err))
            else:
                batches.add(photo, source, missing, seed)
        if progress is not None:
            progress(done + 1, len(sources))
    batches.finish()
    report.written = batches.written
    report.present += batches.present
    return report


def view_rng(seed: int, name: str, k: int) -> np.random.Generator:
    """The generator of one view.

    Args:
        seed: of all views.
        name: the image's path inside the folder, with forward slashes.
        k: number of the view, from 1.

    Example:
        >>> int(view_rng(0, "cats/a.jpg", 1).integers(1000)) == int(view_rng(0, "cats/a.jpg", 1).integers(1000))
        True
    """
    digest = hashlib.sha256(f"{seed}\0{name}\0{k}".encode("utf-8", "surrogateescape")).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


class _Batches:
    """Views that wait until enough of one size have come together."""

    def __init__(self, engine: MaskedViews, batch_size: int, quality: int | None) -> None:
        self.engine, self.batch_size, self.quality = engine, batch_size, quality
        self.waiting: dict[tuple[int, int], list[tuple[Photo, Path, Draw]]] = {}
        self.pixels = 0
        self.written = self.present = 0

    def add(self, photo: Photo, source: Source, missing: Sequence[int], seed: int) -> None:
        shape = photo.size[1], photo.size[0]
        most = max(1, min(self.batch_size, _MOST_PIXELS // (shape[0] * shape[1])))
        for k in missing:
            draw = self.engine.draw(1, view_rng(seed, source.name, k), shape)
            bucket = self.waiting.setdefault(shape, [])
            bucket.append((photo, source.views[k - 1], draw))
            self.pixels += shape[0] * shape[1]
            if len(bucket) >= most:
                self._write(shape)
        if self.pixels > _MOST_PIXELS:
            self.finish()

    def finish(self) -> None:
        for shape in list(self.waiting):
            self._write(shape)

    def _write(self, shape: tuple[int, int]) -> None:
        import torch

        from maerestore.augment.core import Draw

        bucket = self.waiting.pop(shape)
        self.pixels -= len(bucket) * shape[0] * shape[1]
        photos = {id(photo): photo for photo, _, _ in bucket}  # several views of each
        rgb = {key: photo.rgb() for key, photo in photos.items()}
        images = np.stack([rgb[id(photo)] for photo, _, _ in bucket])
        draw = Draw(np.concatenate([d.ratio for _, _, d in bucket]), np.concatenate([d.noise for _, _, d in bucket]))
        views = self.engine.render(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), draw)
        for (photo, path, _), image, view in zip(bucket, images, views.permute(0, 2, 3, 1).cpu().numpy(), strict=True):
            # What was visible came back bit for bit, and stays as the file holds it.
            self._save(photo.with_fill(view, (view != image).any(axis=2)), path)

    def _save(self, view: Photo, path: Path) -> None:
        _make_folder(path.parent)
        try:
            write_photo(view, path, quality=self.quality)
        except InputError:
            if not path.exists():
                raise
            self.present += 1  # another process was faster
        else:
            self.written += 1


def _fitted(source: Source) -> Photo:
    """A photo in a mode that the format of its views can hold."""
    photo = read_photo(source.path)
    try:
        return fit(photo, format_of(source.views[0]))
    except InputError as err:
        raise InputError(f"{quoted(source.path)}: {err}") from None


def _facts(folder: Path, settings: ViewSettings, seed: int, file_format: str, quality: int | None) -> dict[str, Any]:
    """What two runs must share to write into one folder."""
    from maerestore.hub.digest import model_digest

    made = settings.to_dict()
    return {
        "folder": str(folder.resolve()),
        "seed": seed,
        "format": file_format,
        "quality": quality,
        **{name: list(value) if isinstance(value, tuple) else value for name, value in made.items() if name != "model"},
        "model_sha256": model_digest(settings.model),
    }


def _made_alike(out: Path, sources: Sequence[Source], facts: dict[str, Any]) -> bool:
    """Whether `out` holds views that were made the same way; False where it holds none.

    Raises:
        InputError: it holds others, or files of those names that this module did not write.
    """
    path = out / MANIFEST
    if not path.exists():
        strange = next((view for source in sources for view in source.views if view.exists()), None)
        if strange is None:
            return False
        if not path.exists():  # or another process has begun in the meantime
            raise InputError(f"output {quoted(strange)} exists, and is no view of this command: choose another folder.")
    try:
        earlier = json.loads(path.read_text())["settings"]
        differs = [name for name in facts if earlier.get(name) != facts[name]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{quoted(path)} is damaged: choose another output folder, or remove this one.") from None
    if differs:
        name = differs[0]
        raise InputError(
            f"output {quoted(out)} holds views with {name} {earlier.get(name)}, not {facts[name]}: "
            "choose another folder."
        )
    return True


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise InputError(f"output folder {quoted(folder)} cannot be made ({err.strerror}): choose another.") from None
