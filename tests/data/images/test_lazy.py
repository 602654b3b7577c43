from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hpslib.data.groups import flatten_groups
from hpslib.data.images import lazy
from hpslib.data.images.lazy import (
    LazyImages,
    StoredImages,
    as_images,
    each_image,
    image_name_of,
    map_images,
    names_of,
    open_all,
)
from hpslib.data.releases.hpd_v1 import read_hpd, write_hpd
from hpslib.data.releases.packed import write_packed


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    for k in range(5):
        Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)).save(tmp_path / f"{k}.png")
    return tmp_path


def lazily(folder: Path) -> LazyImages:
    return LazyImages(
        [{"bytes": None, "path": f"{k}.png"} for k in range(5)], [f"picture {k}" for k in range(5)], folder
    )


def test_pictures_are_opened_when_they_are_asked_for(folder: Path) -> None:
    images = lazily(folder)
    (folder / "3.png").unlink()
    assert len(images) == 5 and images[2].size == (6, 4)
    expected = [Image.open(folder / f"{k}.png").tobytes() for k in (1, 2)]
    assert [image.tobytes() for image in images[1:3]] == expected
    assert [image.tobytes() for image in open_all(images, [2, 1])] == expected[::-1]
    with pytest.raises(FileNotFoundError, match=r"^picture 3 is absent \(.*3\.png\): download it or remove its row\.$"):
        images[2:]
    with pytest.raises(IndexError):
        images[5]


def test_one_name_for_each_picture(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"^1 images but 0 names for them"):
        LazyImages([{"bytes": None, "path": "0.png"}], [], folder)


def test_files_and_embedded_pictures_alike_stay_closed(folder: Path, tmp_path_factory, rng) -> None:
    import datasets

    from hpslib.data.preferences import features

    rows = [
        {"id": str(k), "prompt": f"p{k}", "images": [{"bytes": None, "path": f"{j}.png"} for j in (k, 4)],
         "human_preference": 0, "user_hash": "u", "contain_name": False, "source": "hpd_v1"}
        for k in range(3)
    ]  # fmt: skip
    dataset = datasets.Dataset.from_list(rows, features=features())
    out = tmp_path_factory.mktemp("hpd")
    write_hpd(dataset, out, "test", root=folder)
    write_packed(dataset, out / "packed.parquet", root=folder)
    files, prompts, sizes = flatten_groups(read_hpd(out, split="test"), out)
    packed, *same = flatten_groups(read_hpd(out / "packed.parquet"))
    assert isinstance(files, LazyImages) and isinstance(packed, LazyImages) and same == [prompts, sizes]
    assert prompts == ["p0", "p0", "p1", "p1", "p2", "p2"] and sizes == [2, 2, 2]
    assert [a.tobytes() for a in files] == [b.tobytes() for b in packed]
    some = read_hpd(out / "packed.parquet").select([2, 0])  # what is taken out of a set finds its own pictures
    images, prompts, sizes = flatten_groups(some)
    assert prompts == ["p2", "p2", "p0", "p0"] and sizes == [2, 2]
    assert [image.tobytes() for image in images] == [packed[k].tobytes() for k in (4, 5, 0, 1)]
    assert flatten_groups(list(some))[1:] == (prompts, sizes), "a list of rows will do"


def test_a_set_whose_groups_differ_in_size_finds_its_pictures(rng) -> None:
    import datasets

    from hpslib.data.preferences import features

    sizes = [int(size) for size in rng.integers(2, 6, size=20)]
    rows = [
        {"id": f"g{k}", "prompt": "p", "human_preference": 0, "user_hash": "", "contain_name": False, "source": "",
         "images": [{"bytes": f"{k} {j}".encode(), "path": None} for j in range(size)]}
        for k, size in enumerate(sizes)
    ]  # fmt: skip
    dataset = datasets.Dataset.from_list(rows, features=features())
    order = rng.permutation(20)[:13].tolist()
    for groups in (dataset, dataset.select(order), dataset.select(order).filter(lambda row: row["id"] != "g3")):
        stored = StoredImages(groups)
        assert stored.sizes == [len(group["images"]) for group in groups]
        expected = [item["bytes"] for group in groups for item in group["images"]]
        assert [stored[k]["bytes"] for k in range(len(stored))] == expected
        with pytest.raises(IndexError):
            stored[len(stored)]
    pieces = datasets.concatenate_datasets([dataset.select(range(5, 9)), dataset.select(range(3))])  # several chunks
    stored = StoredImages(pieces)
    assert [stored[k]["bytes"] for k in range(len(stored))] == [i["bytes"] for g in pieces for i in g["images"]]
    parts = datasets.concatenate_datasets([dataset.select([3, 1]), dataset.select([8, 5])])  # its table has rows twice
    stored = StoredImages(parts)
    assert [stored[k]["bytes"] for k in range(len(stored))] == [i["bytes"] for g in parts for i in g["images"]]
    with pytest.raises(ValueError, match=r"^no groups to flatten: hand over at least one"):
        flatten_groups([])
    with pytest.raises(ValueError, match=r"^1 ids occur twice in the dataset: give every group its own"):
        StoredImages(datasets.concatenate_datasets([dataset.select([0, 1]), dataset.select([1])]))


