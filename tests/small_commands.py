"""What the tests of the long commands work on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from hpslib.critters.assets import asset


def write_inputs(folder: Path) -> Path:
    """Sixteen groups to learn from and eight to test on as HPD v1 lies on disk, six captioned images, five prompts."""
    from hpslib.data.releases.hpd_v1 import read_hpd, write_hpd

    for split, count in (("train", 16), ("test", 8)):
        write_hpd(read_hpd(asset(f"hpd_mini/{split}.parquet")).select(range(count)), folder / "hpd", split)
    (folder / "laion").mkdir()
    for k in range(6):
        noise = np.random.default_rng(k).integers(0, 256, (70, 90, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "laion" / f"{k}.jpg")
        (folder / "laion" / f"{k}.txt").write_text(f"caption {k}")
    (folder / "prompts.txt").write_text("\n".join(f"a red critter {k}" for k in range(5)))
    return folder
