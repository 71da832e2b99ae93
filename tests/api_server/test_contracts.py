"""Contracts: what people and scripts rely on is as tests/api_server/golden says, whatever modules it is made in.

The golden files are data; each test makes the same of today's program, by its command line and by what that writes, and
names what was lost, changed or added. `pytest tests/api_server/test_contracts.py --update-golden` writes them again:
only where a contract is meant to change, and with a line in the changelog. It is refused in CI.
"""

from __future__ import annotations

import ast
import csv
import importlib
import json
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import click
import pytest
import yaml

import meshkit as meshkit_package
from meshkit.changes.journal import Journal
from meshkit.changes.plan import Plan
from meshkit.checks.catalogue import checks
from meshkit.checks.finding import Conclusion, Finding, Verdict, overall
from meshkit.cli.main import cli, main
from meshkit.errors import MeshkitError
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from tests.support.api_server import ApiServer
from tests.support.objects import (
    Object,
    config_map,
    core,
    create,
    deployment,
    edit,
    labelled,
    live,
    mesh_document,
    there,
)

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
LAB = {"lab", "demo"}
"""Commands that belong to the lab, whoever ships it."""
SPACE, SYSTEM = "golden", "golden-system"
UID = "UID-OF-EAST"
RUN = "20260301T120000Z-apply"
IN_ORDER = {"columns", "key", "show"}
"""Where the order of keys and items is part of the contract."""
SERVERS = {"managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "status",
           "deployment.kubernetes.io/revision"}  # fmt: skip


def differences(was: Any, now: Any, path: str = "") -> Iterator[str]:
    """Yield in words how two JSON values differ, place by place."""
    if isinstance(was, dict) and isinstance(now, dict):
        yield from (f"lost: {path}/{key}" for key in was if key not in now)
        yield from (f"added: {path}/{key}" for key in now if key not in was)
        both = [key for key in was if key in now]
        if path.rpartition("/")[2] in IN_ORDER and both != [key for key in now if key in was]:
            yield f"reordered: {path}: {', '.join(was)} → {', '.join(now)}"
        for key in both:
            yield from differences(was[key], now[key], f"{path}/{key}")
    elif (
        isinstance(was, list)
        and isinstance(now, list)
        and len(was) == len(now)
        and any(isinstance(one, dict) for one in was)
    ):
        for n, (one, other) in enumerate(zip(was, now, strict=True), 1):
            yield from differences(one, other, f"{path}/{n}")
    elif was != now:
        yield f"changed: {path}: {json.dumps(was, ensure_ascii=False)} → {json.dumps(now, ensure_ascii=False)}"


@pytest.fixture
def golden(pytestconfig: pytest.Config) -> Callable[[str, str, Any], None]:
    """Compare a value with its golden file, or write that: `golden(file, contract, value)`."""

    def compare(name: str, contract: str, now: Any) -> None:
        path = GOLDEN / name
        if pytestconfig.getoption("--update-golden"):
            path.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n")
        was, now = json.loads(path.read_text()), json.loads(json.dumps(now))
        if told := list(differences(was, now)):
            lines = "\n  ".join(told)
            pytest.fail(
                f"contract broken: {contract} (tests/api_server/golden/{name})\n  {lines}\n{ADVICE}", pytrace=False
            )

    return compare


ADVICE = "what is meant: pytest tests/api_server/test_contracts.py --update-golden, and say it in CHANGELOG.md"


def test_a_difference_is_reported_by_its_place() -> None:
    """Lost, added, changed; reordered where order counts."""
    was = {"a": 1, "b": {"columns": {"x": "str", "y": "str"}}, "c": [1]}
    now = {"b": {"columns": {"y": "str", "x": "int64"}}, "c": [2], "d": 1, "a": 1}
    assert list(differences(was, now)) == [
        "added: /d",
        "reordered: /b/columns: x, y → y, x",
        'changed: /b/columns/x: "str" → "int64"',
        "changed: /c: [1] → [2]",
    ]
    assert list(differences(was, {})) == ["lost: /a", "lost: /b", "lost: /c"]


