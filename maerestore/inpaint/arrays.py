"""PIL images, NumPy arrays and tensors in, the same kind out."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin, TiffImagePlugin

from maerestore.image import InputError, Metadata, Photo
from maerestore.image.box import Box
from maerestore.image.color import luma
from maerestore.image.opening import MANY_FRAMES_ONE_PHOTO, count_frames, short
from maerestore.image.palette import complete_palette
from maerestore.image.photo import Piece

_ARRAY_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
PIL_MODES = {"1": 1, "L": 8, "LA": 8, "P": 8, "RGB": 8, "RGBA": 8, "CMYK": 8, "I;16": 16}  # bits a sample
SLACK = 0.01  # by which floats may leave [0, 1]: rounding


@dataclass(frozen=True, eq=False)
class FloatImage:
    """An image in floating point, with the part of `Photo` that the pipeline uses.

    Attributes:
        samples: (H, W, C) float, colours in [0, 1]; C is 1 or 3, or 2 or 4 with alpha last.
    """

    samples: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.samples.shape[1], self.samples.shape[0]

    def rgb(self, window: Box | None = None) -> np.ndarray:
        """(h, w, 3) float32 in [0, 1], as `Photo.rgb`."""
        top, left, bottom, right = window or (0, 0, self.size[1], self.size[0])
        gray = self.samples.shape[2] < 3
        color = self.samples[top:bottom, left:right, : 1 if gray else 3].astype(np.float32)
        return np.repeat(color, 3, axis=2) if gray else color

    def alpha(self, window: Box | None = None) -> np.ndarray | None:
        """(h, w) in [0, 1], as `Photo.alpha`; None without a channel of alpha."""
        top, left, bottom, right = window or (0, 0, self.size[1], self.size[0])
        return self.samples[top:bottom, left:right, -1] if self.samples.shape[2] in (2, 4) else None

    def with_fills(self, pieces: Sequence[Piece], opacities: Sequence[np.ndarray | None] | None = None) -> FloatImage:
        """A new image in which only the pixels under the pieces' masks are other, as `Photo.with_fills`."""
        samples = self.samples.copy()
        for (fill, mask, (top, left, bottom, right)), opacity in zip(
            pieces, opacities or [None] * len(pieces), strict=True
        ):
            color = fill[mask].clip(0, 1)
            target = samples[top:bottom, left:right]
            if opacity is not None:
                raised = mask & ~np.isnan(opacity)
                target[..., -1][raised] = opacity[raised]
            if samples.shape[2] >= 3:
                target[..., :3][mask] = color
            else:
                target[..., 0][mask] = luma(color)
        return FloatImage(samples)


def as_canvas(image: Any, what: str = "image") -> Photo | FloatImage:
    """Wrap any supported image (see `Inpainter.inpaint`).

    Args:
        image: to wrap.
        what: it is called in the message that a PIL image cannot be decoded.

    Raises:
        InputError: a type, shape or dtype that is no image, values that are not finite, or an animation.
    """
    if isinstance(image, Image.Image):
        return _from_pil(image, what)
    if isinstance(image, torch.Tensor):
        shape = tuple(image.shape)
        if image.ndim != 3:
            raise InputError(f"a tensor image is (C, H, W) or (B, C, H, W), got {shape}")
        if shape[0] not in _ARRAY_MODES:
            advice = ": turn it by permute(2, 0, 1), or give it as a NumPy array" if shape[2] in _ARRAY_MODES else ""
            raise InputError(f"a tensor image is (C, H, W) with C from 1 to 4, such as (3, H, W), got {shape}{advice}")
        tensor = image.detach().cpu()
        tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor  # NumPy has no bfloat16
        return as_canvas(tensor.permute(1, 2, 0).numpy())
    if not isinstance(image, np.ndarray):
        raise InputError(f"an image is a PIL image, a NumPy array or a tensor, got {type(image).__name__}")
    array: np.ndarray = image[..., None] if image.ndim == 2 else image
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim != 3 or array.shape[2] not in _ARRAY_MODES or 0 in array.shape:
        raise InputError(f"an array image is (H, W) or (H, W, 1 to 4) with some pixels, got {image.shape}")
    if array.dtype in (np.uint8, np.uint16):
        samples = array[..., 0] if array.shape[2] == 1 else array
        return Photo(samples.copy(), mode=_ARRAY_MODES[array.shape[2]], bits=8 * array.dtype.itemsize)
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise InputError("the image holds values that are not finite")
        low, high = float(array.min()), float(array.max())
        if low < -SLACK or high > 1 + SLACK:
            raise InputError(f"a float image lies in [0, 1], got values from {low:g} to {high:g}: divide by its range")
        return FloatImage(array)
    raise InputError(f"an image is uint8, uint16 or float, got {array.dtype}")


def in_kind_of(canvas: Photo | FloatImage, image: Any) -> Any:
    """Give a filled canvas the type, shape, dtype and device of the image it came from."""
    if isinstance(image, Image.Image):
        assert isinstance(canvas, Photo)
        return _to_pil(canvas, image)
    samples = canvas.samples
    if isinstance(image, torch.Tensor):
        array = samples[..., None] if samples.ndim == 2 else samples
        return of_type(torch.from_numpy(array.transpose(2, 0, 1).copy()).to(image.device, image.dtype), image)
    return samples.reshape(image.shape).astype(image.dtype, copy=True)


