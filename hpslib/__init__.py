"""hpslib: the Human Preference Score paper (Wu et al., ICCV 2023) as small, tested functions.

The way of the data, one idea a module, each importing only what stands before it:

``images``, ``archives`` (pictures of others, safely) -> ``preferences`` (the one schema), ``sources`` (HPD v1),
``releases`` with ``hpd_v2``, ``pickapic``, ``annotations`` and ``tables`` (everybody else's) -> ``audit`` ->
``agreement``, ``comparison``, ``rankings``, ``distributions`` (scores and metrics held against choices) -> ``clip``,
``scores``, ``checkpoints``, ``imagereward``, ``scorers`` (every score by one function) -> ``preference_loss``,
``towers``, ``trunk``, ``classifier``, ``pretrained`` (HPS) -> ``pools``, ``diffusiondb``, ``captioned``, ``selection``
-> ``examples``, ``adaptation``, ``lora_files``, ``sampling`` (LoRA on Stable Diffusion) -> ``evaluation``, ``study``
(before and after).

Beside it: ``lazy``, ``parallel``, ``shards``, ``resume`` (large, many, long); ``scale`` and ``world`` (miniature or
full); ``reliability``, ``bradley_terry``, ``designs``, ``active`` (studies of your own); ``plots``, ``widgets``,
``course`` (the lessons); ``cli``; and ``critters``, the miniature world everything runs on.

Importing ``hpslib`` imports nothing heavy: ``from hpslib import agreement`` when you need it.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
