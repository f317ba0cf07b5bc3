"""The `index` verb in process, with a tiny random model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maerestore.cli import index as verb

from .conftest import captured, contents, noise

Index = Callable[..., tuple[int, str, str]]
LOAD = "maerestore.features.loaders.ExtractorSettings.load"
SMOOTH = Image.Resampling.BICUBIC


def picture(seed: int) -> Image.Image:
    """Smooth, as photographs are: it survives JPEG."""
    return Image.fromarray(noise(4, 5, seed=seed)).resize((60, 48), SMOOTH)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """a, b and c in a folder, d and e in a tar; the working directory is the one around them."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for name, seed in (("a.png", 1), ("b.png", 2), ("deep/c.png", 3), ("d.png", 4), ("e.png", 5)):
        picture(seed).save(folder / name)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for name in ("d.png", "e.png"):
            tar.add(folder / name, name)
            (folder / name).unlink()
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def index(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> Index:
    """index(action, *arguments): exit code, stdout and stderr; built with the tiny model, on the CPU."""

    def run(action: str, *given: object) -> tuple[int, str, str]:
        arguments = ["index", action, *map(str, given)]
        if action == "build" and "--model" not in arguments:
            arguments += ["--model", str(model_folder)]
        if action in ("build", "add", "query"):
            arguments += ["--device", "cpu"]
        return captured(arguments, capsys)

    return run


@pytest.fixture
def built(index: Index, photos: Path) -> str:
    assert index("build", "photos", "shard.tar", "-o", "photos.index", "--precision", "fp32")[0] == 0
    return "photos.index"


def test_the_way_from_photos_to_hits(index: Index, photos: Path) -> None:
    code, out, err = index("build", "photos", "-o", "x.index")
    assert (code, err) == (0, "")
    assert out.startswith("x.index: 3 added; 3 images, flat, in ")
    code, out, err = index("add", "x.index", "photos", "shard.tar")
    assert (code, err) == (0, "")
    assert out.startswith("x.index: 2 added, 3 were there; 5 images, flat, in ")
    code, out, err = index("query", "x.index", "photos/b.png", "-k", 2)
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == ["photos/b.png", "  1.000  photos/b.png"]
    assert len(out.splitlines()) == 3
    code, out, err = index("remove", "x.index", "photos/b.png", "shard.tar/d.png")
    assert (code, out, err) == (0, "x.index: 2 removed, 3 images left\n", "")
    _, out, _ = index("query", "x.index", "photos/b.png")
    assert len(out.splitlines()) == 4
    assert "  photos/b.png" not in out
    assert sorted(path.name for path in Path("x.index").iterdir()) == ["00000002", "current", "lock", "parts.lock"]


def test_what_is_printed_elsewhere_can_be_removed_there(
    index: Index, built: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, home = Path(built).absolute(), Path.cwd()
    assert index("remove", built, "./photos/../photos/b.png")[:2] == (0, f"{built}: 1 removed, 4 images left\n")
    monkeypatch.chdir("photos")
    assert index("remove", folder, "c.png")[0] == 2  # its label's folder is missing
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    names = [line.split("  ")[-1] for line in index("query", folder, home / "photos/a.png")[1].splitlines()[1:]]
    assert str(home / "photos/a.png") in names
    assert str(home / "shard.tar/d.png") in names
    code, out, err = index("remove", folder, home / "photos/a.png", home / "shard.tar/d.png")
    assert (code, out, err) == (0, f"{folder}: 2 removed, 2 images left\n", "")


def test_a_kind_that_needs_more_images_is_told(index: Index, photos: Path) -> None:
    out = index("build", "photos", "-o", "x.index", "--kind", "ivfpq")[1]
    assert "3 images, flat, as ivfpq needs more of them, in " in out


def test_one_image_is_told_in_the_singular(index: Index, photos: Path) -> None:
    assert "x.index: 1 added; 1 image, flat, in " in index("build", "photos/a.png", "-o", "x.index")[1]
    out = index("add", "x.index", "photos/a.png", "photos/b.png")[1]
    assert "x.index: 1 added, 1 was there; 2 images, flat, in " in out
    assert index("remove", "x.index", "photos/b.png")[1] == "x.index: 1 removed, 1 image left\n"
    assert index("duplicates", "x.index")[1] == "x.index: 0 groups, 0 near-duplicates among 1 image\n"


def test_a_changed_image_is_replaced_and_an_unchanged_one_needs_no_model(
    index: Index, built: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture(9).save("photos/a.png")
    code, out, _ = index("add", built, "photos")
    assert code == 0
    assert ": 0 added, 1 replaced, 2 were there; 5 images" in out
    picture(9).save("same.png")
    assert index("query", built, "same.png", "-k", 1)[1].splitlines()[1].endswith("  photos/a.png")
    monkeypatch.setattr(
        "maerestore.features.loaders.ExtractorSettings.load", lambda self: pytest.fail("a model is loaded")
    )
    assert ": 0 added, 5 were there; 5 images" in index("add", built, "photos", "shard.tar")[1]


def test_images_whose_files_are_gone_leave_with_prune(
    index: Index, built: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "b.png").unlink()
    assert ": 0 added, 2 were there; 5 images" in index("add", built, "photos")[1]
    monkeypatch.setattr(
        "maerestore.features.loaders.ExtractorSettings.load", lambda self: pytest.fail("a model is loaded")
    )
    code, out, err = index("add", built, "photos", "--prune")
    assert (code, err) == (0, "")
    assert ": 0 added, 1 removed, 2 were there; 4 images" in out
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (photos / "deep/c.png").unlink()
    picture(7).save(photos / "new.png")
    told = json.loads(index("add", built, "photos", "--prune", "--json")[1])
    assert {name: told[name] for name in ("added", "replaced", "removed", "unchanged", "images")} == {
        "added": 1, "replaced": 0, "removed": 1, "unchanged": 1, "images": 4,
    }  # fmt: skip
    before = contents(Path(built))
    for sources, message in (
        (["shard.tar"], "no source is a folder of images"),
        (["none"], "'none' does not exist"),
        (["photos", "photos/deep"], "no image in 'photos/deep': nothing is pruned"),
    ):
        code, out, err = index("add", built, *sources, "--prune")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
    assert contents(Path(built)) == before


def test_hits_have_the_similarities_of_the_features(index: Index, built: str, model_folder: Path) -> None:
    from maerestore.features.extractor import FeatureExtractor

    code, out, _ = index("query", built, "photos", "-k", 5, "--json")
    told = json.loads(out)
    assert code == 0
    assert [query["image"] for query in told["queries"]] == ["photos/a.png", "photos/b.png", "photos/deep/c.png"]
    extractor = FeatureExtractor.from_pretrained(model_folder, precision="fp32", device="cpu")
    assert told["fingerprint"] == extractor.fingerprint
    names = ["photos/a.png", "photos/b.png", "photos/deep/c.png", "shard.tar/d.png", "shard.tar/e.png"]
    features = extractor([picture(seed) for seed in range(1, 6)]).numpy()
    for row, query in enumerate(told["queries"]):
        expected = features @ features[row]
        assert [hit["name"] for hit in query["hits"]] == [names[i] for i in np.argsort(-expected)]
        for hit in query["hits"]:
            assert hit["score"] == pytest.approx(expected[names.index(hit["name"])], abs=1e-3)


def test_duplicates_are_grouped_and_drawn(index: Index, built: str) -> None:
    picture(2).save("photos/copy.jpg", quality=95)
    index("add", built, "photos", "--quiet")
    code, out, err = index("duplicates", built, "--threshold", 0.9, "--sheet", "groups.png")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "2 images"
    assert {line.split("  ")[-1] for line in lines[1:3]} == {"photos/b.png", "photos/copy.jpg"}
    assert lines[3] == f"{built}: 1 group, 1 near-duplicate among 6 images"
    with Image.open("groups.png") as sheet:
        assert sheet.width > 2 * 160
    told = json.loads(index("duplicates", built, "--threshold", 0.9, "--json")[1])
    assert [{member["name"] for member in group} for group in told["groups"]] == [{"photos/b.png", "photos/copy.jpg"}]
    assert json.loads(index("duplicates", built, "--threshold", 0.01, "--uncentred", "--json")[1])["centred"] is False
    # Without a group, an old picture does not pass for the result.
    index("remove", built, "photos/copy.jpg")
    code, out, err = index("duplicates", built, "--sheet", "groups.png", "--overwrite")
    assert (code, err, out.splitlines()[-1]) == (0, "", "groups.png: not written, there is nothing to draw")
    assert not Path("groups.png").exists()


def test_pictures_decide_unless_told_otherwise(index: Index, built: str) -> None:
    picture(2).save("photos/copy.jpg", quality=95)
    index("add", built, "photos", "--quiet")
    similar = ("duplicates", built, "--threshold", 0.01, "--uncentred")
    told = json.loads(index(*similar, "--json")[1])
    assert [{member["name"] for member in group} for group in told["groups"]] == [{"photos/b.png", "photos/copy.jpg"}]
    assert [told[name] for name in ("threshold", "verified", "read", "unread")] == [0.01, True, 6, 0]
    told = json.loads(index(*similar, "--no-verify", "--json")[1])
    assert [len(group) for group in told["groups"]] == [6]
    assert [told[name] for name in ("threshold", "verified", "read", "unread")] == [0.01, False, 0, 0]
    assert json.loads(index("duplicates", built, "--json")[1])["threshold"] == 0.8
    assert json.loads(index("duplicates", built, "--no-verify", "--json")[1])["threshold"] == 0.93


def test_pictures_that_cannot_be_read_are_told(index: Index, built: str) -> None:
    Path("photos/b.png").unlink()
    out = index("duplicates", built, "--threshold", 0.01, "--uncentred")[1]
    assert out.endswith("among 5 images; 1 picture could not be read: compared by features alone (from 0.99)\n")
    Path("shard.tar").rename("moved.tar")
    out = index("duplicates", built, "--threshold", 0.995, "--uncentred", "--quiet")[1]
    assert "could not" not in out
    told = json.loads(index("duplicates", built, "--threshold", 0.01, "--uncentred", "--json")[1])
    assert (told["read"], told["unread"]) == (2, 3)


def test_a_sheet_shows_query_and_hits_from_anywhere(
    index: Index, built: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, _, err = index("query", f"../{built}", "../photos/b.png", "-k", 5, "--sheet", "b.png")
    assert (code, err) == (0, "")
    with Image.open("b.png") as sheet:
        assert sheet.width == 8 + 6 * 168
        pixels = np.asarray(sheet)
    for left in (8, 176):  # the query, and itself among the hits
        tile = pixels[8:168, left : left + 160]
        assert (tile[56:104, 50:110] == np.asarray(picture(2))).all()
    gray = (pixels == (225, 225, 225)).all(axis=2).sum()
    assert gray < 160 * 80  # every hit was found, those in the tar too
    before = Path("b.png").read_bytes()
    code, _, err = index("query", f"../{built}", "../photos/a.png", "--sheet", "b.png")
    assert (code, Path("b.png").read_bytes()) == (2, before)
    assert "exists" in err
    assert index("query", f"../{built}", "../photos/a.png", "--sheet", "b.png", "--overwrite")[0] == 0


@pytest.mark.parametrize("name", ["a.gif", "a.xyz", "none/a.png"])
def test_a_sheet_that_cannot_be_written_is_refused_before_a_model_is_loaded(
    index: Index, built: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(
        "maerestore.features.loaders.ExtractorSettings.load", lambda self: pytest.fail("a model is loaded")
    )
    code, out, err = index("query", built, "photos/a.png", "--sheet", name)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert name in err


def test_what_cannot_be_read_is_named_and_the_rest_is_done(index: Index, photos: Path) -> None:
    (photos / "broken.png").write_bytes(b"no image")
    code, out, err = index("build", "photos", "-o", "x.index", "--json")
    told = json.loads(out)
    assert (code, told["added"], told["images"], err.count("\n")) == (1, 3, 3, 1)
    assert [skipped["image"] for skipped in told["skipped"]] == ["photos/broken.png"]
    assert err.startswith("maerestore index: skipped: photos/broken.png: ")
    code, out, err = index("query", "x.index", "photos", "-k", 1)
    assert (code, len(out.splitlines()), err.count("\n")) == (1, 6, 1)
    assert index("query", "x.index", "photos/broken.png", "-k", 1)[0] == 2
    assert index("add", "x.index", "photos")[0] == 1
    code, _, err = index("add", "x.index", "photos/broken.png")
    assert (code, err.count("\n")) == (2, 1)


def test_where_no_image_can_be_read_the_first_is_named_and_nothing_is_left(
    index: Index, photos: Path, tmp_path: Path
) -> None:
    Path("bad").mkdir()
    for name in "ab":
        Path(f"bad/{name}.png").write_bytes(b"no image")
    Path("there.index").mkdir()
    before = contents(tmp_path)
    for folder in ("x.index", "there.index"):
        code, out, err = index("build", "bad", "-o", folder)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "none of 2 images could be read, the first is bad/a.png: 'bad/a.png' is not an image" in err
        assert f"'{folder}' is not written" in err
    assert not Path("x.index").exists()
    assert {name: data for name, data in contents(tmp_path).items() if not name.endswith("lock")} == before
    assert not Path("there.index/parts").exists()


def test_an_image_of_the_same_name_in_another_folder_is_refused(
    index: Index, built: str, photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    (other / "photos").mkdir(parents=True)
    picture(9).save(other / "photos/a.png")
    monkeypatch.chdir(other)
    monkeypatch.setattr(
        "maerestore.features.loaders.ExtractorSettings.load", lambda self: pytest.fail("a model is loaded")
    )
    code, out, err = index("add", f"../{built}", "photos")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "has another image named 'photos/a.png'" in err
    monkeypatch.undo()
    monkeypatch.chdir(other)
    assert ": 1 added; 6 images" in index("add", f"../{built}", other / "photos")[1]
    assert ": 0 added, 3 were there; 6 images" in index("add", f"../{built}", photos)[1]  # by another spelling
    assert ": 0 added, 1 was there; 6 images" in index("add", f"../{built}", "photos")[1]


def test_a_run_that_was_killed_goes_on(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    from maerestore.features.extractor import FeatureExtractor

    seen: list[int] = []
    extract = FeatureExtractor.__call__

    def dying(self: FeatureExtractor, images: object) -> object:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(images))  # type: ignore[arg-type]
        return extract(self, images)

    monkeypatch.setattr(FeatureExtractor, "__call__", dying)
    command = ("build", "photos", "-o", "x.index", "--batch-size", 1)
    assert index(*command)[0] == 130
    assert not Path("x.index/current").exists()
    monkeypatch.setattr(FeatureExtractor, "__call__", lambda self, images: (seen.append(-1), extract(self, images))[1])
    code, out, _ = index(*command)
    assert code == 0
    assert ": 3 added; 3 images" in out
    assert seen == [1, 1, -1]
    assert not Path("x.index/parts").exists()


def test_after_a_killed_run_other_images_are_taken(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    from maerestore.features.extractor import FeatureExtractor

    extract = FeatureExtractor.__call__

    def dying(self: FeatureExtractor, images: object) -> object:
        monkeypatch.setattr(FeatureExtractor, "__call__", die)
        return extract(self, images)

    def die(self: FeatureExtractor, images: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureExtractor, "__call__", dying)
    assert index("build", "photos", "-o", "x.index", "--batch-size", 1)[0] == 130
    assert list(Path("x.index/parts").iterdir())
    monkeypatch.setattr(FeatureExtractor, "__call__", extract)
    Path("others").mkdir()
    picture(9).save("others/z.png")
    code, out, err = index("build", "others", "-o", "x.index")
    assert (code, err) == (0, "")
    assert ": 1 added; 1 image" in out


def test_from_another_directory_images_are_told_by_their_paths(
    index: Index, built: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Path.cwd()
    picture(2).save("photos/copy.jpg", quality=95)
    index("add", built, "photos", "--quiet")
    here = index("duplicates", built, "--threshold", 0.9)[1]
    assert f"  {start}" not in here
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    there = start / built
    said = index("duplicates", there, "--threshold", 0.9)[1]
    assert all(Path(line.split(maxsplit=1)[1]).is_file() for line in said.splitlines()[1:3])
    told = json.loads(index("duplicates", there, "--threshold", 0.9, "--json")[1])
    assert all(Path(member["path"]) == start / member["name"] for group in told["groups"] for member in group)
    query = json.loads(index("query", there, start / "photos/b.png", "-k", 2, "--json")[1])["queries"][0]
    assert {hit["path"] for hit in query["hits"]} == {f"{start}/photos/b.png", f"{start}/photos/copy.jpg"}


def test_tables_of_features_are_sources_and_others_are_refused(index: Index, built: str, model_folder: Path) -> None:
    from maerestore.cli.main import main

    options = ["--model", str(model_folder), "--device", "cpu", "--quiet"]
    assert main(["features", "photos", "-o", "same.npy", *options]) == 0
    assert main(["features", "photos", "-o", "other.npy", "--pooling", "cls", *options]) == 0
    assert ": 0 added, 3 were there; 5 images" in index("add", built, "same.npy")[1]
    code, _, err = index("add", built, "other.npy")
    assert (code, err.count("\n")) == (2, 1)
    assert "with other weights or options" in err
    assert ": 3 added; 3 images, hnsw" in index("build", "other.npy", "-o", "y.index", "--kind", "hnsw")[1]
    assert index("query", "y.index", "photos/a.png", "-k", 1)[1].splitlines()[1] == "  1.000  photos/a.png"
    code, _, err = index("build", "other.npy", "-o", "z.index", "--pooling", "cls")
    assert (code, err.count("\n")) == (2, 1)
    assert "--pooling is for images" in err


def test_other_weights_are_refused(index: Index, built: str, tiny_model: Callable[..., object], tmp_path: Path) -> None:
    tiny_model(seed=5).save_pretrained(tmp_path / "other")  # type: ignore[attr-defined]
    before = contents(Path(built))
    for command in (("query", built, "photos/a.png"), ("add", built, "more.png")):
        picture(7).save("more.png")
        code, out, err = index(*command, "--model", tmp_path / "other")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "with other weights or options" in err
    assert {name: data for name, data in contents(Path(built)).items() if "lock" not in name} == {
        name: data for name, data in before.items() if "lock" not in name
    }


BAD = {
    "no source": ("build none -o x.index", "does not exist"),
    "no image": ("build empty -o x.index", "no image in"),
    "no index": ("query none photos/a.png", "is no index: make one"),
    "other files": ("build photos -o photos", "holds other files"),
    "there": ("build photos -o photos.index", "exists: add to it"),
    "kind": ("build photos -o x.index --kind tree", "tree"),
    "pooling": ("build photos -o x.index --pooling patch", "patch"),
    "size": ("build photos -o x.index --size 0", "'0' is no whole number of at least 1"),
    "model": ("build photos -o x.index --model nonesuch", "no model 'nonesuch'"),
    "unknown name": ("remove photos.index photos/z.png", "no image 'photos/z.png'"),
    "threshold": ("duplicates photos.index --threshold 2", "'2' is no number from 0 to 1"),
    "zero": ("duplicates photos.index --threshold 0", "threshold must be above 0"),
    "k": ("query photos.index photos/a.png -k 0", "'0' is no whole number of at least 1"),
    "sheet": ("query photos.index photos/a.png --sheet a.xyz", ".xyz"),
    "colours": ("query photos.index photos/a.png --sheet a.gif", "GIF cannot hold the colours"),
    "colours of groups": ("duplicates photos.index --sheet a.gif", "GIF cannot hold the colours"),
    "action": ("search photos.index", "search"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_line(index: Index, built: str, tmp_path: Path, case: str) -> None:
    command, message = BAD[case]
    (tmp_path / "empty").mkdir()
    before = contents(tmp_path)
    code, out, err = index(*command.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert {name: data for name, data in contents(tmp_path).items() if not name.endswith("lock")} == {
        name: data for name, data in before.items() if not name.endswith("lock")
    }


def test_bad_input_is_told_before_torch_is_loaded(photos: Path) -> None:
    code = (
        "import sys; from maerestore.cli.main import main; "
        "assert main(['index', 'build', 'none', '-o', 'x.index']) == 2; "
        "assert main(['index', 'query', 'none', 'photos/a.png']) == 2; assert 'torch' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(verb.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr


def test_the_choices_are_those_of_the_library() -> None:
    from maerestore.features.index.kinds import KINDS

    assert ("auto", *KINDS) == verb._KINDS


def test_a_folder_of_tables_is_a_source(index: Index, photos: Path, model_folder: Path) -> None:
    from maerestore.cli.main import main
    from maerestore.features.table_files import FACTS_NAME

    Path("features").mkdir()
    Path("features", FACTS_NAME).write_text("{}")
    for number, source in enumerate(("photos", "shard.tar")):
        out = f"features/shard-{number}.parquet"
        assert main(["features", source, "-o", out, "--model", str(model_folder), "--device", "cpu", "--quiet"]) == 0
    code, out, _ = index("build", "features", "-o", "of.index", "--json")
    assert (code, json.loads(out)["added"]) == (0, 5)


def test_a_name_of_other_bytes_than_utf8_is_as_find_items_writes_it(index: Index, built: str) -> None:
    odd = os.fsdecode(b"photos/caf\xe9.png")
    try:
        picture(7).save(odd)
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    assert index("add", built, odd)[0] == 0
    assert index("remove", built, odd)[0] == 0
    code, _, err = index("remove", built, odd)
    assert (code, err.count("\n")) == (2, 1)
    assert "no image 'photos/caf\\xe9.png'" in err
