"""Do the tests bite? Plant small faults, one at a time, and count those that no test notices.

    python tests/tools/mutate.py [--rooms metrics classifier adaptation votes] [--count 10] [--seed 0] [--workers 2]

From each module, ``--count`` places are drawn by ``--seed`` and changed a little: ``<`` to ``<=``, ``+`` to ``-``,
``and`` to ``or``, a number to the next, a keyword's ``True`` to ``False``. The change lives in a copy of the library;
the module's own tests run against it first, those of its room if they notice nothing. Prints one line a mutant, last
the share that was killed; what survives is either a gap in the tests or a change that changes nothing, and a person
says which. Texts, annotations and ``__all__`` are left alone.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "argmax": "argmin", "argmin": "argmax", "sum": "max"}


class Mutant(NamedTuple):
    """One changed module: where it lies, the line that changed, its text before and after."""

    module: Path
    line: int
    before: str
    after: str
    source: str


def places(tree: ast.Module) -> list[tuple[ast.AST, ...]]:
    """The nodes that can be changed, each with the nodes around it; no texts, annotations or module-level lists."""
    found = []

    def walk(node: ast.AST, around: tuple[ast.AST, ...]) -> None:
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list") or isinstance(node, ast.JoinedStr | ast.Raise):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    if changed(child) is not None:
                        found.append((*around, node, child))
                    walk(child, (*around, node))

    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            walk(statement, ())
    return found


def changed(node: ast.AST) -> ast.AST | None:
    """The node with a small fault, or ``None`` where there is none to plant."""
    new = copy.deepcopy(node)
    if isinstance(new, ast.Compare) and type(new.ops[0]) in COMPARISONS:
        new.ops[0] = COMPARISONS[type(new.ops[0])]()
    elif isinstance(new, ast.BinOp | ast.AugAssign) and type(new.op) in ARITHMETIC:
        if any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in ast.walk(new)):
            return None  # a text
        new.op = ARITHMETIC[type(new.op)]()
    elif isinstance(new, ast.BoolOp):
        new.op = ast.Or() if isinstance(new.op, ast.And) else ast.And()
    elif isinstance(new, ast.UnaryOp) and isinstance(new.op, ast.Not | ast.USub):
        new = new.operand
    elif isinstance(new, ast.Constant) and isinstance(new.value, bool):
        new.value = not new.value
    elif isinstance(new, ast.Constant) and isinstance(new.value, int | float):
        new.value = new.value + 1
    elif isinstance(new, ast.Call) and getattr(new.func, "id", getattr(new.func, "attr", None)) in CALLS:
        if isinstance(new.func, ast.Name):
            new.func.id = CALLS[new.func.id]
        elif isinstance(new.func, ast.Attribute):
            new.func.attr = CALLS[new.func.attr]
    else:
        return None
    return new


def mutants(module: Path, count: int, seed: int) -> Iterator[Mutant]:
    """``count`` mutants of a module, drawn by ``seed``: the same for the same text."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    drawn = random.Random(f"{seed} {module.relative_to(ROOT)}")
    all_places = places(tree)
    for number in sorted(drawn.sample(range(len(all_places)), min(count, len(all_places)))):
        node = all_places[number][-1]
        new = changed(node)
        assert new is not None
        copied = copy.deepcopy(tree)
        # The same walk over the copy gives the same place.
        other_parent, other = places(copied)[number][-2:]
        for name, value in ast.iter_fields(other_parent):
            if isinstance(value, list):
                setattr(other_parent, name, [new if child is other else child for child in value])
            elif value is other:
                setattr(other_parent, name, new)
        source = ast.unparse(ast.fix_missing_locations(copied))
        yield Mutant(module, getattr(node, "lineno", 0), ast.unparse(node), ast.unparse(new), source)


def tests_of(module: Path) -> list[list[Path]]:
    """The module's own test files, then the other files of its room, those first that name the module."""
    folder = ROOT / "tests" / module.relative_to(ROOT / "hpslib").parent
    own = sorted(folder.glob(f"test_{module.stem}*.py"))
    name = f"{module.parent.name}.{module.stem}"
    others = [test for test in sorted(folder.rglob("test_*.py")) if test not in own]
    others.sort(key=lambda test: name not in test.read_text(encoding="utf-8"))
    return [tests for tests in (own, others) if tests]


class Run(NamedTuple):
    """Tests under way against one mutant: the folder they work in, when they must end, which come after them."""

    place: tempfile.TemporaryDirectory
    ends: float
    rest: list[list[Path]]


