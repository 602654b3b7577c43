"""``make setup``, with a stand-in for the environment's Python: which torch it asks for, whose hashes are checked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCK = """\
nvidia-cublas==13.4 ; sys_platform == 'linux' \\
    --hash=sha256:aa
six==1.17.0 \\
    --hash=sha256:bb \\
    --hash=sha256:cc
torch==2.15.0 \\
    --hash=sha256:dd
torchmetrics==1.9.0 \\
    --hash=sha256:ee
torchvision==0.29.2 \\
    --hash=sha256:ff
triton==3.9.0 ; sys_platform == 'linux' \\
    --hash=sha256:gg
"""
#: It notes how it is called; a dry run of the CPU's torch ends as $PROBED says, its installation as $FETCH says.
PYTHON = """\
#!/bin/sh
echo "$*" >>calls.txt
case "$*" in *--dry-run*) exit $PROBED;; *torch-backend*) exit $FETCH;; esac
"""

pytestmark = pytest.mark.skipif(
    shutil.which("make") is None or sys.platform != "linux", reason="needs make, and Linux, where torch has CUDA"
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / "requirements.lock").write_text(LOCK)
    (tmp_path / "pyproject.toml").write_text("")
    shutil.copy(ROOT / "Makefile", tmp_path)
    for path, text in ((".venv/bin/python", PYTHON), ("nvidia-smi", "#!/bin/sh\nexit $CARD\n")):
        (tmp_path / path).write_text(text)
        (tmp_path / path).chmod(0o755)
    return tmp_path


def setup(project: Path, *arguments: str, card: bool = False, probe: int = 0, fetch: int = 0) -> tuple[int, str, str]:
    """Exit code, what was said, and the calls of the Python, one a line."""
    env = {name: value for name, value in os.environ.items() if name not in ("TORCH", "MAKEFLAGS", "MAKELEVEL")}
    env |= {"PATH": f"{project}{os.pathsep}{env['PATH']}", "CARD": str(int(not card))}
    env |= {"PROBED": str(probe), "FETCH": str(fetch), "LC_ALL": "C"}
    command = ["make", "--no-print-directory", "setup", *arguments]
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True)
    calls = project / "calls.txt"
    return done.returncode, done.stdout + done.stderr, calls.read_text() if calls.exists() else ""


WHOLE = "--require-hashes -r requirements.lock"
REST = "--no-deps --require-hashes -r .venv/no-cuda.lock"
CPU = "--no-deps --torch-backend cpu torch==2.15.0 torchvision==0.29.2"


@pytest.mark.parametrize("arguments", [[], ["TORCH=cpu"]])
def test_without_a_card_torch_is_the_cpus_and_all_others_keep_their_hashes(project: Path, arguments: list[str]) -> None:
    code, said, calls = setup(project, *arguments)
    assert code == 0 and WHOLE not in calls
    assert [line.split("python ", 1)[-1] for line in calls.splitlines() if CPU in line and "dry" not in line]
    assert calls.index(f"{CPU} --dry-run") < calls.index(f"{CPU}\n") < calls.index(REST)
    rest = (project / ".venv" / "no-cuda.lock").read_text()
    assert rest == "".join(re.findall(r"(?m)^(?:six|torchmetrics)==.*\n(?: .*\n)+", LOCK)) and rest.count("hash") == 3
    assert "torch for the CPU, without a hash in requirements.lock" in said
    assert (project / ".venv" / ".hpslib-setup").read_text() == "cpu\n"


def test_where_the_cpus_torch_is_not_served_it_says_so_and_goes_the_ordinary_way(project: Path) -> None:
    code, said, calls = setup(project, probe=1)
    assert code == 0 and WHOLE in calls and REST not in calls and f"{CPU}\n" not in calls
    assert "cannot be fetched here: taking the one with CUDA, 3 GB more.\n" in said
    assert (project / ".venv" / ".hpslib-setup").read_text() == "cuda\n", "what is there, not what was asked for"
    assert "rm -rf .venv" not in setup(project, "TORCH=cuda", "--dry-run")[1]


@pytest.mark.parametrize(("arguments", "card"), [([], True), (["TORCH=cuda"], False), (["TORCH=cuda"], True)])
def test_with_a_card_or_by_choice_nothing_is_probed(project: Path, arguments: list[str], card: bool) -> None:
    code, said, calls = setup(project, *arguments, card=card)
    assert code == 0 and WHOLE in calls and "torch-backend" not in calls and "torch for the CPU" not in said
    assert (project / ".venv" / ".hpslib-setup").read_text() == "cuda\n"


def test_a_fetch_that_breaks_off_fails_the_set_up(project: Path) -> None:
    code, _, calls = setup(project, fetch=1)
    assert code != 0 and "-r requirements.lock" not in calls and not (project / ".venv" / ".hpslib-setup").exists()


@pytest.mark.parametrize("word", ["gpu", "", "cpu cuda", "c%"])
def test_another_word_is_refused_and_nothing_is_lost(project: Path, word: str) -> None:
    stamp = project / ".venv" / ".hpslib-setup"
    stamp.write_text("cuda\n")
    code, said, calls = setup(project, f"TORCH={word}")
    assert code != 0 and f'TORCH is "{word}": write cpu or cuda' in said and calls == ""
    assert stamp.read_text() == "cuda\n"


def test_the_probe_is_told_to_give_up_soon(project: Path) -> None:
    _, said, _ = setup(project, "--dry-run")
    assert "UV_HTTP_CONNECT_TIMEOUT=5 UV_HTTP_RETRIES=0 timeout 10 .venv/bin/python" in said


def test_only_a_torch_that_is_named_makes_a_made_environment_anew(project: Path) -> None:
    assert setup(project, card=True)[0] == 0
    made = setup(project, card=True)[2]
    assert setup(project) == (0, "make: Nothing to be done for 'setup'.\n", made), "a card that went changes nothing"
    assert "rm -rf .venv" not in setup(project, "TORCH=cuda", "--dry-run")[1]
    assert "rm -rf .venv" in setup(project, "TORCH=cpu", "--dry-run")[1]
    assert (project / ".venv").is_dir()


def test_a_lock_that_changed_keeps_the_torch_that_is_there(project: Path) -> None:
    stamp = project / ".venv" / ".hpslib-setup"
    for there, word in (("", "cuda"), ("cuda\n", "cuda"), ("cpu\n", "cpu")):
        stamp.write_text(there)
        os.utime(stamp, (1, 1))  # older than the lock
        for card in (True, False):
            said = setup(project, "--dry-run", card=card)[1]
            assert f"[ {word} = cpu ]" in said and "rm -rf" not in said
    stamp.write_text("")
    assert "rm -rf .venv" in setup(project, "TORCH=cpu", "--dry-run")[1]
