"""Pack photographs for the trainer: folders or tar files in, one memory-mapped array out.

    python scripts/prepare_data.py PHOTOS [MORE ...] -o data/packed-160 --size 160

Corrupt files are left out and counted. One photo in 64 (by the hash of its name) will be kept aside for validation.
"""

import argparse
import json
import sys
from pathlib import Path

from maerestore.threads import usable_cpus
from maerestore.train.packing import DataError, held_out, pack


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", type=Path, help="folders (searched recursively) and .tar files")
    parser.add_argument("-o", "--out", required=True, type=Path, help="folder to write")
    parser.add_argument("--size", type=int, default=224, help="short side in pixels (default 224)")
    parser.add_argument("--workers", type=int, default=usable_cpus(), help="decoding processes")
    args = parser.parse_args()
    for name in ("size", "workers"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    try:
        counts = pack(args.sources, args.out, args.size, args.workers)
    except (DataError, OSError) as err:
        print(f"prepare_data: {err}", file=sys.stderr)
        return 2
    names = json.loads((args.out / "index.json").read_text())["names"]
    print(
        f"{counts['photos']} photos packed in {args.out} ({sum(map(held_out, names))} of them kept aside), "
        f"{counts['corrupt']} corrupt files left out"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
