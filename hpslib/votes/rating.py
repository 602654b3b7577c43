"""A blind comparison widget: images of one prompt, one key or click each, every vote on the disk at once.

The order of the images is shuffled and recorded, no file name or model reaches the page, and the next group is sent
ahead so that it appears without waiting for the kernel. The browser gives every vote a key of its own, keeps it until
the kernel has answered, and sends it again if there is no answer: :mod:`hpslib.votes.votes` stores it once.

anywidget carries it to where notebooks run. Voting by keys and mouse, Undo and Skip were tried in JupyterLab 4.6 (which
the tests drive where they find a browser), Notebook 7.6 and Voila 0.5. Colab and VS Code were not tried. By their
documentation, Colab needs its manager for custom widgets, which anywidget switches on, and VS Code fetches anywidget's
script once its user allows it (``jupyter.widgetScriptSources``).

All groups of a study are laid out alike: where the pictures of its largest group fit side by side, up to four in a row,
elsewhere two by two. It works by messages and traits alone, so that a notebook runs without a browser: :func:`vote_by`
answers through the same door as a person does.
"""

from __future__ import annotations

import hashlib
import io
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import numpy as np
import traitlets

from hpslib.data.preferences import load_images

if TYPE_CHECKING:
    from PIL import Image

    from hpslib.votes.votes import Votes

__all__ = ["Rating", "rate", "shuffled_order", "vote_by"]

_STATIC = Path(__file__).parent
_TROUBLE = (
    "A picture of this group cannot be opened (widget.faults says why). Skip it, or mend it and run the cell again."
)
_LOG = logging.getLogger(__name__)
_RECENT = 20  # answers that can be taken back without waiting for the kernel


def shuffled_order(seed: int, rater: str, group_id: str, count: int) -> list[int]:
    """The order in which ``rater`` sees the images of a group: the index of the image shown first, second, ...

    It depends on the three alone, so that a group looks the same when it is shown again.
    """
    mixed = hashlib.sha256(f"{seed}\n{rater}\n{group_id}".encode()).digest()
    return np.random.default_rng(list(mixed)).permutation(count).tolist()


