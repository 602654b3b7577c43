"""Votes: nothing lost, nothing doubled, whatever is killed; every fault of the file a sentence; files for others."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from PIL import Image

from hpslib.data.preferences import features, load_images
from hpslib.data.releases.hpd_v1 import read_hpd
from hpslib.votes import database as vote_database
from hpslib.votes.database import VotesFileError
from hpslib.votes.files import export_hpd, export_table, import_hpd, import_table, user_hash
from hpslib.votes.votes import Progress, Votes, open_votes

ROOT = Path(__file__).parents[2]


def picture(k: int) -> dict:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (k % 256, 90, 200)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def study_groups(count: int = 5, images: int = 3) -> list[dict]:
    return [
        {
            "id": f"g{k}",
            "prompt": f'prompt {k} "quoted" 🦄 שלום',
            "images": [picture(10 * k + i) for i in range(images)],
            "human_preference": 0,
            "user_hash": "somebody",
            "contain_name": k == 1,
            "source": "hpd_v1",
            "further": k,
        }
        for k in range(count)
    ]


def as_dataset(groups: list[dict]) -> Dataset:
    from datasets import Features, Value

    return Dataset.from_list(groups, features=Features({**features(), "further": Value("int64")}))


@pytest.fixture
def votes(tmp_path: Path) -> Votes:
    return open_votes(tmp_path / "votes.sqlite", "mini", study_groups(), timeout=0.2)


# --- recording --------------------------------------------------------------------------------------------------------


def test_a_vote_counts_in_the_order_of_the_group_and_keeps_the_order_shown(votes: Votes) -> None:
    assert votes.record("ann", "g0", 2, [1, 2, 0], 1.5)
    (row,) = votes.rows()
    assert (row["id"], row["rater"], row["choice"], row["shown_order"], row["position"]) == (
        "g0",
        "ann",
        2,
        [1, 2, 0],
        1,
    )
    assert (row["seconds"], row["skipped"], row["withdrawn"], row["repeat"]) == (1.5, False, None, 0)
    assert row["time"].endswith("+00:00") and len(row["vote_key"]) == 36
    assert votes.choices("ann") == {"g0": 2} and votes.choices("bob") == {}


def test_numbers_of_numpy_are_taken(votes: Votes) -> None:
    votes.record("ann", "g0", np.int64(2), np.random.default_rng(0).permutation(3), np.float32(0.5))
    assert votes.choices("ann") == {"g0": 2} and votes.rows()[0]["seconds"] == 0.5
    votes.record("ann", "g1", 0, [0, 1, 2], 0)
    assert votes.rows()[1]["seconds"] == 0, "an answer at once is an answer"


def test_pending_next_and_progress_follow_the_study(votes: Votes) -> None:
    assert votes.next_group("ann") == "g0" and votes.pending("ann") == ["g0", "g1", "g2", "g3", "g4"]
    votes.record("ann", "g1", 0)
    votes.record("ann", "g0", None, kind="skip")
    assert votes.pending("ann") == ["g2", "g3", "g4"] and votes.next_group("ann") == "g2"
    assert votes.progress("ann") == Progress(voted=1, skipped=1, total=5) and str(votes.progress("ann")) == "2 of 5"
    assert votes.choices("ann") == {"g1": 0}, "a skip is no choice"
    assert votes.progress("bob") == Progress(0, 0, 5) and votes.raters() == ["ann"]
    for name in ("g2", "g3", "g4"):
        votes.record("ann", name, 1)
    assert votes.next_group("ann") is None


def test_a_message_sent_twice_is_one_vote(votes: Votes) -> None:
    assert votes.record("ann", "g0", 1, vote_key="k") is True
    assert votes.record("ann", "g0", 1, vote_key="k") is False
    assert len(votes.rows()) == 1
    votes.undo("ann")
    assert votes.record("ann", "g0", 1, vote_key="k") is False, "a late copy does not bring a withdrawn vote back"
    assert votes.choices("ann") == {}


def test_one_vote_counts_per_rater_group_and_pass(votes: Votes) -> None:
    votes.record("ann", "g0", 1)
    with pytest.raises(ValueError, match="'ann' has already answered the group 'g0': undo that vote first"):
        votes.record("ann", "g0", 2)
    assert votes.record("bob", "g0", 2) and votes.record("ann", "g0", 2, repeat=1)
    assert (votes.choices("ann"), votes.choices("ann", repeat=1), votes.choices("bob")) == (
        {"g0": 1},
        {"g0": 2},
        {"g0": 2},
    )


def test_undo_withdraws_the_last_vote_and_keeps_its_row(votes: Votes) -> None:
    for name in ("g0", "g1", "g2"):
        votes.record("ann", name, 0)
    votes.record("bob", "g3", 0)
    assert votes.undo("ann") == "g2" and votes.undo("ann") == "g1"
    assert votes.pending("ann") == ["g1", "g2", "g3", "g4"]
    assert [row["withdrawn"] is None for row in votes.rows("ann")] == [True, False, False]
    votes.record("ann", "g1", 2)
    assert votes.choices("ann") == {"g0": 0, "g1": 2} and len(votes.rows("ann")) == 4
    assert votes.undo("carol") is None


def test_undo_by_key_can_be_sent_twice(votes: Votes) -> None:
    votes.record("ann", "g0", 0, vote_key="first")
    votes.record("ann", "g1", 0, vote_key="second")
    assert votes.undo("ann", "first") == votes.undo("ann", "first") == "g0"
    assert votes.choices("ann") == {"g1": 0}
    for rater in ("ann", "bob"):
        with pytest.raises(ValueError, match=r"has no vote with the key .*: undo one that was recorded"):
            votes.undo(rater, "third" if rater == "ann" else "second")


def test_rows_cannot_be_deleted(votes: Votes) -> None:
    votes.record("ann", "g0", 0)
    with closing(sqlite3.connect(votes.path)) as db, pytest.raises(sqlite3.IntegrityError, match="never deleted"):
        db.execute("DELETE FROM votes")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"group_id": "other"}, "the study 'mini' has no group 'other': name one of its 5"),
        ({"choice": 3}, "choice is 3: give an index from 0 to 2"),
        ({"choice": True}, "choice is True: give an index"),
        ({"choice": None}, "kind is 'vote' but choice is None: give a vote a choice"),
        ({"kind": "skip"}, "kind is 'skip' but choice is 1"),
        ({"kind": "like"}, "kind is 'like': choose 'vote' or 'skip'"),
        ({"rater": " "}, "rater is ' ': give text"),
        ({"shown_order": [0, 1]}, "shown_order is [0, 1]: give the indices 0 to 2, each once"),
        ({"shown_order": [0, 1, 1]}, "shown_order is [0, 1, 1]: give"),
        ({"shown_order": [0, 1, "2"]}, "shown_order is [0, 1, '2']: give"),
        ({"seconds": float("nan")}, "seconds is nan: give a number from 0"),
        ({"seconds": -1}, "seconds is -1: give"),
        ({"repeat": -1}, "repeat is -1: give a whole number from 0"),
        ({"vote_key": ""}, "vote_key is '': give text"),
    ],
)
def test_what_does_not_fit_is_refused(votes: Votes, arguments: dict, told: str) -> None:
    with pytest.raises(ValueError) as error:
        votes.record(**{"rater": "ann", "group_id": "g0", "choice": 1, **arguments})
    assert told in str(error.value) and votes.rows() == []


def test_a_key_belongs_to_one_vote(votes: Votes) -> None:
    votes.record("ann", "g0", 1, vote_key="k")
    with pytest.raises(ValueError, match="the key 'k' belongs to another vote: make a new one for each vote"):
        votes.record("ann", "g0", 2, vote_key="k")


# --- a study and its file ---------------------------------------------------------------------------------------------


def test_a_file_is_opened_again_with_or_without_its_groups(votes: Votes) -> None:
    votes.record("ann", "g0", 1)
    for again in (open_votes(votes.path), open_votes(votes.path, "mini", as_dataset(study_groups()))):
        assert again.choices("ann") == {"g0": 1} and again.study == "mini" and again.uid == votes.uid
    assert again.groups[1] == ("g1", 'prompt 1 "quoted" 🦄 שלום', 3)


@pytest.mark.parametrize(
    ("study", "groups", "told"),
    [
        ("maxi", study_groups(), "holds the votes of the study 'mini' on 5 groups ('g0' to 'g4'), not of 'maxi' on 5"),
        ("mini", study_groups(4), "not of 'mini' on 4 groups ('g0' to 'g3'): name another file"),
        ("mini", study_groups(images=2), "not of 'mini' on 5 groups"),
        ("mini", study_groups()[::-1], "not of 'mini' on 5 groups ('g4' to 'g0')"),
    ],
)
def test_another_study_is_refused(votes: Votes, study: str, groups: list, told: str) -> None:
    with pytest.raises(ValueError) as error:
        open_votes(votes.path, study, groups)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ([], "there is no group to vote on: give at least one row"),
        ([{"id": "a", "images": [1, 2]}], "group 0 (from 0) has no prompt: give rows"),
        ([{"id": 7, "prompt": "p", "images": [1, 2]}], "group 0 (from 0) has the id 7: give it an id and a prompt"),
        ([{"id": "a", "prompt": "p", "images": [1]}], "the group 'a' holds 1 images: give at least 2"),
        ([{"id": "a", "prompt": "p", "images": [1, 2]}] * 2, "two groups have the id 'a': give each its own"),
    ],
)
def test_malformed_groups_are_refused_and_make_no_file(tmp_path: Path, groups: list, told: str) -> None:
    with pytest.raises(ValueError) as error:
        open_votes(tmp_path / "votes.sqlite", "mini", [dict(group) for group in groups])
    assert told in str(error.value) and list(tmp_path.iterdir()) == []


def test_an_absent_file_needs_a_study(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist: name a votes file or give a study and its groups"):
        open_votes(tmp_path / "absent.sqlite")
    with pytest.raises(ValueError, match="study and groups belong together: give both or none"):
        open_votes(tmp_path / "absent.sqlite", "mini")
    assert open_votes(tmp_path / "new" / "folder" / "votes.sqlite", "mini", study_groups()).path.exists()


def test_an_empty_file_left_by_a_killed_start_is_filled(tmp_path: Path) -> None:
    (tmp_path / "votes.sqlite").touch()
    assert open_votes(tmp_path / "votes.sqlite", "mini", study_groups()).record("ann", "g0", 1)


# --- faults of the file -----------------------------------------------------------------------------------------------


def test_a_vote_waits_for_the_disk(votes: Votes) -> None:
    """FULL (2) syncs the log at every commit: without it a power cut may take votes that were acknowledged."""
    for write in (True, False):
        with votes.transaction(write) as db:
            assert db.execute("PRAGMA synchronous").fetchone() == (2,)
            assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert db.execute("PRAGMA foreign_keys").fetchone() == (1,)


def refused(path: Path, act) -> str:
    """The text of the error; always one sentence that names the file."""
    with pytest.raises(VotesFileError) as error:
        act()
    text = str(error.value)
    assert str(path) in text and "\n" not in text
    return text


def test_a_transaction_that_may_write_keeps_others_out_from_its_beginning(votes: Votes) -> None:
    """Or two of them would both read "no vote yet" before the first one writes."""
    with votes.transaction():
        told = refused(votes.path, lambda: votes.record("ann", "g0", 1))
    assert "has been locked by another program" in told
    with votes.transaction(write=False):
        assert votes.record("ann", "g0", 1), "a reader keeps nobody out"


def test_a_locked_file_is_waited_for_and_then_told(votes: Votes) -> None:
    with closing(sqlite3.connect(votes.path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        text = refused(votes.path, lambda: votes.record("ann", "g0", 1))
        assert "has been locked by another program for 0.2 s: close that program and try again" in text
        assert votes.progress("ann").voted == 0, "who reads need not wait"
        patient = open_votes(votes.path, timeout=5)
        release = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
        release.start()
        assert patient.record("ann", "g0", 1)
        release.join()
    assert votes.choices("ann") == {"g0": 1}


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_read_only_file_or_folder_is_told(what: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        votes = open_votes(folder / "votes.sqlite", "mini", study_groups())
        votes.record("ann", "g0", 1)
        folder.chmod(0o555)
        votes.path.chmod(0o444 if what == "file" else 0o666)
        root = os.geteuid() == 0  # for whom nothing is read-only
        if root:
            os.seteuid(65534)
        try:
            text = refused(votes.path, lambda: votes.record("ann", "g1", 1))
            new = refused(folder / "new.sqlite", lambda: open_votes(folder / "new.sqlite", "mini", study_groups()))
        finally:
            if root:
                os.seteuid(0)
            folder.chmod(0o755)
        assert "or its folder is read-only: make both writable or move the file" in text
        assert "cannot be made: put it back or name a file in a folder that can be written to" in new
        assert open_votes(votes.path).choices("ann") == {"g0": 1}


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "votes.sqlite"
    assert "cannot be made" in refused(path.parent, lambda: open_votes(path, "mini", study_groups()))


def test_a_full_disk_is_told_and_the_vote_can_be_sent_again(votes: Votes, monkeypatch: pytest.MonkeyPatch) -> None:
    votes.record("ann", "g0", 1)
    connect = sqlite3.connect

    def on_a_full_disk(*args, **kwargs):
        db = connect(*args, **kwargs)
        db.execute("PRAGMA max_page_count = 1")  # not below what is used: SQLite itself then says that the disk is full
        return db

    with monkeypatch.context() as patch:
        patch.setattr(vote_database.sqlite3, "connect", on_a_full_disk)
        long = "r" * 20_000
        assert "is full: free some space and try again" in refused(
            votes.path, lambda: votes.record(long, "g1", 2, vote_key="k")
        )
    assert [row["id"] for row in votes.rows()] == ["g0"]
    assert votes.record(long, "g1", 2, vote_key="k") and votes.choices(long) == {"g1": 2}


def test_a_file_that_may_not_grow_is_told(votes: Votes) -> None:
    code = f"""
