"""``python -m hpslib.critters.build``: make the miniature world in ``data/`` anew."""

from hpslib.critters.build.world import main

if __name__ == "__main__":
    main()
