from io import BytesIO

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from offramp.cascades.graph.hull import lower_hull
from offramp.eval.report.files import PIXELS_PER_INCH, frontier_frame
from offramp.eval.report.picture import BAND, BETWEEN, frontier_picture
from offramp.eval.report.routers import routers

ROUTERS = ("policy", "joint", "myopic", "uniform", "soft_oracle", "hard_oracle")
NAMES = {name: router.told for name, router in routers().items()}


@pytest.fixture(scope="module")
def frame(world):
    return frontier_frame(*world(n=800, **{router: 0.9 - 0.1 * i for i, router in enumerate(ROUTERS)}))


@pytest.fixture(scope="module")
def figure(frame):
    figure = frontier_picture(frame, "ms per image", 800, "A sentence that is long enough to be broken into lines.")
    FigureCanvasAgg(figure).draw()
    return figure


def line(figure, router):
    return next(each for each in figure.axes[0].lines if each.get_label() == NAMES[router])


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_everything_has_a_line_and_a_label(figure):
    expected = [NAMES["policy"], BAND, *(NAMES[router] for router in ROUTERS[1:]), NAMES["single"], "error of b"]
    assert labels(figure) == expected
    assert {text.get_text() for text in figure.axes[0].texts} == {"a", "b"}


def test_lines_run_through_the_tested_points_of_corners_chosen_elsewhere(frame, figure):
    for router in ROUTERS:
        fit, test = (frame[(frame["router"] == router) & (frame["part"] == part)] for part in ("fit", "test"))
        hull = lower_hull(fit["cost"].to_numpy(), fit["error"].to_numpy())
        drawn = line(figure, router)
        assert drawn.get_xdata()[::BETWEEN] == pytest.approx(test["cost"].to_numpy()[hull])
        assert drawn.get_ydata()[::BETWEEN] == pytest.approx(100 * test["error"].to_numpy()[hull])


def test_between_two_corners_stands_their_mix(figure):
    drawn = line(figure, "uniform")
    (x0, x1), (y0, y1) = (data[[0, BETWEEN]] for data in (drawn.get_xdata(), drawn.get_ydata()))
    x, y = drawn.get_xdata()[BETWEEN // 2], drawn.get_ydata()[BETWEEN // 2]
    assert (y - y0) / (y1 - y0) == pytest.approx((x - x0) / (x1 - x0))


def test_markers_stand_on_corners_only(figure):
    for router in ROUTERS:
        assert all(at % BETWEEN == 0 for at in line(figure, router).get_markevery())


def test_axes_say_what_they_are(figure):
    axes = figure.axes[0]
    assert axes.get_xlabel() == "mean cost (ms per image)"
    assert axes.get_ylabel() == "error (%)"
    assert "test part, 800 unseen examples" in axes.get_title(loc="left")
    assert figure.legends[0].get_title().get_text().replace("\n", " ").startswith("A sentence that is long enough to")


def test_cost_axis_is_logarithmic_where_costs_span_much(world, figure):
    assert figure.axes[0].get_xscale() == "log"  # 1 to 11
    frame = frontier_frame(*world(n=100, policy=0.9))
    frame.loc[frame["family"] == "a", "cost"] = 2.0
    assert frontier_picture(frame[frame["cost"] > 1.2], "ms", 100).axes[0].get_xscale() == "linear"
    frame.loc[frame["family"] == "a", "cost"] = 0.0
    assert frontier_picture(frame, "ms", 100).axes[0].get_xscale() == "linear"


def test_looks_differ_in_colour_and_without():
    looks = [router.look for router in routers().values() if router.picture]
    assert len({look.colour for look in looks}) == len(looks) == 9
    assert len({(look.line, look.marker) for look in looks}) == len(looks)


def test_legend_hides_nothing(figure):
    renderer = figure.canvas.get_renderer()
    legend, axes = figure.legends[0].get_window_extent(renderer), figure.axes[0].get_window_extent(renderer)
    assert legend.x0 >= axes.x1
    for text in figure.axes[0].texts:
        assert not legend.overlaps(text.get_window_extent(renderer))


def test_names_of_stages_close_to_each_other_stay_apart(frame):
    many = frame.copy()
    copies = [many[many["router"] == "single"].assign(family=name) for name in ("twin", "another")]
    figure = frontier_picture(type(many)(np.vstack([many, *copies]), columns=many.columns).infer_objects(), "ms", 800)
    FigureCanvasAgg(figure).draw()
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert len(boxes) == 6
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_a_hopeless_stage_does_not_squeeze_the_rest(frame):
    hopeless = frame[frame["family"] == "b"].assign(family="c", cost=10.5, error=0.99)
    more = type(frame)(np.vstack([frame, hopeless]), columns=frame.columns).infer_objects()
    figure = frontier_picture(more, "ms", 800)
    assert figure.axes[0].get_ylim()[1] < 50
    assert any("c" in text.get_text() and "99 %" in text.get_text() for text in figure.axes[0].texts)


def test_dollars_are_no_formula(frame):
    named = frame.assign(family=frame["family"].replace({"b": r"$\\b$"}))
    figure = frontier_picture(named, r"$\\per call, US$", 800, r"$\\x$")
    FigureCanvasAgg(figure).draw()
    assert figure.axes[0].get_xlabel() == r"mean cost ($\\per call, US$)"


def test_a_policy_of_one_point_and_nothing_else(world):
    frame = frontier_frame(*world(n=50, policy=0.9))
    one = frame[(frame["router"] != "policy") | (frame["price"] == 0.01)]
    figure = frontier_picture(one, "ms", 50)
    assert labels(figure) == [NAMES["policy"], BAND, NAMES["single"], "error of b"]


def test_picture_is_1200_pixels_wide_and_has_ink(figure):
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=PIXELS_PER_INCH)
    buffer.seek(0)
    pixels = imread(buffer)
    assert pixels.shape[:2] == (720, 1200)
    assert (pixels[..., :3].min(axis=-1) < 0.5).mean() > 0.01
