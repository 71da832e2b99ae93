"""A snapshot's file: the same readings come back, and what is no snapshot is refused with its field."""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_origin

import pandas as pd
import pytest

from meshkit.errors import InputError
from meshkit.istio.ca.model import Offer
from meshkit.istio.config.hindrances import Hindrance, Impact, Link
from meshkit.istio.config.service_view import ServiceView
from meshkit.istio.control_plane.istioctl import Tool
from meshkit.istio.control_plane.revisions import ControlPlanes, InjectionWebhook, Injector, RunningIstiod, Tag
from meshkit.istio.multicluster.remote_secrets import SyncStatus, seen_reading
from meshkit.istio.reading import Reading, Unread
from meshkit.kube.mesh import Unknown
from meshkit.snapshot import codec
from meshkit.snapshot.snapshot import Snapshot
from meshkit.tables import Table
from tests.support import healthy

WEBHOOK = InjectionWebhook(
    "injector", "rev.namespace.sidecar-injector.istio.io", "default", "", {"matchLabels": {"$": "odd"}},
    {"matchExpressions": [{"key": "istio.io/rev", "operator": "DoesNotExist"}]}, True, False, "Fail", "s/istiod",
    ("default",),
)  # fmt: skip
PLANES = ControlPlanes(
    (RunningIstiod("istiod-1", "istio-system", "default", {"app": "istiod"}),), (Tag("prod", "default"),), (WEBHOOK,),
    {"default": Injector(always=({"matchLabels": {"a": "b"}},))}, "default",
)  # fmt: skip
HINDRANCE = Hindrance(Link.ENDPOINTS, Impact.BREAKS, "sidecars.networking.istio.io", "east", "a", "b", "spec", "hides")
TYPED: dict[str, Any] = {
    "revisions": {"east": PLANES, "west": Unknown("no answer within 10 s")},
    "service_views": (ServiceView("east", "west", "sample/httpbin", (HINDRANCE,)), ServiceView("west", "east", "s/h")),
    "istioctl": Tool("1.31.0"),
    "installers": {"east": "helm", "west": Unknown("no answer within 10 s")},
    "offer": Offer("aa11", {"east": "bb22"}),
    "mesh_networks": {"east": {"net-east": {"endpoints": [{"fromRegistry": "east"}]}}, "west": Unknown("refused")},
}


def value(dtype: str, number: int) -> Any:
    """Return a value of a column."""
    if dtype.startswith("datetime64"):
        return None if number == 1 else pd.Timestamp(f"2026-03-0{number + 1}T12:00:00.123456Z")
    numbers: dict[str, list[Any]] = {"int64": [0, 7, -1], "Int64": [1, None, 3], "float64": [0.1, float("nan"), 1e-9]}
    return {**numbers, "bool": [True, False, True]}.get(dtype, ["", 'äöü \u2028 "quoted"', "a,b"])[number]


def frame(table: Table) -> pd.DataFrame:
    """Return a table of three rows, with all that a column can have."""
    rows = [{name: value(dtype, number) for name, dtype in table.dtypes.items()} for number in range(3)]
    return table.frame(rows, in_order=True)


def everything() -> Snapshot:
    """Return a snapshot with every reading."""
    frames = {name: frame(one.table) for name, one in Snapshot.readings().items() if one.hint is pd.DataFrame}
    remotes = seen_reading(healthy.remotes(map(healthy.remote, healthy.OTHER)), [Unread("north", "dead", "istiod-n")])
    bare = [healthy.gateway("east"), {"cluster": "west", "reason": "no Service has the label"}]
    own = {"remote_clusters": remotes, "gateways": healthy.offered(bare)}
    return Snapshot(healthy.mesh(), {**healthy.facts().known, **frames, **TYPED, **own})


def written(folder: Path, snapshot: Snapshot | None = None, name: str = "snapshot.json") -> Path:
    """Write a snapshot into a folder."""
    (snapshot or everything()).write(folder / name)
    return folder / name


@pytest.mark.parametrize("name", ["snapshot.json", "snapshot.json.gz"])
def test_every_reading_comes_back_as_it_was(tmp_path: Path, name: str) -> None:
    """Frames with their dtypes, typed readings with their enums; compressed or not."""
    before = everything()
    path = written(tmp_path, before, name)
    after = Snapshot.load(path)
    assert path.read_bytes().startswith(b"\x1f\x8b") is name.endswith(".gz")
    assert path.stat().st_mode & 0o777 == 0o600
    assert after.known.keys() == before.known.keys() == Snapshot.readings().keys()
    assert (after.taken, after.live) == (before.taken, False)
    for one, kept in before.known.items():
        if isinstance(kept, pd.DataFrame):
            pd.testing.assert_frame_equal(after.known[one], kept)
        elif isinstance(kept, Reading):
            parts = [(r.items, r.unread, r.none, r.state, r.why) for r in (after.known[one], kept)]
            assert parts[0] == parts[1]
            pd.testing.assert_frame_equal(after.known[one].frame(), kept.frame())
        else:
            assert after.known[one] == kept
    assert all(type(one.status) is SyncStatus for one in after.remote_clusters)
    assert isinstance(after.revisions["west"], Unknown)
    assert after.gateways.none_in("west")


