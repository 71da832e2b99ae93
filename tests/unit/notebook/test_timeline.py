"""Requests over time: the one failed request, the gap and the labels are seen."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle, StepPatch
from matplotlib.text import Text

from meshkit.notebook import timeline
from meshkit.notebook.style import Chart
from meshkit.notebook.timeline import RED
from meshkit.probing.request_log import Request, Tally

BEGIN = 1_790_000_000
START = datetime.fromtimestamp(BEGIN, UTC)


def requests(seconds: int, *, failed: tuple[int, ...] = (), gap: range = range(0)) -> pd.DataFrame:
    """Return ten requests a second, half of them answered in each cluster; one fails in each second of `failed`."""
    tally = Tally()
    for second in (s for s in range(seconds) if s not in gap):
        for n in range(10):
            status = 503 if second in failed and n == 0 else 200
            known = {"cluster": "east", "pod": "load", "seconds": 0.01, "answered_by": f"pod-{n % 2}"}
            tally.add(Request(time=BEGIN + second + n / 10, status=status, **known))
    return tally.table(BEGIN - 0.5, BEGIN + seconds, {"pod-0": "east", "pod-1": "west"})


def words(figure: Chart) -> str:
    """Return every text of a figure."""
    return " | ".join(text.get_text() for text in figure.findobj(Text))


def png(figure: Chart) -> bytes:
    """Draw; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return figure._repr_png_()[0]


def test_an_empty_table_says_so() -> None:
    """Also without columns."""
    assert "no request was seen" in words(timeline.requests_over_time(pd.DataFrame()))


@pytest.mark.parametrize("seconds", [1, 2, 60, 5000])
def test_one_failed_request_is_seen_however_long_the_run(seconds: int) -> None:
    """In words, and as a red band of some pixels in both panels."""
    figure = timeline.requests_over_time(requests(seconds, failed=(seconds // 2,)))
    assert "✖ 1 failed" in words(figure)
    assert figure.get_suptitle() == f"Requests: {10 * seconds:,} sent, 1 failed"
    assert png(figure)
    for axes in figure.axes:
        bands = [p for p in axes.findobj(Rectangle) if p.get_facecolor()[:3] == pytest.approx(to_rgb(RED))]
        widths = [p.get_window_extent().width for p in bands if isinstance(p, Rectangle)]
        assert widths
        assert max(widths) >= 2


def test_without_failures_nothing_is_red_and_no_legend_speaks_of_them() -> None:
    """A quiet picture."""
    figure = timeline.requests_over_time(requests(30))
    assert "failed" not in words(figure).replace("0 failed", "")
    assert not [p for p in figure.findobj(Rectangle) if p.get_facecolor()[:3] == pytest.approx(to_rgb(RED))]


def test_a_gap_is_hatched_and_reported() -> None:
    """In both panels, over exactly its seconds."""
    figure = timeline.requests_over_time(requests(30, gap=range(10, 15)))
    assert "5 s not observed" in figure.get_suptitle()
    for axes in figure.axes:
        (span,) = [p for p in axes.patches if isinstance(p, Rectangle) and p.get_hatch()]
        assert span.get_width() * 86_400 == pytest.approx(5, abs=0.01)


def test_answers_are_stacked_by_cluster() -> None:
    """The upper edge of the uppermost area is the rate."""
    figure = timeline.requests_over_time(requests(30))
    areas = [p for p in figure.axes[0].patches if isinstance(p, StepPatch) and p.get_fill()]
    assert max(max(area.get_data()[0]) for area in areas) == 10
    assert {"answered in east", "answered in west"} <= set(words(figure).split(" | "))


def test_labels_of_marks_do_not_cover_each_other() -> None:
    """Ten steps within twenty seconds; the last stands at the right edge."""
    marks = [(START + timedelta(seconds=2 * n), f"{n:02d} a stage with a name") for n in range(10)]
    figure = timeline.requests_over_time(requests(20), [*marks, (START + timedelta(seconds=20), "end")])
    assert png(figure)
    labels = [t for t in figure.axes[0].texts if t.get_text().strip()]
    assert len(labels) >= 8  # more levels than eight are not drawn: lines stay, labels go
    boxes = [t.get_window_extent() for t in labels]
    rows = [sorted((b.x0, b.x1) for b in boxes if round(b.y0) == level) for level in {round(b.y0) for b in boxes}]
    assert all(left[1] <= right[0] for row in rows for left, right in pairwise(row))
    assert all(b.x0 >= 0 and b.x1 <= figure.bbox.width for b in boxes)


def test_a_mark_outside_of_the_time_stands_at_its_edge() -> None:
    """It is not lost, and the picture is not stretched."""
    figure = timeline.requests_over_time(requests(20), [(START - timedelta(hours=1), "before")])
    assert png(figure)
    left, right = figure.axes[0].get_xlim()
    assert (right - left) * 86_400 == pytest.approx(20, abs=0.01)
    assert "before" in words(figure)
