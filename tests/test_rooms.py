"""The law of the house: a room imports only rooms drawn below it, and what is light stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hpslib"

#: From top to bottom; a module belongs to the longest name that its path begins with. Rooms of one line stand side by
#: side and do not import each other.
ROOMS = (
    ("cli",),
    ("critters.build",),
    ("lessons",),
    ("critters",),
    ("votes",),
    ("plots",),
    ("adaptation", "classifier"),
    ("metrics", "scores"),
    ("data.read",),
    ("data.releases", "data.pools"),
    ("data",),
    ("data.images",),
    ("runs",),
)
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
FACE_WITH_NAMES = "plots"


def modules(package: Path) -> dict[str, Path]:
    """Every module below a package by its dotted name, the package's own name left out; ``""`` is the package."""
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of the package that a file imports: at its top, inside functions, and for type checkers only."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            # ``from hpslib.a import b`` names the module a.b where there is one, else a.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name.removeprefix("hpslib.") in known else str(node.module) for name in names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        imported |= {name.removeprefix("hpslib").removeprefix(".") for name in names if name.split(".")[0] == "hpslib"}
    return imported & set(known)


def room(module: str) -> str | None:
    """The room of a module, ``None`` for the files beside the rooms."""
    fitting = [name for name in FLOOR if module == name or module.startswith(f"{name}.")]
    return max(fitting, key=len, default=None)


def upward(package: Path) -> list[str]:
    """The imports that the law forbids, as sentences."""
    known = modules(package)
    broken = []
    for module, path in known.items():
        for other in sorted(imports(path, known)):
            here, there = room(module), room(other)
            if here and there and here != there and FLOOR[there] <= FLOOR[here]:
                broken.append(f"{module} imports {other}: {there} does not lie below {here}.")
    return broken


def circles(package: Path) -> list[list[str]]:
    """Modules that import each other, directly or by way of others: Tarjan's strongly connected components."""
    known = modules(package)
    arrows = {module: imports(path, known) - {module} for module, path in known.items()}
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        stack.append(module)
        for other in sorted(arrows[module]):
            if other not in number:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], number[other])
        if low[module] == number[module]:
            circle = []
            while not circle or circle[-1] != module:
                circle.append(stack.pop())
            if len(circle) > 1:
                found.append(sorted(circle))

    for module in arrows:
        if module not in number:
            visit(module)
    return found


def faces(package: Path) -> list[str]:
    """Packages whose ``__init__.py`` is not empty, the library's own and that of ``plots`` aside."""
    known = modules(package)
    return [
        module
        for module, path in known.items()
        if path.name == "__init__.py" and path.stat().st_size and module not in ("", FACE_WITH_NAMES)
    ]


def test_no_import_leads_upwards() -> None:
    assert upward(PACKAGE) == []


def test_no_modules_import_each_other() -> None:
    assert circles(PACKAGE) == []


def test_package_faces_are_empty() -> None:
    assert faces(PACKAGE) == []


def test_every_module_has_a_room() -> None:
    beside = {"", "__main__"}
    rooms = {name.split(".")[0] for name in FLOOR}
    assert [m for m in modules(PACKAGE) if room(m) is None and m not in beside and m not in rooms] == []


def test_the_law_bites(tmp_path: Path) -> None:
    def write(name: str, text: str = "") -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    for folder in ("data", "metrics", "scores", "plots"):
        write(f"{folder}/__init__.py", "x = 1" if folder in ("data", "plots") else "")
    write("data/rows.py", "def f():\n    from hpslib.metrics import audit\n")  # up, and inside a function
    write("metrics/audit.py", "from hpslib.data.rows import f\n")
    write("scores/clip.py", "import hpslib.metrics.audit\n")  # to the room beside it
    write("plots/charts.py", "from hpslib.metrics.audit import x\n")  # down: allowed
    assert upward(tmp_path) == [
        "data.rows imports metrics.audit: metrics does not lie below data.",
        "scores.clip imports metrics.audit: metrics does not lie below scores.",
    ]
    assert circles(tmp_path) == [["data.rows", "metrics.audit"]]
    assert faces(tmp_path) == ["data"]


HEAVY = ("torch", "open_clip", "diffusers", "transformers")
LIGHT = (
    "hpslib",
    "hpslib.metrics",
    "hpslib.metrics.agreement",
    "hpslib.metrics.audit",
    "hpslib.data.preferences",
    "hpslib.data.groups",
    "hpslib.adaptation.selection",
    "hpslib.votes.votes",
    "hpslib.plots",
    "hpslib.cli.app",
)


@pytest.mark.parametrize("module", LIGHT)
def test_what_is_light_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def public_names(path: Path) -> tuple[set[str], set[str] | None]:
    """The public functions and classes of a file, and the names in its ``__all__`` (``None`` where it has none)."""
    defined, listed = set(), None
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            defined.add(node.name)
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            listed = set(ast.literal_eval(node.value))
    return defined, listed


@pytest.mark.parametrize(
    "module", [m for m, path in modules(PACKAGE).items() if path.name not in ("__init__.py", "__main__.py")]
)
def test_all_is_complete(module: str) -> None:
    defined, listed = public_names(modules(PACKAGE)[module])
    assert listed is not None and defined <= listed, f"not in __all__: {sorted(defined - (listed or set()))}"


def sizes() -> list[tuple[int, str]]:
    """Lines of every function of the library, from its name to its end."""
    return [
        (node.end_lineno - node.lineno + 1, f"{module}.{node.name}")
        for module, path in modules(PACKAGE).items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.end_lineno
    ]


def test_a_function_fits_on_a_screen_and_a_module_is_read_in_one_sitting() -> None:
    assert [name for lines, name in sizes() if lines > 80] == []
    long = {
        m: n for m, path in modules(PACKAGE).items() if (n := len(path.read_text(encoding="utf-8").splitlines())) > 320
    }
    assert long == {}
