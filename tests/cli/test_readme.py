"""The commands of the README are commands of this version, and its Python of photos runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maerestore.cli.main import VERBS, build_parser

from .conftest import hole, noise

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """The lines of its bash blocks that call the program, without its name."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    found = (re.search(r"(?:^|[/\s])maerestore (?=[a-z])(.*)", line) for line in lines)
    return [match.group(1) for match in found if match]


def test_no_command_is_lost() -> None:
    assert len(commands()) >= 20
    assert all(command in commands() for command in re.findall(r"^maerestore (.*)$", README, re.MULTILINE))
    assert {command.split()[0] for command in commands()} == set(VERBS)


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_parses(command: str) -> None:
    words = shlex.split(command, comments=True)
    assert build_parser().parse_args(words).verb == words[0]


def test_photos_from_python_are_filled_as_printed(
    folder: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = README.split("\n## Filling\n")[1].split("\n## ")[0]
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL) if "read_photo" in block)
    monkeypatch.chdir(folder)
    Image.fromarray(noise()).save("photo.tif", tiffinfo={270: "a caption"})
    from maerestore import Inpainter

    exec(code, {"inpainter": Inpainter.from_pretrained(model_folder, device="cpu")})
    with Image.open("out.tif") as filled:
        assert filled.getexif()[270] == "a caption"
        np.testing.assert_array_equal(np.asarray(filled)[~hole()], noise()[~hole()])
        assert (np.asarray(filled) != noise())[hole()].any()
