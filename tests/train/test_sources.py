"""What --data names is opened: decoded once where it fits, streamed where it does not."""

import functools
import http.server
import io
import itertools
import multiprocessing
import os
import struct
import tarfile
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from maerestore.train.corpus import Layout, permutations
from maerestore.train.packing import DataError, held_out
from maerestore.train.resident import ResidentCorpus
from maerestore.train.sources import open_corpus
from maerestore.train.streams import StreamedCorpus

from .conftest import file_names

CPU = torch.device("cpu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def gray_level(level, size=(50, 40)):
    """A photo that tells which one it is by its brightness."""
    return Image.new("RGB", size, (level, level, level))


@pytest.fixture
def photos(tmp_path):
    """A folder with 12 photographs of brightness 10, 20, ... and 2 white ones that are kept aside."""
    folder = tmp_path / "photos"
    for i, name in enumerate(file_names(12, False)):
        target = folder / f"part{i % 2}"
        target.mkdir(parents=True, exist_ok=True)
        gray_level(10 * (i + 1)).save(target / name)
    for name in file_names(2, True):
        gray_level(255).save(folder / name)
    return folder


def make_tar(path, images):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, image in images:
            data = image
            if not isinstance(image, bytes):
                buffer = io.BytesIO()
                image.save(buffer, "PNG")
                data = buffer.getvalue()
            for suffix, content in ((".png", data), (".cls", b"3")):
                info = tarfile.TarInfo(name + suffix)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    """Four WebDataset shards of six photographs; all brightnesses differ."""
    for shard in range(4):
        images = [(f"{shard}-{i}", gray_level(10 * (6 * shard + i + 1))) for i in range(6)]
        make_tar(tmp_path / f"shards/photos-{shard:03d}.tar", images)
    return tmp_path / "shards"


def opened(source, tmp_path, layout=None, resident_gb=8.0, workers=0, **settings):
    layout = layout or Layout(4)
    return open_corpus(str(source), CPU, 40, layout, tmp_path / "cache", resident_gb, workers, **settings)


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def levels(corpus, batches, layout=None):
    """The brightness of each photo handed out, batch by batch and part by part."""
    layout = layout or Layout(4)
    seen = []
    for step in range(batches):
        for part in layout.parts:
            canvas, _ = corpus.canvases(layout.total, part, generator(step))
            seen.append([int(value) for value in canvas[:, 20, 20, 0]])
    return seen


# --- a corpus that fits ---------------------------------------------------------------------------------------------


def test_a_folder_that_fits_is_decoded_once(photos, tmp_path, monkeypatch):
    corpus = opened(photos, tmp_path)
    assert isinstance(corpus, ResidentCorpus)
    assert len(corpus.train_ids) == 12
    assert len(corpus.held_ids) == 2
    monkeypatch.setattr("maerestore.train.sources.pack", None)  # a second time would fail
    again = opened(photos, tmp_path)
    assert again.fingerprint == corpus.fingerprint


def test_photographs_whose_index_is_cut_off_are_decoded_again(photos, tmp_path):
    fingerprint = opened(photos, tmp_path).fingerprint
    (index,) = tmp_path.rglob("index.json")
    index.write_text(index.read_text()[:100])
    assert opened(photos, tmp_path).fingerprint == fingerprint


def test_a_data_set_without_images_is_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match="torchvision:FakeData") as caught:
        opened("torchvision:FakeData", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_that_changed_is_decoded_again(photos, tmp_path):
    before = opened(photos, tmp_path)
    gray_level(5).save(photos / file_names(13, False)[-1])
    assert len(opened(photos, tmp_path).train_ids) == len(before.train_ids) + 1


def test_corrupt_files_are_counted(photos, tmp_path):
    (photos / "broken.png").write_bytes(b"\x89PNG not really")
    assert opened(photos, tmp_path).corrupt == 1


def test_tars_that_fit_are_decoded_once(shards, tmp_path):
    corpus = opened(shards, tmp_path)
    assert isinstance(corpus, ResidentCorpus)
    assert len(corpus.train_ids) + len(corpus.held_ids) == 24


def write_mnist(root, images):
    """The files of torchvision's MNIST."""
    raw = root / "MNIST/raw"
    raw.mkdir(parents=True)
    for split in ("train", "t10k"):
        header = struct.pack(">BBBBIII", 0, 0, 8, 3, len(images), 28, 28)
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(
            struct.pack(">BBBBI", 0, 0, 8, 1, len(images)) + bytes(len(images))
        )


def test_mnist_by_name_stays_gray_and_28_px(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (200, 28, 28), dtype=np.uint8)
    write_mnist(tmp_path / "root", images)
    corpus = opened(f"torchvision:MNIST:{tmp_path / 'root'}", tmp_path)
    assert corpus.pixels.shape == (200, 28, 28, 1)
    assert torch.equal(corpus.pixels[..., 0], torch.from_numpy(images))
    crops = corpus.random_crops(4, slice(0, 4), 28, (1.0, 1.0), generator(), flip=False)
    whole = {tuple((image / 255.0).astype(np.float32).round(4).flatten()[:50]) for image in images}
    for crop in crops:
        assert tuple(crop[0].numpy().round(4).flatten()[:50]) in whole


def test_an_image_folder_by_name_is_its_files(photos, tmp_path):
    corpus = opened(f"torchvision:ImageFolder:{photos}", tmp_path)
    assert len(corpus.train_ids) == 12


@pytest.mark.parametrize(("source", "named"), [
    ("torchvision:NoSuchSet", "NoSuchSet"), ("torchvision:os", "os"), ("nowhere", "no such folder"),
    ("nowhere/{00..03}.tar", "no such shard"), ("torchvision:MNIST:{root}", "MNIST"),
])  # fmt: skip
def test_a_source_that_is_not_there_is_named_in_one_line(tmp_path, monkeypatch, source, named):
    from torchvision import datasets

    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(datasets.MNIST, "download", no_network)
    with pytest.raises(DataError, match=named) as caught:
        opened(source.replace("{root}", str(tmp_path)), tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("resident_gb", [0, 8])
def test_a_tar_that_is_none_is_refused_in_one_line(tmp_path, resident_gb):
    (tmp_path / "a.tar").write_text("hello")
    with pytest.raises(DataError, match="not a readable tar file") as caught:
        opened(tmp_path / "a.tar", tmp_path, resident_gb=resident_gb)
    assert "\n" not in str(caught.value)


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image"):
        opened(tmp_path / "empty", tmp_path)


# --- a corpus that does not -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_a_large_folder_streams_in_shuffled_epochs(photos, tmp_path, workers):
    corpus = opened(photos, tmp_path, resident_gb=0, workers=workers)
    assert isinstance(corpus, StreamedCorpus)
    seen = levels(corpus, 6)
    first, second = flat(seen[:3]), flat(seen[3:])
    assert sorted(first) == sorted(second) == [10 * (i + 1) for i in range(12)]
    assert first != second
    assert levels(opened(photos, tmp_path, resident_gb=0, workers=0), 6) == seen


def test_a_stream_of_files_resumes_where_it_stopped(photos, tmp_path):
    seen = levels(opened(photos, tmp_path, resident_gb=0), 7)
    resumed = opened(photos, tmp_path, resident_gb=0)
    resumed.seek(4 * 4)
    assert levels(resumed, 3) == seen[4:]


def test_processes_share_a_stream_of_files(photos, tmp_path):
    whole = levels(opened(photos, tmp_path, resident_gb=0), 3)
    layouts = [Layout(4, 2, process) for process in range(2)]
    parts = [levels(opened(photos, tmp_path, layout, resident_gb=0), 3, layout) for layout in layouts]
    assert [one + other for one, other in zip(*parts, strict=True)] == whole


def test_photographs_kept_aside_are_validated_on_and_not_streamed(photos, tmp_path):
    corpus = opened(photos, tmp_path, resident_gb=0)
    assert 255 not in flat(levels(corpus, 6))
    kept = corpus.centre_crops(8, 16)
    assert kept.shape == (2, 3, 16, 16)
    assert float(kept.min()) == 1.0


def test_corrupt_files_of_a_stream_are_passed_over_and_counted_once(photos, tmp_path):
    for name in ("part0/corrupt.png", "part1/truncated.png"):
        (photos / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    corpus = opened(photos, tmp_path, resident_gb=0)
    seen = levels(corpus, 14)
    assert set(flat(seen)) == {10 * (i + 1) for i in range(12)}
    assert corpus.corrupt == 2


def test_a_stream_of_nothing_but_corrupt_files_says_so(tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read"):
        levels(opened(folder, tmp_path, resident_gb=0), 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_stream(shards, tmp_path, workers):
    corpus = opened(f"{shards}/photos-{{000..003}}.tar", tmp_path, workers=workers)
    assert isinstance(corpus, StreamedCorpus)
    names = [f"{shard}-{i}.png" for shard in range(4) for i in range(6)]
    trained = {10 * (i + 1) for i, name in enumerate(names) if not held_out(name)}
    assert set(flat(levels(corpus, 30))) == trained


@pytest.mark.parametrize("name", ["2024.05.{:02d} beach.jpg", "DSC_{:04d}.JPG", "deep.er/{}.WebP", "{}.tar.png"])
def test_the_same_photographs_of_a_tar_are_kept_aside_packed_and_streamed(tmp_path, monkeypatch, name):
    """Capital suffixes and names with dots as well, which webdataset's own samples have no room for."""
    monkeypatch.setattr("maerestore.train.streams.SHUFFLE_BUFFER", 1)
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for i in range(200):
            buffer = io.BytesIO()
            gray_level(i + 1).save(buffer, "PNG")
            info = tarfile.TarInfo(name.format(i))
            info.size = len(buffer.getvalue())
            buffer.seek(0)
            tar.addfile(info, buffer)
    packed = opened(tmp_path / "photos.tar", tmp_path)
    streamed = opened(tmp_path / "photos.tar", tmp_path, resident_gb=0)
    kept = [sorted(corpus.centre_crops(50, 8)[:, 0, 0, 0].tolist()) for corpus in (packed, streamed)]
    assert kept[0] == kept[1]
    assert len(kept[0]) == len(packed.held_ids) > 0
    trained = {int(value) for value in packed.pixels[packed.train_ids][:, 20, 20, 0]}
    assert set(flat(levels(streamed, len(trained) // 4 + 1))) == trained


def test_as_many_photographs_of_shards_are_kept_aside_as_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("maerestore.train.streams.held_out", lambda name: int(name.split(".")[0]) % 64 == 0)
    small = io.BytesIO()
    gray_level(9, (8, 8)).save(small, "PNG")
    with tarfile.open(tmp_path / "many.tar", "w") as tar:
        for i in range(5000):
            info = tarfile.TarInfo(f"{i}.png")
            info.size = len(small.getvalue())
            tar.addfile(info, io.BytesIO(small.getvalue()))
    corpus = opened(tmp_path / "many.tar", tmp_path, resident_gb=0)
    assert [len(corpus.held_out(count)[0]) for count in (3, 70, 200)] == [3, 70, 79]


def test_shards_too_large_to_hold_stream_from_a_folder(shards, tmp_path):
    assert isinstance(opened(shards, tmp_path, resident_gb=0), StreamedCorpus)


def test_processes_read_shards_of_their_own(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("maerestore.train.streams.SHUFFLE_BUFFER", 1)
    layouts = [Layout(4, 2, process) for process in range(2)]
    source = f"{shards}/photos-{{000..003}}.tar"
    # The first twelve samples a process reads come from its own two shards.
    seen = [set(flat(levels(opened(source, tmp_path, layout), 5, layout))) for layout in layouts]
    assert not seen[0] & seen[1]


def test_a_corrupt_shard_and_corrupt_images_are_passed_over(shards, tmp_path):
    make_tar(shards / "photos-001.tar", [("bad", b"no image"), ("good", gray_level(200))])
    (shards / "photos-002.tar").write_bytes(b"no tar" * 1000)
    corpus = opened(f"{shards}/photos-{{000..003}}.tar", tmp_path)
    assert 200 in flat(levels(corpus, 40))
    assert corpus.corrupt >= 2


@pytest.mark.parametrize("damage", ["broken", "empty"])
def test_a_reader_whose_own_shard_gives_nothing_goes_on_with_the_others(shards, tmp_path, damage):
    """With as many readers as shards each has one of them an epoch."""
    broken = shards / "photos-002.tar"
    broken.write_bytes(b"no tar" * 1000)
    if damage == "empty":
        make_tar(broken, [])
    layouts = [Layout(4, 4, process) for process in range(4)]
    corpora = [opened(f"{shards}/photos-{{000..003}}.tar", tmp_path, layout) for layout in layouts]
    for corpus, layout in zip(corpora, layouts, strict=True):
        assert len(levels(corpus, 30, layout)) == 30
    assert sum(corpus.corrupt for corpus in corpora) >= (damage == "broken")


def test_shards_stream_over_http(shards, tmp_path):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(shards))
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/photos-{{000..003}}.tar"
        assert len(set(flat(levels(opened(url, tmp_path), 12)))) > 12
    finally:
        server.shutdown()


def test_shards_that_cannot_be_reached_end_in_one_line(tmp_path):
    corpus = opened("http://127.0.0.1:9/photos-{0..1}.tar", tmp_path)
    with pytest.raises(DataError, match="no photograph can be read"):
        levels(corpus, 1)


# --- training on them -----------------------------------------------------------------------------------------------


def test_a_streamed_run_resumes_to_the_same_weights(trainer, tiny_recipe, photos):
    from .test_pretrain import assert_same_state

    recipe = tiny_recipe(resident_gb=0, short_side=40, samples=48)
    whole = trainer(recipe, "whole", data=photos, workers=0)
    whole.run()
    trainer(recipe, "parts", data=photos, workers=2, stop_at=3).run()
    resumed = trainer(recipe, "parts", data=photos, workers=1)
    resumed.run()
    assert_same_state(resumed, whole)


def test_a_streamed_run_ends_the_processes_that_decode(trainer, tiny_recipe, photos):
    """Left to the end of the interpreter, they make torch print tracebacks."""
    others = set(multiprocessing.active_children())
    run = trainer(tiny_recipe(resident_gb=0, short_side=40, samples=16), data=photos, workers=2)
    run.run()
    assert set(multiprocessing.active_children()) == others


def test_a_gray_model_trains_on_gray_and_on_colour(trainer, tiny_recipe, tiny_settings, photos, tmp_path):
    write_mnist(tmp_path / "root", np.random.default_rng(0).integers(0, 256, (200, 28, 28), dtype=np.uint8))
    model = {**tiny_settings, "image_size": 28, "patch_size": 4, "in_chans": 1, "mean": [0.13], "std": [0.31]}
    recipe = tiny_recipe(model=model, samples=16)
    for name, data in (("gray", f"torchvision:MNIST:{tmp_path / 'root'}"), ("colour", photos)):
        figures = trainer(recipe, name, data=data).run()
        assert np.isfinite(figures["masked_mse"])


def test_a_colour_model_trains_on_gray(trainer, tiny_recipe, tmp_path):
    write_mnist(tmp_path / "root", np.random.default_rng(0).integers(0, 256, (200, 28, 28), dtype=np.uint8))
    run = trainer(tiny_recipe(samples=8), data=f"torchvision:MNIST:{tmp_path / 'root'}")
    run.run()
    images = run._batch(slice(0, 8)).images
    assert images.shape == (8, 3, 32, 32)


def test_permutations_go_on_from_any_place():
    order = permutations(7, seed=3)
    first = [next(order) for _ in range(30)]
    for start in (0, 5, 7, 20):
        again = permutations(7, seed=3, start=start)
        assert [next(again) for _ in range(30 - start)] == first[start:]
    assert sorted(first[:7]) == sorted(first[7:14]) == list(range(7))
    assert first[:7] != first[7:14]


@pytest.mark.parametrize("kind", ["no images", "all kept aside"])
def test_shards_with_nothing_to_train_on_end_in_one_line(tmp_path, kind):
    name = next(n for i in range(10**4) if held_out(f"{(n := f'photo{i}')}.png")) if kind == "all kept aside" else None
    make_tar(tmp_path / "a.tar", [(name, gray_level(50))] if name else [])
    corpus = opened(f"{tmp_path}/{{a,a}}.tar", tmp_path)
    with pytest.raises(DataError, match="no photograph can be read"):
        levels(corpus, 1)


def test_an_error_in_a_worker_is_one_line(tmp_path):
    folder = tmp_path / "broken"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read") as caught:
        levels(opened(folder, tmp_path, resident_gb=0, workers=1), 1)
    assert "\n" not in str(caught.value)


def test_the_same_photographs_are_kept_aside_packed_and_streamed(tmp_path):
    """By their path in the folder: here all are called alike."""
    for i in range(200):
        (tmp_path / f"photos/{i:03d}").mkdir(parents=True)
        gray_level(i % 250 + 1).save(tmp_path / f"photos/{i:03d}/photo.png")
    packed, streamed = opened(tmp_path / "photos", tmp_path), opened(tmp_path / "photos", tmp_path, resident_gb=0)
    kept = [sorted(corpus.centre_crops(50, 8)[:, 0, 0, 0].tolist()) for corpus in (packed, streamed)]
    assert kept[0] == kept[1]
    assert len(kept[0]) == len(packed.held_ids) > 0


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symbolic links here")
def test_what_cannot_be_read_counts_as_corrupt(photos, tmp_path):
    (photos / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (photos / "folder.png").mkdir()
    (photos / "line.png").write_bytes(b"")
    Image.new("RGB", (2000, 1)).save(photos / "line.png")
    corpus = opened(photos, tmp_path)
    assert len(corpus.train_ids) == 12
    assert corpus.corrupt == 2


@pytest.mark.parametrize("source", ["torchvision:ImageFolder", "photos/{1"])
def test_half_a_source_is_refused_in_one_line(tmp_path, source):
    with pytest.raises(DataError) as caught:
        opened(source, tmp_path)
    assert "\n" not in str(caught.value)


def test_random_pictures_stand_in_for_data(tmp_path):
    layout = Layout(total=4)
    one, two = (open_corpus("fake:70", torch.device("cpu"), 24, layout, tmp_path, seed=seed) for seed in (0, 1))
    canvas, sizes = one.canvases(4, slice(0, 4), torch.Generator().manual_seed(0))
    assert canvas.shape == (4, 24, 24, 3)
    assert sizes.tolist() == [[24, 24, 0]] * 4
    assert len(one.train_ids) + len(one.held_ids) == 70
    assert one.fingerprint != two.fingerprint
    assert len(open_corpus("fake", torch.device("cpu"), 8, layout, tmp_path).pixels) == 256
    for wrong in ("fake:0", "fake:many", "fake:-3"):
        with pytest.raises(DataError, match="how many random pictures"):
            open_corpus(wrong, torch.device("cpu"), 24, layout, tmp_path)
