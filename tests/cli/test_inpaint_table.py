"""`maerestore inpaint --table`: the photos and masks of a table, one model."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from maerestore.cli.main import main
from maerestore.image.output import check_target
from maerestore.inpaint.rows import read_pairs
from maerestore.inpaint.table import FillSettings, Outcome, fill_table

from .conftest import HEIGHT, WIDTH, contents, hole, noise, save_mask

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: photos a.png and cats/b.jpg, one mask for both."""
    monkeypatch.chdir(tmp_path)
    Path("cats").mkdir()
    Image.fromarray(noise(seed=1)).save("a.png")
    Image.fromarray(noise(seed=2)).save("cats/b.jpg", quality=95)
    save_mask(Path("mask.png"), hole())
    return tmp_path


@pytest.fixture
def run(work: Path, model_folder: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """run(text of pairs.csv, *options): exit code, stdout, stderr."""

    def called(text: str | None, *options: Any) -> tuple[int, str, str]:
        if text is not None:
            Path("pairs.csv").write_text(text)
        arguments = ["inpaint", "--table", "pairs.csv", "--model", model_folder, "--device", "cpu"]
        arguments += [] if "-o" in options else ["-o", "filled"]
        capfd.readouterr()
        try:
            code: Any = main([*map(str, arguments), *map(str, options)])
        except SystemExit as stop:  # by argparse
            code = stop.code
        return code, *capfd.readouterr()

    return called


BOTH = "photo,mask\na.png,mask.png\ncats/b.jpg,mask.png\n"


def test_each_row_is_filled_as_it_is_alone(run: Run, work: Path, fill: Callable[..., int]) -> None:
    code, out, err = run(BOTH, "--dilate", 2)
    assert (code, err) == (0, "")
    assert "2 photos filled" in out
    assert {name for name, content in contents(work / "filled").items() if content} == {"a.png", "cats/b.jpg"}
    assert fill("a.png", "mask.png", "-o", "alone.png", "--dilate", 2) == 0
    assert Path("filled/a.png").read_bytes() == Path("alone.png").read_bytes()
    before, after = (np.asarray(Image.open(path)) for path in ("a.png", "filled/a.png"))
    assert (before[:8] == after[:8]).all()
    assert (before[hole()] != after[hole()]).any()


def test_known_pixels_stay_where_a_photo_has_the_suffix_of_another_format(
    run: Run, work: Path, fill: Callable[..., int]
) -> None:
    Path("a.png").rename("cats/a.jpg")
    Path("cats/b.jpg").rename("cats/b")
    assert fill("cats/a.jpg", "mask.png", "--sharp", "off") == 0
    code, _, err = run("photo,mask\ncats/a.jpg,mask.png\ncats/b,mask.png\n", "--sharp", "off")
    assert (code, err) == (0, "")
    assert {name for name, content in contents(work / "filled").items() if content} == {"cats/a.png", "cats/b.jpg"}
    assert Path("filled/cats/a.png").read_bytes() == Path("cats/a_filled.png").read_bytes()
    before, after = (np.asarray(Image.open(path)) for path in ("cats/a.jpg", "filled/cats/a.png"))
    assert (before == after)[~hole()].all()


@pytest.mark.parametrize("backwards", [False, True])
def test_photos_of_one_name_whose_fills_get_one_suffix_do_not_meet(backwards: bool, work: Path) -> None:
    Path("a.jpg").write_bytes(Path("a.png").read_bytes())
    Path("cats/a.jpg").write_bytes(Path("a.png").read_bytes())
    rows = ["a.png,mask.png,", "a.jpg,mask.png,", "cats/a.jpg,mask.png,", "cats/b.jpg,mask.png,cats/a.png"]
    rows = rows[::-1] if backwards else rows
    Path("pairs.csv").write_text("\n".join(["photo,mask,output", *rows]))
    pairs = read_pairs(Path("pairs.csv"), Path("out"))
    assert [pair.error for pair in pairs] == [None] * 4
    assert {pair.photo: pair.out.as_posix() for pair in pairs} == {
        "a.png": "out/a.png",
        "a.jpg": "out/a.jpg.png",
        "cats/a.jpg": "out/cats/a.jpg.png",
        "cats/b.jpg": "out/cats/a.png",
    }
    Path("pairs.csv").write_text("photo,mask\na.png,mask.png\na.jpg,mask.png\na.jpg,mask.png\n")
    assert "would replace that of row 2" in str(read_pairs(Path("pairs.csv"), Path("out"))[2].error)


def test_rows_say_nothing_of_python(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As where another process writes the file that is being filled.
    monkeypatch.setattr("maerestore.inpaint.table.write_photo", lambda *_: check_target(Path("a.png"), False))
    code, _, err = run("photo,mask\na.png,mask.png\n", "--sharp", "off")
    assert (code, err) == (
        1, "maerestore inpaint: row 1: output 'a.png' exists: choose another output, or add --overwrite\n",
    )  # fmt: skip


def test_the_model_is_loaded_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from maerestore.inpaint.pipeline import Inpainter

    load, times = Inpainter.from_pretrained, []
    monkeypatch.setattr(Inpainter, "from_pretrained", lambda *a, **k: times.append(a) or load(*a, **k))
    assert run(BOTH)[0] == 0
    assert len(times) == 1


def test_what_is_there_is_kept_unless_told_otherwise(run: Run, work: Path) -> None:
    Path("filled").mkdir()
    Path("filled/a.png").write_bytes(b"mine")
    code, out, _ = run(BOTH)
    assert code == 0
    assert "1 photo filled, 1 was there" in out
    assert Path("filled/a.png").read_bytes() == b"mine"
    before = contents(work)
    assert json.loads(run(None, "--json")[1])["present"] == 2
    assert contents(work) == before
    assert run(None, "--overwrite")[0] == 0
    assert Image.open("filled/a.png").size == (WIDTH, HEIGHT)


def test_where_nothing_is_left_to_do_no_model_is_loaded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(BOTH)[0] == 0
    monkeypatch.setattr(FillSettings, "load", lambda self: pytest.fail("a model was loaded"))
    assert run(None)[0] == 0


def test_rows_that_cannot_be_done_are_told_and_the_others_are_done(run: Run, work: Path) -> None:
    Path("cut.png").write_bytes(Path("a.png").read_bytes()[:500])
    save_mask(Path("empty.png"), np.zeros((HEIGHT, WIDTH), bool))
    save_mask(Path("small.png"), hole()[:-3])
    rows = ["photo,mask,output", "gone.png,mask.png,", "cut.png,mask.png,", "a.png,empty.png,", "a.png,small.png,x.png",
            ",mask.png,", "a.png,,", "a.png,mask.png,../out.png", "a.png,mask.png,y.docx", "a.png,mask.png,z/good.png",
            "cats/b.jpg,mask.png,z/good.png"]  # fmt: skip
    code, out, err = run("\n".join(rows), "--json")
    assert code == 1
    told = json.loads(out)
    assert (told["rows"], told["written"], told["present"]) == (10, 1, 0)
    assert [error["row"] for error in told["errors"]] == [1, 2, 3, 4, 5, 6, 7, 8, 10]
    lines = err.splitlines()
    assert sorted(int(line.split("row ")[1].split(":")[0]) for line in lines) == [1, 2, 3, 4, 5, 6, 7, 8, 10]
    assert all(line.startswith("maerestore inpaint: row ") for line in lines)
    for word in ("gone.png", "cut.png", "nothing to fill", "small.png", "no photo", "no mask", "output folder",
                 ".docx", "row 9"):  # fmt: skip
        assert word in err
    assert {name for name, content in contents(work / "filled").items() if content} == {"z/good.png"}


def test_what_its_format_cannot_hold_is_told_before_the_fill(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from maerestore.inpaint.pipeline import Inpainter

    Image.fromarray(noise(channels=4)).save("clear.png")
    monkeypatch.setattr(Inpainter, "fill", lambda *_, **__: pytest.fail("a fill was begun"))
    code, _, err = run("photo,mask,output\nclear.png,mask.png,x.jpg\na.png,mask.png,y.gif\n")
    assert code == 1
    assert "transparency" in err
    assert "GIF" in err


def test_a_place_that_takes_no_file_is_told_before_the_fill(
    run: Run, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maerestore.inpaint.pipeline import Inpainter

    monkeypatch.setattr(Inpainter, "fill", lambda *_, **__: pytest.fail("a fill was begun"))
    (work / "filled").mkdir()
    (work / "filled/file").touch()
    code, _, err = run("photo,mask,output\na.png,mask.png,file/x.png\n")
    assert code == 1
    assert "cannot be made" in err


@pytest.mark.parametrize(
    "error",
    [
        ValueError("the fill holds values\nthat are not finite"),
        RuntimeError("a shape that does not fit"),
        cv2.error("OpenCV(5.0) an assertion"),
        ZeroDivisionError(),
    ],
)
def test_an_error_that_nobody_foresaw_is_the_reason_of_its_row(
    error: Exception, run: Run, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from maerestore.inpaint.pipeline import Inpainter

    fill = Inpainter.fill

    def stumble(self: Any, photo: Any, *args: Any, **options: Any) -> Any:
        if photo.format == "PNG":
            raise error
        return fill(self, photo, *args, **options)

    monkeypatch.setattr(Inpainter, "fill", stumble)
    code, out, err = run(BOTH)
    assert code == 1
    assert "1 photo filled; 1 of 2 rows could not be done" in out
    assert err.startswith("maerestore inpaint: row 1: ")
    assert err.count("\n") == 1
    assert type(error).__name__ in err
    assert {name for name, content in contents(work / "filled").items() if content} == {"cats/b.jpg"}


def test_an_interrupt_ends_a_table(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from maerestore.inpaint.pipeline import Inpainter

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Inpainter, "fill", interrupt)
    assert run(BOTH)[0] == 130


def test_no_input_is_ever_replaced(run: Run, work: Path) -> None:
    before = contents(work)
    code, _, err = run("photo,mask\na.png,mask.png\n", "-o", ".", "--overwrite")
    assert code == 1
    assert "would replace the input" in err
    Path("pairs.csv").unlink()
    assert contents(work) == before


def test_a_failed_write_leaves_nothing(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    code, _, err = run("photo,mask\na.png,mask.png\n")
    assert code == 1
    assert "No space left" in err
    assert contents(work / "filled") == {}


def test_parquet_and_tsv_hold_the_same(work: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"n": [1, 2], "photo": ["a.png", "/x/b.tif"], "mask": ["m.png", None]}), "pairs.parquet")
    Path("pairs.csv").write_text("\ufeffn, photo ,mask\n1,a.png,m.png\n2, /x/b.tif,\n", encoding="utf-8")
    Path("pairs.tsv").write_text("n\tphoto\tmask\n1\ta.png\tm.png\n2\t/x/b.tif\t\n")
    one, two, three = (read_pairs(Path(f"pairs.{suffix}"), Path("out")) for suffix in ("parquet", "csv", "tsv"))
    assert one == two == three
    assert (one[0].out, one[0].error, one[1].error) == (Path("out/a.png"), None, "no mask is given")


@pytest.mark.parametrize("text", [
    "photo;mask\na,b.png;m.png\n",
    "\ufeffPhoto; MASK ;output\r\n a,b.png ;m.png;\r\n",
    'n,PHOTO," Mask "\n1,"a,b.png",m.png\n',
    '"photo";"n";"mask"\n"a,b.png";"1;2";"m.png"\n',
    "photo\tmask\na,b.png\tm.png\n",
])  # fmt: skip
def test_tables_as_spreadsheets_write_them(text: str, work: Path) -> None:
    Path("pairs.csv").write_bytes(text.encode())
    (pair,) = read_pairs(Path("pairs.csv"), Path("out"))
    assert (pair.photo, pair.mask, pair.error) == ("a,b.png", "m.png", None)


def test_a_header_with_commas_keeps_its_semicolons(work: Path) -> None:
    Path("pairs.csv").write_text("photo,mask,a;b\nx;y.png,m.png,\n")
    assert read_pairs(Path("pairs.csv"), Path("out"))[0].photo == "x;y.png"


def test_column_names_of_parquet_count_in_any_case(work: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"Photo": ["a.png"], "MASK": ["m.png"], "Output ": ["b.png"]}), "pairs.parquet")
    assert read_pairs(Path("pairs.parquet"), Path("out"))[0].out == Path("out/b.png")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_table_in_another_encoding_says_how_to_save_it(encoding: str, run: Run) -> None:
    Path("pairs.csv").write_bytes("photo,mask\nfoto_größe.jpg,mask.png\n".encode(encoding))
    code, out, err = run(None)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "'pairs.csv' is not in UTF-8: save it as UTF-8" in err
    assert "codec" not in err


@pytest.mark.parametrize(
    ("text", "options", "word"),
    [
        ("image,mask\na.png,mask.png\n", (), "photo"),
        ("photo\na.png\n", (), "mask"),
        ("", (), "photo"),
        ("photo,mask\n\n", (), "'pairs.csv' has no rows below its header: nothing to fill"),
        (BOTH, ("-o", "a.png"), "folder"),
        (BOTH, ("--samples", 2), "--samples"),
        (BOTH, ("--confidence", "sure.png"), "--confidence"),
        (BOTH, ("--ray-workers", 2), "--engine ray"),
        (BOTH, ("--dilate", -1), "dilate"),
        (BOTH, ("a.png", "mask.png"), "--table"),
    ],
)
def test_bad_calls_end_with_one_line(run: Run, work: Path, text: str, options: tuple[Any, ...], word: str) -> None:
    Path("pairs.csv").write_text(text)
    before = contents(work)
    code, out, err = run(None, *options)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert word in err
    assert contents(work) == before


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.parquet"])
def test_a_table_that_cannot_be_read(name: str, run: Run, work: Path) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
        Path(name).write_bytes(b"PAR1 nothing")
    code, _, err = run(None, "--table", name)
    assert code == 2
    assert name in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(("name", "content"), [("t.xlsx", b"PK\3\4..."), ("t.csv", b"PK\3\4..."),
                                               ("t.csv", b"PK\3\4\xff" * 9),
                                               ("t.XLS", b"\xd0\xcf"), ("t.ods", b"photo,mask\n")])  # fmt: skip
def test_a_spreadsheet_says_how_to_save_it(name: str, content: bytes, run: Run) -> None:
    Path(name).write_bytes(content)
    code, out, err = run(None, "--table", name)
    assert (code, out) == (2, "")
    assert err == f"maerestore inpaint: '{name}' is a spreadsheet, which is not read: save it as CSV in UTF-8.\n"
    Path(name).unlink()
    assert "spreadsheet" not in run(None, "--table", name)[2]


@pytest.mark.parametrize("arguments", [[], ["a.png"]])
def test_without_a_table_a_photo_and_a_mask_are_needed(
    arguments: list[str], work: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["inpaint", *arguments])
    assert caught.value.code == 2
    err = capfd.readouterr().err
    assert "--table" in err
    assert err.count("\n") == 1


def test_an_engine_without_a_table(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["inpaint", "a.png", "mask.png", "--engine", "ray"]) == 2
    assert "--table" in capfd.readouterr().err
    assert not Path("a_filled.png").exists()


def test_without_ray_its_remedy_is_named(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, err = run(BOTH, "--engine", "ray")
    assert code == 2
    assert err.count("\n") == 1
    assert "pip install 'maerestore[ray]'" in err
    assert not Path("filled").exists()


def test_a_task_that_is_done_twice_keeps_what_it_finds(work: Path, model_folder: Path) -> None:
    from maerestore.inpaint.distributed import FillActor

    Path("pairs.csv").write_text(BOTH)
    pairs = read_pairs(Path("pairs.csv"), Path("filled"))
    Path("filled").mkdir()
    Path("filled/a.png").write_bytes(b"mine")
    actor = FillActor(FillSettings(model=str(model_folder), device="cpu"), overwrite=False)
    assert actor(pairs) == [(1, Outcome()), (2, Outcome())]
    assert Path("filled/a.png").read_bytes() == b"mine"
    assert Image.open("filled/cats/b.jpg").size == (WIDTH, HEIGHT)


def test_an_engine_of_another_kind_gets_what_is_to_do(work: Path) -> None:
    Path("pairs.csv").write_text(BOTH + "gone.png,mask.png\n")
    Path("filled").mkdir()
    Path("filled/a.png").touch()
    seen: list[int] = []

    def engine(pairs: Any, settings: Any, overwrite: bool) -> Any:
        for pair in reversed(pairs):
            seen.append(pair.row)
            yield pair, Outcome("wrong" if pair.row == 3 else None, ("odd",) if pair.row == 2 else ())

    told: list[tuple[int, int]] = []
    report = fill_table(read_pairs(Path("pairs.csv"), Path("filled")), FillSettings(), engine=engine,
                        progress=lambda done, total: told.append((done, total)))  # fmt: skip
    assert seen == [3, 2]
    assert told == [(1, 2), (2, 2)]
    assert (report.rows, report.written, report.present, report.errors) == (3, 1, 1, [(3, "gone.png", "wrong")])
    assert report.warnings == [(2, "cats/b.jpg", "odd")]


def test_no_input_of_another_row_is_replaced(run: Run, work: Path) -> None:
    before = contents(work)
    code, _, err = run("photo,mask,output\na.png,mask.png,cats/b.jpg\ncats/b.jpg,mask.png,mask.png\n", "-o", ".",
                       "--overwrite")  # fmt: skip
    assert code == 1
    assert "replace the input 'cats/b.jpg'" in err
    assert "replace the input 'mask.png'" in err
    Path("pairs.csv").unlink()
    assert contents(work) == before


def test_a_photo_is_not_taken_for_its_own_fill(run: Run) -> None:
    code, out, err = run("photo,mask\na.png,mask.png\n", "-o", ".", "--json")
    assert code == 1
    assert json.loads(out)["present"] == 0
    assert "would replace the input" in err


def test_a_zero_byte_in_a_name_gets_one_line(run: Run) -> None:
    code, _, err = run("photo,mask,output\na\0.png,mask.png,\na.png,mask.png,b\0.png\n")
    assert (code, err.count("\n")) == (1, 2)


def test_what_is_hardly_meant_is_told_of_each_row(run: Run, work: Path) -> None:
    """Of one photo it is: by --table it must not be lost, least of all by JSON or another process."""
    Image.fromarray(noise(channels=1)[..., 0]).save("photograph.png")
    Image.fromarray(noise(channels=1)[..., 0].astype(np.uint16) * 257).save("deep.png")
    rows = "photo,mask,output\na.png,mask.png,1.png\na.png,photograph.png,2.png\ndeep.png,mask.png,3.jpg\n"
    code, out, err = run(rows, "--json", "--sharp", "off")
    assert code == 0
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("maerestore inpaint: row 2: warning: 'photograph.png' looks like a photograph")
    assert lines[1].startswith("maerestore inpaint: row 3: warning: ")
    assert "keeps 8 of the photo's 16 bits" in lines[1]
    told = json.loads(out)["warnings"]
    assert [(entry["row"], entry["photo"]) for entry in told] == [(2, "a.png"), (3, "deep.png")]
    assert [entry["warning"] for entry in told] == [line.split("warning: ")[1] for line in lines]
    assert run(rows, "--quiet", "--overwrite", "--sharp", "off") == (0, "", "")


def test_what_another_library_warns_of_is_told_once(run: Run, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from maerestore.inpaint import table

    read = table.read_pair

    def warning(*arguments: Any) -> Any:
        warnings.warn("of a library", UserWarning, stacklevel=1)
        return read(*arguments)

    monkeypatch.setattr(table, "read_pair", warning)
    code, _, err = run(BOTH, "--sharp", "off")
    assert code == 0
    assert err.count("UserWarning: of a library") == 1
