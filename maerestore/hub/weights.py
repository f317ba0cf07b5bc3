"""Read weight files without running any code in them.

A pickle may ask to call any function of Python while it is read. torch's `weights_only=True` calls none but those that
rebuild tensors, and refuses the file otherwise; nothing here reads a pickle in another way.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from maerestore.hub.errors import ModelError

_RUN_KEYS = {"average", "config", "optimizers"}  # of the checkpoint that our own trainer resumes from
_allowing = threading.Lock()
_STATE_KEYS = ("model", "state_dict", "model_state_dict")  # where training programs put the weights in their files


def _renew_lock() -> None:
    """A process that was forked while another thread held the lock would wait for ever."""
    global _allowing
    _allowing = threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_renew_lock)


@dataclass(frozen=True)
class StoredWeights:
    """What a weight file holds.

    Attributes:
        weights: tensors on the CPU by the file's own keys; they may be backed by the file itself.
        training: the arguments of the training program, where the file keeps them (`args`, as Meta's do); else empty.
    """

    weights: dict[str, Tensor]
    training: dict[str, Any]


def read_weights(path: Path, *, pickles: bool = True) -> StoredWeights:
    """Read a safetensors file, a file of `torch.save`, or the shards that an index names.

    Which of them it is, the content says, not the name (an index has to end in `.json`). Only plain floating-point
    tensors pass.

    Args:
        path: the file.
        pickles: whether a file of `torch.save` will do.

    Returns:
        the weights by the file's own names, and the arguments of the training program where the file keeps them.

    Raises:
        ModelError: no such file, a damaged one, one with compressed entries, or one that holds more than weights; one
            line.

    Example:
        >>> read_weights(Path("mae_pretrain_vit_base.pth")).weights["cls_token"].shape      # doctest: +SKIP
        torch.Size([1, 1, 768])
    """
    if path.suffix == ".json":
        return StoredWeights(_plain(path, _read_shards(path)), {})
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except FileNotFoundError as err:
        raise ModelError(f"{path}: no such file; a model folder holds {path.name}") from err
    except OSError as err:
        raise ModelError(f"{path}: cannot be read ({err.strerror})") from err
    if head[8:9] == b"{":
        try:
            return StoredWeights(_plain(path, load_file(path)), {})
        except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, OverflowError) as err:
            if isinstance(err, ModelError):
                raise
            raise ModelError(f"{path}: not a readable safetensors file ({_first_line(err)})") from err
    if not pickles:
        raise ModelError(f"{path}: not a safetensors file; it may be damaged")
    archive = head[:4] == b"PK\x03\x04"
    if not archive and head[:1] != b"\x80":
        raise ModelError(f"{path}: neither a safetensors file nor a checkpoint of torch; it may be damaged")
    if archive:
        _check_archive(path)
    return _split_checkpoint(path, _unpickle(path, mapped=archive))


def checked(label: str, value: Tensor, shape: torch.Size) -> Tensor:
    """A weight for a model: a copy in float32, since a mapped tensor would change with its file.

    Args:
        label: how a message names it.
        value: as read.
        shape: what the model asks for.

    Raises:
        ModelError: another shape, or values that are not finite.
    """
    if value.shape != shape:
        raise ModelError(f"{label} has shape {tuple(value.shape)}, expected {tuple(shape)}")
    copy = value.detach().to(torch.float32, copy=True).contiguous()
    # By NumPy: torch would wake its threads for each of hundreds of weights, and where other work holds a core that
    # takes 9 ms each time, three seconds for the bundled model.
    if not np.isfinite(copy.numpy()).all():
        raise ModelError(f"{label} holds values that are not finite")
    return copy


def _check_archive(path: Path) -> None:
    """Refuse a zip whose entries are compressed, or claim more bytes than the file has.

    `torch.save` stores its entries as they are. Of compressed ones torch would map the compressed bytes as if they were
    numbers, and a small one can unpack to any size.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, OverflowError) as err:
        raise ModelError(f"{path}: damaged, or not a checkpoint that torch.save wrote ({_first_line(err)})") from err
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            raise ModelError(
                f"{path}: its entries are compressed or encrypted, which torch.save never does: load it with the "
                "program that wrote it, and save it again with torch.save"
            )
    if sum(entry.file_size for entry in entries) > size:
        raise ModelError(f"{path}: damaged, its entries claim more bytes than the file has")


