"""What the statistics save: ``python tests/benchmarks/bench_statistics.py`` prints one table, measured in one run.

Each line sets the library beside what a user would otherwise run on the same numbers, in the same process, taking turns
so that a busy machine slows both; the best of several turns counts. Ratios only: seconds mean nothing on another
machine. Results are compared, and the script ends with 1 where they differ. Not collected by pytest; nothing here
asserts a time.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import krippendorff
import numpy as np
import torch
from scipy import linalg, sparse
from statsmodels.stats import inter_rater

from hpslib.data.releases.hpd_v1 import read_hpd
from hpslib.metrics.audit import audit
from hpslib.metrics.distribution_intervals import distribution_table
from hpslib.metrics.distributions import fid, kid
from hpslib.metrics.intervals import drawn_prompts
from hpslib.votes.bradley_terry import bradley_terry, strength_intervals
from hpslib.votes.reliability import fleiss_kappa, krippendorff_alpha

DIFFERS = "DIFFERS"


class Row(NamedTuple):
    """One line of the table; ``note`` says how equal the results are and begins with DIFFERS where they are not."""

    name: str
    ours: float
    others: float
    other: str
    note: str


Case = tuple[str, str, Callable[[], Any], Callable[[], Any], float]


def compared(case: Case, turns: int) -> Row:
    """Run both in turns and hold their results against each other, to a share of the largest number."""
    name, other, usual, ours, tolerance = case
    seconds: tuple[list[float], list[float]] = ([], [])
    found: list[np.ndarray] = []
    for _ in range(turns):
        found.clear()
        for run, taken in zip((ours, usual), seconds):
            start = time.perf_counter()
            result = run()
            taken.append(time.perf_counter() - start)
            found.append(np.asarray(result, dtype=np.float64))
    apart = float(np.abs(found[0] - found[1]).max() / max(float(np.abs(found[1]).max()), 1e-300))
    note = f"{apart:.0e}" if apart else "every digit"
    return Row(name, min(seconds[0]), min(seconds[1]), other, note if apart <= tolerance else f"{DIFFERS} by {note}")


# --- strengths --------------------------------------------------------------------------------------------------------


def votes_on(rng: np.random.Generator, models: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Winners and losers of random pairs, ``each`` per model on average."""
    truth, first = rng.normal(size=models), rng.integers(models, size=models * each)
    second = (first + rng.integers(1, models, size=len(first))) % models
    won = rng.random(len(first)) < 1 / (1 + np.exp(truth[second] - truth[first]))
    return np.where(won, first, second), np.where(won, second, first)


def by_regression(won: np.ndarray, lost: np.ndarray, models: int) -> np.ndarray:
    """As leaderboards of language models do it: a logistic regression of who won on who was there."""
    from sklearn.linear_model import LogisticRegression

    rows, sign = np.arange(len(won)), np.where(np.arange(len(won)) % 2, 1.0, -1.0)
    signs, places = np.append(sign, -sign), (np.tile(rows, 2), np.append(won, lost))
    design = sparse.csr_array((signs, places), shape=(len(won), models))
    fit = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-9, max_iter=10_000).fit(design, sign > 0)
    return fit.coef_[0] - fit.coef_[0].mean()


def by_loop(won: np.ndarray, lost: np.ndarray, models: int) -> np.ndarray:
    """Hunter's (2004) iteration on a table of all pairs, as most introductions print it."""
    wins = np.zeros((models, models))
    np.add.at(wins, (won, lost), 1)
    met, strength = wins + wins.T, np.ones(models)
    for _ in range(10_000):
        better = wins.sum(axis=1) / (met / (strength[:, None] + strength)).sum(axis=1)
        better /= np.exp(np.log(better).mean())
        change, strength = np.abs(np.log(better / strength)).max(), better
        if change < 1e-9:
            return np.log(strength)
    raise RuntimeError("Hunter's iteration did not converge: allow more steps.")


def by_choix(won: np.ndarray, lost: np.ndarray, models: int) -> np.ndarray:
    import choix

    return choix.ilsr_pairwise(models, list(zip(won.tolist(), lost.tolist())), tol=1e-7)


