"""The `maerestore` command."""

from __future__ import annotations

import argparse
import codecs
import errno
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

import maerestore
from maerestore.cli import (
    augment,
    classify,
    export,
    features,
    index,
    inpaint,
    pretrain,
    pull,
    push,
    show,
    train_restorer,
)
from maerestore.errors import MaerestoreError, MaerestoreWarning, lacks_memory
from maerestore.hub.client import quieten
from maerestore.threads import wait_briefly

# What a stream answers that takes no more, such as a full disk. Files are looked after by what writes them.
_FULL = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EBADF")}

VERBS = {
    "inpaint": inpaint,
    "pretrain": pretrain,
    "train-restorer": train_restorer,
    "pull": pull,
    "push": push,
    "export": export,
    "show": show,
    "augment": augment,
    "classify": classify,
    "features": features,
    "index": index,
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as the verbs do; argparse would print the usage first."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse here what is unknown: the parser of all verbs would name itself, and not the verb."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            files = [name for name in unknown if name.startswith("-") and os.path.isfile(name)]
            hint = f" (the file of that name is given as .{os.sep}{files[0]})" if files else ""
            if not hint and (advice := self.get_default("surplus")) and not any(w.startswith("-") for w in unknown):
                hint = f" ({advice})"
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return known, unknown


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs; cheap, so that `--help` answers at once."""
    parser = _Parser(
        prog="maerestore",
        description="Fill, augment, classify and search images with a masked autoencoder.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"maerestore {maerestore.__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, module in VERBS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        module.add_arguments(
            verbs.add_parser(
                name,
                help=summary,
                description=module.__doc__,
                formatter_class=argparse.RawDescriptionHelpFormatter,
                allow_abbrev=False,
            )
        )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb.

    Returns:
        0; 2 after one line on stderr for bad input, and where the output cannot be written; 130 when interrupted; 141,
        as other programs, when what reads the output has ended: `| head` has seen enough. A process that is told to
        end (SIGTERM, or SIGHUP) exits with 143 or 129, and takes its temporary files with it.
    """
    with _any_name(), _end_in_order():
        try:
            try:
                return _run(argv)
            finally:
                if sys.stdout is not None:  # as where it was closed from the start
                    sys.stdout.flush()  # here, and not when Python ends, where nothing can be done any more
        except BrokenPipeError:
            _drop_output()
            return 141
        except OSError as err:
            if err.errno not in _FULL or err.filename is not None:
                raise
            with suppress(OSError):  # stderr may be what is full
                print(f"maerestore: the output cannot be written ({err.strerror})", file=sys.stderr)
            _drop_output()
            return 2


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    wait_briefly()
    quieten(progress=not getattr(args, "quiet", False) and sys.stderr is not None and sys.stderr.isatty())
    try:
        with _warnings_of(args):
            return int(VERBS[args.verb].run(args))
    except MaerestoreError as err:
        print(f"maerestore {args.verb}: {err.message}", file=sys.stderr)
        return 2
    except MemoryError:
        print(f"maerestore {args.verb}: {_not_enough_memory(args, on_device=False)}", file=sys.stderr)
        return 2
    except RuntimeError as err:
        if not lacks_memory(err):
            raise
        print(f"maerestore {args.verb}: {_not_enough_memory(args, on_device=True)}", file=sys.stderr)
        return 2
    except OSError as err:
        if err.filename is None or isinstance(err, BrokenPipeError):
            raise
        from maerestore.image.errors import quoted, reason_of

        what = quoted(os.fsdecode(err.filename)) if isinstance(err.filename, (str, bytes)) else err.filename
        print(f"maerestore {args.verb}: {what}: {reason_of(err)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"maerestore {args.verb}: interrupted", file=sys.stderr)
        return 130


@contextmanager
def _warnings_of(args: argparse.Namespace) -> Iterator[None]:
    """Let stderr have what the library and the Hub warn of, in one line, and not what decoders stumble over in files.

    Only a program may set this, as it holds for the whole process; processes that it forks have it too, and others the
    environment.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # which OpenCV reads when it is loaded

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        of_hub = issubclass(category, UserWarning) and "huggingface_hub" in Path(filename).parts
        if issubclass(category, MaerestoreWarning) or of_hub:
            text = f"maerestore {args.verb}: warning: {' '.join(str(message).split()) if of_hub else message}\n"
        else:
            text = warnings.formatwarning(message, category, filename, lineno, line)
        if (stream := file or sys.stderr) is not None:
            with suppress(OSError):  # as Python's own: a warning that cannot be told ends nothing
                print(text, end="", file=stream)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        if getattr(args, "quiet", False):
            warnings.simplefilter("ignore", MaerestoreWarning)
            warnings.filterwarnings("ignore", category=UserWarning, module=r"huggingface_hub\.")
        warnings.showwarning = show
        yield


def _not_enough_memory(args: argparse.Namespace, on_device: bool) -> str:
    if args.verb in ("pretrain", "train-restorer"):
        return "not enough memory: try --set accumulate=2 (the batch in two parts), or a smaller batch_size"
    if not on_device:
        return "not enough memory for this picture"
    return "not enough memory on this device" + ("; try --device cpu" if hasattr(args, "device") else "")


@contextmanager
def _any_name() -> Iterator[None]:
    """Let stdout take every file name: in UTF-8 what is no text comes out as the bytes it is on the disk."""
    stream = sys.stdout
    if getattr(stream, "errors", None) != "strict" or not hasattr(stream, "reconfigure"):
        yield
        return
    utf8 = codecs.lookup(stream.encoding).name == "utf-8"
    stream.reconfigure(errors="surrogateescape" if utf8 else "backslashreplace")
    try:
        yield
    finally:
        with suppress(OSError, ValueError):  # it is flushed, and may be full or closed
            stream.reconfigure(errors="strict")


@contextmanager
def _end_in_order() -> Iterator[None]:
    """Let signals that end a process end it as an error does, so that temporary files go.

    Those that are ignored or looked after stay so. (The trainer, which has to save, takes its own handler.)
    """

    def end(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    taken = []
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, end)
                taken.append(number)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _drop_output() -> None:
    """Let what is still to be written go nowhere: Python tries once more when it ends."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # no file behind it, or no stream
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)
