"""Matplotlib figures as inline SVG that follow the page's colours, or as PNG. No pyplot: nothing global is kept."""

import io
import re
import warnings

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, GRID = "#1d2935", "#5c6b7a", "#dde3e9"
ACCENT, NORMAL, ALARM, SIGNAL = "#1f5f8b", "#3b8a63", "#c2410c", "#46637d"
COLOURS = {INK: "ink", MUTED: "muted", GRID: "grid", ACCENT: "accent", NORMAL: "normal", ALARM: "alarm", SIGNAL: "signal"}
"""Each colour of a figure and the CSS variable that takes its place in the page, so that a figure follows a dark screen and print."""

IMAGE_COLOURS = "magma"
"""Colour map of time-frequency images: even steps of lightness, readable in grey and by the colour-blind."""


def figure(width: int, height: int, left: int = 52, right: int = 8, bottom: int = 38, top: int = 18) -> Figure:
    """A figure of so many CSS pixels without background; margins too, for matplotlib's own layout costs as much again as drawing."""
    made = Figure(figsize=(width / 72, height / 72))
    made.patch.set_alpha(0)
    made.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
    return made


def quiet(axes: Axes, size: float | int = 10.5) -> Axes:
    """Axes in the page's ink with little around the data."""
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=size, length=3, width=0.8)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
    for text in (axes.xaxis.label, axes.yaxis.label):
        text.set_color(INK)
        text.set_fontsize(size)
    return axes


def svg(drawn: Figure, alt: str) -> Markup:
    """The figure as one <svg> element: text as text, colours as CSS variables, no size of its own, `alt` for those who cannot see it.

    Ids are hashes of what they name, so that figures in one page do not disturb one another.
    """
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vibray"}), warnings.catch_warnings():
        # matplotlib's own font has no Chinese; it measures the text alone, the browser's font draws it
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        FigureCanvasSVG(drawn).print_svg(out, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)  # it would apply to the whole page
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")  # inside HTML an <svg> needs neither
    used = set(re.findall(r'(?:href="|url\()#([^")]*)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", text)  # figure_1, axes_1: the same in every figure
    text = re.sub(r"font-family: [^;\"]*;? ?|font: ([\d.]+px) [^;\"]*", lambda m: f"font-size: {m[1]}" if m[1] else "", text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    text = re.sub(r' (d|x|y)="[^"]*"', lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), text)  # a hundredth of a pixel is enough
    text = re.sub(r"\s*\n\s*", " ", text)
    for colour, name in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r' (width|height)="[^"]*"', "", text, count=2)  # those of the <svg>: the page sets them
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1))


def png(drawn: Figure, dots_per_inch: int = 144) -> bytes:
    """The figure as a PNG file on white."""
    drawn.patch.set(alpha=1, facecolor="white")
    out = io.BytesIO()
    drawn.set_dpi(dots_per_inch)
    FigureCanvasAgg(drawn).print_png(out, metadata={"Software": ""})
    return out.getvalue()
