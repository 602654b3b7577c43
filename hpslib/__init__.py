"""hpslib: the Human Preference Score paper (Wu et al., ICCV 2023) as small, tested functions.

The way of the data, one module each:

``preferences`` and ``sources`` (people's choices) -> ``audit`` -> ``agreement``, ``comparison`` and ``distributions``
(metrics held against choices) -> ``clip``, ``scores`` and ``checkpoints`` -> ``classifier`` (HPS) -> ``pools`` and
``selection`` -> ``adaptation`` and ``sampling`` (LoRA on Stable Diffusion) -> ``study`` (before and after).
``critters`` is the miniature world everything runs on; ``course`` executes the notebooks.

Importing ``hpslib`` imports nothing heavy: ``from hpslib import agreement`` when you need it.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
