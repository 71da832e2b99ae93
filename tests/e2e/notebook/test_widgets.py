"""Every widget, used in JupyterLab by a browser, on real snapshots: what it shows is what the data says."""

from __future__ import annotations

import shutil
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from meshkit import Snapshot
from meshkit.checks import audit, pair_table
from meshkit.checks.finding import Findings
from meshkit.checks.remedy import steps
from tests.support.jupyter import THEMES, JupyterLab, jupyterlab

SNAPSHOT = Path(__file__).parents[2] / "fixtures/snapshots/two-replicas-secret-in-wrong-namespace.json.gz"
APPLY = "stage.apply()"
CELLS = (
    """
from meshkit import Findings, Mesh, MeshSpec, Plan, Snapshot, Start, stages
from meshkit.changes.change import Change
from meshkit.checks import audit
from meshkit.istio.proxies.status_summary import PROXIES
from meshkit.probing.request_log import TRAFFIC
from meshkit.probing.statistics import LATENCY
import pandas as pd

taken = Snapshot.load("mesh1.json.gz")
""",
    "taken.explore()",
    "Findings(audit.check(taken)).explore()",
    "PROXIES.view(taken.proxies().proxies).explore()",
    """
times = {"east": (1.2, 4.1), "west": (82.0, 180.5)}
rows = [
    {"client": a, "server": b, "n": 400, "failed": 3 * (a > b), "p50_ms": times[b][0], "p50_low": times[b][0] - 0.1,
     "p50_high": times[b][0] + 0.2, "p90_ms": 2 * times[b][0], "p99_ms": times[b][1], "first_p50_ms": 9.0}
    for a in times for b in times
]
LATENCY.view(LATENCY.frame(rows)).explore()
""",
    """
seconds = pd.date_range("2026-11-30T20:00:00Z", periods=120, freq="s")
rows = [
    {"time": at, "cluster": name, "sent": 20, "failed": 0, "p50_ms": low + at.second % 7, "p99_ms": 3 * low + at.second}
    for at in seconds for name, low in (("east", 3), ("west", 9))
]
TRAFFIC.view(TRAFFIC.frame(rows)).explore()
""",
    """
plan = Plan(taken.mesh, "05 install")
diff = "@@ -1,3 +1,3 @@\\n spec:\\n-  replicas: 1\\n+  replicas: 2"
plan.changes = [
    Change("west", "create", "Namespace istio-system", "the root namespace", "+kind: Namespace"),
    Change("west", "install", "Istio (profile default)", "the version of the live mesh", "+ Deployment istiod"),
    Change("east", "restart", "Deployment istio-system/istiod", "it signs with the common root", diff),
]
plan.explore()
""",
    """
class Install(stages.Install):
    def _look(self): return None
    def _check(self): return ()
    def _plans(self): yield plan
    def _carry_out(self, plan):
        for change in plan.changes: change.status = "done"

stage = Install(taken.mesh, mode="apply")
stage.look(), stage.check(), stage.plan()
""",
    APPLY,
    """
cluster = {"name": "east", "context": "down", "network": "n", "kubeconfig": "down.yaml"}
Mesh.open(MeshSpec.parse({"mesh": {"id": "down"}, "clusters": [cluster]}, where="here")).explore()
""",
    "Start('mesh1.json.gz').explore()",
    "1 + 1",
)
DOWN = """
{{apiVersion: v1, kind: Config, users: [{{name: u, user: {{token: none}}}}],
 clusters: [{{name: c, cluster: {{server: "https://127.0.0.1:{port}"}}}}],
 contexts: [{{name: down, context: {{cluster: c, user: u}}}}]}}
"""
PLAN, CONSENT, START = "Plan of stage 05 install", "Consent to what users may notice", "Choose a mesh"
LABELS = {
    "Mesh mesh1": "glance",
    "Findings, by what they stop": "findings",
    "Every proxy, the worst first": "proxies",
    "Latency of pairs": "latency",
    "Latency over time": "times",
    PLAN: "plan",
    CONSENT: "consent",
    START: "start",
}


@pytest.fixture(scope="module")
def answered() -> threading.Event:
    """While it is set, the API server that is down closes each connection at once; else it lets its clients wait."""
    event = threading.Event()
    event.set()
    return event