def test_every_reading_has_a_type_that_a_file_can_have() -> None:
    """A reading that is added without one fails here, and not at a user's."""
    for name, one in Snapshot.readings().items():
        with_table = one.hint is pd.DataFrame or get_origin(one.hint) is Reading
        assert with_table is bool(one.table), name
        assert one.__doc__, name


def test_the_mesh_file_comes_back_without_kubeconfigs_and_secrets(tmp_path: Path) -> None:
    """Durations, gates and contexts are as they were."""
    change = {
        "gates": {"p99": "250ms", "accept": {"MK407": "the root moves in May"}},
        "trust": {"passphraseFrom": {"env": "CA_PASSPHRASE"}},
        "remoteSecrets": {"credential": "expiring", "life": "48h", "renewBefore": "12h"},
    }
    mesh = healthy.mesh(**change)
    mesh.spec.clusters[0].gateway.annotations["example.com/token"] = "hunter2-hunter2"
    mesh.spec.clusters[0].__dict__["kubeconfig"] = "/home/me/.kube/config"
    path = written(tmp_path, Snapshot(mesh, {}))
    after = Snapshot.load(path)
    assert "hunter2" not in path.read_text()
    assert "/home/me" not in path.read_text()
    assert after.spec.gates == mesh.spec.gates
    assert after.spec.remote_secrets == mesh.spec.remote_secrets
    assert [c.context for c in after.spec.clusters] == ["east", "west"]
    assert {(one.reading, one.field) for one in after.left_out} == {
        ("mesh", "clusters[0].gateway.annotations.example.com/token")
    }


def test_a_file_does_not_ask_clusters_for_what_it_does_not_have(tmp_path: Path) -> None:
    """It says so, and how to get it."""
    snapshot = Snapshot.load(written(tmp_path, Snapshot(healthy.mesh(), {})))
    with pytest.raises(InputError, match=r"no reading inventory\n.*meshkit gather"):
        _ = snapshot.inventory
    with pytest.raises(RuntimeError, match="asked for what it does not have"):
        snapshot.mesh.each(lambda cluster: cluster.version())


Spoil = Callable[[dict[str, Any]], Any]
WRONG: dict[str, tuple[Spoil, str]] = {
    "version": (lambda d: d.update(schema="meshkit.snapshot/2"), "expected meshkit.snapshot/1, got 'meshkit.snapshot"),
    "no schema": (lambda d: d.pop("schema"), "no field schema"),
    "moment": (lambda d: d.update(taken="yesterday"), "taken: expected a datetime, got 'yesterday'"),
    "zone": (lambda d: d.update(taken="2026-03-01T12:00:00"), "taken: it has no time zone"),
    "no moment": (lambda d: d.pop("taken"), "taken: expected a str, got a NoneType"),
    "mesh": (lambda d: d.update(mesh={"clusters": 3}), "field mesh"),
    "no mesh": (lambda d: d.pop("mesh"), "field mesh"),
    "readings": (lambda d: d.update(readings=[]), "readings"),
    "unknown reading": (lambda d: d["readings"].update(more=1), "readings.more: no reading of this version"),
    "no frame": (lambda d: d["readings"].update(inventory=7), "readings.inventory: expected a dict, got a int"),
    "column": (lambda d: d["readings"]["inventory"]["columns"].pop("nodes"), "inventory.columns.nodes: missing"),
    "other column": (lambda d: d["readings"]["clocks"]["columns"].update(x=[]), "clocks.columns.x: no such field"),
    "length": (lambda d: d["readings"]["clocks"]["columns"]["cluster"].pop(), "different lengths"),
    "cell": (
        lambda d: d["readings"]["inventory"]["columns"]["nodes"].__setitem__(1, "many"),
        r"inventory.columns.nodes\[1\]: expected int64, got 'many'",
    ),
    "text": (lambda d: d["readings"]["inventory"]["columns"]["uid"].__setitem__(0, None), "columns.uid"),
    "moment of a cell": (
        lambda d: d["readings"]["authorities"]["columns"]["not_after"].__setitem__(0, "soon"),
        r"authorities.columns.not_after\[0\]: expected datetime64\[us, UTC\], got 'soon'",
    ),
    "class": (
        lambda d: d["readings"]["istioctl"].update({"$": "Popen"}),
        "readings.istioctl: expected a Tool, got 'Popen'",
    ),
    "field": (lambda d: d["readings"]["istioctl"].update(more=1), "readings.istioctl.more: no field of Tool"),
    "enum": (
        lambda d: d["readings"]["service_views"][0]["hindrances"][0].update(link="nowhere"),
        r"service_views\[0\].hindrances\[0\].link: expected a Link, got 'nowhere'",
    ),
    "union": (lambda d: d["readings"]["revisions"].update(east={"$": "Other"}), "readings.revisions.east"),
    "item": (
        lambda d: d["readings"]["remote_secrets"]["items"][0].pop("name"),
        r"remote_secrets.items\[0\].name: missing",
    ),
    "state": (lambda d: d["readings"]["remote_secrets"].update(state="nowhere"), "remote_secrets.state: no column"),
    "left out": (lambda d: d.update(left_out=[{"$": "LeftOut"}]), r"left_out\[0\]"),
}


