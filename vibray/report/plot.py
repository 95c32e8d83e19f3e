"""Small drawings written by hand: axes, lines, bands, images. A figure of matplotlib's takes twenty times as long."""

import base64
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from markupsafe import Markup, escape

from vibray.report.axes import linear_ticks, text_width
from vibray.report.figures import IMAGE_COLOURS

SIZE = 10
"""Height of the text."""


@dataclass(frozen=True)
class Axis:
    """From the lowest to the highest value, with labels at some."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    label: str = ""
    log: bool = False

    def share(self, values: Float[np.ndarray, " _"]) -> Float[np.ndarray, " _"]:
        """Where values lie, 0 at the lowest and 1 at the highest."""
        if self.log:
            return np.log(values / self.low) / math.log(self.high / self.low)
        return (values - self.low) / (self.high - self.low)


def linear_axis(low: float, high: float, label: str = "", most: int = 6) -> Axis:
    """An axis with labels at round values, `most` of them at most."""
    if not high > low:
        low, high = low - 1, high + 1
    return Axis(low, high, tuple((value, f"{value:.6g}") for value in linear_ticks(low, high, most + 1)), label)


@dataclass(frozen=True)
class Panel:
    """A rectangle of a drawing, in CSS pixels, with its two axes."""

    left: float
    top: float
    width: float
    height: float
    x: Axis
    y: Axis

    def at(self, x: Float[np.ndarray, " _"], y: Float[np.ndarray, " _"]) -> list[tuple[float, float]]:
        """Places in the drawing."""
        across, up = self.left + self.width * self.x.share(x), self.top + self.height * (1 - self.y.share(y))
        return list(zip(across.tolist(), up.tolist(), strict=True))

    def frame(self, named: bool = True, grid: bool = True) -> Markup:
        """Axes with as many of their labels as do not touch; `named`: those of the lower one too."""
        bottom, made, last = self.top + self.height, [], -math.inf
        ticks = [(self.left + self.width * float(self.x.share(np.array([v]))[0]), text) for v, text in self.x.ticks]
        for x, text in ticks:
            if grid:
                made.append(f'<path stroke="var(--grid)" stroke-width=".8" d="M{x:.1f} {self.top:.1f}V{bottom:.1f}"/>')
            half = text_width(text, SIZE) / 2
            if named and x - half > last + SIZE / 2:
                made.append(f'<text x="{x:.1f}" y="{bottom + 13:.1f}" text-anchor="middle">{escape(text)}</text>')
                last = x + half
        last = math.inf
        for v, text in self.y.ticks:
            y = self.top + self.height * (1 - float(self.y.share(np.array([v]))[0]))
            if grid:
                made.append(f'<path stroke="var(--grid)" stroke-width=".8" d="M{self.left:.1f} {y:.1f}h{self.width:.1f}"/>')
            if y + 1.2 * SIZE <= last:
                made.append(f'<text x="{self.left - 4:.1f}" y="{y + 3.5:.1f}" text-anchor="end">{escape(text)}</text>')
                last = y
        made.append(f'<path stroke="var(--muted)" fill="none" d="M{self.left:.1f} {self.top:.1f}V{bottom:.1f}h{self.width:.1f}"/>')
        middle = self.left + self.width / 2, self.top + self.height / 2
        if named and self.x.label:
            made.append(f'<text x="{middle[0]:.1f}" y="{bottom + 27:.1f}" text-anchor="middle">{escape(self.x.label)}</text>')
        if self.y.label:
            turned = f"translate({SIZE:.0f} {middle[1]:.1f}) rotate(-90)"
            made.append(f'<text transform="{turned}" text-anchor="middle">{escape(self.y.label)}</text>')
        return Markup("".join(made))

    def line(self, x: Float[np.ndarray, " _"], y: Float[np.ndarray, " _"], colour: str) -> Markup:
        return Markup(f'<path fill="none" stroke="var(--{colour})" stroke-width="1.1" d="M{_path(self.at(x, y))}"/>')

    def band(self, x: Float[np.ndarray, " _"], low: Float[np.ndarray, " _"], high: Float[np.ndarray, " _"], fill: str) -> Markup:
        """What lies between two lines; `fill` are SVG attributes."""
        around = [*self.at(x, low), *reversed(self.at(x, high))]
        return Markup(f'<path {fill} d="M{_path(around)}Z"/>')

    def dots(self, x: Float[np.ndarray, " _"], y: Float[np.ndarray, " _"], colour: str) -> Markup:
        """Round dots at some places."""
        path = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in self.at(x, y))
        style = f'fill="none" stroke="var(--{colour})" stroke-width="4" style="stroke-linecap:round"'
        return Markup(f'<path {style} d="{path}"/>' if path else "")

    def image(self, values: Float[np.ndarray, "rows columns"], low: float, high: float) -> Markup:
        """Values from `low` to `high` as colours over the whole panel, row 0 at the bottom."""
        share = np.clip((values[::-1] - low) / ((high - low) or 1.0), 0, 1)
        data = base64.b64encode(png((255 * share + 0.5).astype(np.uint8))).decode()
        size = f'x="{self.left:.1f}" y="{self.top:.1f}" width="{self.width:.1f}" height="{self.height:.1f}"'
        how = 'preserveAspectRatio="none" style="image-rendering:pixelated"'
        return Markup(f'<image {size} {how} href="data:image/png;base64,{data}"/>')


def drawing(width: int, height: int, parts: Sequence[Markup], alt: str) -> Markup:
    """One <svg> element, its text as text, `alt` for those who cannot see it."""
    start = f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {width} {height}" fill="var(--ink)" font-size="{SIZE}">'
    return Markup(start + "".join(parts) + "</svg>")


def png(indices: UInt8[np.ndarray, "rows columns"]) -> bytes:
    """A PNG file of these places in the colour map: 8 bits a pixel and a palette (PNG specification, third edition, section 11)."""
    rows, columns = indices.shape
    palette = (matplotlib.colormaps[IMAGE_COLOURS](np.arange(256))[:, :3] * 255).round().astype(np.uint8).tobytes()
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), indices], axis=1).tobytes()
    header = columns.to_bytes(4) + rows.to_bytes(4) + bytes((8, 3, 0, 0, 0))
    chunks = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    made = [len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
