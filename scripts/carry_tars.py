"""Carry the images of tars in loads of limited size, without the headers and padding of a tar, and make the tars again.

    python scripts/carry_tars.py split photos-*.tar -o data/load --mib 61      # writes data/load0, data/load1, ...
    python scripts/carry_tars.py join data/load0 data/load1 -o photos          # there; also one after the other

A load holds `blob`, the files one after the other, and `index.json.gz`: tar, name and size of each. The photographs of
the default model take 179 MiB so, in the place of 214.
"""

import argparse
import gzip
import io
import itertools
import json
import sys
import tarfile
from collections import Counter
from pathlib import Path

from maerestore.image.errors import reason_of
from maerestore.train.packing import DataError, tar_images

Entry = tuple[str, str, int]  # tar, name, size


def split(tars: list[Path], out: Path, limit: int) -> list[Path]:
    """Write loads of at most `limit` bytes of images; their folders are `out` with a number at its end.

    Raises:
        DataError: a tar that cannot be read, an image larger than a load, or two tars or images of one name: they would
            come back as one.
    """
    twice = [name for name, times in Counter(path.name for path in tars).items() if times > 1]
    if twice:
        raise DataError(f"two of the tars are called {twice[0]}: rename one")
    loads: list[Path] = []
    index: list[Entry] = []
    blob = bytearray()

    def write() -> None:
        folder = out.with_name(f"{out.name}{len(loads)}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "blob").write_bytes(blob)
        (folder / "index.json.gz").write_bytes(gzip.compress(json.dumps(index).encode()))
        loads.append(folder)
        index.clear()
        blob.clear()

    for path in tars:
        names: set[str] = set()
        try:
            with tarfile.open(path) as tar:
                for name, data in tar_images(tar):
                    if len(data) > limit:
                        raise DataError(f"{path}: {name} is larger than a load: raise --mib")
                    if name in names:
                        raise DataError(f"{path}: holds two images called {name}")
                    names.add(name)
                    if len(blob) + len(data) > limit:
                        write()
                    index.append((path.name, name, len(data)))
                    blob += data
        except (tarfile.TarError, OSError) as err:
            raise DataError(f"{path}: not a readable tar file ({reason_of(err)})") from err
    if index:
        write()
    return loads


def join(loads: list[Path], out: Path) -> int:
    """Append the images of loads to the tars in `out` that they came from; returns their number.

    Raises:
        DataError: a folder that is no load, or an image that its tar holds already: the load was joined before.
    """
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    for folder in loads:
        try:
            found = json.loads(gzip.decompress((folder / "index.json.gz").read_bytes()))
            index: list[Entry] = [(str(tar), str(name), int(size)) for tar, name, size in found]
            blob = (folder / "blob").read_bytes()
        except (OSError, ValueError, TypeError) as err:
            raise DataError(f"{folder}: not a load ({err})") from err
        if len(blob) != sum(size for _, _, size in index):
            raise DataError(f"{folder}: its images are not all there: carry it again")
        at = 0
        for tar, entries in itertools.groupby(index, lambda entry: entry[0]):  # in the order of the blob
            with tarfile.open(out / tar, "a") as target:
                there = set(target.getnames())
                for _, name, size in entries:
                    if name in there:
                        raise DataError(f"{out / tar}: holds {name} already: was {folder} joined before?")
                    info = tarfile.TarInfo(name)
                    info.size = size
                    target.addfile(info, io.BytesIO(blob[at : at + size]))
                    at += size
                    count += 1
    return count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("split", "join"))
    parser.add_argument("sources", nargs="+", type=Path, help="tars to split, or loads to join")
    parser.add_argument("-o", "--out", required=True, type=Path, help="name of the loads, or folder for the tars")
    parser.add_argument("--mib", type=int, default=61, help="MiB of a load at most (default 61)")
    args = parser.parse_args()
    try:
        if args.what == "split":
            for folder in split(args.sources, args.out, args.mib * 2**20):
                print(f"{folder}: {(folder / 'blob').stat().st_size / 2**20:.1f} MiB")
        else:
            print(f"{join(args.sources, args.out)} images in {args.out}")
    except (DataError, OSError, tarfile.TarError) as err:  # the last of a tar in the folder that is none
        print(f"carry_tars: {err}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
