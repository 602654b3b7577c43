"""The names of the formats that :mod:`hpslib.data.read` takes: to be shown without loading the readers."""

from __future__ import annotations

__all__ = ["DATA_FORMATS", "FORMATS", "POOL_FORMATS"]

#: Releases of preferences: what :func:`hpslib.data.read.read_preferences` takes.
FORMATS = ("hpd_v1", "hpd_v2_train", "hpd_v2_test", "pickapic", "imagereward", "table")
#: Images with prompts, of which nobody was asked.
POOL_FORMATS = ("pool", "diffusiondb", "captioned")
#: Either: what :func:`hpslib.data.read.read_data` takes.
DATA_FORMATS = FORMATS + POOL_FORMATS