@pytest.fixture(scope="module")
def down(answered: threading.Event) -> Iterator[int]:
    """The port of an API server that answers nothing."""

    class Closes(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            answered.wait()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Closes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        answered.set()
        server.shutdown()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, down: int, browser: Browser) -> Iterator[JupyterLab]:
    """JupyterLab with a notebook of every widget, run."""
    folder = tmp_path_factory.mktemp("notebooks")
    shutil.copy(SNAPSHOT, folder / "mesh1.json.gz")
    (folder / "down.yaml").write_text(DOWN.format(port=down))
    with jupyterlab(folder, browser) as started:
        started.run(started.write("widgets.ipynb", *CELLS))
        yield started


@pytest.fixture(scope="module")
def taken() -> Snapshot:
    """The same snapshot, here."""
    return Snapshot.load(SNAPSHOT)


def test_the_overview_has_what_the_snapshot_has(lab: JupyterLab, taken: Snapshot) -> None:
    """Each cluster with its API server, versions and gateways; and the cause first."""
    panel = lab.panel("Mesh mesh1")
    for row in taken.inventory.to_dict("records"):
        card = panel.get_by_role("region", name=f"cluster {row['cluster']}")
        expect(card).to_contain_text(row["api_server"])
        expect(card).to_contain_text(f"{row['proxies']} ✔ SYNCED")
    expect(panel).to_contain_text("MK832 remote secret lies where istiod reads it east → west")


def test_a_pair_opens_by_keyboard_with_its_links_and_objects(lab: JupyterLab, taken: Snapshot) -> None:
    """Arrow keys go from cell to cell; what is behind a cell is what the table of links has."""
    panel = lab.panel("Mesh mesh1")
    panel.get_by_role("button", name="Pairs", exact=True).click()
    cell = panel.get_by_role("button", name="east → west: fail, broken at secret")
    cell.focus()
    cell.press("ArrowDown")
    lab.page.keyboard.press("ArrowLeft")
    other = panel.get_by_role("button", name="west → east: pass")
    cell.focus()
    cell.press("Enter")
    expect(panel.get_by_role("status")).to_have_text("east → west is open")
    expect(cell).to_be_focused()
    words = panel.get_by_role("listitem").all_inner_texts()
    table = pair_table.cells(taken.mesh, audit.check(taken)).query("client == 'east' and server == 'west'")
    assert [text.split()[0] for text in words] == list(table["cell"])
    assert [text.split()[2] for text in words] == list(table["verdict"])
    expect(panel).to_contain_text("default/istio-remote-secret-west")
    lab.picture(panel, "explore-pairs")
    other.click()
    expect(panel.get_by_role("status")).to_have_text("west → east is open")


def test_findings_are_chosen_by_verdict_cluster_and_word(lab: JupyterLab, taken: Snapshot) -> None:
    """The counts are those of the checks; a word that is typed chooses, and keeps the focus."""
    found = Findings(audit.check(taken))
    panel = lab.panel("Findings, by what they stop")
    status = panel.get_by_role("status")
    for verdict, count in found.counts.items():
        expect(panel.get_by_role("button", name=f"{count} {verdict}")).to_be_visible()
    panel.get_by_role("button", name="pass").click()
    expect(status).to_have_text(f"{len(found) - found.counts['skipped']} of {len(found)} findings shown")
    panel.get_by_role("button", name="pass").click()
    search = panel.get_by_role("searchbox", name="Search")
    search.press_sequentially("MK832")
    expect(status).to_have_text(f"1 of {len(found)} findings shown")
    expect(search).to_be_focused()
    panel.get_by_text("remote secret lies where istiod reads it").click()
    (finding,) = found["MK832"].failed
    for step in steps(finding.remedy):
        expect(panel).to_contain_text(step.text)
        expect(panel.get_by_label(f"copy: {step.text}", exact=True)).to_have_count(int(step.command))
    expect(panel).to_contain_text("istiod reads no other")
    search.fill("")