def commands(command: click.Command, name: str = "meshkit") -> Iterator[tuple[str, Any]]:
    """Yield each command below a command with its parameters."""
    options = [one for one in command.params if isinstance(one, click.Option)]
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    told = {f"argument {n}": described(one) for n, one in enumerate(arguments, 1)}
    yield name, told | {", ".join([*one.opts, *one.secondary_opts]): described(one) for one in options}
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for word in sorted(command.list_commands(context)):
            yield from commands(command.get_command(context, word) or pytest.fail(word), f"{name} {word}")


def described(parameter: click.Parameter) -> dict[str, Any]:
    """Return what a script relies on of an option or argument."""
    info = parameter.to_info_dict()
    kind, flag = info["type"], info.get("is_flag") or None
    told = {
        "type": "flag" if flag else kind.get("choices") or kind["name"],
        "least": kind.get("min"),
        "most": kind.get("max"),
        "default": None if flag or not isinstance(parameter.default, str | int | float) else parameter.default,
        "required": info["required"] or None,
        "repeated": info["multiple"] or None,
        "values": info["nargs"] if info["nargs"] != 1 else None,
        "environment": info["envvar"],
    }
    return {key: value for key, value in told.items() if value is not None}


def test_commands(golden: Callable[[str, str, Any], None]) -> None:
    """Every command with its options and arguments, types, choices and defaults; the lab's in a file of its own."""
    found = dict(commands(cli))
    own = {name: told for name, told in found.items() if LAB.isdisjoint(name.split()[1:2])}
    golden("commands.json", "the command line", own)
    golden("lab-commands.json", "the lab's command line", {n: told for n, told in found.items() if n not in own})


def exit_code(*words: str) -> int:
    """Return the exit code of the command line."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(str(ended.value.code))


def families(kind: type[MeshkitError]) -> Iterator[type[MeshkitError]]:
    """Yield an error class and all below it that meshkit has."""
    yield kind
    for below in kind.__subclasses__():
        yield from families(below)


def test_exit_codes(golden: Callable[[str, str, Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each error, as the command line ends with it; and of each verdict, as a stage's last cell does."""
    importlib.import_module("papermill")  # it imports our engine, which cannot be imported before it
    for module in pkgutil.walk_packages(meshkit_package.__path__, "meshkit."):  # a class is known once it is imported
        if ".lab" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    codes = {}
    others = [KeyboardInterrupt, click.Abort, ValueError]
    for kind in [*(kind for kind in families(MeshkitError) if kind.__module__.startswith("meshkit.")), *others]:
        arguments = ("why", []) if kind.__name__ == "ConflictError" else ("why",)

        @click.command()
        def raises(kind: Any = kind, arguments: Any = arguments) -> None:
            raise kind(*arguments)

        monkeypatch.setitem(cli.commands, "raises", raises)
        codes[kind.__name__] = exit_code("raises")
    codes |= {
        "wrong usage": exit_code("run", "--no-such-option"),
        "--help": exit_code("--help"),
        "-h": exit_code("run", "-h"),
    }
    golden("exit-codes.json", "exit codes", {"errors": codes, "verdicts": {v.value: concluded(v) for v in Verdict}})


def concluded(*verdicts: Verdict) -> int:
    """Return the exit code of a stage that ends with findings of these verdicts."""
    about = {"id": "MK801", "check": "call", "subject": "east → west", "expected": "200", "observed": "503"}
    try:
        Conclusion("08 verify", [Finding(**about, verdict=verdict) for verdict in verdicts]).raise_if_bad()
    except MeshkitError as error:
        return error.exit_code
    return 0


