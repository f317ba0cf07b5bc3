"""Carry the images of tars in loads of limited size, without the headers and padding of a tar, and make the tars again.

    python scripts/carry_tars.py split photos-*.tar -o data/load --mib 61      # writes data/load0, data/load1, ...
    python scripts/carry_tars.py join data/load0 data/load1 -o photos          # there; also one after the other

A load holds `blob`, the files one after the other, and `index.json.gz`: tar, name and size of each. The photographs of
the default model take 179 MiB so, in the place of 214.
"""

import argparse
import gzip
import io
import json
import sys
import tarfile
from pathlib import Path

from maerestore.image.errors import reason_of
from maerestore.train.packing import DataError, tar_images

Entry = tuple[str, str, int]  # tar, name, size


def split(tars: list[Path], out: Path, limit: int) -> list[Path]:
    """Write loads of at most `limit` bytes of images; their folders are `out` with a number at its end.

    Raises:
        DataError: a tar that cannot be read, or an image larger than a load.
    """
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
        try:
            with tarfile.open(path) as tar:
                for name, data in tar_images(tar):
                    if len(data) > limit:
                        raise DataError(f"{path}: {name} is larger than a load: raise --mib")
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
        DataError: a folder that is no load.
    """
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    for folder in loads:
        try:
            index: list[Entry] = json.loads(gzip.decompress((folder / "index.json.gz").read_bytes()))
            blob = (folder / "blob").read_bytes()
        except (OSError, ValueError) as err:
            raise DataError(f"{folder}: not a load ({err})") from err
        at = 0
        for tar in dict.fromkeys(entry[0] for entry in index):
            with tarfile.open(out / tar, "a") as target:
                for _, name, size in (entry for entry in index if entry[0] == tar):
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
    except (DataError, OSError) as err:
        print(f"carry_tars: {err}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
