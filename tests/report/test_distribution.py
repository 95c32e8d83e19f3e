"""The scale chosen, and the histogram's PNG."""

import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from vibray.report.distribution import _draw, score_distribution_png
from vibray.report.scale import Scale

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("scores", "kind"),
    [
        (RNG.standard_normal(5000), "linear"),
        (RNG.uniform(0, 1, 5000), "linear"),
        (RNG.lognormal(0, 1.2, 5000), "log"),
        (np.r_[RNG.standard_normal(5000), RNG.uniform(50, 100, 50)], "asinh"),
        (np.full(10, 2.0), "linear"),
        (np.array([]), "linear"),
    ],
)
def test_skewed_scores_get_a_logarithmic_axis(scores: np.ndarray, kind: str) -> None:
    assert Scale.of(scores).kind == kind


@pytest.mark.parametrize("scale", [Scale("linear"), Scale("log"), Scale("asinh", 0.3)])
def test_scale_goes_there_and_back(scale: Scale) -> None:
    scores = np.geomspace(0.01, 100, 50)
    np.testing.assert_allclose(scale.back(scale.forward(scores)), scores)
    edges = scale.edges(scores, 20)
    np.testing.assert_allclose(np.diff(scale.forward(edges)), np.diff(scale.forward(edges))[0])
    assert edges[[0, -1]] == pytest.approx([0.01, 100])


def png(*arguments: object) -> Image.Image:
    return Image.open(io.BytesIO(score_distribution_png(*arguments)))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("scores", "cuts"),
    [
        (RNG.lognormal(0, 1, 3000), (-1.0, 4.0)),  # a cut that a logarithmic axis cannot show
        (np.full(5, 1.0), (0.5, 4.0)),
        (np.array([]), (0.5, 4.0)),
        (np.array([np.nan, 1.0]), (None, None)),
        (np.r_[RNG.standard_normal(999), 1e6], (-1, 4)),
    ],
)
def test_png_is_drawn_whatever_the_scores(scores: np.ndarray, cuts: tuple[float | None, float | None]) -> None:
    image = png(scores, *cuts)
    assert image.format == "PNG"
    assert image.size == (1280, 640)


def test_png_is_the_same_twice_and_shows_the_cuts() -> None:
    scores = RNG.lognormal(0, 1, 3000)
    assert score_distribution_png(scores, 0.5, 4.0) == score_distribution_png(scores, 0.5, 4.0)

    def share(image: Image.Image, red: bool) -> float:
        pixels = np.asarray(image.convert("RGB")).astype(int)
        return float(np.mean((pixels[..., 0] - pixels[..., 2] > 100) if red else (pixels[..., 1] - pixels[..., 0] > 40)))

    with_cuts, without = png(scores, 0.5, 4.0), png(scores, None, None)
    assert share(with_cuts, red=True) > 0.01
    assert share(with_cuts, red=False) > 0.01
    assert share(without, red=True) == share(without, red=False) == 0


@pytest.mark.parametrize("size", [(760, 300), (360, 250)])
@pytest.mark.parametrize("scores", [RNG.lognormal(0, 1, 3000), RNG.standard_normal(3000), np.full(9, 1.0)])
@pytest.mark.parametrize("shares", [(0.0, 0.99), (0.01, 0.02), (0.5, 1.0), (0.999, 1.0), (0.0, 0.0)])
def test_the_names_of_the_cuts_lie_within_the_figure_and_apart(
    scores: np.ndarray, shares: tuple[float, float], size: tuple[int, int]
) -> None:
    """As matplotlib itself measures what it draws."""
    low, high = np.quantile(scores, shares)
    drawn = _draw(scores, float(low), float(high), *size)
    drawn.set_dpi(144)
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in drawn.axes[0].texts]
    assert len(boxes) == 2
    for box in boxes:
        assert box.x0 >= 0 and box.x1 <= 2 * size[0] and box.y0 >= 0 and box.y1 <= 2 * size[1]
        assert box.y0 >= drawn.axes[0].get_window_extent().y1
    assert not boxes[0].overlaps(boxes[1])


def test_the_name_of_a_cut_is_at_its_line() -> None:
    scores = np.linspace(0.0, 100.0, 2001)
    drawn = _draw(scores, 40.0, 60.0, 760, 300)
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    axes = drawn.axes[0]
    below, above = (text.get_window_extent(canvas.get_renderer()) for text in axes.texts)
    at = [axes.transData.transform((cut, 1))[0] for cut in (40, 60)]
    assert 0 < at[0] - below.x1 < 12 and 0 < above.x0 - at[1] < 12
    assert below.y0 == above.y0