def test_a_picture_has_one_name_in_every_reading(folder: Path) -> None:
    zipped, unpacked = ({"bytes": None, "path": f"part-000001{end}/a.zip.png"} for end in (".zip", ""))
    assert image_name_of(zipped) == image_name_of(unpacked) == "part-000001/a.zip.png"
    nameless = [{"bytes": data, "path": None} for data in (b"x", b"y", b"x")]
    first, second, again = map(image_name_of, nameless)
    assert first == again != second and first.startswith("sha256:")
    assert lazily(folder).names([3, 1]) == ["3.png", "1.png"] == names_of(lazily(folder), [3, 1])
    first, second, again = names_of([*lazily(folder)[:2], lazily(folder)[0]], range(3))
    assert first == again != second, "pictures without a name are known by their pixels"


def test_a_list_of_paths_stays_closed_until_an_image_is_asked_for(folder: Path, tmp_path_factory) -> None:
    outside = tmp_path_factory.mktemp("elsewhere") / "link.png"
    outside.symlink_to(folder / "2.png")
    paths = [folder / "0.png", str(folder / "1.png"), outside, folder / "absent.png"]
    images = as_images(paths)
    assert isinstance(images, LazyImages) and len(images) == 4
    expected = [Image.open(path).tobytes() for path in paths[:3]]
    assert [image.tobytes() for image in images[:3]] == expected, "the user's own paths may lie and lead anywhere"
    (folder / "1.png").unlink()
    assert images[0].tobytes() == expected[0]
    for row in (1, 3):
        with pytest.raises(FileNotFoundError, match=rf"^image {row} is absent \(.*\.png\): download it"):
            images[row]
    assert names_of(images, [1, 2]) == [str(folder / "1.png"), str(outside)]
    assert as_images(tuple(paths[:1]))[0].size == (6, 4) and as_images([]) == []
    mixed = as_images([folder / "0.png", Image.open(folder / "2.png")])
    assert isinstance(mixed, list) and [image.tobytes() for image in mixed] == [expected[0], expected[2]]


def test_hidden_files_of_a_folder_are_left_out_and_counted(folder: Path, tmp_path_factory) -> None:
    (folder / "._0.png").write_bytes(b"\0\5\x16\7")
    (folder / ".1.PNG").write_bytes(b"x")
    (folder / ".DS_Store").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"^2 hidden files of .*, such as \.1\.PNG, are left out: rename"):
        images = as_images(folder)
    assert images.names(range(5)) == [f"{k}.png" for k in range(5)] and len(images) == 5
    for k in range(5):
        (folder / f"{k}.png").unlink()
    with pytest.raises(ValueError, match="is no folder with images in it but 2 hidden ones: name another one"):
        as_images(folder)


def test_a_folder_on_another_disk_and_links_in_it_are_read(folder: Path, tmp_path_factory) -> None:
    here = tmp_path_factory.mktemp("here")
    (here / "linked").symlink_to(folder)
    assert [image.tobytes() for image in as_images(here / "linked")] == [i.tobytes() for i in as_images(folder)]
    (here / "one.png").symlink_to(folder / "3.png")
    images = as_images(here)
    assert images.names([0]) == ["one.png"] and images[0].tobytes() == as_images(folder)[3].tobytes()
    items = [{"bytes": None, "path": "linked/2.png"}]
    assert LazyImages(items, ["a"], here)[0].tobytes() == as_images(folder)[2].tobytes()
    with pytest.raises(ValueError, match=r"leaves .* through a link"):
        LazyImages([{"bytes": None, "path": "one.png"}], ["a"], here)[0]


def test_results_come_in_the_order_of_the_rows(folder: Path) -> None:
    images = as_images(folder)
    assert map_images(lambda image: image.tobytes(), images, [3, 0, 3]) == [images[k].tobytes() for k in (3, 0, 3)]
    assert map_images(lambda image: image.size, list(images), range(2)) == [(6, 4), (6, 4)]
    assert map_images(lambda image: image.size, images, []) == []


def test_images_of_other_formats_are_counted_not_passed_over(folder: Path) -> None:
    (folder / "a.avif").write_bytes(b"x")
    (folder / "b.JP2").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"^2 images of .*, such as a\.avif, are of formats .*: convert them to PNG"):
        assert len(as_images(folder)) == 5
    for k in range(5):
        (folder / f"{k}.png").unlink()
    with pytest.raises(
        ValueError, match=r"images in it that are read here but a\.avif, to be converted to PNG or JPEG"
    ):
        as_images(folder)


def test_results_come_in_order_and_only_so_many_ahead(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "_threads", lambda: 2)
    images, begun = as_images(folder), []
    assert isinstance(images, LazyImages)

    def look(image: Image.Image) -> bytes:
        begun.append(image.size)
        return image.tobytes()

    rows = [k % len(images) for k in range(60)]
    seen = each_image(look, images, rows, ahead=3)
    assert [next(seen) for _ in range(4)] == [images[row].tobytes() for row in rows[:4]]
    seen.close()
    assert 4 <= len(begun) <= 4 + 2 + 3, "two in hand and three ahead"
