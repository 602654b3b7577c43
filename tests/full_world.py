"""A folder of the full scale in small: every file in the released format, its content from the miniature world."""

from __future__ import annotations

import io
import shutil
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from hpslib.critters.assets import asset
from hpslib.critters.hpd import drawn_images, make_prompts
from hpslib.data.releases.hpd_v1 import read_hpd, write_hpd


def build(root: Path, groups: int = 200) -> Path:
    """Write HPD v1's folder, models, DiffusionDB's table and zips, captioned pictures and prompts below ``root``."""
    for split in ("train", "test"):
        dataset = read_hpd(asset(f"hpd_mini/{split}.parquet"))
        write_hpd(dataset.select(range(groups)), root / "hpd_v1", split)
    for name in ("clip", "hps", "sd", "control"):
        shutil.copytree(asset(name), root / name)
    shutil.copy(asset("aesthetic_head.safetensors"), root)
    write_diffusiondb(root / "diffusiondb", pictures=48)
    captions = make_prompts(220, seed=1)  # as many as a KID wants
    (root / "regularisation").mkdir()
    for k, (caption, pixels) in enumerate(zip(captions, drawn_images(captions, seed=2))):
        Image.fromarray(pixels).resize((96, 80)).save(root / "regularisation" / f"{k:08d}.jpg")
        (root / "regularisation" / f"{k:08d}.txt").write_text(caption)
    (root / "prompts.txt").write_text("\n".join(make_prompts(8, seed=3)) + "\n")
    return root


def write_diffusiondb(folder: Path, pictures: int, parts: int = 2) -> None:
    """``metadata-large.parquet`` with DiffusionDB's columns and ``images/part-*.zip`` with WebP pictures."""
    rows = pq.read_table(asset("diffusiondb_mini.parquet")).slice(0, pictures).to_pylist()
    (folder / "images").mkdir(parents=True)
    table = []
    for k, row in enumerate(rows):
        part = 1 + k * parts // len(rows)
        width, height = Image.open(io.BytesIO(row["image"])).size
        with zipfile.ZipFile(folder / "images" / f"part-{part:06d}.zip", "a") as archive:
            archive.writestr(row["image_name"], row["image"])
        table.append(
            {"image_name": row["image_name"], "prompt": row["prompt"], "part_id": part, "seed": row["seed"],
             "step": row["step"], "cfg": row["cfg"], "sampler": 1, "width": width, "height": height,
             "user_name": "0" * 64, "timestamp": None, "image_nsfw": 0.1, "prompt_nsfw": 0.0}
        )  # fmt: skip
    pq.write_table(pa.Table.from_pylist(table), folder / "metadata-large.parquet")