import resource, signal
from hpslib.votes.votes import open_votes
from hpslib.votes.database import VotesFileError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
votes = open_votes({str(votes.path)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    votes.record("ann", "g0", 1)
except VotesFileError as error:
    print(error)
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "cannot be read or written" in done.stdout and "check its disk and the space on it" in done.stdout
    assert votes.rows() == [] and votes.record("ann", "g0", 1)


def test_what_is_no_votes_file_is_told_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.sqlite").write_text("these are notes, and long enough to be read as a header " * 20)
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as db:
        db.execute("CREATE TABLE votes (a)")
    for name, told in (("notes", "for it is not SQLite"), ("other", "some other SQLite file")):
        path = tmp_path / f"{name}.sqlite"
        before = path.read_bytes()
        assert told in refused(path, lambda path=path: open_votes(path))
        assert told in refused(path, lambda path=path: open_votes(path, "mini", study_groups()))
        assert path.read_bytes() == before


def test_a_damaged_file_is_told(votes: Votes) -> None:
    for k in range(40):
        votes.record(f"rater {k}" * 50, "g0", 1)
    data = bytearray(votes.path.read_bytes())
    data[4096 * 3 : 4096 * 5] = os.urandom(4096 * 2)
    votes.path.write_bytes(data)
    assert "is damaged" in refused(votes.path, lambda: open_votes(votes.path))
    votes.path.write_bytes(data[:6000])
    assert "is damaged" in refused(votes.path, lambda: open_votes(votes.path))


def test_a_file_that_went_away_is_told_and_never_made_anew(votes: Votes) -> None:
    copy = votes.path.read_bytes()
    votes.path.unlink()
    assert "is not there" in refused(votes.path, lambda: votes.record("ann", "g0", 1))
    assert not votes.path.exists()
    other = open_votes(votes.path, "mini", study_groups())
    assert "is another votes file than the one that was opened: open it again" in refused(
        votes.path, lambda: votes.record("ann", "g0", 1)
    )
    assert other.rows() == []
    votes.path.write_bytes(copy)
    assert votes.record("ann", "g0", 1)


@pytest.mark.parametrize("path", ["a\0b.sqlite", "half \ud83d.sqlite"])
def test_a_name_that_no_file_can_have_is_told(path: str, votes: Votes) -> None:
    for act in (
        lambda: open_votes(path),
        lambda: open_votes(path, "mini", study_groups()),
        lambda: export_table(votes, path.replace("sqlite", "csv")),
        lambda: import_table(votes, path.replace("sqlite", "csv")),
    ):
        with pytest.raises(
            ValueError, match=r"^the path '.*' holds a character that no file's name can have: name ano"
        ):
            act()


def test_a_folder_is_no_votes_file(tmp_path: Path) -> None:
    for given in ((), ("mini", study_groups())):
        with pytest.raises(VotesFileError, match=r"is a folder: name a file in it\.$"):
            open_votes(tmp_path, *given)


def test_text_that_cannot_be_stored_is_told(votes: Votes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^rater is 'half .*': give text\.$"):
        votes.record("half \ud83d", "g0", 1)
    with pytest.raises(ValueError, match=r"^vote_key is 'half .*': give text\.$"):
        votes.record("ann", "g0", 1, vote_key="half \ud83d")
    with pytest.raises(ValueError, match=r"group 0 \(from 0\) has the id 'a': give it an id and a prompt of text"):
        open_votes(tmp_path / "new.sqlite", "mini", [{"id": "a", "prompt": "half \ud83d", "images": "ab"}])
    with pytest.raises(ValueError, match=r"^study is 'half .*': give its name, as text\.$"):
        open_votes(tmp_path / "new.sqlite", "half \ud83d", study_groups())
    assert not (tmp_path / "new.sqlite").exists()


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("shown_order", "no JSON"),
        ("shown_order", DEEP),
        ("shown_order", "[0, 1]"),
        ("shown_order", "[0, 0, 1]"),
        ("shown_order", "7"),
        ("shown_order", '{"0": 1}'),
        ("shown_order", b"\x00\xff"),
        ("choice", "two"),
        ("choice", 9),
        ("choice", -1),
        ("choice", 0.5),
        ("repeat", "first"),
        ("repeat", 0.5),
        ("seconds", "long"),
        ("seconds", -1.0),
        ("rater", b"ann"),
        ("time", 12),
        ("id", "g9"),
    ],
)
def test_a_damaged_row_is_named(votes: Votes, column: str, value: object) -> None:
    votes.record("bob", "g1", 1)
    votes.record("ann", "g0", 1, [2, 1, 0], 0.5)
    with closing(sqlite3.connect(votes.path)) as db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute(f"UPDATE votes SET {column} = ? WHERE number = 2", (value,))
        db.commit()
    for act in (votes.rows, votes.raters, lambda: export_table(votes, votes.path.with_suffix(".csv"))):
        told = refused(votes.path, act)
        assert f"{votes.path}, vote 2 is damaged, for its {column} is " in told and len(told) < 400
        assert told.endswith(": restore a copy of the file.")
    assert votes.choices("bob") == {"g1": 1}, "what is sound is still read"


def test_a_damaged_study_or_group_is_told(votes: Votes, tmp_path: Path) -> None:
    for k, statement in enumerate(
        ("DELETE FROM study", "UPDATE study SET uid = x'00ff'", "UPDATE groups SET images = 'three' WHERE position = 2",
         "UPDATE groups SET images = 1 WHERE position = 2")
    ):  # fmt: skip
        path = tmp_path / f"{k}.sqlite"
        path.write_bytes(votes.path.read_bytes())
        with closing(sqlite3.connect(path)) as db:
            db.execute(statement)
            db.commit()
        told = refused(path, lambda path=path: open_votes(path))
        assert ("is damaged (" in told) if "study" in statement else (f"{path}, group 2 (from 0) is damaged" in told)


# --- killed, and many at once -----------------------------------------------------------------------------------------

VOTER = """
import sys, time
from hpslib.votes.votes import open_votes
votes = open_votes(sys.argv[1], "big", [{"id": f"g{k}", "prompt": "p", "images": "ab"} for k in range(500)], timeout=30)
for k in range(int(sys.argv[2]), 500):
    votes.record("ann", f"g{k}", k % 2, [1, 0], 0.1, vote_key=f"key {k}")
    print(k, flush=True)
    time.sleep(0.005)  # or 500 votes would be over before the fiftieth kill
"""


def test_fifty_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    path, chance = tmp_path / "votes.sqlite", random.Random(0)
    acknowledged: list[int] = []
    kills = 0
    while kills < 50 or len(set(acknowledged)) < 500:
        start = max(0, len(set(acknowledged)) - chance.randrange(4))  # send some again, as a browser would
        if kills < 50:
            start = min(start, 400)  # so that there is enough left to be killed at
        child = subprocess.Popen(
            [sys.executable, "-S", "-c", VOTER, str(path), str(start)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        if kills < 50:
            lines = chance.randrange(12)  # none at all: killed while it starts or makes the file
            acknowledged += [int(child.stdout.readline()) for _ in range(lines)]
            time.sleep(chance.random() * (0.004 if lines else 0.08))
            child.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in child.communicate()[0].splitlines()]
        kills += child.returncode == -signal.SIGKILL
        assert child.returncode in (0, -signal.SIGKILL)
        if path.exists() and acknowledged:
            with closing(sqlite3.connect(path)) as db:
                there = {key for (key,) in db.execute("SELECT vote_key FROM votes")}
            assert {f"key {k}" for k in acknowledged} <= there, "an acknowledged vote is lost"
    rows = open_votes(path).rows()
    assert [row["vote_key"] for row in rows] == [f"key {k}" for k in range(500)], "exactly 500, each once"
    assert [row["choice"] for row in rows] == [k % 2 for k in range(500)]


WRITER = """
import sys
from hpslib.votes.votes import open_votes
votes = open_votes(sys.argv[1], "two", [{"id": f"g{k}", "prompt": "p", "images": "ab"} for k in range(100)], timeout=30)
refused = 0
for k in range(100):
    votes.record(sys.argv[2], f"g{k}", k % 2)
    try:
        votes.record("both", f"g{k}", k % 2)
    except ValueError as error:
        assert "already answered" in str(error)
        refused += 1
print(refused)
"""


def test_processes_that_start_and_write_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    path, names = tmp_path / "votes.sqlite", ["ann", "bob", "carol"]
    started = [
        subprocess.Popen(
            [sys.executable, "-S", "-c", WRITER, str(path), name], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for name in names
    ]
    refusals = [int(child.communicate()[0]) for child in started]
    assert [child.returncode for child in started] == [0, 0, 0]
    votes = open_votes(path)
    assert all(votes.progress(name).voted == 100 for name in [*names, "both"])
    assert len(votes.rows()) == 400 and sum(refusals) == 200


def test_threads_share_an_open_file(votes: Votes) -> None:
    patient = open_votes(votes.path, timeout=30)
    threads = [
        threading.Thread(target=lambda name=name: [patient.record(name, f"g{k}", 1) for k in range(5)])
        for name in "abcdef"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(votes.rows()) == 30


# --- files for and from others ----------------------------------------------------------------------------------------


@pytest.fixture
def voted(votes: Votes) -> Votes:
    votes.record("ann", "g0", 2, [2, 0, 1], 1.25)
    votes.record("ann", "g1", 0, [0, 1, 2], 0.5)
    votes.undo("ann")
    votes.record("ann", "g1", 1, [0, 1, 2], 0.75)
    votes.record("ann", "g2", None, [1, 2, 0], 0.1, kind="skip")
    votes.record('bob, "the rater"', "g0", 0)
    return votes


def test_hpd_export_holds_the_groups_voted_on_and_their_images(voted: Votes, tmp_path: Path) -> None:
    groups = study_groups()
    path = export_hpd(voted, as_dataset(groups), tmp_path / "hpd", "mine", "ann")
    read = read_hpd(path)
    assert read["id"] == ["g0", "g1"] and read["human_preference"] == [2, 1]
    assert read["user_hash"] == [user_hash("ann")] * 2 and "ann" not in path.read_text()
    assert read["source"] == ["votes"] * 2 and read["contain_name"] == [False, True]
    assert read["shown_order"] == [[2, 0, 1], [0, 1, 2]] and read["seconds"] == [1.25, 0.75]
    assert "further" not in read.column_names
    for row, group in zip(read, groups):
        assert row["prompt"] == group["prompt"]
        for shown, image in zip(load_images(row, path.parent), load_images(group)):
            assert np.array_equal(np.asarray(shown), np.asarray(image))


def test_hpd_export_of_all_raters_and_passes_keeps_every_vote(voted: Votes, tmp_path: Path) -> None:
    voted.record("ann", "g0", 1, repeat=1)
    read = read_hpd(export_hpd(voted, as_dataset(study_groups()), tmp_path / "hpd", "all"))
    ann, bob = user_hash("ann")[:8], user_hash('bob, "the rater"')[:8]
    assert dict(zip(read["id"], read["human_preference"])) == {
        f"g0_{ann}": 2, f"g1_{ann}": 1, f"g0_{bob}": 0, f"g0_{ann}_r1": 1
    }  # fmt: skip


def test_hpd_export_refuses_no_votes_and_another_dataset(voted: Votes, tmp_path: Path) -> None:
    dataset = as_dataset(study_groups())
    with pytest.raises(ValueError, match="holds no vote by 'carol': vote first or name another rater"):
        export_hpd(voted, dataset, tmp_path / "hpd", "mine", "carol")
    for wrong in (dataset.select([1, 2]), as_dataset(study_groups(images=2))):
        with pytest.raises(
            ValueError,
            match="the group 'g0' is not in this dataset or has another prompt or number of images there: pass",
        ):
            export_hpd(voted, wrong, tmp_path / "hpd", "mine", "ann")
    assert not (tmp_path / "hpd").exists()


def test_hpd_import_of_ones_own_export_doubles_nothing(voted: Votes, tmp_path: Path) -> None:
    path = export_hpd(voted, as_dataset(study_groups()), tmp_path / "hpd", "all")
    before = voted.rows()
    assert import_hpd(voted, path) == (0, 0, 3) and voted.rows() == before
    fresh = open_votes(tmp_path / "fresh.sqlite", "mini", study_groups())
    assert str(import_hpd(fresh, path.parent, "all")) == "3 new votes, 0 withdrawn, 0 known before"
    assert fresh.choices(user_hash("ann")) == {"g0": 2, "g1": 1}
    assert fresh.rows(user_hash("ann"))[0]["position"] == 0
    again = export_hpd(fresh, as_dataset(study_groups()), tmp_path / "again", "all")
    assert json.loads(again.read_text()) == json.loads(path.read_text())


def test_hpd_import_of_another_program_needs_no_keys(votes: Votes, tmp_path: Path) -> None:
    rows = [
        {"human_preference": 1, "prompt": group["prompt"], "id": group["id"], "user_hash": "u1", "contain_name": False,
         "file_path": [f"{group['id']}_{i}.png" for i in range(3)]}
        for group in study_groups(2)
    ]  # fmt: skip
    path = tmp_path / "preference_other.json"
    path.write_text(json.dumps(rows))
    with pytest.warns(UserWarning, match="6 of 6 image files are absent"):
        assert import_hpd(votes, path).new == 2
    with pytest.warns(UserWarning):
        assert import_hpd(votes, path) == (0, 0, 2)
    assert votes.choices("u1") == {"g0": 1, "g1": 1} and votes.rows()[0]["position"] is None
    path.write_text(json.dumps([{**rows[0], "prompt": "another"}]))
    with (
        pytest.warns(UserWarning),
        pytest.raises(ValueError, match=r"row 0 \(from 0\) has the group 'g0' with this prompt and 3"),
    ):
        import_hpd(votes, path)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_holds_everything_and_comes_back_without_doubling(voted: Votes, tmp_path: Path, ending: str) -> None:
    path = export_table(voted, tmp_path / f"votes.{ending}")
    before = voted.rows()
    assert import_table(voted, path) == (0, 0, 5) and voted.rows() == before
    fresh = open_votes(tmp_path / "fresh.sqlite", "mini", study_groups())
    assert import_table(fresh, path) == (5, 0, 0) and fresh.rows() == before
    assert import_table(fresh, path) == (0, 0, 5) and fresh.rows() == before
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_the_csv_is_as_others_read_it(voted: Votes, tmp_path: Path) -> None:
    with export_table(voted, tmp_path / "votes.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    names = ["id", "rater", "choice", "position", "shown_order", "skipped", "withdrawn", "seconds"]
    assert [lines[0][name] for name in names] == ["g0", "ann", "2", "0", "2 0 1", "false", "", "1.25"]
    assert lines[1]["withdrawn"].endswith("+00:00") and lines[3]["skipped"] == "true" and lines[3]["choice"] == ""
    assert lines[4]["rater"] == 'bob, "the rater"' and lines[4]["position"] == lines[4]["shown_order"] == ""
    table = pq.read_table(export_table(voted, tmp_path / "votes.parquet"))
    assert table["choice"].to_pylist() == [2, 0, 1, None, 0]


def test_a_withdrawal_elsewhere_makes_room_for_the_new_vote(voted: Votes, tmp_path: Path) -> None:
    fresh = open_votes(tmp_path / "fresh.sqlite", "mini", study_groups())
    import_table(fresh, export_table(voted, tmp_path / "first.csv"))
    voted.undo('bob, "the rater"')
    voted.record('bob, "the rater"', "g0", 1)
    assert import_table(fresh, export_table(voted, tmp_path / "second.csv")) == (1, 1, 5)
    assert fresh.rows() == voted.rows()
    assert import_table(fresh, tmp_path / "first.csv").new == 0
    assert fresh.choices('bob, "the rater"') == {"g0": 1}, "an old table brings nothing back"


def test_a_table_that_contradicts_is_refused_as_a_whole(voted: Votes, tmp_path: Path) -> None:
    fresh = open_votes(tmp_path / "fresh.sqlite", "mini", study_groups())
    fresh.record("ann", "g1", 0)
    with pytest.raises(ValueError, match=r"votes.csv, row 2 \(from 0\), 'ann' has already answered the group 'g1'"):
        import_table(fresh, export_table(voted, tmp_path / "votes.csv"))
    assert len(fresh.rows()) == 1


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("choice", "many", "line 2 has 'many' as choice: correct or remove this line."),
        ("choice", "9", "row 0 (from 0), choice is 9: give an index from 0 to 2."),
        ("choice", "", "row 0 (from 0) has a choice that contradicts skipped: correct or remove this row."),
        ("id", "g9", "row 0 (from 0), the study 'mini' has no group 'g9': name one"),
        ("rater", "", "row 0 (from 0), rater is None: give text."),
        ("shown_order", "0 1 x", "row 0 (from 0), shown_order is [0, 1, 'x']: give"),
        ("time", "noon", "row 0 (from 0), time is 'noon': give a time such as"),
        ("withdrawn", "2023-03-25T12:00:00", "row 0 (from 0), withdrawn is '2023-03-25T12:00:00': give a time such as"),
        ("choice", "0.5", "row 0 (from 0), choice is 0.5: give an index from 0 to 2."),
        ("repeat", "1.5", "row 0 (from 0), repeat is 1.5: give a whole number from 0."),
        ("repeat", "9" * 30, "row 0 (from 0), repeat is 999"),
        ("seconds", "inf", "row 0 (from 0), seconds is inf: give a number from 0."),
        ("choice", "nan", "row 0 (from 0) has a choice that contradicts skipped"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(voted: Votes, tmp_path: Path, column: str, value: str, told: str) -> None:
    path = export_table(voted, tmp_path / "votes.csv")
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    lines[0][column] = value
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    fresh = open_votes(tmp_path / "fresh.sqlite", "mini", study_groups())
    with pytest.raises(ValueError) as error:
        import_table(fresh, path)
    assert told in str(error.value) and str(path) in str(error.value) and fresh.rows() == []


def test_a_table_that_went_through_pandas_comes_back(voted: Votes, tmp_path: Path) -> None:
    """A column of whole numbers with gaps becomes one of floats there, and None becomes NaN."""
    import pandas as pd

    for ending in ("csv", "parquet"):
        path = export_table(voted, tmp_path / f"votes.{ending}")
        table = pd.read_csv(path) if ending == "csv" else pd.read_parquet(path)
        assert table.choice.dtype == float
        if ending == "csv":
            table.to_csv(path, index=False)
        else:
            table.to_parquet(path, index=False)
        fresh = open_votes(tmp_path / f"fresh {ending}.sqlite", "mini", study_groups())
        assert import_table(fresh, path) == (5, 0, 0) and fresh.rows() == voted.rows()


def test_a_parquet_table_of_odd_types_is_told_by_its_row(voted: Votes, tmp_path: Path) -> None:
    import pyarrow as pa

    table = pq.read_table(export_table(voted, tmp_path / "votes.parquet"))
    kinds = {
        "id": [["g0"]] * 5,
        "rater": [3] * 5,
        "choice": [0.5] * 3 + [None, 0.5],
        "seconds": ["long"] * 5,
        "shown_order": [7] * 5,
        "time": [None] * 4 + [3],
    }
    for column, values in kinds.items():
        odd = table.set_column(table.schema.get_field_index(column), column, pa.array(values))
        pq.write_table(odd, tmp_path / "odd.parquet")
        fresh = open_votes(tmp_path / f"{column}.sqlite", "mini", study_groups())
        with pytest.raises(ValueError, match=r"odd\.parquet, row \d \(from 0\)"):
            import_table(fresh, tmp_path / "odd.parquet")
        assert fresh.rows() == []
    order = pa.array(
        [None if text is None else [int(n) for n in text.split()] for text in table["shown_order"].to_pylist()]
    )
    listed = table.set_column(table.schema.get_field_index("shown_order"), "shown_order", order)
    pq.write_table(listed, tmp_path / "listed.parquet")
    fresh = open_votes(tmp_path / "listed.sqlite", "mini", study_groups())
    assert import_table(fresh, tmp_path / "listed.parquet").new == 5 and fresh.rows() == voted.rows()


def test_other_endings_and_tables_are_refused(voted: Votes, tmp_path: Path) -> None:
    for act in (export_table, import_table):
        with pytest.raises(ValueError, match=r"votes.xlsx ends neither in .csv nor in .parquet: rename it"):
            act(voted, tmp_path / "votes.xlsx")
    with pytest.raises(FileNotFoundError, match=r"absent\.csv does not exist: write it with export_table"):
        import_table(voted, tmp_path / "absent.csv")
    (tmp_path / "few.csv").write_text("vote_key,id,rater,repeat,choice,position,shown_order,skipped,seconds\n")
    with pytest.raises(ValueError, match="lacks the column withdrawn, time: write it with export_table"):
        import_table(voted, tmp_path / "few.csv")


def test_skips_are_counted_apart_from_votes(votes: Votes) -> None:
    votes.record("ann", "g1", 0)
    for group in ("g0", "g2"):
        votes.record("ann", group, None, kind="skip")
    assert votes.progress("ann") == Progress(voted=1, skipped=2, total=5)


def test_an_export_is_not_replaced_unless_asked_to(votes: Votes, tmp_path: Path) -> None:
    votes.record("ann", "g1", 0)
    dataset = as_dataset(study_groups())
    export_hpd(votes, dataset, tmp_path / "hpd", "mine", "ann")
    with pytest.raises(FileExistsError):
        export_hpd(votes, dataset, tmp_path / "hpd", "mine", "ann")
    assert export_hpd(votes, dataset, tmp_path / "hpd", "mine", "ann", overwrite=True).is_file()