def test_verdicts(golden: Callable[[str, str, Any], None]) -> None:
    """Their words and symbols, which of two counts, and what no finding at all is."""
    finding = Finding(id="", check="", subject="", expected="", observed="", verdict=Verdict.PASS)
    pairs = {f"{a} + {b}": overall([replace(finding, verdict=v) for v in (a, b)]) for a in Verdict for b in Verdict}
    symbols = {verdict.value: verdict.symbol for verdict in Verdict}
    golden("verdicts.json", "verdicts", {"symbols": symbols, "worst": {"none at all": overall([]), **pairs}})


def test_catalogue(golden: Callable[[str, str, Any], None]) -> None:
    """Every check's id and title, the stage that it blocks, its worst verdict, and who asks it; former ids stay."""
    found = {
        c.id: {"title": c.title, "blocks": c.stops, "worst": c.worst, "asked by": c.asked} for c in checks().values()
    }
    found |= {alias: {"now": c.id} for c in checks().values() for alias in c.aliases}
    golden("checks.json", "the catalogue of checks", found)


def test_mesh_file(golden: Callable[[str, str, Any], None]) -> None:
    """Every field with its type, rule and default, whatever the classes behind them are called."""
    schema = MeshSpec.model_json_schema(by_alias=True)

    def plain(part: Any) -> Any:
        if isinstance(part, list):
            return [plain(item) for item in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return plain(
                {**schema["$defs"][part["$ref"].rpartition("/")[2]], **{k: part[k] for k in part if k != "$ref"}}
            )
        words = {key for key in ("title", "description") if isinstance(part.get(key), str)}
        return {key: plain(value) for key, value in sorted(part.items()) if key not in {*words, "$defs"}}

    golden("mesh-file.json", "the mesh file's fields", plain(schema))


def test_environment(golden: Callable[[str, str, Any], None]) -> None:
    """Every environment variable that the source reads by its name."""
    sources = [path for top in ("meshkit", "lab/meshlab") for path in sorted((ROOT / top).rglob("*.py"))]
    nodes = (node for path in sources for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    read = re.compile(r"os\.(?:environ(?:\.(?:get|pop|setdefault)\(|\[)|getenv\()'(\w+)'")
    found = {
        name for node in nodes if isinstance(node, ast.Call | ast.Subscript) for name in read.findall(ast.unparse(node))
    }
    golden("environment.json", "environment variables that are honoured", dict.fromkeys(sorted(found), "read"))


@dataclass(frozen=True)
class Written:
    """What the program wrote: the folders of runs, and a journal with what it was kept in."""

    stages: Path
    troubleshoot: Path
    backup: Path
    undo_plan: Path
    undo: Path
    home: Path
    journal: Path
    modes: dict[str, str]
    left: dict[str, Any]

    @property
    def runs(self) -> list[Path]:
        """The folders of all runs."""
        return [self.stages, self.troubleshoot, self.backup, self.undo_plan, self.undo]


@pytest.fixture(scope="module")
def written(
    api_server: ApiServer, controllers: None, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Written]:
    """Run all stages on a real API server by the command line, note changes in a journal, and undo the golden one."""
    home = tmp_path_factory.mktemp("contracts")
    document = mesh_document(api_server.kubeconfig)
    document["mesh"]["rootNamespace"] = SYSTEM
    document["clusters"][0]["apiServer"] = "https://192.0.2.1:6443"
    mesh_file = home / "shop.yaml"
    mesh_file.write_text(yaml.safe_dump(document))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(home / "state"))
        mesh = Mesh.open(MeshSpec.load(mesh_file))
        store, uid = home / "state" / "meshkit" / "changes", mesh.clusters["east"].uid()
        folders = [meshkit(home, "run", mesh_file), meshkit(home, "run", mesh_file, "--only", "11")]
        try:
            play(mesh)
            folders.append(meshkit(home, "run", mesh_file, "--only", "03", "--mode", "apply"))
            layout = modes(store, uid)
            shutil.move(store / "shop" / RUN, home / "journal")
            if not JOURNAL.exists() and pytestconfig.getoption("--update-golden"):
                copied(home / "journal", JOURNAL, uid, UID)
            copied(JOURNAL, store / "shop" / RUN, UID, uid)
            run = killed_run(home)
            folders += [meshkit(home, "undo", run, "--mesh", mesh_file, *more) for more in ([], ["--mode", "apply"])]
            yield Written(*folders, home=home, journal=home / "journal", modes=layout, left=standing(mesh))
        finally:
            for manifest in (istiod(""), core("Namespace", SPACE, ""), core("Namespace", SYSTEM, "")):
                if there(mesh.clusters["east"], manifest):
                    mesh.clusters["east"].delete(manifest)


def killed_run(home: Path) -> Path:
    """Return the folder of a run that was killed at once; its journal is what an undo goes by."""
    run = home / "killed" / RUN
    run.mkdir(parents=True)
    first = {"event": "run started", "mesh": "shop", "mode": "apply", "stages": [], "journal": RUN}
    (run / "events.jsonl").write_text(json.dumps(first) + "\n")
    return run


def meshkit(home: Path, *words: object) -> Path:
    """Run the command line and return the folder of the run that it made."""
    return Path(said(*words, "--out", home / "runs").splitlines()[-1])


def said(*words: object) -> str:
    """Run the command line and return what it said on stdout."""
    command = [sys.executable, "-m", "meshkit", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1, 3), done.stderr
    return done.stdout


def copied(source: Path, target: Path, old: str, new: str) -> None:
    """Copy a journal, as of another cluster."""
    target.mkdir(parents=True, mode=0o700)
    for path in source.iterdir():
        (target / path.name).write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


def modes(folder: Path, uid: str) -> dict[str, str]:
    """Return the path below a folder of everything in it, and who may read it; journals and archives by example."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix().replace(uid, "UID")
        name = re.sub(r"/\d{4}\.json$", "/NNNN.json", re.sub(r"\d{8}T\d+Z", "TIME", name))
        name = re.sub(r"/\d-[\w-]+\.yaml$", "/N-KIND.yaml", name)
        found[name] = f"{path.stat().st_mode & 0o777:04o}"
    return found


def executed(run: Path) -> Iterator[dict[str, Any]]:
    """Yield what each cell of a run's notebooks showed, by MIME type."""
    for path in sorted(run.glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            yield from (output["data"] for output in cell.get("outputs", []) if "data" in output)


def payloads(written: Written, kind: str) -> Iterator[dict[str, Any]]:
    """Yield what was handed on in a MIME type of our own."""
    for run in written.runs:
        yield from (data[mime] for data in executed(run) if (mime := f"application/vnd.meshkit.{kind}+json") in data)


def test_tables(golden: Callable[[str, str, Any], None], written: Written) -> None:
    """Of every table of every notebook: columns in order with dtypes, key, shown and compared columns, caption."""
    found: dict[str, Any] = {}
    for table in payloads(written, "table"):
        told = {"caption": table["caption"], "columns": dict(zip(table["columns"], table["dtypes"], strict=True))}
        told |= {field: table[field] for field in ("key", "show", "compare")}
        assert found.setdefault(table["name"], told) == told, f"two tables are called {table['name']}"
    golden("tables.json", "tables/NAME.csv and what notebooks show of it", dict(sorted(found.items())))
    headers = {path.stem: header(path) for path in sorted((written.undo / "tables").glob("*.csv"))}
    more = {name: columns for name, columns in headers.items() if name not in found}
    golden("run-tables.json", "tables of a run that applies", more)


def header(path: Path) -> list[str]:
    """Return the columns of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file))


def test_columns_of_commands(golden: Callable[[str, str, Any], None], written: Written) -> None:
    """What `-o csv` and `-o json` of a command have."""
    mesh_file, made = written.home / "shop.yaml", written.home / "ca"
    said("ca", "root", made, "--no-passphrase")
    words = {
        "check": [mesh_file],
        "proxies": [mesh_file],
        "proxies --since": [mesh_file, "--since", written.stages],
        "pairs": [mesh_file, "--samples", "0"],
        "ca show": [made],
    }
    found = {
        name: next(csv.reader(said(*(w for w in name.split() if w[0] != "-"), *more, "-o", "csv").splitlines()))
        for name, more in words.items()
    }
    golden("command-columns.json", "columns of -o csv and -o json", found)


def test_stages(golden: Callable[[str, str, Any], None], written: Written) -> None:
    """The names of all twelve, as their notebooks end with them and journals keep them."""
    names = {verdict["stage"] for verdict in payloads(written, "verdict")}
    golden("stages.json", "stage strings", {name[:2]: name for name in sorted(names)})


MAPS = {"tables", "files", "counts", "packages", "why", "retries_why"}
"""Objects whose keys are names of things: only what stands behind them is a contract."""
ANY = {"facts", "value", "rows"}
"""What may be anything."""


def shape(value: Any, key: str = "") -> Any:
    """Return the structure of a JSON value: keys, and types of what is behind them."""
    if key in ANY:
        return "any"
    if isinstance(value, dict) and key in MAPS:
        return {"*": merged([shape(item) for item in value.values()])}
    if isinstance(value, dict):
        return {name: shape(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [merged([shape(item) for item in value])] if value else []
    return {bool: "bool", int: "number", float: "number", type(None): "null"}.get(type(value), "str")


def merged(shapes: list[Any]) -> Any:
    """Return the structure that several values have together."""
    if shapes and all(isinstance(one, dict) for one in shapes):
        keys = sorted({key for one in shapes for key in one})
        return {key: merged([one[key] for one in shapes if key in one]) for key in keys}
    if shapes and all(isinstance(one, list) for one in shapes):
        items = [item for one in shapes for item in one]
        return [merged(items)] if items else []
    kinds = sorted({one if isinstance(one, str) else json.dumps(one) for one in shapes})
    return kinds[0] if len(kinds) == 1 else kinds


def loaded(written: Written, name: str) -> list[Any]:
    """Return a JSON file of every run."""
    return [json.loads((run / name).read_text(encoding="utf-8")) for run in written.runs]


def test_evidence(golden: Callable[[str, str, Any], None], written: Written) -> None:
    """The files of a run, and the structure of results.json, record.json, events.jsonl, junit.xml and cell payloads."""
    events: dict[str, Any] = {}
    junit: dict[str, set[str]] = {}
    for run in written.runs:
        for event in map(json.loads, (run / "events.jsonl").read_text(encoding="utf-8").splitlines()):
            events[event["event"]] = merged([*filter(None, [events.get(event["event"])]), shape(event)])
        for element in ET.fromstring((run / "junit.xml").read_bytes()).iter():  # noqa: S314  (our own file)
            junit.setdefault(element.tag, set()).update(element.attrib)
    results = loaded(written, "results.json")
    assert {r["schema"] for r in results} == {"meshkit.results/1"}
    assert {r["schema"] for r in loaded(written, "record.json")} == {"meshkit.record/1"}
    found = {
        "files": sorted({re.sub(r"^\d\d-\w+", "NN-name", name) for run in written.runs for name in files(run)}),
        "folders": sorted({re.sub(r"\d", "0", f"{run.parent.name}/{run.name}") for run in written.runs}),
        "results.json": merged([shape(one) for one in results]),
        "record.json": merged([shape(one) for one in loaded(written, "record.json")]),
        "events.jsonl": dict(sorted(events.items())),
        "junit.xml": {tag: sorted(names) for tag, names in sorted(junit.items())},
        "cells": {kind: merged([shape(p) for p in payloads(written, kind)]) for kind in ("table", "record", "verdict")},
    }
    golden("evidence.json", "the evidence of a run, meshkit.results/1", found)


def files(run: Path) -> list[str]:
    """Return the files of a run but for its tables."""
    names = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    return [name if not name.startswith("tables/") else "tables/NAME.csv" for name in names]


JOURNAL = GOLDEN / "journals" / "actions"
"""One change of each action, in each state that a journal can leave it in."""


def play(mesh: Mesh) -> None:
    """Make one change of each action and note it, as the stages do; what stands before is others'."""
    east = mesh.clusters["east"]
    for name in (SPACE, SYSTEM):
        create(east, core("Namespace", name, ""))
    create(east, config_map("old", SPACE, a="1"))
    create(east, core("Secret", "gone", SPACE, stringData={"key": "value"}))
    create(east, deployment("app", SPACE))
    east.apply(istiod("Kubernetes"), manager="istio-operator")

    def change(stage: str, want: Callable[[Plan], None], *, temporary: bool = False) -> None:
        plan = Plan(mesh, stage, temporary=temporary)
        want(plan)
        plan.carry_out("apply", journal=RUN)

    wide, narrow = (
        core("Secret", "cacerts", SYSTEM, data={"root-cert.pem": text}) for text in ("d2lkZQ==", "bmFycm93")
    )
    remote = labelled(core("Secret", "istio-remote-secret-west", SYSTEM, data={"west": "d2VzdA=="}), **READ)
    change("02 prepare", lambda plan: plan.apply("east", config_map("new", SPACE, a="1"), "it is new"))
    change("02 prepare", lambda plan: plan.apply("east", config_map("old", SPACE, b="2"), "it is changed"))
    change("02 prepare", lambda plan: plan.apply("east", config_map("used", SPACE, a="1"), "others use it later"))
    change("04 trust", lambda plan: plan.apply("east", wide, "widen: its proxies trust both"))
    change("04 trust", lambda plan: plan.restart("east", "Deployment", SYSTEM, "istiod", "it takes them at its start"))
    change("04 trust", lambda plan: plan.apply("east", narrow, "sign: the new one signs"))
    installed(mesh)
    change("05 install", lambda plan: plan.restart("east", "Deployment", SPACE, "app", "it claims another id"))
    change("06 gateways", lambda plan: plan.patch("east", labelled(config_map("old", SPACE), n="1"), "it is labelled"))
    change("07 discovery", lambda plan: plan.apply("east", remote, "it reads west"))
    change("07 discovery", lambda plan: plan.delete("east", core("Secret", "gone", SPACE), "it is replaced"))
    change("10 shift", lambda plan: plan.scale("east", "Deployment", SPACE, "app", 1, "for a while"), temporary=True)
    change("10 shift", lambda plan: plan.scale("east", "Deployment", SPACE, "app", 1, "for good"))
    edit(east, config_map("used", SPACE, b="theirs"))
    book = Journal.open("shop", RUN)
    book.failed(begun(book, "create", config_map("refused", SPACE)), "the server refused it")
    begun(book, "create", config_map("killed", SPACE))
    with (book.folder / "journal.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"event": "done", "n')


READ = {"istio/multiCluster": "true"}


def istiod(cluster_id: str) -> Object:
    """Return istiod's Deployment with a cluster id."""
    manifest = deployment("istiod", SYSTEM, labels={"app": "istiod", "istio.io/rev": "default"})
    environment = [{"name": "CLUSTER_ID", "value": cluster_id}]
    manifest["spec"]["template"]["spec"]["containers"] = [{"name": "discovery", "image": "none", "env": environment}]
    return manifest


def begun(book: Journal, action: str, manifest: Object, before: Object | None = None, **more: Any) -> Any:
    """Note a change as begun."""
    place = manifest["metadata"]
    facts = {"stage": "10 shift", "cluster": "east", "action": action, "why": "the test", "manager": "meshkit"}
    facts |= {"object": f"{manifest['kind']} {place['namespace']}/{place['name']}", "temporary": False, **more}
    return book.begin({"before": [before], "manifests": [manifest]}, **facts)


def installed(mesh: Mesh) -> None:
    """Note what istioctl's installation over another cluster id changes; it is not run, for no node runs a pod."""
    east, book, manifest = mesh.clusters["east"], Journal.open("shop", RUN), istiod("east")
    before = live(east, manifest)
    about = {"stage": "05 install", "object": "Istio (profile default)", "manager": "istio-operator"}
    entry = begun(book, "install", manifest, before, **about)
    east.apply(manifest, manager="istio-operator")
    book.done(entry, [live(east, manifest)])


def standing(mesh: Mesh) -> dict[str, Any]:
    """Return what is left of all that, with what was changed of it; nothing for what is not there."""
    east = mesh.clusters["east"]
    manifests = [config_map(name, SPACE) for name in ("new", "used", "old", "refused", "killed")]
    manifests += [core("Secret", name, space) for name, space in (("gone", SPACE), ("cacerts", SYSTEM))]
    manifests += [core("Secret", "istio-remote-secret-west", SYSTEM), deployment("app", SPACE), istiod("")]
    return {
        f"{m['kind']} {m['metadata']['name']}": fields(live(east, m)) if there(east, m) else None for m in manifests
    }


def fields(obj: Object) -> dict[str, Any]:
    """Return what the changes are about of an object."""
    spec = obj.get("spec")
    if spec is None:
        return {"data": obj["data"], "labels": obj["metadata"].get("labels")}
    template = spec["template"]
    container = {key: template["spec"]["containers"][0].get(key) for key in ("args", "env")}
    return {"replicas": spec["replicas"], "annotations": template["metadata"].get("annotations"), **container}


def bare(value: Any) -> Any:
    """Return a value without what the server keeps for itself, and without moments."""
    if isinstance(value, dict):
        return {key: bare(item) for key, item in value.items() if key not in SERVERS}
    if isinstance(value, list):
        return [bare(item) for item in value]
    return "TIME" if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\dT", value) else value


def read(folder: Path) -> dict[str, Any]:
    """Return the lines of a journal and its store, without moments and whose cluster it was."""
    text = (folder / "journal.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    for about in (line for line in lines if "clusters" in line):
        about["clusters"] = dict.fromkeys(about["clusters"], UID)
    store = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("0*.json"))}
    return {"lines": bare(lines), "store": bare(store)}


def test_journal(written: Written) -> None:
    """Today's program notes what the golden journal notes, line by line, and keeps for undo what that keeps.

    More is fine. The golden journal stays as it is: people have such journals. `--update-golden` never touches it.
    """
    lost = [line for line in differences(read(JOURNAL), read(written.journal)) if not line.startswith("added: ")]
    if lost:
        pytest.fail(
            "\n  ".join(["contract broken: the journal's schema (tests/api_server/golden/journals)", *lost]),
            pytrace=False,
        )


def test_private_store(golden: Callable[[str, str, Any], None], written: Written) -> None:
    """Names and modes of what undo needs, in $XDG_STATE_HOME/meshkit/changes."""
    golden("private-store.json", "the private store", written.modes)


def test_undo_of_an_old_journal(golden: Callable[[str, str, Any], None], written: Written) -> None:
    """Today's undo reads the golden journal, plans the same steps from it, and leaves what stood before."""
    entries, plan = (rows(written.undo_plan / "tables" / f"{name}.csv") for name in ("journal-entries", "plan"))
    found = {
        "entries": {row["n"]: f"{row['stage']}: {row['action']} {row['object']}: {row['event']}" for row in entries},
        "kept": {row["n"]: row["object"] for row in entries if row["kept"]},
        "steps": {row["n"]: f"{row['cluster']}: {row['action']} {row['object']}" for row in plan},
    }
    golden("undo.json", "the undo of a journal", {**found, "left": written.left})


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_whose_hand_it_is(written: Written) -> None:
    """Field manager `meshkit`, and the label by which all that it makes can be found."""
    made = json.loads((written.journal / "0001.json").read_text(encoding="utf-8"))["after"][0]["metadata"]
    assert {entry["manager"] for entry in made["managedFields"]} == {"meshkit"}
    assert made["labels"] == {"app.kubernetes.io/managed-by": "meshkit"}