class Rating(anywidget.AnyWidget):
    """The widget of :func:`rate`.

    ``current`` and ``upcoming`` are what the page shows now and next: ``id``, ``prompt``, ``order``, ``images``
    (encoded bytes in that order) and ``trouble`` (a sentence in place of images that cannot be opened); empty at the
    end. ``done`` of ``total`` groups are answered, ``last`` is the key of the answer that Undo takes back, and
    ``recent`` ends with the keys that several Undos in a row take back. ``faults`` says, by group, which image could
    not be opened and why; it stays in the kernel. Messages from the page go through :meth:`handle`.
    """

    _esm = _STATIC / "rating.js"
    _css = _STATIC / "rating.css"
    current = traitlets.Dict().tag(sync=True)
    upcoming = traitlets.Dict().tag(sync=True)
    done = traitlets.Int(0).tag(sync=True)
    total = traitlets.Int(0).tag(sync=True)
    last = traitlets.Unicode("").tag(sync=True)
    recent = traitlets.List(traitlets.Unicode()).tag(sync=True)
    size = traitlets.Int(256).tag(sync=True)
    most = traitlets.Int(0).tag(sync=True)  # images in the largest group: the page lays all groups out alike
    store = traitlets.Unicode("").tag(sync=True)  # where the page keeps what is not answered yet

    def __init__(
        self, groups: Sequence[Mapping[str, Any]], votes: Votes, rater: str, root: Any, seed: int, size: int
    ) -> None:
        self._groups = {group_id: place for place, group_id in enumerate(_ids(groups))}
        self.faults: dict[str, str] = {}
        self._rows, self._votes, self._rater, self._root, self._seed = groups, votes, rater, root, seed
        place = hashlib.sha256(f"{votes.uid}\n{rater}".encode()).hexdigest()  # no rater's begins with another's
        most = max(group.images for group in votes.groups)
        super().__init__(total=len(votes.groups), size=size, most=most, store=f"hpslib-{place}")
        self.refresh()
        self.on_msg(lambda _, content, buffers: self._on_message(content))

    def __repr__(self) -> str:
        return f"{self.done} of {self.total} groups answered by {self._rater}."

    def _on_message(self, content: Any) -> None:
        """Answer the page; what is no message of it is nobody's to answer, and would end as a traceback in a log."""
        if isinstance(content, Mapping):
            self.send(self.handle(content))
        else:
            _LOG.warning("a message of the page is %.80r, which is no object: it is ignored.", content)

    def handle(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Act on one message of the page and return the answer: ``key``, ``ok`` and, if it failed, ``text``.

        ``{"type": "vote", "key", "id", "shown", "seconds"}`` with the place that was clicked, ``"skip"`` (``key``,
        ``id``) or ``"undo"`` (``key``, ``vote``: the key of what is taken back). ``order``, as it was on the page, goes
        with a vote and a skip: one that comes late may be of another ``seed``. The same message again changes nothing.
        ``keep`` says whether it is worth sending again: a locked file may be free soon, a group that was answered
        elsewhere stays so.
        """
        kind, key = message.get("type"), message.get("key")
        answer = {"key": key, "ok": True}
        try:
            try:
                if kind == "undo":
                    self._votes.undo(self._rater, str(message.get("vote")))
                elif kind in ("vote", "skip"):
                    self._record(kind, key, message)
                else:
                    raise ValueError(f"the message {kind!r} is unknown: reload the page.")
            except ValueError as error:
                answer = {"key": key, "ok": False, "keep": False, "text": str(error)}
            self.refresh()
        except OSError as error:
            answer = {"key": key, "ok": False, "keep": True, "text": str(error)}
        return answer

    def _record(self, kind: str, key: Any, message: Mapping[str, Any]) -> None:
        group_id = str(message.get("id"))
        if group_id not in self._groups:
            raise ValueError(f"the group {group_id!r} is not in this study: reload the page.")
        if not isinstance(key, str):
            raise ValueError(f"the {kind} has the key {key!r}, which is no text: reload the page.")
        order = message.get("order")
        if order is None:
            order = shuffled_order(self._seed, self._rater, group_id, self._count(group_id))
        if not isinstance(order, list):
            raise ValueError(f"the order shown is {order!r}, which is no list: reload the page.")
        choice = None
        if kind == "vote":
            shown = message.get("shown")
            if not isinstance(shown, int) or isinstance(shown, bool) or not 0 <= shown < len(order):
                raise ValueError(f"place {shown!r} was chosen of {len(order)}: reload the page.")
            choice = order[shown]
        seconds = message.get("seconds")
        self._votes.record(self._rater, group_id, choice, order, seconds, kind, vote_key=key)

    def refresh(self) -> None:
        """Show the first group without an answer, and have the one after it ready."""
        answers = self._votes.rows(self._rater, repeat=0, withdrawn=False)
        answered = {row["id"] for row in answers}
        left = [group.id for group in self._votes.groups if group.id not in answered]
        ahead = {self.upcoming.get("id"): self.upcoming, self.current.get("id"): self.current}
        shown = [ahead.get(group_id) or self._page(group_id) for group_id in left[:2]] + [{}, {}]
        keys = [row["vote_key"] for row in answers]
        with self.hold_sync():  # one message, or the page would count an answer twice until the next one comes
            self.done, self.last, self.recent = len(keys), keys[-1] if keys else "", keys[-_RECENT:]
            self.current, self.upcoming = shown[0], shown[1]

    def _count(self, group_id: str) -> int:
        return len(self._rows[self._groups[group_id]]["images"])

    def _page(self, group_id: str) -> dict[str, Any]:
        group = self._rows[self._groups[group_id]]
        order = shuffled_order(self._seed, self._rater, group_id, len(group["images"]))
        page = {"id": group_id, "prompt": group["prompt"], "order": order, "images": [], "trouble": ""}
        try:
            opened = load_images(group, self._root)
        except (ValueError, OSError) as error:
            self.faults[group_id] = str(error)  # it names the file, which the rater must not see
            return page | {"trouble": _TROUBLE}
        return page | {"images": [_encoded(opened[place], 2 * self.size) for place in order]}


def _ids(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    dataset: Any = groups
    return list(dataset["id"]) if hasattr(groups, "column_names") else [group["id"] for group in groups]


def _encoded(image: Image.Image, limit: int) -> bytes:
    """Small images as they are (PNG), larger ones at most ``limit`` pixels wide or high (JPEG)."""
    file = io.BytesIO()
    if max(image.size) <= 128:
        image.save(file, "PNG")
    else:
        smaller = image.copy()
        smaller.thumbnail((limit, limit))
        smaller.save(file, "JPEG", quality=92)
    return file.getvalue()


def rate(
    groups: Sequence[Mapping[str, Any]],
    votes: Votes,
    rater: str,
    *,
    root: str | Path | None = None,
    seed: int = 0,
    size: int = 256,
) -> Rating:
    """Ask ``rater`` about the groups of a votes file; what is answered already is not asked again.

    ``groups`` is a preference dataset or a list of its rows, those with which ``votes`` was opened, and ``root`` the
    folder of their image files. ``seed`` decides the order in which images are shown, ``size`` is the width of an image
    in pixels of the page. Raises ``ValueError`` for an empty name or groups that are not those of the study.
    """
    if not rater.strip():
        raise ValueError("rater is empty: give a name, by which the votes are kept apart from those of others.")
    given = set(_ids(groups))
    missing = [group.id for group in votes.groups if group.id not in given]
    if missing:
        raise ValueError(f"{votes.path} asks about the group {missing[0]!r}, which is not among groups: give the same.")
    return Rating(groups, votes, rater, root, seed, size)


def vote_by(widget: Rating, choose: Callable[[Mapping[str, Any]], int | None]) -> int:
    """Let a function answer all open groups through the widget's own door; returns how many it answered.

    ``choose`` takes a row of the groups and returns the index of its choice in the order of that row, ``None`` to skip.
    Raises ``ValueError`` with the widget's sentence when an answer is refused.
    """
    answered = 0
    while widget.current:
        page, began = widget.current, time.perf_counter()
        choice = choose(widget._rows[widget._groups[page["id"]]])
        message: dict[str, Any] = {"type": "skip", "key": str(uuid.uuid4()), "id": page["id"], "order": page["order"]}
        if choice is not None:
            shown = page["order"].index(choice) if choice in page["order"] else -1
            message |= {"type": "vote", "shown": shown, "seconds": time.perf_counter() - began}
        answer = widget.handle(message)
        if not answer["ok"]:
            raise ValueError(f"group {page['id']!r}, {answer['text']}")
        answered += 1
    return answered