def start(place: str, tests: list[Path]) -> int:
    """Run ``tests`` against the library in ``place``, in a process that begins with the heavy libraries loaded."""
    process = os.fork()
    if process:
        return process
    os.setsid()  # so that what the tests start can be ended with them
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nowhere, number)
    os.environ["PYTHONPATH"] = place  # for commands that the tests start
    sys.path.insert(0, place)
    os.chdir(ROOT)
    arguments = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={place}/tmp", *map(str, tests)]
    code = 1
    try:
        code = int(pytest.main(arguments))
    finally:
        os._exit(code)


def survivors(planted: Sequence[Mutant], workers: int, timeout: int) -> Iterator[tuple[Mutant, str]]:
    """Each mutant and what became of it, in the order in which they end: "SURVIVES", "killed", or, which is worth a
    look, "hangs" or "stops" (pytest itself could not run)."""
    waiting = list(reversed(planted))
    under_way: dict[int, tuple[Mutant, Run]] = {}
    try:
        while waiting or under_way:
            while waiting and len(under_way) < workers:
                mutant, place = waiting.pop(), tempfile.TemporaryDirectory()
                changed_library(mutant, Path(place.name))
                first, *rest = tests_of(mutant.module)
                under_way[start(place.name, first)] = mutant, Run(place, time.monotonic() + timeout, rest)
            time.sleep(0.1)
            for process, (mutant, run) in list(under_way.items()):
                late = time.monotonic() > run.ends
                ended, status = (process, 0) if late else os.waitpid(process, os.WNOHANG)
                if not ended:
                    continue
                end(process, reaped=not late)
                del under_way[process]
                code = os.waitstatus_to_exitcode(status)
                if not late and code in (0, 5) and run.rest:  # 5: there is no test
                    process = start(run.place.name, run.rest[0])
                    under_way[process] = mutant, Run(run.place, time.monotonic() + timeout, run.rest[1:])
                    continue
                run.place.cleanup()
                yield mutant, "hangs" if late else {0: "SURVIVES", 5: "SURVIVES", 1: "killed"}.get(code, "stops")
    finally:
        for process, (_, run) in under_way.items():
            end(process, reaped=False)
            run.place.cleanup()


def changed_library(mutant: Mutant, place: Path) -> None:
    """A copy of the library with the mutant's module in it."""
    shutil.copytree(ROOT / "hpslib", place / "hpslib", ignore=shutil.ignore_patterns("__pycache__"))
    (place / mutant.module.relative_to(ROOT)).write_text(mutant.source, encoding="utf-8")


def end(process: int, reaped: bool) -> None:
    """End a process of tests and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    if not reaped:
        os.waitpid(process, 0)


def main() -> None:
    """Plant, test and count; the exit code is 1 when less than ``--at-least`` of the mutants are killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rooms", nargs="+", default=["metrics", "classifier", "adaptation", "votes"])
    parser.add_argument("--modules", nargs="*", help="only these, by their stems")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=int, default=300, help="seconds; a mutant that hangs is killed")
    parser.add_argument("--at-least", type=float, default=0.9)
    chosen = parser.parse_args()
    modules = [m for room in chosen.rooms for m in sorted((ROOT / "hpslib" / room).rglob("*.py")) if m.stat().st_size]
    if chosen.modules:
        modules = [module for module in modules if module.stem in chosen.modules]
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    planted = [mutant for module in modules for mutant in mutants(module, chosen.count, chosen.seed)]
    for name in ("diffusers", "transformers", "peft", "open_clip", "scipy.stats", "pyarrow.dataset", "datasets"):
        importlib.import_module(name)  # once: each process of tests begins as a copy of this one
    one_a_room = {module.parent: module for module in modules}.values()
    sound = [Mutant(module, 0, "", "", module.read_text(encoding="utf-8")) for module in one_a_room]
    for mutant, became in survivors(sound, chosen.workers, chosen.timeout):
        if became != "SURVIVES":
            sys.exit(f"{tests_of(mutant.module)[-1][0].parent} fails without any fault ({became}): mend that first.")
    killed = 0
    for mutant, became in survivors(planted, chosen.workers, chosen.timeout):
        killed += became != "SURVIVES"
        where = f"{mutant.module.relative_to(ROOT)}:{mutant.line}"
        print(f"{became:<8} {where}: {mutant.before} -> {mutant.after}", flush=True)
    print(f"{killed} of {len(planted)} mutants killed ({100 * killed / max(1, len(planted)):.0f} %)")
    sys.exit(killed < chosen.at_least * len(planted))


if __name__ == "__main__":
    main()
