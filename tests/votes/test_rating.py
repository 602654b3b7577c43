"""hpslib.votes.rating without a browser: messages in, rows in the votes file, traits out."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from hpslib.votes.rating import Rating, rate, shuffled_order, vote_by
from hpslib.votes.votes import Votes, open_votes

NASTY = "<script>alert(1)</script> \"quoted\" 'x' 🦄 שלום"


def png(colour: tuple[int, int, int], side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, "PNG")
    return file.getvalue()


def row(k: int, n: int = 4) -> dict[str, Any]:
    images = [{"bytes": png((10 * k, 40 * j, 99)), "path": None} for j in range(n)]
    return {"id": f"g{k}", "prompt": f"{NASTY} {k}", "images": images, "human_preference": 0, "user_hash": "u",
            "contain_name": False, "source": "test"}  # fmt: skip


@pytest.fixture
def groups() -> list[dict[str, Any]]:
    return [row(k, n) for k, n in enumerate((4, 2, 3, 4, 4))]


@pytest.fixture
def votes(groups, tmp_path: Path) -> Votes:
    return open_votes(tmp_path / "votes.sqlite", "study", groups)


def message(widget: Rating, shown: int, key: str) -> dict[str, Any]:
    page = widget.current
    return {"type": "vote", "key": key, "id": page["id"], "shown": shown, "order": page["order"], "seconds": 1.5}


def test_a_click_is_the_picture_that_stood_there(groups, votes) -> None:
    widget = rate(groups, votes, "me", seed=3)
    for k in range(5):
        assert (
            widget.current["id"] == f"g{k}" and widget.done == k and repr(widget) == f"{k} of 5 groups answered by me."
        )
        order, pictures = widget.current["order"], widget.current["images"]
        assert [groups[k]["images"][place]["bytes"] for place in order] == [
            png(tuple(np.asarray(Image.open(io.BytesIO(data)))[0, 0].tolist())) for data in pictures
        ]
        assert widget.upcoming.get("id") == (f"g{k + 1}" if k < 4 else None)
        assert widget.handle(message(widget, len(order) - 1, f"key{k}")) == {"key": f"key{k}", "ok": True}
        stored = votes.rows("me")[-1]
        assert (stored["choice"], stored["shown_order"]) == (order[-1], order)
        assert stored["position"] == len(order) - 1 and stored["seconds"] == 1.5
    assert widget.current == widget.upcoming == {} and widget.done == 5


def test_the_same_message_twice_is_one_vote_and_one_undo(groups, votes) -> None:
    widget = rate(groups, votes, "me")
    first = message(widget, 1, "a")
    assert widget.handle(first)["ok"] and widget.handle(first)["ok"]
    widget.handle(message(widget, 0, "b"))
    assert len(votes.rows("me")) == 2 == widget.done and widget.last == "b"
    back = {"type": "undo", "key": "c", "vote": widget.last}
    assert widget.handle(back)["ok"] and widget.handle(back)["ok"], "a second delivery takes nothing more back"
    assert widget.done == 1 and widget.current["id"] == "g1" and widget.last == "a"
    widget.handle({"type": "skip", "key": "d", "id": "g1"})
    assert widget.current["id"] == "g2" and votes.choices("me").keys() == {"g0"}
    assert [line["skipped"] for line in votes.rows("me", withdrawn=False)] == [False, True]


def test_one_goes_on_where_one_stopped_and_raters_are_apart(groups, votes) -> None:
    widget = rate(groups, votes, "me")
    widget.handle(message(widget, 0, "a"))
    again = rate(groups, open_votes(votes.path), "me")
    assert again.current["id"] == "g1" and again.current["order"] == widget.current["order"] and again.done == 1
    assert rate(groups, votes, "you").current["id"] == "g0"
    other = open_votes(votes.path.with_name("other.sqlite"), "study", groups)
    places = [rate(groups, kept, name).store for kept in (votes, other) for name in ("me", "me:", "me-2", "you")]
    assert again.store == places[0] and len(set(places)) == 8, "what a page keeps belongs to one rater of one file"
    assert not any(a.startswith(b) for a in places for b in places if a != b), "and no place begins with another"


def test_a_late_answer_means_the_picture_that_stood_there_then(groups, votes) -> None:
    late, order = message(rate(groups, votes, "me", seed=0), 3, "late"), shuffled_order(0, "me", "g0", 4)
    again = rate(groups, votes, "me", seed=1)
    assert again.current["order"][3] != order[3]
    assert again.handle(late)["ok"] and votes.choices("me") == {"g0": order[3]}
    assert votes.rows("me")[0]["shown_order"] == order and votes.rows("me")[0]["position"] == 3
    before_orders_were_sent = {"type": "vote", "key": "old", "id": "g1", "shown": 0}
    assert again.handle(before_orders_were_sent)["ok"]
    assert votes.choices("me")["g1"] == shuffled_order(1, "me", "g1", 2)[0]


@pytest.mark.skipif(
    int(ipywidgets.__version__.split(".")[0]) < 8, reason="before ipywidgets 8 nothing is sent without a kernel"
)
def test_a_page_hears_of_an_answer_in_one_message_and_what_can_be_taken_back(groups, votes) -> None:
    widget, heard = rate(groups, votes, "me"), []
    widget._send = lambda content, buffers=None: heard.append(sorted(content["state"]))  # type: ignore[method-assign]
    widget.handle(message(widget, 0, "a"))
    assert heard == [["current", "done", "last", "recent", "upcoming"]]
    widget.handle({"type": "skip", "key": "b", "id": "g1"})
    widget.handle(message(widget, 0, "c"))
    assert widget.recent == ["a", "b", "c"] and widget.last == "c"
    for key in ("c", "b"):  # sent one after the other, without waiting for the traits
        assert widget.handle({"type": "undo", "key": f"undo {key}", "vote": key})["ok"]
    assert widget.recent == ["a"] and widget.last == "a" and widget.current["id"] == "g1"


def test_the_page_hears_how_large_the_largest_group_is_which_decides_the_layout_of_all(votes) -> None:
    rows = [row(k, n) for k, n in enumerate((4, 2, 3, 4, 4))]
    assert rate(rows, votes, "me").get_state()["most"] == 4 and len(rows[1]["images"]) == 2
    few = open_votes(votes.path.with_name("few.sqlite"), "few", [row(0, 2), row(1, 3)])
    assert rate([row(0, 2), row(1, 3)], few, "me").most == 3


def test_orders_are_shuffled_evenly_and_repeatably() -> None:
    orders = [tuple(shuffled_order(0, "me", f"g{k}", 4)) for k in range(2400)]
    assert orders == [tuple(shuffled_order(0, "me", f"g{k}", 4)) for k in range(2400)]
    counts = Counter(orders)
    assert len(counts) == 24 and min(counts.values()) > 60 and max(counts.values()) < 145
    assert orders[:50] != [tuple(shuffled_order(1, "me", f"g{k}", 4)) for k in range(50)]
    assert orders[:50] != [tuple(shuffled_order(0, "you", f"g{k}", 4)) for k in range(50)]


def test_nothing_on_the_page_betrays_a_picture(groups, votes) -> None:
    named = [{**group, "images": [{**image, "path": f"sd/{k}.png"} for k, image in enumerate(group["images"])]}
             for group in groups]  # fmt: skip
    widget = rate(named, votes, "me")
    assert set(widget.current) == {"id", "prompt", "order", "images", "trouble"}
    assert "sd/" not in str({k: v for k, v in widget.current.items() if k != "images"})
    assert all(b"sd/" not in data for data in widget.current["images"]) and widget.current["prompt"] == f"{NASTY} 0"


def test_a_deleted_picture_is_said_and_can_be_skipped(groups, votes, tmp_path: Path) -> None:
    groups[1]["images"][0] = {"bytes": None, "path": "gone.png"}
    widget = rate(groups, votes, "me", root=tmp_path)
    widget.handle(message(widget, 0, "a"))
    assert "gone.png" not in str(widget.get_state()) and widget.current["images"] == []
    assert widget.current["trouble"].endswith("Skip it, or mend it and run the cell again.")
    assert "is absent (" in widget.faults[widget.current["id"]] and "gone.png)" in widget.faults[widget.current["id"]]
    assert widget.handle({"type": "skip", "key": "b", "id": "g1"})["ok"] and widget.current["id"] == "g2"
    assert votes.choices("me").keys() == {"g0"}


def test_what_cannot_be_stored_is_told_and_whether_to_try_again(groups, votes) -> None:
    widget = rate(groups, votes, "me")
    for bad, told in (
        ({"type": "dance", "key": "x"}, "the message 'dance' is unknown: reload the page."),
        ({"type": "vote", "key": "x", "id": "g9", "shown": 0}, "the group 'g9' is not in this study: reload the page."),
        ({"type": "vote", "key": "x", "id": "g0", "shown": 4}, "place 4 was chosen of 4: reload the page."),
        ({"type": "vote", "key": "x", "id": "g0", "shown": "0"}, "place '0' was chosen of 4: reload the page."),
        ({"type": "vote", "key": "x", "id": "g0", "shown": True}, "place True was chosen of 4: reload the page."),
        ({"type": ["vote"], "key": "x"}, "the message ['vote'] is unknown: reload the page."),
        (
            {"type": "vote", "key": "x", "id": "g0", "shown": 0, "seconds": 10**400},
            f"seconds is {10**400}: give a number from 0.",
        ),
        (
            {"type": "vote", "key": "x", "id": "g0", "shown": 0, "order": [{}, 1, 2, 3]},
            "choice is {}: give an index from 0 to 3.",
        ),
        (
            {"type": "vote", "key": "x", "id": "g0", "shown": 0, "order": "0"},
            "the order shown is '0', which is no list: reload the page.",
        ),
        (
            {"type": "vote", "key": "x", "id": "g0", "shown": 0, "order": [0, 0, 1, 2]},
            "shown_order is [0, 0, 1, 2]: give the indices 0 to 3, each once.",
        ),
    ):
        assert widget.handle(bad) == {"key": "x", "ok": False, "keep": False, "text": told}
    assert not widget.handle({"type": "skip", "id": "g0"})["ok"] and votes.rows() == [], "a key is needed"
    votes.record("me", "g0", 1)  # another notebook was faster
    answer = widget.handle(message(widget, 0, "y"))
    assert not answer["ok"] and not answer["keep"] and widget.current["id"] == "g1", "and the page moves on"
    votes.path.rename(votes.path.with_name("moved"))
    answer = widget.handle(message(widget, 0, "z"))
    assert not answer["ok"] and answer["keep"], "the page keeps the vote"
    answer = widget.handle({"type": "dance", "key": "x"})
    assert not answer["ok"], "an answer comes also where nothing can be shown afresh"
    votes.path.with_name("moved").rename(votes.path)
    assert widget.handle(message(widget, 0, "z"))["ok"] and votes.choices("me").keys() == {"g0", "g1"}


@pytest.mark.parametrize("content", [None, "vote", 3, ["type", "vote"], [{"type": "vote"}], True])
def test_a_message_that_is_no_object_is_ignored_with_a_sentence(groups, votes, caplog, monkeypatch, content) -> None:
    widget = rate(groups, votes, "me")
    sent: list = []
    monkeypatch.setattr(type(widget), "send", lambda self, answer: sent.append(answer))
    widget._handle_custom_msg(content, [])
    assert sent == [] and votes.rows() == []
    assert [record.getMessage() for record in caplog.records if record.name == "hpslib.votes.rating"] == [
        f"a message of the page is {content!r}, which is no object: it is ignored."
    ]
    widget._handle_custom_msg(message(widget, 0, "a"), [])
    assert sent == [{"key": "a", "ok": True}], "the next one is heard"


def test_a_function_answers_through_the_same_door(groups, votes) -> None:
    widget = rate(groups, votes, "robot", seed=1)
    seen = []

    def choose(group: dict[str, Any]) -> int | None:
        seen.append(group["id"])
        return None if group["id"] == "g2" else len(group["images"]) - 1

    assert vote_by(widget, choose) == 5 and seen == [f"g{k}" for k in range(5)]
    assert votes.choices("robot") == {"g0": 3, "g1": 1, "g3": 3, "g4": 3}
    assert len({line["position"] for line in votes.rows("robot") if not line["skipped"]}) > 1, "shuffled"
    assert vote_by(widget, choose) == 0
    other = rate(groups, votes, "other")
    with pytest.raises(ValueError, match=r"^group 'g0', place -1 was chosen of 4: reload"):
        vote_by(other, lambda group: 7)


def test_large_pictures_are_sent_smaller(groups, votes) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (900, 700, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    groups[0]["images"][0] = {"bytes": file.getvalue(), "path": None}
    widget = rate(groups, votes, "me", size=200)
    sizes = sorted(Image.open(io.BytesIO(data)).size for data in widget.current["images"])
    assert sizes[-1] == (311, 400) and sizes[0] == (8, 8)


def test_no_note_of_a_picture_s_maker_is_sent(groups, votes) -> None:
    file = io.BytesIO()
    Image.new("RGB", (300, 300)).save(file, "JPEG", comment=b"made by model A")
    groups[0]["images"][0] = {"bytes": file.getvalue(), "path": None}
    assert b"made by" in file.getvalue()
    assert not any(b"made by" in data for data in rate(groups, votes, "me").current["images"])


def test_a_large_study_is_checked_at_once(tmp_path: Path) -> None:
    class Counted(list):
        reads = 0

        def __iter__(self):
            Counted.reads += 1
            return super().__iter__()

    groups = Counted({**row(0, 2), "id": f"g{k}"} for k in range(300))
    votes = open_votes(tmp_path / "large.sqlite", "study", groups)
    Counted.reads = 0
    rate(groups, votes, "me")
    assert Counted.reads <= 3, "the ids are read once, not once for each group"


def test_groups_of_another_study_and_no_name_are_refused(groups, votes) -> None:
    with pytest.raises(ValueError, match=r"asks about the group 'g4', which is not among groups: give the same"):
        rate(groups[:4], votes, "me")
    with pytest.raises(ValueError, match=r"^rater is empty: give a name"):
        rate(groups, votes, "  ")


def test_the_page_never_makes_html_of_text() -> None:
    source = (Path(__file__).parents[2] / "hpslib" / "votes" / "rating.js").read_text(encoding="utf-8")
    for danger in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert danger not in source