def test_a_file_of_before_a_column_was_added_can_be_read(tmp_path: Path) -> None:
    """Last month's incident stays readable: a text that nobody read then is empty; no other column may be missing."""
    data = json.loads(written(tmp_path).read_text())
    columns = data["readings"]["calls"]["columns"]
    del columns["preferred_by"]
    (tmp_path / "older.json").write_text(json.dumps(data))
    assert Snapshot.load(tmp_path / "older.json").calls["preferred_by"].tolist() == [""] * 3
    del columns["reason"]
    (tmp_path / "older.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=r"calls\.columns\.reason: missing"):
        Snapshot.load(tmp_path / "older.json")


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_an_input_error_that_names_file_and_field(tmp_path: Path, name: str) -> None:
    """Never a stack, and nothing is created that the reading's type does not name."""
    spoil, message = WRONG[name]
    data = json.loads(written(tmp_path).read_text())
    spoil(data)
    (tmp_path / "wrong.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=message) as caught:
        Snapshot.load(tmp_path / "wrong.json")
    assert "wrong.json" in caught.value.where
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b'"meshkit.snapshot/1"', b"clusters: []\n", b"\x1f\x8b\x08", b"\xff\xfe", b"[" * 99999],
)
def test_what_is_no_snapshot_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    """Empty, cut, another kind of file."""
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(InputError, match="other"):
        Snapshot.load(tmp_path / "other")


def test_a_cut_file_is_an_input_error(tmp_path: Path) -> None:
    """Compressed or not, wherever it ends."""
    for path in (written(tmp_path), written(tmp_path, name="s.json.gz")):
        content = path.read_bytes()
        for part in (0.1, 0.5, 0.99):
            path.write_bytes(content[: int(len(content) * part)])
            with pytest.raises(InputError, match="cut"):
                Snapshot.load(path)


def test_a_missing_file_and_a_folder_are_input_errors(tmp_path: Path) -> None:
    """And a place that cannot be written."""
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="no snapshot can be read there"):
            Snapshot.load(path)
    with pytest.raises(InputError, match="cannot be written"):
        everything().write(tmp_path / "no" / "folder.json")


def test_any_value_may_be_wrong(tmp_path: Path) -> None:
    """Files with one value replaced: each is read, or refused as input."""
    known = {
        name: everything().known[name] for name in (*TYPED, "clocks", "certificates", "remote_secrets", "gateways")
    }
    data = json.loads(written(tmp_path, Snapshot(healthy.mesh(), known)).read_text())
    chance, refused = random.Random(7), 0  # noqa: S311
    for _ in range(400):
        spoiled = copy.deepcopy(data)
        replace_one(spoiled, chance)
        (tmp_path / "any.json").write_text(json.dumps(spoiled))
        try:
            Snapshot.load(tmp_path / "any.json")
        except InputError:
            refused += 1
    assert refused > 200


def replace_one(node: Any, chance: random.Random) -> None:
    """Replace one value somewhere in a document."""
    while True:
        key = chance.choice([*node] if isinstance(node, dict) else range(len(node)))
        inner = node[key]
        if not isinstance(inner, dict | list) or not inner or chance.random() < 0.1:
            node[key] = chance.choice([None, True, -1, 1.5, "x", [], {}, [1], {"$": "Unknown"}, {"a": 1}])
            return
        node = inner


def test_what_no_document_can_have_is_a_bug_that_shows() -> None:
    """A reading of another kind is refused when it is written, not when it is read."""
    with pytest.raises(TypeError, match="cannot keep a set"):
        codec.encode({"a": {1, 2}})


def test_the_moment_is_in_utc(tmp_path: Path) -> None:
    """As the reading began."""
    moment = datetime(2026, 3, 1, 12, tzinfo=UTC)
    path = written(tmp_path, Snapshot(healthy.mesh(), {}, taken=moment), "s.json.gz")
    assert json.loads(gzip.decompress(path.read_bytes()))["taken"] == "2026-03-01T12:00:00+00:00"
    assert Snapshot.load(path).taken == moment
