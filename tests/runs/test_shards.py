"""hpslib.runs.shards: killed at any moment and run again, by one process or several, the files are the same."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hpslib.runs.files import sha256
from hpslib.runs.shards import read_shards, shards_left, work_in_shards


def squares(rows: range) -> pa.Table:
    return pa.table({"row": list(rows), "square": [row * row for row in rows]})


def run(folder: Path, **changes) -> object:
    return work_in_shards(23, squares, folder, **{"settings": {"seed": 1}, "shard_size": 5, **changes})


def test_rows_come_back_in_order_and_nothing_is_done_twice(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    first = run(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert (first.made, first.found, first.mended) == (5, 0, 0)
    assert seen == [(5, 23), (10, 23), (15, 23), (20, 23), (23, 23)]
    assert read_shards(tmp_path).column("square").to_pylist() == [k * k for k in range(23)]
    assert read_shards(tmp_path, ["row"]).column_names == ["row"]
    again = run(tmp_path, progress=lambda done, total: pytest.fail("nothing was to be done"))
    assert str(again) == f"{tmp_path}: 0 parts made, 5 were there."


def test_processes_share_the_parts_and_the_files_are_those_of_one(tmp_path: Path) -> None:
    run(tmp_path / "one")
    counts = [run(tmp_path / "two", process_index=k, processes=2).made for k in (1, 0)]
    assert counts == [2, 3]
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert names == sorted(file.name for file in (tmp_path / "two").iterdir()) and len(names) == 5
    assert all(sha256(tmp_path / "one" / name) == sha256(tmp_path / "two" / name) for name in names)


def test_what_is_missing_is_dealt_out_evenly_when_all_have_looked(tmp_path: Path) -> None:
    run(tmp_path)
    for k in (0, 2):  # both would be those of the first of two processes
        (tmp_path / f"part-0000{k}-of-00005.parquet").unlink()
    cut = tmp_path / "part-00004-of-00005.parquet"
    cut.write_bytes(cut.read_bytes()[:-10])
    both, results = threading.Barrier(2), {}

    def work(process: int) -> None:
        results[process] = run(tmp_path, process_index=process, processes=2, wait=both.wait)

    threads = [threading.Thread(target=work, args=(process,)) for process in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = [(results[k].made, results[k].found, results[k].mended) for k in (0, 1)]
    assert counts == [(2, 1, 1), (1, 1, 0)], "three to make, two were there"
    assert read_shards(tmp_path).column("square").to_pylist() == [k * k for k in range(23)]


def test_a_part_that_was_cut_off_is_made_again_and_reported(tmp_path: Path) -> None:
    run(tmp_path)
    victim = tmp_path / "part-00002-of-00005.parquet"
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        ValueError, match=r"part-00002-of-00005\.parquet cannot be read .*delete it and run the same command again"
    ):
        read_shards(tmp_path)
    assert str(run(tmp_path)).endswith("1 parts made, 1 of them again because they were cut off, 4 were there.")
    assert victim.read_bytes() == whole


def test_a_part_that_is_damaged_in_the_middle_is_named(tmp_path: Path) -> None:
    run(tmp_path)
    victim = tmp_path / "part-00001-of-00005.parquet"
    data = bytearray(victim.read_bytes())
    data[40] ^= 1  # one bit of the first column; the end of the file, with its table of contents, is whole
    victim.write_bytes(data)
    with pytest.raises(ValueError, match=r"part-00001-of-00005\.parquet cannot be read .*delete it and run the same"):
        read_shards(tmp_path)


def test_a_part_that_may_not_be_read_is_not_taken_for_one_that_is_cut_off(tmp_path: Path) -> None:
    run(tmp_path)
    victim = tmp_path / "part-00001-of-00005.parquet"
    victim.unlink()
    victim.mkdir()  # as good as a file without permission, and so for root too
    with pytest.raises(OSError, match="part-00001"):
        run(tmp_path)


def test_a_full_disk_leaves_the_whole_parts_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, processes=2)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("hpslib.runs.files.os.fsync", full)
        with pytest.raises(
            OSError, match=r"part-00001-of-00005\.parquet cannot be written \(No space left on device\): make room"
        ):
            run(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"part-0000{k}-of-00005.parquet" for k in (0, 2, 4)]
    assert run(tmp_path).made == 2


def test_other_settings_and_other_data_are_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ValueError, match=r"was made with seed 1, but now it is 2: name another folder"):
        run(tmp_path, settings={"seed": 2})
    with pytest.raises(ValueError, match="belongs to a run over another number of rows"):
        work_in_shards(40, squares, tmp_path, settings={"seed": 1}, shard_size=5)
    with pytest.raises(ValueError, match=r"^0 rows in parts of 5"):
        work_in_shards(0, squares, tmp_path / "new", settings={}, shard_size=5)


def test_parts_that_changed_places_are_refused(tmp_path: Path) -> None:
    run(tmp_path)
    one, two = (tmp_path / f"part-0000{k}-of-00005.parquet" for k in (1, 2))
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    for again in (read_shards, run):
        with pytest.raises(
            ValueError,
            match=r"part-00001-of-00005\.parquet was written as part-00002-of-00005\.parquet: give the parts",
        ):
            again(tmp_path)


def test_a_part_that_lost_rows_is_named(tmp_path: Path) -> None:
    run(tmp_path)
    part = tmp_path / "part-00001-of-00005.parquet"
    pq.write_table(pq.read_table(part).slice(0, 4), part)
    with pytest.raises(ValueError, match=f"{part.name} holds 4 rows instead of 5: delete it and run the same command"):
        read_shards(tmp_path)


def test_a_piece_of_work_may_give_several_rows(tmp_path: Path) -> None:
    """As a group of images does."""
    work_in_shards(3, lambda rows: pa.table({"row": list(rows) * 3}), tmp_path, settings={}, shard_size=2)
    assert read_shards(tmp_path)["row"].to_pylist() == [0, 1] * 3 + [2] * 3


def test_parts_of_two_runs_are_not_read_as_one(tmp_path: Path) -> None:
    run(tmp_path / "one")
    run(tmp_path / "two", settings={"seed": 2})
    stranger = "part-00003-of-00005.parquet"
    (tmp_path / "one" / stranger).write_bytes((tmp_path / "two" / stranger).read_bytes())
    with pytest.raises(ValueError, match=rf"{stranger} was made with other settings or columns than part-00000-of-0"):
        read_shards(tmp_path / "one")
    (tmp_path / "two" / "part-00000-of-00003.parquet").write_bytes((tmp_path / "two" / stranger).read_bytes())
    with pytest.raises(ValueError, match=r"two holds parts of runs of 3 and of 5 parts: move those of one run"):
        read_shards(tmp_path / "two")


def test_a_part_whose_settings_are_no_settings_is_made_again(tmp_path: Path) -> None:
    run(tmp_path)
    victim = tmp_path / "part-00004-of-00005.parquet"
    table = pq.read_table(victim).replace_schema_metadata({b"hpslib": b"{oops"})
    whole = victim.read_bytes()
    pq.write_table(table, victim)
    assert run(tmp_path).mended == 1 and victim.read_bytes() == whole


def test_an_unfinished_folder_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no part-"):
        read_shards(tmp_path)
    run(tmp_path, processes=2)
    with pytest.raises(ValueError, match="holds 3 of 5 parts: run the same command again to finish it"):
        read_shards(tmp_path)


KILLED = """
import sys, time
import pyarrow as pa
from hpslib.runs.shards import work_in_shards

