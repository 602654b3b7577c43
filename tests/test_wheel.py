"""The wheel alone: built, installed into an environment of its own, and used outside any clone."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import hpslib

ROOT = Path(__file__).parents[1]

#: A first picture and its score.
FIRST = """
import hpslib
from hpslib.adaptation.sampling import generate, load_pipeline
from hpslib.critters.assets import asset
from hpslib.data.images.lazy import to_images
from hpslib.scores.clip import load_clip
from hpslib.scores.cosine import hps

prompt = ["a red round critter in the snow"]
images = generate(load_pipeline(asset("sd")), prompt, [1], steps=2, guidance_scale=2.0)
score = hps(load_clip(asset("hps")), to_images(images), prompt)
print(hpslib.__file__, images.shape, -100 < score[0] < 100)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("hpslib-*.whl")
    return built


def test_it_holds_the_package_the_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"hpslib-{hpslib.__version__}.dist-info/METADATA").decode()
    assert {"hpslib/py.typed", "hpslib/votes/rating.js", "hpslib/lessons/demo.html"} <= names
    data = {f"hpslib/_{path.relative_to(ROOT)}" for path in (ROOT / "data").rglob("[!.]*") if path.is_file()}
    assert {name for name in names if name.startswith("hpslib/_data/")} == data
    assert {name.split("/")[0] for name in names} == {"hpslib", f"hpslib-{hpslib.__version__}.dist-info"}
    assert not [name for name in names if "__pycache__" in name]
    assert wheel.stat().st_size < 50e6
    assert "Classifier: Framework :: Jupyter" in metadata and "Requires-Python: <3.15,>=3.11" in metadata


@pytest.mark.slow
def test_it_works_outside_any_clone(wheel: Path, tmp_path: Path) -> None:
    venv, elsewhere = tmp_path / "venv", tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = venv / "bin" / "python"
    (site,) = venv.glob("lib/python*/site-packages")
    (site / "project.pth").write_text(
        sysconfig.get_path("purelib")
    )  # the dependencies; its own .pth files do not count
    install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--ignore-installed", wheel]
    subprocess.run(install, check=True)
    env = {name: value for name, value in os.environ.items() if name not in ("HPSLIB_DATA", "PYTHONPATH")}

    def say(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert say(python, "-c", FIRST) == f"{site / 'hpslib' / '__init__.py'} (1, 64, 64, 3) True"
    assert say(venv / "bin" / "hpslib", "--version") == f"hpslib {hpslib.__version__}"
    assert say(venv / "bin" / "hpslib", "demo", "--no-open") == f"wrote {elsewhere / 'hpslib-demo.html'}"
    assert [path.name for path in elsewhere.iterdir()] == ["hpslib-demo.html"]
