"""Training by buttons: the page by itself, and in JupyterLab by a browser. The lab is pretended; the rest is real."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from meshlab.faults.catalogue import find
from meshlab.layout import sites
from meshlab.training import page, rules
from playwright.sync_api import Browser, Locator, expect

from tests.support.jupyter import THEMES, JupyterLab, jupyterlab
from tests.support.pretended_lab import write_tool

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "lab/training.ipynb"
BROKEN = (find("gateway-down"), sites(2)[1])
SEED = next(seed for seed in range(1, 1000) if rules.draw(seed, 1, 2, "gateways", 1) == BROKEN)
ISTIOCTL = {
    "proxy-config endpoints": (
        "ENDPOINT                STATUS      OUTLIER CHECK     CLUSTER\n"
        "10.11.2.4:8080          HEALTHY     OK                outbound|8000||httpbin.sample.svc.cluster.local\n"
        "172.31.102.2:15443      HEALTHY     OK                outbound|8000||httpbin.sample.svc.cluster.local"
    )
}
KUBECTL = {
    "get deployment istio-eastwestgateway": (
        "NAME                    READY   UP-TO-DATE   AVAILABLE   AGE\n"
        "istio-eastwestgateway   0/0     0            0           9m"
    ),
    "get pods -l istio=eastwestgateway": "No resources found in istio-system namespace.",
}
PRETEND = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from tests.support.pretended_lab import pretend
pretend(Path("lab").absolute(), seconds=4)
"""
PARAMETERS, *CODE = [cell.source for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
CHOSEN = f"seed, topic, level = {SEED}, 'gateways', 1"
CELLS = (PRETEND, f"{PARAMETERS}\n{CHOSEN}", *CODE, "41 + 1")
SCORE, CONCLUDE, SUM = range(3, 6)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[JupyterLab]:
    """JupyterLab with the cells of the training notebook, on a pretended lab, run."""
    folder = tmp_path_factory.mktemp("notebooks")
    write_tool(folder / "lab", "istioctl", ISTIOCTL)
    write_tool(folder / "lab", "kubectl", KUBECTL)
    with jupyterlab(folder, browser) as started:
        started.run(started.write("training.ipynb", *CELLS))
        yield started


@pytest.fixture
def panel(lab: JupyterLab) -> Locator:
    """The widget."""
    return lab.panel(page.TrainingPage.label)


def test_without_a_lab_the_page_says_how_to_start_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the reply to a button, which can be pressed again; no error ends the cell."""
    monkeypatch.setenv("MESHKIT_LAB_DIR", str(tmp_path))
    shown = page.TrainingPage()
    drawn = threading.Event()
    shown.changed = drawn.set
    shown.choose("topic", "trust")
    shown.choose("start", "")
    assert drawn.wait(20)
    assert "no lab runs" in shown.status()
    assert "meshkit lab up --start meshed" in shown.html()
    assert not shown.doing


def test_a_round_is_played_by_buttons(lab: JupyterLab, panel: Locator) -> None:
    """Started, looked at, hinted at, answered wrongly and rightly; then the path shows the line that tells."""
    panel.get_by_role("button", name="Start round").click()
    expect(panel.get_by_role("status")).to_contain_text("breaking it …")
    lab.run_cell(SUM)  # the kernel is free meanwhile
    expect(lab.page.locator(".jp-OutputArea-output").get_by_text("42", exact=True)).to_be_visible()
    expect(panel.get_by_role("status")).to_contain_text("breaking it …")
    expect(panel).to_contain_text("something is wrong with this mesh")
    assert "meshkit check" not in panel.inner_text()
    expect(panel).to_contain_text("kubectl get gateways.networking.istio.io")
    panel.get_by_role("button", name="What do users see now?").click()
    expect(panel.get_by_role("table")).to_contain_text("172.31.102.2:15443")
    lab.picture(panel, "learn-look")
    for number, words in ((1, "Which address do they have"), (2, "Does anything stand behind"), (3, "MK805")):
        panel.get_by_role("button", name=f"Hint {number} of 3").click()
        expect(panel.get_by_role("listitem").nth(number - 1)).to_contain_text(words)
    panel.get_by_label("Object that is the cause").select_option("Deployment/istio-eastwestgateway")
    panel.get_by_label("What of it is wrong").select_option("image")
    panel.get_by_role("button", name="Answer").click()
    expect(panel.get_by_role("status")).to_contain_text("the object is right: which field of it?")
    lab.picture(panel, "learn-answer")
    panel.get_by_label("What of it is wrong").select_option("spec.replicas")
    panel.get_by_role("button", name="Answer").click()
    expect(panel.get_by_role("button", name="Start another round")).to_be_visible()
    expect(panel).to_contain_text("found: gateway-down in west")
    panel.get_by_role("button", name="Show the expert's path").click()
    expect(panel.locator("mark")).to_have_text(["▶ istio-eastwestgateway   0/0     0            0           9m",
                                                "▶ No resources found in istio-system namespace."])  # fmt: skip
    expect(panel).to_contain_text("✖ MK805 [west]")
    lab.picture(panel, "learn-path")


def test_giving_up_is_no_error(lab: JupyterLab, panel: Locator) -> None:
    """The next round is given up: what was broken is shown, and no cell has an error."""
    panel.get_by_role("button", name="Start another round").click()
    panel.get_by_role("button", name="Give up").click()
    expect(panel).to_contain_text("given up: ")
    expect(panel.get_by_role("button", name="Start another round")).to_be_visible()
    lab.run_cell(CONCLUDE)
    expect(lab.page.get_by_text("given up, 0 of 10 points")).to_be_visible()
    lab.run_cell(SCORE)
    expect(lab.page.locator(".jp-RenderedHTML").get_by_text("given up")).to_be_visible()
    errors = lab.page.locator('[data-mime-type="application/vnd.jupyter.stderr"], [data-mime-type$=".error"]')
    expect(errors).to_have_count(0)


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_axe_finds_nothing_serious(lab: JupyterLab, theme: str) -> None:
    """In either theme, of an open round and of the path."""
    lab.set(THEMES, {"theme": f"JupyterLab {theme}"})
    lab.run("training.ipynb")
    panel = lab.panel(page.TrainingPage.label)
    panel.get_by_role("button", name="Start round").click()
    panel.get_by_role("button", name="Hint 1 of 3").click()
    expect(panel.get_by_role("listitem").first).to_be_visible()
    assert lab.serious() == []
    panel.get_by_role("button", name="Give up").click()
    panel.get_by_role("button", name="Show the expert's path").click()
    expect(panel.locator("mark").first).to_be_visible()
    lab.picture(panel, f"learn-{theme.lower()}")
    assert lab.serious() == []