def test_proxies_are_filtered(lab: JupyterLab, taken: Snapshot) -> None:
    """By cluster and namespace; as pandas says."""
    panel = lab.panel("Every proxy, the worst first")
    panel.get_by_label("Cluster").select_option("east")
    panel.get_by_label("Namespace").select_option("sample")
    expect(panel.get_by_role("status")).to_have_text(f"3 of {len(taken.proxies().proxies)} rows")
    rows = panel.locator("tbody tr").all_inner_texts()
    assert all(row.startswith("east\tsample\t") for row in rows)
    assert len(rows) == 3


def test_latency_has_percentile_and_time(lab: JupyterLab) -> None:
    """Of pairs, and of the last minute."""
    pairs = lab.panel("Latency of pairs")
    pairs.get_by_label("Percentile").select_option("p99")
    expect(pairs).to_contain_text("180 ms")
    times = lab.panel("Latency over time")
    times.get_by_label("Time").select_option("last minute")
    times.get_by_label("Cluster of the client").select_option("west")
    expect(times.get_by_role("status")).to_have_text("1,200 requests, 0 failed; slowest second 15 ms")


def test_a_plan_unfolds_and_its_consent_lets_it_be_applied(lab: JupyterLab) -> None:
    """Nothing is applied before every box is ticked; then the same cell applies it."""
    plan = lab.panel(PLAN)
    plan.get_by_role("button", name="Unfold all").click()
    expect(plan.get_by_text("+  replicas: 2")).to_be_visible()
    plan.get_by_label("Action").select_option("restart")
    expect(plan.get_by_role("status")).to_have_text("1 of 3 changes shown")
    consent = lab.panel(CONSENT)
    boxes = consent.get_by_role("checkbox")
    expect(boxes).to_have_count(2)
    expect(consent).to_contain_text("context lab-west · API server https://172.31.200.2:6443")
    expect(consent).to_contain_text("Deployment istio-system/istiod")
    for box in boxes.all():
        box.check()
    expect(consent.get_by_role("status")).to_contain_text("2 of 2 ticked")
    lab.run_cell(CELLS.index(APPLY))
    expect(lab.page.get_by_text("The changes, and how far they came")).to_be_visible()


def test_a_live_mesh_is_read_in_the_background(lab: JupyterLab, answered: threading.Event) -> None:
    """A cell below runs at once, and a cluster that does not answer is unknown."""
    expect(lab.page.locator(".jp-OutputArea-output").last).to_have_text("2")
    panel = lab.panel("Mesh down")
    expect(panel.get_by_role("region", name="cluster east")).to_contain_text("?", timeout=120_000)
    again = panel.get_by_role("button", name="Read again", exact=True)
    answered.clear()
    again.click()
    expect(again).to_be_disabled()
    answered.set()
    expect(again).to_be_enabled(timeout=120_000)


def test_a_mesh_is_chosen(lab: JupyterLab) -> None:
    """Of the snapshots beside the notebook."""
    panel = lab.panel(START)
    panel.get_by_label("Mesh file or snapshot").select_option("mesh1.json.gz")
    expect(panel.get_by_role("status")).to_have_text("mesh1.json.gz is chosen: run the cells below")


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_axe_finds_nothing_serious(lab: JupyterLab, theme: str) -> None:
    """In either theme; the pictures of the docs are taken here, where $MESHKIT_PICTURES names a folder."""
    lab.set(THEMES, {"theme": f"JupyterLab {theme}"})
    lab.run("widgets.ipynb")
    for label, name in LABELS.items():
        panel = lab.panel(label)
        panel.scroll_into_view_if_needed()
        if label.startswith("Findings"):
            panel.get_by_text("remote secret lies where istiod reads it").click()
        lab.picture(panel, f"explore-{name}-{theme.lower()}")
    assert lab.serious() == []


def test_nothing_of_the_mesh_is_saved_with_the_notebook(lab: JupyterLab) -> None:
    """Of a widget, one sentence; no state, as JupyterLab would keep with its setting `saveState`."""
    saved = lab.save("widgets.ipynb")
    assert set(saved.metadata) == {"kernelspec", "language_info"}
    outputs = [output["data"]["text/plain"] for cell in saved.cells for output in cell.outputs if "data" in output]
    assert [text for text in outputs if "run this cell to explore" in text]
    assert not [text for text in outputs if "172.31" in text or "istio-remote-secret" in text]
