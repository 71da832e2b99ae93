"""A root rotation and its undo where every istio-agent is late: it answers from its cache just when roots go.

Of some 600 agents one was seen to be, once (docs/trust.md). A real one cannot be made to be late at will, so this is
built from its own source with two pauses of 0.2 s in it, each where the scheduler may make one. One more gets no
roots at all while it runs, as that of a pod that is older than the switch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from meshlab import layout, programs
from meshlab.programs import SOURCES
from meshlab.programs.toolchain import Toolchain

from tests.e2e.runs.test_migration import meshkit
from tests.e2e.stages.trust.test_matrix import APPLY, Bench, Part, When, on
from tests.support.lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.drill, pytest.mark.timeout(1800)]

ISTIO = "istio.io/istio"
FILE = "security/pkg/nodeagent/cache/secretcache.go"
BEGINNING = "func (sc *SecretManagerClient) UpdateConfigTrustBundle("
PAUSE = "time.Sleep(200 * time.Millisecond)"
TOLD, FORGETS = "\tsc.configTrustBundle = trustBundle\n", "\tsc.cache.SetWorkload(nil)\n"
DEAF = json.dumps({"proxyMetadata": {"PROXY_CONFIG_XDS_AGENT": "false"}})
LATE = "late to forget the certificate of more roots"


def late(source: str) -> str:
    """Return the source of the agent's cache with the pauses in it.

    The roots come first where they grow, so that the agent goes on remembering what it began with; where they shrink,
    it is asked for them before it forgets.
    """
    before, beginning, rest = source.partition(BEGINNING)
    assert beginning, f"{FILE} has no {BEGINNING}"
    assert rest.index(TOLD) < rest.index(FORGETS)
    rest = rest.replace(TOLD, f"\tfewer := len(trustBundle) < len(sc.configTrustBundle)\n{TOLD}", 1)
    waits = f'\tif fewer {{\n\t\t{PAUSE}\n\t\tcacheLog.Info("{LATE}")\n\t}}\n'
    return before + beginning + rest.replace(FORGETS, f"{waits}{FORGETS}\tif !fewer {{\n\t\t{PAUSE}\n\t}}\n", 1)


@pytest.fixture(scope="module")
def late_agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The lab's programs, with another pilot-agent among them."""
    assert not programs.missing(), "the lab's programs are not built: `meshkit lab build`"
    home, real = tmp_path_factory.mktemp("late"), layout.programs()
    go = Toolchain.find(SOURCES)
    shutil.copytree(go.module_folder(ISTIO), home / "istio", copy_function=shutil.copyfile)
    cache = home / "istio" / FILE
    cache.write_text(late(cache.read_text()))
    shutil.copy(SOURCES / "go.sum", home / "go.sum")
    (home / "go.mod").write_text(f"{(SOURCES / 'go.mod').read_text()}\nreplace {ISTIO} => {home / 'istio'}\n")
    folder = home / "bin"
    folder.mkdir()
    flags = [*programs.FLAGS, f"-ldflags={programs.ldflags(go)}", f"-modfile={home / 'go.mod'}"]
    go.build(flags, [f"{ISTIO}/pilot/cmd/pilot-agent"], folder, {})
    for program in programs.wanted():
        if program.name != "pilot-agent":
            (folder / program.name).symlink_to(real / program.name)
    shutil.copy(real / "built.json", folder)
    shutil.copytree(programs.share(real), programs.share(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MESHKIT_LAB_BIN", str(folder))
        yield folder
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def bench(late_agents: Path, short_folder: Path) -> Iterator[Bench]:
    """Two live clusters with a root each, under load, and a new root in files; west's httpbin takes none live."""
    lab = Lab(short_folder / "late")
    try:
        lab.start("strangers", live_roots=True)
        deaf = json.dumps({"spec": {"template": {"metadata": {"annotations": {"proxy.istio.io/config": DEAF}}}}})
        lab.kubectl("lab-west", "patch", "deployment", "httpbin", "-n", "sample", "-p", deaf)
        lab.kubectl("lab-west", "rollout", "status", "deployment/httpbin", "-n", "sample", "--timeout=90s")
        yield from on(lab, short_folder)
    finally:
        lab.stop()


def test_roots_go_where_every_agent_remembers_what_it_began_with(bench: Bench) -> None:
    """A run is killed before any certificate is renewed, and undone: no proxy is left with a root that went."""
    (at, *_) = (at for at in bench.boundaries() if at.words.endswith(": sign") and at.when is When.BEGINS)
    back, _ = bench.undone(at)
    print(f"taken back: {back}; agents were late {times_late(bench.lab)} times")
    assert back.good, str(back)
    assert times_late(bench.lab), "no agent was late: this proves nothing"


def test_an_overlap_is_done_and_reverted(bench: Bench) -> None:
    """All roots but one go on the way there, too, and no request within a cluster is lost."""
    state, part, known = bench.state(), Part(), times_late(bench.lab)
    done = meshkit(state, "run", bench.mesh_file, *APPLY)
    bench.judged(part, done, bench.at_the_end, state, kills=0)
    print(f"done: {part}; agents were late {times_late(bench.lab) - known} times")
    assert part.good, str(part)
    assert times_late(bench.lab) > known, "no agent was late: this proves nothing"
    back = bench.undone_after_kill(state, done.folder, kills=0)
    assert back.good, str(back)


def times_late(lab: Lab) -> int:
    """Return how often agents were late."""
    return sum(path.read_text(errors="replace").count(LATE) for path in lab.home.glob("log/*-pods/*/istio-proxy/*.log"))