def strength_cases(rng: np.random.Generator) -> list[Case]:
    def fit(won: np.ndarray, lost: np.ndarray, models: int) -> np.ndarray:
        table = sparse.coo_array((np.ones(len(won)), (won, lost)), shape=(models, models))
        return bradley_terry(table.tocsr())

    others = {"Hunter's loop": by_loop, "scikit-learn": by_regression} | (
        {"choix": by_choix} if find_spec("choix") else {}
    )
    cases: list[Case] = []
    for models in (400, 2000):
        drawn = votes_on(rng, models, each=60)
        for name, usual in others.items():
            case = (lambda f=usual, d=drawn, n=models: f(*d, n), lambda d=drawn, n=models: fit(*d, n))
            cases.append((f"Bradley-Terry, {models:,} models, {models * 60:,} votes", name, *case, 1e-4))
    won, lost = votes_on(rng, 8, each=150)
    rows = [(a, b, "a", k // 8) for k, (a, b) in enumerate(zip(won.tolist(), lost.tolist()))]

    def ours() -> list[tuple[float, float]]:
        estimates = strength_intervals(rows, n_resamples=100, seed=1)
        return [(estimates[model].low, estimates[model].high) for model in range(8)]

    def loop() -> np.ndarray:
        draws = chain.from_iterable(drawn_prompts(None, len(won) // 8, 100, 1)[1])
        members = [(8 * draw[:, None] + np.arange(8)).ravel() for draw in draws]
        return np.quantile([by_regression(won[m], lost[m], 8) for m in members], [0.025, 0.975], axis=0).T

    return [*cases, ("its intervals, 8 models, 100 resamples", "a loop over scikit-learn", loop, ours, 1e-4)]


# --- reliability ------------------------------------------------------------------------------------------------------


def reliability_cases(rng: np.random.Generator) -> list[Case]:
    truth, guess = rng.integers(5, size=(300, 1)), rng.integers(5, size=(300, 6))
    full = np.where(rng.random((300, 6)) < 0.6, truth, guess).astype(float)
    holed = np.where(rng.random((300, 6)) < np.array([0, 0, 0.4, 0.4, 0.4, 0.4]), np.nan, full)

    def loop(votes: np.ndarray, value: Callable[[np.ndarray], float]) -> np.ndarray:
        draws = chain.from_iterable(drawn_prompts(None, len(votes), 500, 0)[1])
        return np.quantile([value(votes[draw]) for draw in draws], [0.025, 0.975])

    def alpha(level: str) -> Callable[[np.ndarray], float]:
        return lambda votes: krippendorff.alpha(votes.T, level_of_measurement=level, value_domain=range(5))

    def kappa(votes: np.ndarray) -> float:
        return inter_rater.fleiss_kappa(inter_rater.aggregate_raters(votes.astype(int), n_cat=5)[0])

    def ends(estimate: Any) -> tuple[float, float]:
        return estimate.low, estimate.high

    cases: list[Case] = []
    for level in ("nominal", "ordinal"):
        usual, ours = (
            lambda v=level: loop(holed, alpha(v)),
            lambda v=level: ends(krippendorff_alpha(holed, v, n_resamples=500)),
        )
        name = f"Krippendorff's alpha, {level}, 500 resamples of 300 items"
        cases.append((name, "a loop over krippendorff", usual, ours, 1e-9))
    name, ours = "Fleiss' kappa, 500 resamples of 300 items", lambda: ends(fleiss_kappa(full, n_resamples=500))
    return [*cases, (name, "a loop over statsmodels", lambda: loop(full, kappa), ours, 1e-9)]


# --- sets of images ---------------------------------------------------------------------------------------------------


def by_root(a: np.ndarray, b: np.ndarray) -> float:
    """As pytorch-fid writes it."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = linalg.sqrtm(cov_a @ cov_b).real
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root))


def by_torchmetrics(kind: str, a: np.ndarray, b: np.ndarray, **options: int) -> np.ndarray:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    features = torch.nn.Identity()
    features.num_features = a.shape[1]
    metric = {"fid": FrechetInceptionDistance, "kid": KernelInceptionDistance}[kind](feature=features, **options)
    metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(a), real=True)
    metric.update(torch.from_numpy(b), real=False)
    torch.manual_seed(0)
    return np.array([float(x) for x in np.atleast_1d(metric.compute())])


def distribution_cases(rng: np.random.Generator) -> list[Case]:
    def sets(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.normal(size=(n, d)), rng.normal(0.2, 1.2, size=(n, d))

    cases: list[Case] = []
    for n, d in ((500, 96), (2000, 512), (300, 512)):
        both = sets(n, d)
        cases.append(
            (
                f"FID, 2 x {n:,} images, {d} dimensions",
                "torchmetrics",
                lambda x=both: by_torchmetrics("fid", *x),
                lambda x=both: fid(*x),
                1e-6,
            )
        )
        if n > d:
            cases.append(
                (
                    f"FID, 2 x {n:,} images, {d} dimensions",
                    "scipy's sqrtm",
                    lambda x=both: by_root(*x),
                    lambda x=both: fid(*x),
                    1e-6,
                )
            )
        cases.append(
            (
                f"KID, 100 subsets of 100 of 2 x {n:,} images",
                "torchmetrics",
                lambda x=both: by_torchmetrics("kid", *x, subsets=100, subset_size=100),
                lambda x=both: kid(*x),
                1e-6,
            )
        )
    (chosen, rejected), reference = sets(240, 256), rng.normal(size=(240, 256))

    def ours() -> np.ndarray:
        table = distribution_table(chosen, rejected, reference, subset_size=50, n_resamples=4)
        return table[["chosen_low", "chosen_high", "difference_low", "difference_high"]].to_numpy()

    def loop() -> np.ndarray:
        return np.array([halves(chosen, rejected, reference, kind) for kind in ("fid", "kid")])

    return [*cases, ("FID and KID with intervals, 4 half-samples", "a loop over torchmetrics", loop, ours, 1e-6)]


def halves(chosen: np.ndarray, rejected: np.ndarray, reference: np.ndarray, kind: str) -> list[float]:
    """The intervals of ``distribution_table`` written out: reference and prompts are halved, each by its own draw."""
    options = {} if kind == "fid" else {"subsets": 20, "subset_size": 50}

    def value(x: np.ndarray, y: np.ndarray, r: np.ndarray) -> list[float]:
        first, second = (float(by_torchmetrics(kind, z, r, **options)[0]) for z in (x, y))
        return [first, first - second]

    draws, rounds = np.random.default_rng(0), []
    for _ in range(4):
        kept_r, kept = (np.zeros(len(chosen), dtype=bool) for _ in range(2))
        for mask in (kept_r, kept):
            mask[draws.permutation(len(mask))[: (len(mask) + int(draws.integers(2))) // 2]] = True
        rounds.append(value(chosen[kept], rejected[kept], reference[kept_r]))
    tails = np.quantile(np.array(rounds) - np.mean(rounds, axis=0), [0.975, 0.025], axis=0)
    return (value(chosen, rejected, reference) - tails).T.ravel().tolist()


# --- a release --------------------------------------------------------------------------------------------------------


def write_release(folder: Path, groups: int) -> None:
    """A set in HPD v1's layout; the images are empty files, for nobody opens them."""
    (folder / "preference_images").mkdir()
    rows = []
    for k in range(groups):
        paths = [f"preference_images/{k}_{n}.jpg" for n in range(4)]
        for path in paths[k % 50 == 0 :]:  # some are absent
            (folder / path).touch()
        rows.append(
            {
                "human_preference": k % 3,
                "prompt": f"a photo of critter {k % 700}",
                "id": k,
                "file_path": paths,
                "user_hash": f"rater {k % 9}",
                "contain_name": False,
            }
        )
    (folder / "preference_train.json").write_text(json.dumps(rows), encoding="utf-8")


def release_cases(folder: Path, groups: int) -> list[Case]:
    def by_pathlib() -> tuple[int, ...]:
        """What reading with the same checks comes to, path by path."""
        rows = json.loads((folder / "preference_train.json").read_text(encoding="utf-8"))
        absent = 0
        for path in (Path(path) for row in rows for path in row["file_path"]):
            if path.is_absolute() or not (folder / path).resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"the path {path} leaves the folder: correct it.")
            absent += not (folder / path).is_file()
        prompts = Counter(" ".join(row["prompt"].lower().split()) for row in rows)
        repeated = sum(count for count in prompts.values() if count > 1)
        last = sum(row["human_preference"] == len(row["file_path"]) - 1 for row in rows)
        return len(rows), absent, repeated, last, max(Counter(row["user_hash"] for row in rows).values())

    def ours() -> tuple[int, ...]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some are absent
            found = audit(read_hpd(folder, images="optional", split="train"), root=folder)
        last = round(found.always_last.value * found.n_groups)
        return found.n_groups, found.images_absent or 0, found.repeated_prompt_groups, last, found.max_groups_per_rater

    name = f"reading and auditing {groups:,} groups, every file looked for twice"
    return [(name, "json and pathlib, looked for once", by_pathlib, ours, 0.0)]


# --- the table --------------------------------------------------------------------------------------------------------


def rows(turns: int = 5, groups: int = 5000) -> list[Row]:
    """The table: name, our seconds, the other's seconds, the other's name, and how equal the results are."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    cases = [*strength_cases(rng), *reliability_cases(rng), *distribution_cases(rng)]
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchmetrics about its memory, of FID about few images
        write_release(Path(name), groups)
        return [compared(case, turns) for case in [*cases, *release_cases(Path(name), groups)]]


def as_text(table: Sequence[Row]) -> str:
    lines = [("what", "ours", "otherwise", "ratio", "by", "equal to")]
    lines += [
        (r.name, f"{r.ours:.4f} s", f"{r.others:.4f} s", f"{r.others / r.ours:.1f}x", r.other, r.note) for r in table
    ]
    widths = [max(len(line[k]) for line in lines) for k in range(6)]
    return "\n".join(" | ".join(f"{cell:{width}}" for cell, width in zip(line, widths)) for line in lines)


def main() -> int:
    table = rows()
    print(as_text(table))
    return int(any(row.note.startswith(DIFFERS) for row in table))


if __name__ == "__main__":
    sys.exit(main())
