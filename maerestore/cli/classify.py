"""Fit a classifier to labelled images, classify images with it, and measure how well it does.

    maerestore classify fit photos -o heads/animals             photos/cats/a.jpg: class "cats"
    maerestore classify fit train.tar --val val.tar -o heads/scenes --method knn
    maerestore classify fit features.parquet -o heads/scenes    features that `maerestore features` wrote
    maerestore classify predict heads/animals new --top 3       a line for each image of the folder "new"
    maerestore classify eval heads/animals test --confusion confusion.png

Methods: knn (votes of the nearest training images) and linear (a linear probe), after DINOv2's protocol; logistic
(logistic regression, the default for up to 10,000 images); finetune (a linear or logistic probe first, then the whole
encoder from there on, slow without a GPU; of the probe and all epochs the best by validation is kept). A head fits only
the model and options that it was fitted with, and keeps a whitening (--whiten; name it for tables of whitened features
too). It goes to the Hub with `maerestore push`, and comes from there by name.
The exit code is 1 where images were skipped, and 2 where nothing could be done.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maerestore.cli.feature_flags import add_feature_flags, feature_flags, feature_options
from maerestore.cli.flags import add_encoder_flags, add_workers
from maerestore.cli.progress import Bar
from maerestore.cli.values import count, ratio, seed
from maerestore.wording import counted

if TYPE_CHECKING:
    from maerestore.features.classify.classifier import Classifier
    from maerestore.features.table import FeatureTable

# As in maerestore.features.classify.head_config, which loads torch.
_METHODS = ("auto", "knn", "linear", "logistic", "finetune")
_OF_METHOD = {"k": ("knn", "--k"), "epochs": ("finetune", "--epochs"), "lr": ("finetune", "--lr"),
              "layer_decay": ("finetune", "--layer-decay")}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", parser_class=type(parser))
    raw = argparse.RawDescriptionHelpFormatter
    texts = {
        "fit": "fit a head to labelled images or features",
        "predict": "classify images",
        "eval": "measure accuracy on labelled images or features",
    }
    made = {
        name: actions.add_parser(name, help=text, description=text, formatter_class=raw, allow_abbrev=False)
        for name, text in texts.items()
    }
    _add_fit(made["fit"])
    _add_predict(made["predict"])
    _add_eval(made["eval"])
    for action in made.values():
        add_encoder_flags(action, None, "features" if action is made["fit"] else "the model of the head")
        add_workers(action)
        action.add_argument("--quiet", action="store_true", help="print no progress, and no result of fit")
        action.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", nargs="+", type=Path, metavar="SOURCE", help="a folder with a subfolder per "
                        "class, tars with NAME.cls per image (classes.txt beside the tar), or tables of "
                        "features")  # fmt: skip
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="FOLDER", help="folder for the head")
    parser.add_argument(
        "--labels", type=Path, metavar="CSV", help="lines of path,label: the images to use, with their classes"
    )
    parser.add_argument(
        "--method",
        choices=_METHODS,
        default="auto",
        help="kind of head (default: auto, chosen by the number of images)",
    )
    held = parser.add_mutually_exclusive_group()
    held.add_argument("--validation", type=ratio, default=0.2, metavar="SHARE",
                      help="share of each class held out to choose and measure by (default: 0.2)")  # fmt: skip
    held.add_argument("--val", type=Path, nargs="+", metavar="SOURCE", help="validate on these images or features")
    parser.add_argument("--features", type=Path, metavar="FILE", help="keep the features in this table, for the "
                        "next time: .parquet, .npy or .safetensors")  # fmt: skip
    parser.add_argument("--k", type=count, nargs="+", metavar="K", help="knn: neighbours to try (default: 10 20 100)")
    parser.add_argument("--epochs", type=count, metavar="N", help="finetune: epochs (default: 20)")
    parser.add_argument("--lr", type=float, metavar="R", help="finetune: learning rate per 256 images (default: 1e-3)")
    parser.add_argument("--layer-decay", type=ratio, metavar="D", help="finetune: learning rate of a block divided by "
                        "that of the next (default: 0.75)")  # fmt: skip
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of split and training (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing head; its card and pictures stay")
    add_feature_flags(parser)


def _add_head(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("head", metavar="HEAD", help="folder written by fit, or org/name[@revision]")


def _add_predict(parser: argparse.ArgumentParser) -> None:
    _add_head(parser)
    parser.add_argument("sources", nargs="+", type=Path, metavar="IMAGE", help="images, folders, tars, lists, or "
                        "tables of features")  # fmt: skip
    parser.add_argument("--top", type=count, default=1, metavar="K", help="number of classes per image (default: 1)")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="write a .csv or .json file instead of printing")
    parser.add_argument("--overwrite", action="store_true", help="allow writing over an existing file")
    parser.add_argument("--csv", action="store_true", help="print CSV")


def _add_eval(parser: argparse.ArgumentParser) -> None:
    _add_head(parser)
    parser.add_argument(
        "sources", nargs="+", type=Path, metavar="SOURCE", help="labelled images or features, as for fit"
    )
    parser.add_argument(
        "--labels", type=Path, metavar="CSV", help="lines of path,label: the images to use, with their classes"
    )
    parser.add_argument("--confusion", type=Path, metavar="FILE", help="also draw the confusion matrix: .png")
    parser.add_argument("--overwrite", action="store_true", help="allow writing over an existing file")


def run(args: argparse.Namespace) -> int:
    """Fit, predict or evaluate."""
    return {"fit": _fit, "predict": _predict, "eval": _eval}[args.action](args)


class _Skipped(list[str]):
    """Names of the images that could not be read, told on stderr as they are found."""

    def __call__(self, name: str, reason: str) -> None:
        self.append(name)
        print(f"maerestore classify: skipped: {name}: {reason}", file=sys.stderr)


def _fit(args: argparse.Namespace) -> int:
    start = time.perf_counter()
    from maerestore.features.classify.head import check_folder
    from maerestore.features.classify.labelled import are_tables
    from maerestore.image import InputError

    for name, (method, option) in _OF_METHOD.items():
        if getattr(args, name) is not None and args.method != method:
            raise InputError(f"{option} is for --method {method}.")
    if args.validation == 1:
        raise InputError("--validation takes a share below 1: something has to be left to train on.")
    check_folder(args.out, args.overwrite)
    tables = are_tables([*args.sources, *(args.val or [])])
    skipped = _Skipped()
    with Bar(args.quiet) as bar:
        classifier = _fitted_tables(args, bar, skipped) if tables else _fitted_images(args, bar, skipped)
    classifier.save_pretrained(args.out, args.overwrite)
    config, seconds = classifier.config, time.perf_counter() - start
    if args.json:
        facts = {
            "head": str(args.out),
            "method": config.method,
            "classes": len(config.classes),
            "training_images": sum(config.counts),
            "dim": config.dim,
            "chosen": config.chosen,
            "validation": config.validation or None,
            "skipped": skipped,
            "seconds": round(seconds, 3),
        }
        print(json.dumps(facts))
    elif not args.quiet:
        print(f"{args.out}: {config.method}, {len(config.classes)} classes, {sum(config.counts)} training images, "
              f"{counted(config.dim, 'feature')}, in {seconds:.1f} s")  # fmt: skip
        if config.validation:
            v = config.validation
            note = f"; {v['note']}" if "note" in v else ""
            print(f"validation: accuracy {v['accuracy']:.1%} of {counted(v['images'], 'image')}, {v['interval']} "
                  f"interval {v['low']:.1%} to {v['high']:.1%}{note}")  # fmt: skip
    return 1 if skipped else 0


def _settings(args: argparse.Namespace) -> Any:
    from maerestore.features.classify.finetune import FineTuneSettings
    from maerestore.features.classify.fit import FitSettings

    tuned = {name: getattr(args, name) for name in ("epochs", "lr", "layer_decay") if getattr(args, name) is not None}
    if args.method == "finetune":
        tuned["size"] = args.size
    ks: dict[str, Any] = {"ks": tuple(args.k)} if args.k else {}
    return FitSettings(method=args.method, seed=args.seed, tuning=FineTuneSettings(**tuned), **ks)


def _of_images(args: argparse.Namespace, *names: str) -> list[str]:
    """Of these options and those of features, the ones that were given, as they are typed."""
    return [f"--{name}" for name in names if getattr(args, name) is not None] + feature_flags(args)


def _fitted_tables(args: argparse.Namespace, bar: Bar, skipped: _Skipped) -> Classifier:
    from maerestore.features.classify.fit import fit_tables
    from maerestore.features.classify.labelled import check_apart, read_labelled
    from maerestore.image import InputError

    for flag in _of_images(args, "model", "features"):
        raise InputError(f"{flag} is for images: the features of a table are made already.")
    train = read_labelled(args.sources, args.labels, bool(args.val), skipped)
    if args.val:
        validation = read_labelled(args.val, args.labels, True, skipped)
        check_apart(train, validation)
    else:
        train, validation = _parted(train, args)
    return fit_tables(train, validation, _settings(args), bar, whitening=args.whiten)


def _fitted_images(args: argparse.Namespace, bar: Bar, skipped: _Skipped) -> Classifier:
    from maerestore.features.classify.fit import check_labels, fit_tables
    from maerestore.features.classify.fit_encoder import fit_images
    from maerestore.features.classify.images import features_of_items
    from maerestore.features.classify.labelled import check_apart, find_labelled
    from maerestore.image import InputError

    items = find_labelled(args.sources, args.labels, partial=bool(args.val))
    others = find_labelled(args.val, args.labels, partial=True) if args.val else []
    check_apart(items, others)
    settings, share = _settings(args), 0.0 if args.val else args.validation
    check_labels([item.label for item in items], [item.label for item in others], settings, share)
    if settings.method == "finetune":
        for flag in _of_images(args, "features", "whiten"):
            if flag != "--size":
                raise InputError(f"{flag} does not go with --method finetune.")
        from maerestore.model import MaskedAutoencoder

        start = args.model or "features"
        if start.startswith("timm:"):
            raise InputError("--method finetune tunes a masked autoencoder: give another model than one of timm.")
        shared = {"device": args.device, "batch_size": args.batch_size, "workers": args.workers}
        shared |= {"share": share, "start": start, "progress": bar, "failed": skipped}
        return fit_images(MaskedAutoencoder.from_pretrained(start), items, others, settings, **shared)
    from maerestore.features.extractor import FeatureExtractor

    extractor = FeatureExtractor.from_pretrained(
        args.model, options=feature_options(args), device=args.device, batch_size=args.batch_size, whitening=args.whiten
    )
    table = features_of_items([*items, *others], extractor, args.features, args.workers, bar, skipped)
    parts = (range(len(items)), range(len(items), len(table)))
    train, validation = (table.rows(part).without_errors() for part in parts)
    if not args.val:
        train, validation = _parted(train, args)
    return fit_tables(train, validation, settings, bar, whitening=args.whiten)


def _parted(table: FeatureTable, args: argparse.Namespace) -> tuple[FeatureTable, FeatureTable]:
    """To train and to validate on; of rows without errors, so that those with one do not change which they are."""
    from maerestore.features.classify.labelled import split

    kept, held = split([str(label) for label in table.labels], args.validation, args.seed)
    return table.rows(kept), table.rows(held)


def _load(args: argparse.Namespace) -> Classifier:
    from maerestore.features.classify.classifier import Classifier

    return Classifier.from_pretrained(
        args.head, model=args.model, device=args.device, batch_size=args.batch_size, whitening=args.whiten
    )


def _features(args: argparse.Namespace, classifier: Classifier, labelled: bool, skipped: _Skipped) -> FeatureTable:
    """The features of the sources, those of images with errors where they could not be read."""
    from maerestore.features.classify.images import features_of_items
    from maerestore.features.classify.labelled import (
        are_tables,
        find_labelled,
        join_distinct,
        numbers_of,
        read_labelled,
    )
    from maerestore.features.items import find_items
    from maerestore.features.table_files import read_table
    from maerestore.image.errors import quoted

    if are_tables(args.sources):
        tables = [read_table(path) for path in args.sources]
        for path, table in zip(args.sources, tables, strict=True):
            classifier.check(str(table.facts.get("fingerprint")), f"the model of {quoted(path)}")
        if labelled:
            return read_labelled(args.sources, args.labels, failed=skipped)
        joined = join_distinct(args.sources, tables, files=False)  # each name gets its line
        for name, error in joined.failures():
            skipped(name, error)
        return joined
    items = find_labelled(args.sources, args.labels) if labelled else find_items(args.sources)
    if labelled:
        numbers_of([item.label for item in items], classifier.classes)  # a class that is none of them is told now
    with Bar(args.quiet) as bar:
        return features_of_items(items, classifier.extractor, None, args.workers, bar, skipped)


def _predict(args: argparse.Namespace) -> int:
    from maerestore.features.classify.listing import as_csv, as_json, as_table
    from maerestore.image import InputError, atomic_file
    from maerestore.image.errors import quoted
    from maerestore.image.output import check_target

    start = time.perf_counter()
    if args.csv and args.json:
        raise InputError("--csv and --json are two formats: give one of them.")
    kind = "json" if args.json else "csv" if args.csv else "table"
    if args.out is not None:
        kind = args.out.suffix.lower().removeprefix(".")
        if kind not in ("csv", "json"):
            raise InputError(f"{quoted(args.out)}: predictions are written as .csv or .json.")
        check_target(args.out, args.overwrite)
    classifier, skipped = _load(args), _Skipped()
    table = _features(args, classifier, False, skipped)
    good = table.without_errors()
    found = iter(classifier.ranked(classifier.probabilities(good.features), args.top))
    rows = [
        (name, next(found) if error is None else None, error)
        for name, error in zip(table.names, table.errors, strict=True)
    ]
    text = {"json": as_json, "csv": as_csv, "table": as_table}[kind](rows)
    if args.out is None:
        print(text, end="")
    else:
        with atomic_file(args.out, args.overwrite) as file:
            file.write(text.encode())
        if args.json:
            done = {"head": args.head, "output": str(args.out), "images": len(table), "classified": len(good)}
            seconds = round(time.perf_counter() - start, 3)
            print(json.dumps(done | {"skipped": skipped, "seconds": seconds}))
        elif not args.quiet:
            print(f"{args.out}: {len(good)} of {counted(len(table), 'image')} classified")
    return 2 if not len(good) else 1 if len(good) < len(table) else 0


def _eval(args: argparse.Namespace) -> int:
    import numpy as np

    from maerestore.features.classify.labelled import numbers_of
    from maerestore.features.classify.report import Evaluation, check_picture, draw_confusion
    from maerestore.image import InputError

    if args.confusion is not None:
        check_picture(args.confusion, args.overwrite)
    classifier, skipped = _load(args), _Skipped()
    table = _features(args, classifier, True, skipped).without_errors()
    if not len(table):
        raise InputError("no image could be read.")
    labels = numbers_of(table.labels, classifier.classes)
    predicted = np.asarray(classifier.probabilities(table.features).argmax(1))
    evaluation = Evaluation.of(labels, predicted, classifier.classes)
    if args.json:
        picture = None if args.confusion is None else str(args.confusion)
        facts = {"head": args.head, "method": classifier.method, **evaluation.to_dict()}
        print(json.dumps(facts | {"classes": list(classifier.classes), "picture": picture, "skipped": skipped}))
    else:
        print(evaluation.table())
        print(evaluation.line())
    if args.confusion is not None:  # last, so that the accuracy is told even where the picture cannot be written
        sys.stdout.flush()
        draw_confusion(evaluation, args.confusion, args.overwrite)
    return 1 if skipped else 0
