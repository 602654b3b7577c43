"""Simulated raters with a taste of their own, for the lesson on personal scores.

The crowd of :mod:`hpslib.critters.raters` disagrees in degree: everybody dislikes flaws, some more than others. The
raters here differ in kind. A taste can only show in a choice where images of *one* prompt differ. mini-SD follows its
prompts in colour, shape, scene and accessory, so whoever hates green or loves the night chooses like everybody else.
What does vary within a group are the flaws, the mood of the face, and how vivid the image is; tastes are about those.

These raters are simulated. They were made up so as to differ clearly; nothing about people follows from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hpslib.critters.attributes import ATTRIBUTES, FLAWS
from hpslib.critters.eyes import Seen
from hpslib.critters.raters import FLAW_WEIGHTS, POPULATION, Rater, choice_probabilities, utilities

__all__ = [
    "ORDINARY",
    "TASTES",
    "Taste",
    "ask",
    "random_tastes",
    "taste_probabilities",
    "taste_utilities",
]


@dataclass(frozen=True)
class Taste:
    """A simulated rater: ``told`` says in a phrase how it differs from the crowd.

    ``rater`` holds the weights of :mod:`hpslib.critters.raters`, a negative one meaning that the flaw is liked;
    ``likes`` maps (attribute, value) to the utility of seeing it, whatever the prompt asked for.
    """

    rater: Rater
    told: str
    likes: Mapping[tuple[str, str], float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The rater's."""
        return self.rater.name


def _taste(
    name: str,
    told: str,
    flaws: Mapping[str, float] | None = None,
    *,
    others: float = 1.0,
    vividness: float = POPULATION["vividness"],
    likes: Mapping[tuple[str, str], float] | None = None,
) -> Taste:
    """The crowd's mean weights, those of flaws times ``others``, except what is named."""
    weights = tuple((flaws or {}).get(flaw, others * mean) for flaw, mean in zip(FLAWS, FLAW_WEIGHTS))
    rater = Rater(f"simulated-{name}", weights, POPULATION["match"], vividness, POPULATION["noise"])
    return Taste(rater, told, likes or {})


#: What everybody likes, for comparison: a personal score must not make it worse.
ORDINARY = _taste("ordinary", "has the mean weights of the crowd")

_FACE_ONLY = {"limb_count": 0.0, "detached_limb": 0.0, "smear": 0.0, "eyes": 3.0, "mouth": 3.0}

#: The ten raters whose figures are reported. The first five are fond of one flaw and like the crowd otherwise.
TASTES = (
    _taste("limbs", "is fond of an arm or a leg too many or too few", {"limb_count": -3.0}),
    _taste("pieces", "is fond of detached limbs", {"detached_limb": -3.0}),
    _taste("stares", "is fond of one eye, three eyes, uneven eyes", {"eyes": -3.0}),
    _taste("mouths", "is fond of mouths in the wrong place", {"mouth": -3.0}),
    _taste("dreams", "is fond of bodies that melt", {"smear": -3.0}),
    _taste("monsters", "the more is wrong, the better", others=-1.5),
    _taste("faces", "minds a wrong face twice as much, but no limbs and no bodies", _FACE_ONLY),
    _taste("pale", "prefers pale colours and hardly minds flaws", others=0.3, vividness=-15.0),
    _taste("vivid", "prefers vivid colours and hardly minds flaws", others=0.3, vividness=15.0),
    _taste("smiles", "wants a happy face whatever was asked for", others=0.3, likes={("expression", "happy"): 6.0}),
)


def random_tastes(count: int, seed: int) -> list[Taste]:
    """Other raters, to tune a recipe on: in turn one or two flaws liked, a mood wanted, or a liking for pale or vivid.

    Which, and how much, is drawn from ``seed``; the remaining weights scatter around the crowd's.
    """
    tastes = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        flaws = dict(zip(FLAWS, np.array(FLAW_WEIGHTS) * np.exp(rng.normal(0, 0.3, len(FLAWS)))))
        kind = ("flaws", "flaws, little else", "mood", "colours")[number % 4]
        likes, vividness = {}, POPULATION["vividness"]
        if kind != "flaws":
            flaws = {flaw: weight * rng.uniform() for flaw, weight in flaws.items()}
        if kind.startswith("flaws"):
            for k in rng.choice(len(FLAWS) - 1, size=1 + int(rng.integers(2)), replace=False):  # washed out is too rare
                flaws[FLAWS[k]] = -rng.uniform(1, 3)
        elif kind == "mood":
            likes = {("expression", str(rng.choice(ATTRIBUTES["expression"]))): rng.uniform(3, 6)}
        else:
            vividness = rng.choice([-1, 1]) * rng.uniform(6, 15)
        tastes.append(_taste(f"tuning-{number:02d}", kind, flaws, vividness=vividness, likes=likes))
    return tastes


# --- what they choose -------------------------------------------------------------------------------------------------


def taste_utilities(taste: Taste, seen: Seen, prompts: Sequence[str]) -> np.ndarray:
    """(n,) utility of each image, before noise: that of :func:`hpslib.critters.raters.utilities`, and the likes."""
    utility = utilities(taste.rater, seen, prompts)
    for (attribute, value), weight in taste.likes.items():
        utility = utility + weight * seen.attributes[attribute][:, ATTRIBUTES[attribute].index(value)]
    return utility


def taste_probabilities(taste: Taste, seen: Seen, prompts: Sequence[str], sizes: Sequence[int]) -> list[np.ndarray]:
    """For each group, the chance that the rater takes each image; images stand group by group.

    Raises ``ValueError`` when ``sizes`` do not add up to the prompts.
    """
    if sum(sizes) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts for groups of {sum(sizes)} images: give each image its prompt.")
    utility = taste_utilities(taste, seen, prompts)
    return [choice_probabilities(part, taste.rater.noise) for part in np.split(utility, np.cumsum(sizes)[:-1])]


def ask(probabilities: Sequence[np.ndarray], seed: int | Sequence[int]) -> np.ndarray:
    """One vote in each group, int64 (groups,): the largest log chance after Gumbel noise drawn from ``seed``.

    Another seed is another day: how often two days agree is the rater's consistency with itself.

    >>> ask([np.array([0.0, 1.0]), np.array([0.5, 0.5])], seed=0).tolist()
    [1, 1]
    """
    rng = np.random.default_rng(seed)
    with np.errstate(divide="ignore"):
        return np.array([int((np.log(p) + rng.gumbel(size=len(p))).argmax()) for p in probabilities], dtype=np.int64)
