"""Charts are judged by what they say: words in the figure, counts of marks, the cell that must stand out."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from meshkit.notebook import charts, link_matrix
from meshkit.notebook.style import TONES, Chart
from meshkit.probing.statistics import latency_table
from tests.support import examples

Draw = Callable[[pd.DataFrame], Chart]


def words(figure: Figure) -> str:
    """Return every text that the figure shows, line breaks as blanks."""
    shown = [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    return " | ".join(" ".join(text.split()) for text in shown)


def title(figure: Figure) -> str:
    """Return the figure's title on one line."""
    return " ".join(figure.get_suptitle().split())


def lines(figure: Figure) -> Iterator[str]:
    """Return the line style of each ECDF line."""
    return (line.get_linestyle() for axes in figure.axes for line in axes.get_lines())


def hatched(figure: Figure) -> list[Rectangle]:
    """Return the patches that are hatched."""
    return [patch for patch in figure.findobj(Rectangle) if isinstance(patch, Rectangle) and patch.get_hatch()]


def png(figure: Chart) -> bytes:
    """Draw the figure as a notebook does; a warning (of a missing glyph, of a failed layout) is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture, _ = figure._repr_png_()
    return picture


ALL: list[Draw] = [
    charts.state_overview,
    charts.latency_heatmap,
    charts.latency_ecdf,
    charts.pair_matrix,
    link_matrix.link_matrix,
    charts.first_vs_warm,
    charts.certificate_lifetimes,
]


@pytest.mark.parametrize("draw", ALL)
def test_an_empty_table_gives_a_figure_that_says_so(draw: Draw) -> None:
    """No rows, even no columns: words, never an exception."""
    figure = draw(pd.DataFrame())
    assert "Nothing to draw" in words(figure)
    assert ": no " in title(figure)
    assert png(figure).startswith(b"\x89PNG")


def test_a_chart_shows_itself_with_its_title_as_alternative_text_and_twice_the_same() -> None:
    """A notebook and a screen reader both get it, without pyplot; two runs differ in nothing."""
    figure = charts.pair_matrix(examples.verdicts(2))
    picture, about = figure._repr_png_()
    assert about == {"alt": "2 of 2 ordered pairs pass"}
    assert picture == charts.pair_matrix(examples.verdicts(2))._repr_png_()[0]


def test_the_callers_own_style_neither_leaks_in_nor_is_changed() -> None:
    """A notebook with a dark style gets the same picture, and keeps its style."""
    plain = png(charts.pair_matrix(examples.verdicts(2)))
    with mpl.rc_context({"axes.facecolor": "black"}):
        charts.pair_matrix(examples.verdicts(2))
        assert mpl.rcParams["axes.facecolor"] == "black"
    assert png(charts.pair_matrix(examples.verdicts(2))) == plain


def test_one_stale_proxy_among_thousands_is_seen_and_counted() -> None:
    """Its segment is wide enough for its mark, and the words say how many."""
    figure = charts.state_overview(examples.proxies({"east": {"SYNCED": 2999, "STALE": 1}}))
    assert title(figure) == "xDS state of 3,000 proxies in 1 cluster: 1 not in order"
    assert "✔ 2,999 synced ! 1 stale" in words(figure)
    widths = [patch.get_width() for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert min(widths) > 3
    assert sum(widths) == pytest.approx(100)
    png(figure)


def test_the_cluster_with_an_error_comes_before_one_with_more_stale_proxies() -> None:
    """Worst state first, then how many."""
    counts = {"east": {"SYNCED": 9}, "west": {"SYNCED": 5, "STALE": 4}, "north": {"SYNCED": 8, "ERROR": 1}}
    figure = charts.state_overview(examples.proxies(counts))
    labels = [label.get_text().split("\n")[0] for label in figure.axes[0].get_yticklabels()]
    assert labels == ["north", "west", "east"]


def test_a_state_that_nobody_knows_is_never_in_order() -> None:
    """A new word of a new Istio is shown as it is, marked as unknown."""
    figure = charts.state_overview(examples.proxies({"east": {"SYNCED": 1, "HALF_SENT": 1}}))
    assert "1 not in order" in title(figure)
    assert "? 1 half sent" in words(figure)


def test_more_clusters_than_fit_are_the_worst_and_the_title_says_so() -> None:
    """60 clusters: 40 rows, the broken one among them."""
    counts = {f"c{i}": {"SYNCED": 2} for i in range(60)} | {"c59": {"ERROR": 1}}
    figure = charts.state_overview(examples.proxies(counts))
    assert "(the 40 worst clusters of 60 shown)" in title(figure)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == 40
    assert labels[0].startswith("c59")


@pytest.mark.parametrize("clusters", [2, 3, 8, 20])
@pytest.mark.parametrize("log", [False, True])
def test_the_heat_map_prints_a_number_or_a_reason_in_every_cell(clusters: int, log: bool) -> None:
    """One failed pair is hatched and labelled; all others carry their p50."""
    table = latency_table(examples.samples(clusters, n=20, broken=("east", "west")))
    figure = charts.latency_heatmap(table, log=log)
    shown = [" ".join(text.get_text().split()) for text in figure.axes[0].texts]
    assert len(shown) == clusters**2
    failed = [text for text in shown if "✖" in text]
    assert failed == ["✖ fail 29 failed" if clusters <= 5 else "✖ fail"]
    assert len(hatched(figure)) == 1
    assert f"n = {20 * (clusters**2 - 1):,} warm answers" in title(figure)
    assert ("log scale" in words(figure)) is log
    png(figure)


def test_a_pair_that_was_not_measured_is_unknown_and_not_zero() -> None:
    """Hatched, with the word."""
    table = latency_table(examples.samples(3, n=20)).drop(index=1)
    figure = charts.latency_heatmap(table)
    assert "? unknown" in words(figure)
    assert len(hatched(figure)) == 1


def test_the_heat_map_says_at_least_where_p99_has_no_upper_bound() -> None:
    """120 samples bound p99 from below only."""
    shown = words(charts.latency_heatmap(latency_table(examples.samples(2)), column="p99_ms"))
    assert "≥ " in shown
    assert "Latency p99 (ms)" in shown


def test_failures_stand_beside_the_number_of_those_that_answered() -> None:
    """A pair that loses some requests is not as well as its p50."""
    frame = examples.samples(2, n=40)
    frame.loc[(frame["client"] == "east") & (frame["server"] == "west") & (frame.index % 4 == 0), "status"] = 503
    assert "✖ 12 failed" in words(charts.latency_heatmap(latency_table(frame)))


@pytest.mark.parametrize("draw", [charts.latency_heatmap, charts.first_vs_warm])
def test_a_mesh_where_every_request_failed_is_drawn_as_such(draw: Draw) -> None:
    """No number at all, and still a figure that says what happened."""
    frame = examples.samples(2, n=5).assign(seconds=np.nan, status=0)
    figure = draw(latency_table(frame))
    assert "14 failed" in words(figure)
    png(figure)


def test_a_single_pair_can_be_drawn_on_a_log_scale() -> None:
    """One value is a scale too."""
    png(charts.latency_heatmap(latency_table(examples.samples(1)), log=True))


def test_ecdf_tells_local_from_remote_by_line_and_by_word() -> None:
    """One panel for each client; solid and (local), dashed for the others; the p50 beside each."""
    figure = charts.latency_ecdf(examples.samples(3))
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_visible()]
    assert titles == ["from east", "from west", "from north"]
    assert sorted(lines(figure)) == ["-"] * 3 + ["--"] * 6
    assert "east (local) 3.02 ms" in words(figure)
    assert "log scale" in words(figure)
    assert "n = 1,080 requests, 0 failed" in title(figure)
    png(figure)


def test_an_ecdf_ends_at_the_share_that_answered() -> None:
    """A third failed: the line stops at two thirds and the label says so; a dead pair has a label and no line."""
    frame = examples.samples(2, n=90, broken=("west", "east"))
    lost = (frame["client"] == "east") & (frame["server"] == "west") & (frame["phase"] == "warm")
    frame.loc[frame[lost].index[:30], ["seconds", "status"]] = [np.nan, 0]
    figure = charts.latency_ecdf(frame)
    tops = sorted(float(np.max(line.get_ydata())) for axes in figure.axes for line in axes.get_lines())
    assert tops == pytest.approx([2 / 3, 1, 1])
    assert "✖ 33.3 % failed" in words(figure)
    assert "east ✖ 100 % failed" in words(figure)
    png(figure)


def test_the_broken_pair_is_one_cell_in_another_colour_with_its_reason() -> None:
    """Symbol, word and note in the cell; the title names the pair."""
    table = examples.verdicts(3, {("east", "west"): ("fail", "503 from the east-west gateway")})
    figure = charts.pair_matrix(table)
    assert title(figure) == "5 of 6 ordered pairs pass, 1 fail: east → west"
    assert "✖ fail 503 from the east-west gateway" in words(figure)
    colours = [mpl.colors.to_hex(patch.get_facecolor()) for patch in figure.axes[0].patches]
    assert colours.count(TONES["bad"]) == 1
    assert words(figure).count("✔ pass") == 5


def test_the_worst_of_several_verdicts_of_a_pair_is_shown() -> None:
    """A fail among passes is a fail, wherever it stands in the table."""
    table = examples.verdicts(2)
    table = pd.concat([table.assign(verdict="fail").head(1), table])
    assert title(charts.pair_matrix(table)) == "1 of 2 ordered pairs pass, 1 fail: east → west"


def test_a_pair_without_a_verdict_is_unknown_and_never_passes() -> None:
    """A missing row is hatched; local cells are left out unless the table has them."""
    figure = charts.pair_matrix(examples.verdicts(3).drop(index=0))
    assert title(figure) == "5 of 6 ordered pairs pass"
    assert "? unknown not tried" in words(figure)
    assert len(hatched(figure)) == 1
    assert words(figure).count("–") == 3


@pytest.mark.parametrize("clusters", [2, 8, 20])
def test_first_requests_stand_beside_warm_ones_for_each_pair(clusters: int) -> None:
    """Both numbers are printed; beyond 40 pairs the slowest are drawn, and those that never answered."""
    figure = charts.first_vs_warm(latency_table(examples.samples(clusters, n=20, broken=("east", "west"))))
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == min(clusters**2, 40)
    assert "east → west" in labels
    assert "no answer, ✖ 29 failed" in words(figure)
    assert ("shown)" in title(figure)) is (clusters > 6)
    png(figure)


def test_certificates_tell_how_long_is_left_and_which_have_expired() -> None:
    """Expired ones are hatched; a proxy without dates is unknown, and first of its cluster."""
    certs = examples.certificates(4)
    certs.loc[2, "not_after"] = pd.NaT
    figure = charts.certificate_lifetimes(certs, now=examples.NOW)
    assert title(figure) == "Certificates of 8 proxies, 2 expired"
    assert words(figure).count("✖ expired 2 h ago") == 2
    assert "? unknown" in words(figure)
    assert "17 h left" in words(figure)
    assert "time (UTC)" in words(figure)
    assert len(hatched(figure)) == 2
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert [label.split()[0] for label in labels] == ["east"] * 4 + ["west"] * 4
    assert labels[0].endswith("00002")
    png(figure)


def test_of_3000_certificates_the_40_soonest_to_expire_are_drawn() -> None:
    """The title says how many there are, and how many are shown."""
    certs = examples.certificates(1500)
    certs.loc[2999, "not_after"] = examples.NOW - timedelta(days=3)
    figure = charts.certificate_lifetimes(certs, now=examples.NOW)
    assert "of 3,000 proxies" in title(figure)
    assert "(the 40 soonest to expire of 3,000 shown)" in title(figure)
    assert len(figure.axes[0].get_yticklabels()) == 40
    assert "✖ expired 3 d ago" in words(figure)


def test_issuers_are_named_where_they_differ() -> None:
    """One issuer for all goes without saying; two roots in one mesh do not."""
    certs = examples.certificates(2)
    assert "O=" not in words(charts.certificate_lifetimes(certs, now=examples.NOW))
    certs.loc[0, "issuer"] = "O=old root"
    assert "O=old root" in words(charts.certificate_lifetimes(certs, now=examples.NOW))


@pytest.mark.parametrize("table", [examples.verdicts(2).assign(note=None), examples.verdicts(2).drop(columns="note")])
def test_a_verdict_without_a_note_is_drawn_alone(table: pd.DataFrame) -> None:
    """A missing note is no text, least of all "nan"."""
    assert "| ✔ pass |" in words(charts.pair_matrix(table))


def test_dollar_signs_in_names_are_names_and_not_formulae() -> None:
    """A note of a cluster is shown as it is."""
    table = examples.verdicts(2, {("east", "west"): ("fail", "$x_1$ {")})
    figure = charts.pair_matrix(table)
    assert "$x_1$ {" in words(figure)
    png(figure)


@pytest.mark.parametrize("module", ["meshkit.notebook", "meshkit.notebook.terminal", "meshkit.marks"])
def test_text_views_load_neither_pandas_nor_matplotlib(module: str) -> None:
    """`meshkit --help` stays fast."""
    code = f"import sys, {module}; print(sorted({{'pandas', 'matplotlib', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


BROKEN = {
    ("east", "west", "gateway"): ("fail", "MK838", "istiod-7c9: net-west at 192.0.2.9"),
    ("east", "west", "answer"): ("fail", "MK811", "0 of 1 calls: 503"),
    ("north", "east", "credential"): ("unknown", "MK803", "unreachable, no answer within 5 s"),
    ("north", "west", "sync"): ("warn", "MK842", "istiod holds one of two"),
}


def rows_of(figure: Figure) -> list[str]:
    """Return the labels of the rows, from the top."""
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_the_first_broken_link_is_framed_and_reported_and_its_pair_is_the_first_row() -> None:
    """Colour, symbol, id and words; what is unknown is hatched; what is well steps back."""
    figure = link_matrix.link_matrix(examples.links(3, BROKEN))
    assert title(figure) == "3 of 6 ordered pairs whole, 1 broken (east → west), 1 unknown, 1 with a warning"
    assert rows_of(figure)[:3] == ["east → west", "north → east", "north → west"]
    shown = words(figure)
    assert "✖ MK838" in shown
    assert "gateway: istiod-7c9: net-west at 192.0.2.9" in shown
    assert "0 of 1 calls" not in shown, "what follows is not told beside the cause"
    assert len(hatched(figure)) == 1
    frames = [patch for patch in figure.axes[0].patches if not patch.get_fill()]
    assert len(frames) == 3
    colours = [mpl.colors.to_hex(patch.get_facecolor()) for patch in figure.axes[0].patches if patch.get_fill()]
    assert (colours.count(TONES["bad"]), colours.count(TONES["warn"])) == (2, 1)
    png(figure)


def test_of_90_pairs_those_that_are_not_well_are_drawn_and_one_row_stands_for_the_others() -> None:
    """The broken one is the first; none is lost."""
    figure = link_matrix.link_matrix(examples.links(10, BROKEN))
    assert rows_of(figure) == ["east → west", "north → east", "north → west", "87 others"]
    assert "whole, every one of them" in words(figure)
    png(figure)


def test_more_unwell_pairs_than_fit_are_cut_and_the_rest_is_not_called_whole() -> None:
    """A whole mesh in trouble: thirty rows, and the worst of the rest."""
    sick = {(a, b, "secret"): ("fail", "MK802", "none") for a in examples.NAMES[:10] for b in examples.NAMES[:10]}
    figure = link_matrix.link_matrix(examples.links(10, sick))
    assert len(rows_of(figure)) == 31
    assert rows_of(figure)[-1] == "60 others"
    assert "not drawn; the worst verdict of each link" in words(figure)
    assert title(figure).startswith(
        "0 of 90 ordered pairs whole, 90 broken (east → west, east → north, east → south, …)"
    )
    png(figure)


def test_a_link_that_no_row_speaks_of_is_unknown() -> None:
    """Never well by default."""
    cells = examples.links(2)
    figure = link_matrix.link_matrix(cells.drop(index=cells.index[4]))
    assert len(hatched(figure)) == 1
    assert "1 of 2 ordered pairs whole, 1 unknown" in title(figure)