def slowly(rows):
    time.sleep(0.02)
    return pa.table({"row": list(rows)})

work_in_shards(200, slowly, sys.argv[1], settings={}, shard_size=4)
"""


def test_killed_again_and_again_it_ends_with_the_same_files(tmp_path: Path) -> None:
    pauses, folder = random.Random(0), tmp_path / "killed"
    for _ in range(4):
        before = len(list(folder.glob("part-*")))
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(folder)])
        while len(list(folder.glob("part-*"))) == before:
            time.sleep(0.005)
        time.sleep(pauses.uniform(0, 0.1))
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert 4 <= len(list(folder.glob("part-*"))) < 50, "it was killed in the middle"
    for name in ("killed", "whole"):
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name)], check=True, capture_output=True)
    parts = sorted(file.name for file in (tmp_path / "whole").glob("part-*"))
    assert len(parts) == 50
    assert all(sha256(tmp_path / "whole" / name) == sha256(tmp_path / "killed" / name) for name in parts)


def test_what_is_left_is_counted_without_a_trace(tmp_path: Path) -> None:
    folder, given = tmp_path / "none", {"settings": {"seed": 1}, "shard_size": 5}
    assert shards_left(23, folder, **given) == [range(k, min(k + 5, 23)) for k in range(0, 23, 5)]
    assert not folder.exists()
    run(tmp_path)
    assert shards_left(23, tmp_path, **given) == []
    cut = tmp_path / "part-00004-of-00005.parquet"
    cut.write_bytes(cut.read_bytes()[:-10])
    (tmp_path / "part-00001-of-00005.parquet").unlink()
    names = sorted(file.name for file in tmp_path.iterdir())
    assert shards_left(23, tmp_path, **given) == [range(5, 10), range(20, 23)]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    with pytest.raises(ValueError, match="was made with seed 1, but now it is 2"):
        shards_left(23, tmp_path, settings={"seed": 2}, shard_size=5)
    with pytest.raises(ValueError, match="belongs to a run over another number of rows"):
        shards_left(40, tmp_path, **given)
