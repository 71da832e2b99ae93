"""Diffs: what differs is never hidden, what is secret is."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from meshkit.kube.manifests import identify, masked, qualified, unified, without
from tests.support.objects import CANARY, config_map, core, labelled

words = st.text(st.sampled_from("ab \n\t→\x85\u2028:-#"), max_size=8)


data = st.dictionaries(st.sampled_from(["a", "b", "a.b"]), words, max_size=3)


class TestDifference:
    """unified, bare, masked."""

    @given(data, data, st.sampled_from(["ConfigMap", "Secret"]))
    @example({"a": "x \ny"}, {"a": "x\ny"}, "ConfigMap")
    @example({"a": "x\n\ty"}, {"a": "x\n    y"}, "ConfigMap")
    @example({"a": "x\ny"}, {"a": "x\ny\n"}, "ConfigMap")
    @example({"a": "x\x85\n"}, {"a": "x\n\n"}, "ConfigMap")
    def test_there_is_a_diff_if_and_only_if_something_differs(
        self, before: dict[str, str], after: dict[str, str], kind: str
    ) -> None:
        """Blanks at the end of lines count, too: a plan that overlooks a difference never makes it."""
        old, new = (core(kind, "x", data=values) for values in (before, after))
        assert bool(unified(old, new)) == (before != after)

    @given(data, data)
    def test_no_value_of_a_secret_is_shown(self, before: dict[str, str], after: dict[str, str]) -> None:
        """But that it changed is."""
        old, new = (
            core("Secret", "x", data={k: CANARY + v for k, v in values.items()}, stringData={"s": CANARY})
            for values in (before, after)
        )
        assert CANARY not in unified(old, new) + unified(None, new) + unified(old, None) + repr(masked(new))

    def test_lines_of_a_text_are_lines_of_the_diff(self) -> None:
        """One line changed in a configuration is one line in the diff."""
        old, new = (config_map("x", mesh=f"a: 1\nb: {n}\nc: 3\n") for n in (2, 5))
        changed = [line for line in unified(old, new).splitlines() if line[0] in "+-"]
        assert [line.strip("+- ") for line in changed] == ["b: 2", "b: 5"]

    def test_objects_are_called_as_people_call_them(self) -> None:
        """With the namespace, where they have one; kinds with their group."""
        gateway = {"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "g"}}
        assert identify(core("Secret", "cacerts", "istio-system")) == "Secret istio-system/cacerts"
        assert (identify(gateway), qualified(gateway)) == ("Gateway g", "Gateway.v1.networking.istio.io")
        assert qualified(core("Secret", "s")) == "Secret.v1."


class TestOwnership:
    """owned and without, against a server that keeps the books."""

    @given(st.dictionaries(st.sampled_from(["a", "a.b", "b", "a/b.c"]), st.text(max_size=2), min_size=1), st.data())
    def test_a_field_taken_out_leaves_all_others(self, labels: dict[str, str], draw: st.DataObject) -> None:
        """Though one key may begin like another."""
        key = draw.draw(st.sampled_from(sorted(labels)))
        manifest: dict[str, Any] = labelled(config_map("x"), **labels)
        before = json.dumps(manifest)
        rest = without(manifest, [f".metadata.labels.{key}"])
        assert rest["metadata"]["labels"] == {k: v for k, v in labels.items() if k != key}
        assert json.dumps(manifest) == before
