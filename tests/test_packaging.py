"""What a fresh machine gets: a light import, a lock file that names no place, a small repository."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
HEAVY = [
    "torch",
    "datasets",
    "torchmetrics",
    "transformers",
    "diffusers",
    "open_clip",
    "pandas",
    "matplotlib",
    "nbformat",
]


@pytest.mark.parametrize("module", ["hpslib", "hpslib.cli.app", "hpslib.lessons.course"])
def test_the_import_is_light(module: str, record_property) -> None:
    code = (
        f"import sys, time; start = time.perf_counter(); import {module}; spent = time.perf_counter() - start; "
        f"print(spent, *[name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, *heavy = done.stdout.split()
    assert heavy == []
    record_property("import_seconds", float(seconds))  # recorded, not asserted: a busy machine would fail for nothing
    print(f"import {module}: {float(seconds):.3f} s")


def locked() -> dict[str, list[tuple[str, str]]]:
    """{name: [(version, the block with its hashes)]}; a name may be locked twice, for different Pythons."""
    packages: dict[str, list[tuple[str, str]]] = {}
    for block in re.split(r"\n(?=\S)", LOCK.strip()):
        head = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", block)
        assert head, f"not a pinned requirement: {block[:80]!r}"
        packages.setdefault(canonicalize_name(head[1]), []).append((head[2], block))
    return packages


def test_every_locked_package_has_a_hash_and_no_local_build() -> None:
    for name, entries in locked().items():
        for version, block in entries:
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), name
            assert "+" not in version, f"{name} {version} is a local build"


def test_the_lock_file_names_no_index_host_or_folder() -> None:
    assert re.findall(r"://|file:|@ |--(?:index|extra-index|find-links|trusted)\S*", LOCK) == []
    assert re.findall(r"(?m)^#.*|(?:^|\s)/\w+\S*", LOCK) == []


def test_the_lock_file_fits_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [text for texts in project["optional-dependencies"].values() for text in texts]
    entries = locked()
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        if requirement.name == "hpslib":
            continue
        versions = [version for version, _ in entries.get(canonicalize_name(requirement.name), [])]
        assert versions, f"{requirement.name} is not locked: run make lock."
        assert all(requirement.specifier.contains(version) for version in versions), requirement
        assert all(part.operator == ">=" for part in requirement.specifier), f"{requirement}: lower bounds only"


def repository_files() -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_repository_stays_small() -> None:
    sizes = {path.relative_to(ROOT): path.stat().st_size for path in repository_files()}
    in_data = {path: size for path, size in sizes.items() if path.parts[0] == "data"}
    assert [str(path) for path, size in sizes.items() if path not in in_data and size > 8e6] == []
    assert sum(in_data.values()) <= 60e6
    assert sum(sizes.values()) <= 80e6


def test_the_top_level_holds_only_what_belongs_there() -> None:
    course = {"notebooks", "hpslib", "data", "tests", "environment.yml", "README.md"}
    tools = {"pyproject.toml", "Makefile", "requirements.lock", "conftest.py", ".ci", "LICENSE", "CONTRIBUTING.md"}
    tools |= {".gitignore", ".gitattributes", ".editorconfig", ".pre-commit-config.yaml", ".github", "docs"}
    tools |= {"CHANGELOG.md", "CITATION.cff", "CODE_OF_CONDUCT.md", ".devcontainer"}
    assert {path.relative_to(ROOT).parts[0] for path in repository_files()} - course - tools == set()


def test_no_file_names_a_machine() -> None:
    texts = {".py", ".toml", ".yml", ".md", ".cfg", ".lock", ".json", ""}
    place = re.compile(rf"{re.escape(str(ROOT))}(?![\w.-])|/home/\w+/|/Users/\w+/|/root/\.\w")
    named = [
        str(path.relative_to(ROOT))
        for path in repository_files()
        if path.suffix in texts and path != Path(__file__) and place.search(path.read_text(encoding="utf-8"))
    ]
    assert named == []


def test_make_test_runs_both_and_ci_runs_make_test() -> None:
    ci = ROOT / ".ci" / "run"
    assert ci.stat().st_mode & 0o111, "it must be executable"
    assert re.search(r"^make test\b", ci.read_text(encoding="utf-8"), re.M)
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    notebooks = ["NOTEBOOKS=notebooks/01.ipynb"]
    done = subprocess.run(["make", "-n", "test", *notebooks], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pytest tests" in done.stdout and "pytest --nbval notebooks" in done.stdout


def test_the_licence_is_the_one_pyproject_names() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
