"""A pen for smooth cartoons: shapes in pixels of the finished picture, drawn larger and averaged down."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from PIL import Image, ImageDraw

__all__ = ["SIZE", "UP", "Colour", "Pen", "blend", "colour_at", "shade"]

SIZE = 128  # pixels; the autoencoder turns it into an 8 x 8 latent
UP = 3  # supersampling: edges are anti-aliased by averaging

Colour: TypeAlias = tuple[int, int, int]


def shade(colour: Colour, factor: float) -> Colour:
    """``colour`` times ``factor``, within [0, 255]."""
    r, g, b = (max(0, min(255, round(c * factor))) for c in colour)
    return r, g, b


def blend(one: Colour, two: Colour, share: float) -> Colour:
    """``share`` of ``two`` in ``one``; 0 gives ``one`` back."""
    r, g, b = (round(a + (b - a) * share) for a, b in zip(one, two, strict=True))
    return r, g, b


def colour_at(image: Image.Image, x: float, y: float) -> Colour:
    """The colour at pixel (x, y) of the finished picture, in an RGB image still :data:`UP` times as large."""
    left, top = min(image.width - 1, round(x * UP)), min(image.height - 1, round(y * UP))
    r, g, b = image.crop((left, top, left + 1, top + 1)).tobytes()
    return r, g, b


class Pen(NamedTuple):
    """Draws on ``image``, which is :data:`UP` times as large as the picture; an ``outline`` of 0 pixels is none."""

    image: Image.Image
    to: ImageDraw.ImageDraw
    outline: float = 0.0

    @classmethod
    def on(cls, image: Image.Image, outline: float = 0.0) -> Pen:
        """A pen for ``image``."""
        return cls(image, ImageDraw.Draw(image), outline)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour, ink: Colour | None = None) -> None:
        """Filled, around (x, y); the outline lies inside, in ``ink``."""
        box = [(x - rx) * UP, (y - ry) * UP, (x + rx) * UP, (y + ry) * UP]
        width = round(self.outline * UP) if ink else 0
        self.to.ellipse(box, fill=fill, outline=ink if width else None, width=width)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, fill: Colour, radius: float = 0, ink: Colour | None = None
    ) -> None:
        """Filled, with rounded corners."""
        width = round(self.outline * UP) if ink else 0
        self.to.rounded_rectangle(
            [x0 * UP, y0 * UP, x1 * UP, y1 * UP],
            radius=radius * UP,
            fill=fill,
            outline=ink if width else None,
            width=width,
        )

    def polygon(self, points: list[tuple[float, float]], fill: Colour, ink: Colour | None = None) -> None:
        """Filled; the outline is centred on the edge."""
        scaled = [(x * UP, y * UP) for x, y in points]
        self.to.polygon(scaled, fill=fill)
        if ink and self.outline:
            self.to.line([*scaled, scaled[0]], fill=ink, width=round(self.outline * UP), joint="curve")

    def line(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, width: float) -> None:
        """With round ends."""
        self.to.line([x0 * UP, y0 * UP, x1 * UP, y1 * UP], fill=fill, width=round(width * UP))
        for x, y in ((x0, y0), (x1, y1)):
            self.ellipse(x, y, width / 2, width / 2, fill)

    def arc(
        self, x: float, y: float, rx: float, ry: float, start: float, end: float, ink: Colour, width: float
    ) -> None:
        """Part of an ellipse's edge, from ``start`` to ``end`` degrees, clockwise from three o'clock."""
        box = [(x - rx) * UP, (y - ry) * UP, (x + rx) * UP, (y + ry) * UP]
        self.to.arc(box, start, end, fill=ink, width=round(width * UP))

    def chord(self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: Colour) -> None:
        """The filled part of an ellipse between two of its points, in degrees as for :meth:`arc`."""
        box = [(x - rx) * UP, (y - ry) * UP, (x + rx) * UP, (y + ry) * UP]
        self.to.chord(box, start, end, fill=fill)