@contextmanager
def _namespaces_allowed() -> Iterator[None]:
    """Let torch rebuild an `argparse.Namespace`, where Meta's files keep their arguments.

    It only ever gets attributes set: it can call nothing that the file could not call without it. torch keeps what is
    allowed for the whole process, so one thread at a time; and what the program had allowed already stays so.
    """
    with _allowing:
        known = argparse.Namespace in torch.serialization.get_safe_globals()
        with nullcontext() if known else torch.serialization.safe_globals([argparse.Namespace]):
            yield


def _unpickle(path: Path, mapped: bool) -> Any:
    try:
        with _namespaces_allowed():
            # Mapped, so that a training checkpoint's optimiser state is never read from the disk.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as err:  # a hostile or damaged pickle can raise anything
        if asked := re.search(r"GLOBAL ([A-Za-z_][\w.]*)", str(err)):
            what = f"it asks for {asked[1]}, which is no weight"
            raise ModelError(f"{path}: refused, {what}; files are read with weights_only=True only") from err
        # What torch says of a pickle that it refuses runs over many lines, and suggests to trust it.
        reason = "" if "weights_only" in str(err) else f" ({_first_line(err)})"
        raise ModelError(f"{path}: damaged, or not a checkpoint that torch.save wrote{reason}") from err


def _split_checkpoint(path: Path, content: Any) -> StoredWeights:
    """Find the state dict in what a checkpoint holds."""
    training: dict[str, Any] = {}
    if isinstance(content, Mapping):
        if set(content) >= _RUN_KEYS:  # "model" holds the weights of the last step, not the averaged ones
            raise ModelError(
                f"{path}: is what a training run of this package resumes from: give the folder model/ that it wrote "
                "beside it"
            )
        arguments = content.get("args")
        if isinstance(arguments, argparse.Namespace):
            training = dict(vars(arguments))
        elif isinstance(arguments, Mapping):
            training = dict(arguments)
        content = next((content[key] for key in _STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(
            f"{path}: holds no state dict (weights by name, at the top or under {', '.join(_STATE_KEYS)}); "
            "save model.state_dict()"
        )
    return StoredWeights(_plain(path, dict(content)), training)


def shards_of(index: Path) -> dict[str, str]:
    """The file in the same folder that each weight is in, by an index of transformers.

    Raises:
        ModelError: no such index, or one that names anything else.
    """
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(places.values()))
    except OSError as err:
        raise ModelError(f"{index}: cannot be read ({err.strerror})") from err
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise ModelError(f"{index}: not an index of weights (weight_map should name a file for each)") from err
    for shard in shards:
        # An index comes from strangers as well: a name may not lead out of the model's folder.
        if not isinstance(shard, str) or not re.fullmatch(r"[\w-][\w.-]*\.(?:safetensors|bin)", shard):
            raise ModelError(f"{index}: {ascii(shard)[:200]} is no name of a weight file in the same folder")
    return dict(places)


def _read_shards(path: Path) -> dict[str, Tensor]:
    """The weights of all files that an index of transformers names."""
    places = shards_of(path)
    weights: dict[str, Tensor] = {}
    for shard in sorted(set(places.values())):
        for key, value in read_weights(path.with_name(shard)).weights.items():
            if places.get(key) != shard:
                raise ModelError(f"{path.with_name(shard)}: holds {key}, which {path.name} does not place there")
            weights[key] = value
    if absent := sorted(set(places) - set(weights)):
        raise ModelError(f"{path}: {len(absent)} weight(s) are in no file, the first is {ascii(absent[0])[:200]}")
    return weights


def _plain(path: Path, weights: dict[Any, Any]) -> dict[str, Tensor]:
    """Refuse everything but named, dense, floating-point tensors with their data."""
    for name, value in weights.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"{path}: {ascii(name)[:60]} is a {type(value).__name__}, a state dict holds tensors by name"
            )
        if not name.isprintable() or len(name) > 200:  # it would be shown in messages
            raise ModelError(f"{path}: {ascii(name)[:60]} is no name of a weight; the file may be damaged")
        if value.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise ModelError(f"{path}: {name} holds {str(value.dtype).removeprefix('torch.')}, not weights in float")
        dense = value.layout == torch.strided and value.device.type == "cpu"
        if not dense or value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise ModelError(f"{path}: {name} is no dense tensor with data")
    return {name: value.detach() for name, value in weights.items()}


def _first_line(err: BaseException) -> str:
    lines = str(err).strip().splitlines()
    return lines[0][:200] if lines else type(err).__name__
