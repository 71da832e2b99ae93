"""Label selectors, evaluated as Kubernetes does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Labels = Mapping[str, str]


def matches(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Return whether a label selector selects these labels; the empty one selects all.

    Source: LabelSelectorAsSelector, k8s.io/apimachinery/pkg/apis/meta/v1: all parts must hold, and NotIn holds of a
    label that is not there.
    """
    wanted = selector.get("matchLabels") or {}
    return wanted.items() <= labels.items() and all(
        _expression(e, labels) for e in selector.get("matchExpressions") or []
    )


def _expression(expression: Mapping[str, Any], labels: Labels) -> bool:
    key, values = expression["key"], expression.get("values") or []
    return {
        "In": labels.get(key) in values,
        "NotIn": labels.get(key) not in values,
        "Exists": key in labels,
        "DoesNotExist": key not in labels,
    }[expression["operator"]]


def valid(selector: Mapping[str, Any]) -> bool:
    """Return whether Kubernetes takes a label selector: a key, and values for In and NotIn, but not for the others."""
    wanted = {"In": True, "NotIn": True, "Exists": False, "DoesNotExist": False}
    return all(
        e.get("key") and wanted.get(str(e.get("operator"))) is bool(e.get("values"))
        for e in selector.get("matchExpressions") or []
    )
