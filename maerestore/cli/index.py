"""Search images by images: build an index, query it, find near-duplicates.

    maerestore index build photos shard.tar -o photos.index         images, folders, tars, or tables of features
    maerestore index add photos.index more                          unchanged images of the index are skipped
    maerestore index add photos.index photos --prune                also removes images whose files no longer exist
    maerestore index query photos.index a.jpg -k 10 --sheet a.png   the nearest images, with scores, and as a picture
    maerestore index duplicates photos.index --sheet groups.png     groups of images that are nearly the same
    maerestore index remove photos.index photos/a.jpg

Scores are cosine similarities; for duplicates, the mean of the index is subtracted first. Near-duplicates are copies,
resized, compressed, brightened, or cropped by up to 10 % at each side: similar features propose pairs, and the pictures
are then compared. Where a picture cannot be read, features that are nearly equal (0.99) decide. Small indexes compare
all images; large ones are searched through a graph (HNSW), very large ones through compressed clusters (IVF-PQ). An
index holds features of one model and refuses others. An image is identified by its file, whatever directory the command
runs in; two files with the same relative path need full paths. Each change is atomic: a command that is killed leaves
the index as it was, and the same command continues where it stopped. Images that cannot be read are skipped and
reported; the exit code is then 1, or 2 if nothing could be done.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maerestore.cli.feature_flags import add_feature_flags, feature_flags, feature_options
from maerestore.cli.flags import add_encoder_flags
from maerestore.cli.progress import Bar
from maerestore.cli.values import count, ratio
from maerestore.wording import counted

if TYPE_CHECKING:
    from maerestore.features.index.duplicates import DuplicateReport
    from maerestore.features.index.image_index import Change, ImageIndex
    from maerestore.features.index.sheet import Tile
    from maerestore.features.loaders import ExtractorSettings

_KINDS = ("auto", "flat", "hnsw", "ivfpq")  # as in maerestore.features.index.kinds, which loads NumPy
_SOURCES = "images, folders, tars, lists of paths (.txt), or tables of features (.parquet, .npy, .safetensors, folders)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def action(name: str, work: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=summary, description=f"{summary}.", allow_abbrev=False)
        made.set_defaults(work=work)
        return made

    build = action("build", _build, "make an index of images")
    build.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help=_SOURCES)
    build.add_argument("-o", "--out", type=Path, required=True, metavar="INDEX", help="folder for the index")
    build.add_argument(
        "--kind", choices=_KINDS, default="auto", help="kind of index (default: auto, chosen by the number of images)"
    )
    build.add_argument("--overwrite", action="store_true", help="replace an existing index")
    add_feature_flags(build)

    add = action("add", _add, "add images to an index")
    add.add_argument("index", type=Path, metavar="INDEX")
    add.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help=_SOURCES)

    add.add_argument("--prune", action="store_true", help="also remove images of these folders whose files are gone")

    remove = action("remove", _remove, "remove images from an index")
    remove.add_argument("index", type=Path, metavar="INDEX")
    remove.add_argument(
        "names", nargs="+", metavar="NAME", help="name of an image, as query and duplicates print it, or its path"
    )

    query = action("query", _query, "find the images that are nearest to images")
    query.add_argument("index", type=Path, metavar="INDEX")
    query.add_argument("sources", nargs="+", type=Path, metavar="IMAGE", help="images, or folders and tars of images")
    query.add_argument("-k", type=count, default=10, metavar="N", help="number of results per image (default: 10)")

    duplicates = action("duplicates", _duplicates, "find groups of images that are nearly the same")
    duplicates.add_argument("index", type=Path, metavar="INDEX")
    duplicates.add_argument("--threshold", type=ratio, metavar="T",
                            help="cosine similarity of features from which two pictures are compared (default: 0.8); "
                            "with --no-verify, from which two images count as duplicates (default: 0.93)")  # fmt: skip
    duplicates.add_argument("--no-verify", action="store_true",
                            help="go by the features alone and do not compare the pictures: "
                            "much of what is then reported is only similar")  # fmt: skip
    duplicates.add_argument("--uncentred", action="store_true",
                            help="compare as query does, without subtracting the mean of the index")  # fmt: skip

    for made in (build, add, query):
        add_encoder_flags(made, *(("features", "features") if made is build else (None, "the model of the index")))
    for made in (query, duplicates):
        made.add_argument(
            "--sheet", type=Path, metavar="FILE", help="also draw the images in one picture: .png, .jpg, ..."
        )
        made.add_argument("--overwrite", action="store_true", help="allow writing over an existing picture")
    for made in (build, add, remove, query, duplicates):
        made.add_argument("--quiet", action="store_true", help="print only errors and results")
        made.add_argument("--json", action="store_true", help="print the results as JSON")


def run(args: argparse.Namespace) -> int:
    """Do what the action says."""
    args.start = time.perf_counter()
    return int(args.work(args))


def _build(args: argparse.Namespace) -> int:
    from maerestore.features.index.image_index import ImageIndex
    from maerestore.features.loaders import ExtractorSettings
    from maerestore.features.table_files import is_table
    from maerestore.image.errors import InputError

    if (flags := feature_flags(args)) and all(is_table(Path(source)) for source in args.sources):
        raise InputError(f"{flags[0]} is for images: the features of tables are what they are.")
    settings = ExtractorSettings(args.model, feature_options(args), args.device, args.batch_size, args.whiten)
    with Bar(args.quiet) as bar:
        index, change = ImageIndex.build_with_report(args.out, args.sources, settings, args.kind, args.overwrite, bar)
    return _tell_change(args, index, change)


def _add(args: argparse.Namespace) -> int:
    from maerestore.features.index.image_index import ImageIndex

    index = ImageIndex.open(args.index)
    with Bar(args.quiet) as bar:
        change = index.add(args.sources, _settings(args, index), bar, args.prune)
    return _tell_change(args, index, change)


def _remove(args: argparse.Namespace) -> int:
    from maerestore.features.index.image_index import ImageIndex

    index = ImageIndex.open(args.index)
    removed = index.remove(args.names)
    if args.json:
        _print_json(args, index, {"removed": removed})
    elif not args.quiet:
        print(f"{index.folder}: {removed} removed, {counted(len(index), 'image')} left")
    return 0


def _query(args: argparse.Namespace) -> int:
    from maerestore.features.engine import features_of
    from maerestore.features.index.image_index import ImageIndex
    from maerestore.features.items import find_items

    sheet = _sheet_path(args)
    index = ImageIndex.open(args.index)
    items = find_items(args.sources)
    extractor = _settings(args, index).load()
    index.check_alike({"model": extractor.name, "fingerprint": extractor.fingerprint}, extractor.dim)
    asked: list[dict[str, Any]] = []
    rows: list[list[Tile]] = []
    for start in range(0, len(items), args.batch_size):
        table = features_of(items[start : start + args.batch_size], extractor)
        good = [i for i, error in enumerate(table.errors) if error is None]
        found = dict(zip(good, index.search(table.features[good], args.k), strict=True))
        for i, (name, error) in enumerate(zip(table.names, table.errors, strict=True)):
            hits = found.get(i, [])
            shown = [
                {"name": hit.name, "path": _path(hit.name, hit.folder), "score": round(hit.score, 5)} for hit in hits
            ]
            asked.append({"image": name, "error": error, "hits": shown})
            if error is not None:
                print(f"maerestore index: skipped: {name}: {error}", file=sys.stderr)
            elif sheet is not None:
                rows.append(_row(name, [(hit.name, hit.score, hit.folder) for hit in hits]))
    drawn = _draw(args, sheet, rows)  # before anything is printed: who reads that may stop reading
    if args.json:
        _print_json(args, index, {"queries": asked})
    else:
        for query in asked:
            if query["error"] is None:
                lines = [f"  {hit['score']:.3f}  {_shown(hit['name'], hit['path'])}" for hit in query["hits"]]
                print("\n".join([query["image"], *lines]))
    if drawn:
        print(drawn)
    failed = sum(query["error"] is not None for query in asked)
    return 2 if failed == len(asked) else 1 if failed else 0


def _duplicates(args: argparse.Namespace) -> int:
    from maerestore.features.index.image_index import ImageIndex
    from maerestore.features.index.sheet import Tile

    sheet = _sheet_path(args)
    index = ImageIndex.open(args.index)
    with Bar(args.quiet) as bar:
        report = index.duplicates_with_report(args.threshold, not args.uncentred, bar, not args.no_verify)
    groups = report.groups
    rows = [
        [
            Tile(name, f"{score:.3f}" if i else f"group {number}", folder, framed=not i)
            for i, (name, score, folder) in enumerate(zip(group.names, group.scores, group.folders, strict=True))
        ]
        for number, group in enumerate(groups, 1)
    ]
    drawn = _draw(args, sheet, rows)
    told: list[list[dict[str, Any]]] = [
        [
            {"name": name, "path": _path(name, folder), "score": round(score, 5)}
            for name, score, folder in zip(group.names, group.scores, group.folders, strict=True)
        ]
        for group in groups
    ]
    if args.json:
        facts = {"threshold": report.threshold, "centred": not args.uncentred, "verified": not args.no_verify}
        _print_json(args, index, {**facts, "read": report.read, "unread": report.unread, "groups": told})
    else:
        for group in told:
            lines = [f"  {each['score']:.3f}  {_shown(each['name'], each['path'])}" for each in group]
            print("\n".join([f"{len(group)} images", *lines]))
        if not args.quiet:
            surplus = sum(len(group.names) - 1 for group in groups)
            line = f"{counted(len(groups), 'group')}, {counted(surplus, 'near-duplicate')} among"
            print(f"{index.folder}: {line} {counted(len(index), 'image')}{_told_unread(report)}")
    if drawn:
        print(drawn)
    return 0


def _path(name: str, folder: str) -> str:
    """Where an image is, from whatever directory the command runs; relative names start from the given one."""
    from maerestore.features.filesystems import is_uri

    return name if is_uri(name) else os.path.join(folder, name)


def _shown(name: str, path: str) -> str:
    """The name of an image, or its path where the name would lead elsewhere from the working directory."""
    return name if path == name or path == os.path.join(os.getcwd(), name) else path


def _told_unread(report: DuplicateReport) -> str:
    from maerestore.features.index.duplicates import UNSEEN

    if not report.unread:
        return ""
    level = max(report.threshold, UNSEEN)
    return f"; {counted(report.unread, 'picture')} could not be read: compared by features alone (from {level:g})"


def _settings(args: argparse.Namespace, index: ImageIndex) -> ExtractorSettings:
    """What loads an extractor as the index was built with."""
    from maerestore.features.index.sources import settings_of

    return settings_of(index.facts, index.folder, args.device, args.batch_size, args.model, args.whiten)


def _tell_change(args: argparse.Namespace, index: ImageIndex, change: Change) -> int:
    for name, reason in change.errors:
        print(f"maerestore index: skipped: {name}: {reason}", file=sys.stderr)
    if args.json:
        done: dict[str, Any] = {name: getattr(change, name) for name in ("added", "replaced", "removed", "unchanged")}
        done["skipped"] = [{"image": name, "reason": reason} for name, reason in change.errors]
        _print_json(args, index, done)
    elif not args.quiet:
        parts = [f"{change.added} added"]
        counts = ((change.replaced, "replaced"), (change.removed, "removed"), (change.unchanged, ""))
        parts += [f"{n} {what}" if what else f"{counted(n, 'was', 'were')} there" for n, what in counts if n]
        parts += [f"{len(change.errors)} skipped"] if change.errors else []
        seconds = time.perf_counter() - args.start
        wanted = index.facts["wanted"]
        kind = index.kind if wanted in ("auto", index.kind) else f"{index.kind}, as {wanted} needs more of them"
        print(f"{index.folder}: {', '.join(parts)}; {counted(len(index), 'image')}, {kind}, in {seconds:.1f} s")
    good = change.added + change.replaced + change.removed + change.unchanged
    return 0 if not change.errors else 1 if good else 2


def _print_json(args: argparse.Namespace, index: ImageIndex, outcome: dict[str, Any]) -> None:
    facts = {name: index.facts[name] for name in ("kind", "model", "fingerprint", "options", "dim")}
    seconds = round(time.perf_counter() - args.start, 3)
    print(json.dumps({"index": str(index.folder), "images": len(index), **facts, **outcome, "seconds": seconds}))


def _sheet_path(args: argparse.Namespace) -> Path | None:
    """Where the sheet goes, checked before the work starts."""
    if args.sheet is None:
        return None
    from maerestore.cli import pictures
    from maerestore.image.output import check_target

    pictures.check_format(args.sheet)
    check_target(args.sheet, args.overwrite)
    return Path(args.sheet)


def _row(name: str, hits: Sequence[tuple[str, float, str]]) -> list[Tile]:
    from maerestore.features.index.sheet import Tile

    found = [Tile(hit, f"{score:.3f}", folder) for hit, score, folder in hits]
    return [Tile(name, "query", framed=True), *found]


def _draw(args: argparse.Namespace, sheet: Path | None, rows: list[list[Tile]]) -> str | None:
    """Write the sheet where there is one to write; what is to be said about it, where something is to be said."""
    from maerestore.cli import pictures
    from maerestore.features.index.sheet import contact_sheet

    if sheet is None:
        return None
    if not rows:  # an old picture would be taken for the result
        if args.overwrite:
            sheet.unlink(missing_ok=True)
        return None if args.quiet or args.json else f"{sheet}: not written, there is nothing to draw"
    across = 1 + args.k if "k" in args and args.k < 12 else 10
    told = pictures.write(contact_sheet(rows, across), sheet, args.overwrite, True, args.start)
    return None if args.quiet or args.json else told
