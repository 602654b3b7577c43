"""hpslib: the Human Preference Score paper (Wu et al., ICCV 2023) as small, tested functions, in rooms that tell it.

======================  ===============================================================================================
``data``                people's choices among images: one schema, the readers of releases and pools, images read safely
``metrics``             scores held against choices, with intervals; IS, FID and KID; an audit of a set
``scores``              (prompt, images) -> numbers: CLIP, aesthetic, HPS v1 to v2.1, PickScore, ImageReward
``classifier``          the preference classifier on CLIP's two towers, whose score is HPS
``adaptation``          from scores to captions to a LoRA on Stable Diffusion, and what it changed
``votes``               your own choices: a votes file, the widget, studies, a score of your own
``plots``               the figures, each with a sentence that says its numbers
``critters``            the miniature world everything runs on; ``critters.build`` makes it
``lessons``             what the notebooks need around them: the two scales, the course, widgets
``cli``                 the same as commands
``runs``                what long work needs: processes, checkpoints, parts, progress, files, the training loop
======================  ===============================================================================================

A room imports only what stands below it: CONTRIBUTING.md draws the house, and a test holds it. Importing ``hpslib``
imports nothing heavy: ``from hpslib.metrics import agreement`` when you need it.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