def of_type(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A tensor as one of torchvision's, where `like` is: its transforms tell images by that."""
    kind = type(like)
    return tensor.as_subclass(kind) if kind.__module__.startswith("torchvision.tv_tensors") else tensor


def decoded(image: Image.Image, what: str) -> np.ndarray:
    """The pixels of a PIL image, a copy. Pillow reads them from the file only when they are asked for.

    Raises:
        InputError: the file is damaged, or was closed.
    """
    try:
        return np.array(image)
    except MemoryError:
        raise
    except Exception as err:  # decoders raise whatever a damaged file makes them stumble over
        raise InputError(f"the {what} cannot be decoded: it is truncated, damaged or closed ({short(err)})") from None


def _from_pil(image: Image.Image, what: str) -> Photo:
    if image.mode not in PIL_MODES:
        raise InputError(f"images of mode {image.mode} cannot be filled: convert to one of {', '.join(PIL_MODES)}")
    _check_frames(image)
    raw = _raw_mode(image)  # before the pixels are decoded, when Pillow forgets it
    samples = decoded(image, what)
    if image.mode == "1":
        samples = samples.astype(np.uint8)
    palette = None
    if image.mode == "P":
        entries = np.array(image.getpalette("RGBA"), np.uint8).reshape(-1, 4)
        palette = complete_palette(entries, int(samples.max(initial=0)), image.info.get("transparency"))
    mode = "L" if image.mode == "I;16" else image.mode
    exif, xmp = (block if isinstance(block := image.info.get(name), bytes) else None for name in ("exif", "xmp"))
    key = _color_key(image, samples, raw)
    metadata = Metadata(exif=exif, xmp=xmp)
    return Photo(samples, mode, PIL_MODES[image.mode], palette=palette, color_key=key, metadata=metadata)


def _check_frames(image: Image.Image) -> None:
    """Refuse an animation, of which all frames but one would be lost without a word; a later frame is one's choice."""
    frames = 1
    with suppress(Exception):  # a file that was closed cannot be asked, and one that is damaged is found out below
        if image.tell() == 0:
            frames = _count_frames(image)
    if frames > 1 and image.format not in MANY_FRAMES_ONE_PHOTO:
        raise InputError(
            f"the image has {frames} frames, and only a still one can be filled: pass one frame, image.copy()"
        )


def _count_frames(image: Image.Image) -> int:
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return count_frames(image)
    # In a view of its own: an image that is moved to another page and back loses what was drawn on it.
    file = image._fp
    place = file.tell()
    try:
        with Image.open(file, formats=["TIFF"]) as view:
            return count_frames(view)
    finally:
        file.seek(place)


def _raw_mode(image: Image.Image) -> str | None:
    """How a PNG's samples are stored, such as "L;4"; None where the pixels are decoded already."""
    return str(image.tile[0][3]) if isinstance(image, PngImagePlugin.PngImageFile) and image.tile else None


def _color_key(image: Image.Image, samples: np.ndarray, raw: str | None) -> tuple[int, ...] | None:
    """The one colour that is transparent, which Pillow keeps beside the pixels of images without alpha or palette.

    It keeps it as it stands in the file, and the samples in 8 bits.
    """
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, (tuple, list)) and len(key) == 3:
        if not all(isinstance(value, (int, np.integer)) for value in key):
            return None
        deep = raw == "RGB;16B" or max(key) > 255
        return tuple(int(value) >> 8 if deep else int(value) for value in key)
    if image.mode in ("1", "L", "I;16") and isinstance(key, int):
        if image.mode == "1":
            return (min(key, 1),)
        return (key * _gray_step(key, samples, raw) if image.mode == "L" else key,)
    return None


def _gray_step(key: int, samples: np.ndarray, raw: str | None) -> int:
    """By how much 8-bit samples of gray differ where those of the file differ by 1: 85 for 2 bits, 17 for 4, else 1.

    Where the file's depth is not known any more, it is the one that has such samples only, the key among them.
    """
    if raw is not None:
        return {"L;2": 85, "L;4": 17}.get(raw, 1)
    levels = np.flatnonzero(np.bincount(samples.ravel(), minlength=256))
    return next((step for step in (1, 17, 85) if key * step in levels and not (levels % step).any()), 1)


def _to_pil(photo: Photo, like: Image.Image) -> Image.Image:
    samples = np.array(photo.samples)
    if photo.mode == "1":
        out = Image.fromarray(samples * np.uint8(255)).convert("1", dither=Image.Dither.NONE)
    elif photo.mode == "P":
        assert photo.palette is not None
        out = Image.fromarray(samples)
        mode = "RGBA" if like.palette is not None and like.palette.mode == "RGBA" else "RGB"
        out.putpalette(photo.palette[:, : len(mode)].tobytes(), mode)
    else:
        out = Image.frombytes(like.mode, like.size, samples.tobytes())
    out.info = dict(like.info)
    kept = {"exif": photo.metadata.exif, "xmp": photo.metadata.xmp}  # without previews, if anything was filled
    out.info |= {name: block for name, block in kept.items() if block is not None}
    if photo.palette is not None and "transparency" in out.info:
        out.info["transparency"] = photo.palette[:, 3].tobytes()
    elif photo.color_key is not None and photo.mode != "1":  # on the scale of the samples, as files of theirs have it
        out.info["transparency"] = photo.color_key if photo.mode == "RGB" else photo.color_key[0]
    return out
