"""What a visitor of the repository meets: the checks that run by themselves, the citation, the forms, the changelog."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import hpslib

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def workflow() -> dict[Any, Any]:
    return read_yaml(GITHUB / "workflows" / "checks.yml")


def commands(job: dict[str, Any]) -> list[str]:
    """What a job runs, line by line, once for every value of its matrix."""
    matrix = job.get("strategy", {}).get("matrix", {})
    lines = [line.strip() for step in job["steps"] for line in step.get("run", "").splitlines()]
    for name, values in matrix.items():
        place = "${{ matrix." + name + " }}"
        lines = [line.replace(place, value) for line in lines for value in (values if place in line else [""])]
    return lines


def make_targets() -> set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return {name for names in re.findall(r"^([a-z][\w -]*):(?!=)", text, re.M) for name in names.split()}


@pytest.mark.parametrize(
    "path",
    [
        *sorted(path.relative_to(ROOT) for path in GITHUB.rglob("*.yml")),
        Path("CITATION.cff"),
        Path(".pre-commit-config.yaml"),
        Path("environment.yml"),
    ],
    ids=str,
)
def test_it_is_yaml_with_fields(path: Path) -> None:
    assert isinstance(read_yaml(ROOT / path), dict)


def test_pushes_and_pull_requests_run_exactly_what_must_pass() -> None:
    checks = workflow()
    assert set(checks[True]) == {"push", "pull_request"}  # YAML 1.1 reads the key "on" as true
    assert commands(checks["jobs"]["check"]) == [".ci/run"]
    for job in checks["jobs"].values():
        assert job["steps"][0]["uses"].startswith("actions/checkout@")
        (python,) = [s["with"]["python-version"] for s in job["steps"] if "setup-python" in s.get("uses", "")]
        assert python == "3.11", "a string: 3.10 as a number is 3.1"


def test_the_workflow_calls_only_make_targets_that_exist() -> None:
    lines = [line for job in workflow()["jobs"].values() for line in commands(job) if line != ".ci/run"]
    called = [line for line in lines if line.startswith("make ")]
    assert {line.split("/")[0] for line in lines if line not in called} == {"sudo rm -rf "}, "room on the disk, no more"
    assert sorted(called) == ["make docs", "make newest", "make oldest", "make portable"]
    missing = {line.removeprefix("make ") for line in called} - make_targets()
    assert not missing, f"the Makefile has no target {sorted(missing)}: add it, or take it out of the workflow."


def test_the_workflow_needs_no_secret_and_writes_nothing() -> None:
    assert workflow()["permissions"] == {"contents": "read"}
    assert "secrets." not in (GITHUB / "workflows" / "checks.yml").read_text(encoding="utf-8")


def test_a_matrix_is_run_once_for_each_value() -> None:
    job = {"strategy": {"matrix": {"x": ["a", "b"]}}, "steps": [{"run": "make ${{ matrix.x }}"}, {"run": "ls"}]}
    assert commands(job) == ["make a", "make b", "ls"]


def test_the_citation_names_this_version_and_the_paper_that_the_readme_names() -> None:
    citation = read_yaml(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == PROJECT["version"] == hpslib.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    assert {"message", "title", "type"} <= set(citation) and citation["type"] == "software"

    paper = citation["preferred-citation"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    names = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    for field, value in (("title", paper["title"]), ("author", names), ("booktitle", paper["collection-title"])):
        assert re.search(rf"^\s*{field}\s*= {{{re.escape(value)}}},$", readme, re.M), field
    assert re.search(r"year\s*= " + re.escape(f"{{{paper['year']}}}"), readme)


def test_the_changelog_keeps_its_form_and_one_screen() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.*)$", text, re.M)
    assert re.fullmatch(rf"\[{re.escape(PROJECT['version'])}\] - (Unreleased|\d{{4}}-\d\d-\d\d)", versions[0])
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.*)$", text, re.M)) <= kinds
    assert len(text.split("\n## ")[1].splitlines()) <= 50, "one screen: say what a user notices, not every change."


@pytest.mark.parametrize("name", ["bug", "lesson"])
def test_a_form_asks_what_is_needed(name: str) -> None:
    form = read_yaml(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert form["name"] and form["description"] and form["labels"]
    ids = [field["id"] for field in form["body"]]
    assert len(set(ids)) == len(ids)
    assert {field["type"] for field in form["body"]} <= {"textarea", "input", "dropdown", "checkboxes", "markdown"}
    assert all(field["attributes"]["label"] for field in form["body"])
    for field in form["body"]:
        if field["type"] == "dropdown":
            options = field["attributes"]["options"]
            assert len(set(options)) == len(options) >= 2


def test_the_lesson_form_names_the_lessons() -> None:
    form = read_yaml(GITHUB / "ISSUE_TEMPLATE" / "lesson.yml")
    (options,) = [field["attributes"]["options"] for field in form["body"] if field["id"] == "lesson"]
    syllabus = re.findall(r"^\| \[(\d · [^\]]+)\]\(notebooks/", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert [option for option in options if option[0].isdigit()] == syllabus


def test_the_code_of_conduct_is_whole_and_names_a_way_to_report() -> None:
    text = (ROOT / "CODE_OF_CONDUCT.md").read_text(encoding="utf-8")
    assert "version 2.1" in text and "by a private report on the repository's page" in text
    assert "[INSERT" not in text and "@" not in text


def test_hooks_are_local_and_call_the_ruff_that_the_checks_call() -> None:
    repositories = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    entries = [hook["entry"] for hook in repositories[0]["hooks"]]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for entry, command in zip(entries, (".venv/bin/ruff check", ".venv/bin/ruff format"), strict=True):
        assert entry.startswith(command) and command in ci


def test_binder_gets_the_lessons_with_torch_for_the_cpu_at_our_bounds() -> None:
    *conda, pip = read_yaml(ROOT / "environment.yml")["dependencies"]
    assert pip == {"pip": ["-e .[notebooks]"]}
    bounds = {Requirement(text).name: str(Requirement(text).specifier) for text in PROJECT["dependencies"]}
    assert {f"pytorch-cpu{bounds['torch']}", f"torchvision{bounds['torchvision']}", "python=3.11"} <= set(conda)


def test_a_container_is_set_up_as_any_machine_is() -> None:
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert container["image"].startswith("python:3.11") and "/" not in container["image"]
    assert container["postCreateCommand"] == "make setup" and "setup" in make_targets()
    assert all(re.fullmatch(r"\d+gb", container["hostRequirements"][name]) for name in ("memory", "storage"))


def test_the_editor_knows_what_ruff_knows() -> None:
    text = (ROOT / ".editorconfig").read_text(encoding="utf-8")
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]
    assert f"max_line_length = {ruff['line-length']}" in text
    assert re.search(r"\[Makefile\]\s+indent_style = tab", text)
