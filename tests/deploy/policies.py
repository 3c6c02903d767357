"""What AWS's policy documents permit: the rules of IAM, as far as the policies of `deploy/iam` go.

A request is permitted if some statement allows it and none denies it. What is not known here (an
operator, an element) is an error, never a permission.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

IAM = Path(__file__).parents[2] / "deploy" / "iam"
ACCOUNT = "111122223333"
Document = dict[str, Any]
_ELEMENTS = {
    "Sid",
    "Effect",
    "Principal",
    "Action",
    "NotAction",
    "Resource",
    "NotResource",
    "Condition",
}


@dataclass(frozen=True, slots=True)
class Request:
    """One action that somebody wants to do with one resource."""

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)
    """Condition keys; what is not there is absent, as in AWS."""


def policy(name: str) -> Document:
    """A document of `deploy/iam`."""
    document: Document = json.loads((IAM / f"{name}.json").read_text())
    assert document["Version"] == "2012-10-17"
    return document


def role_arn(role: str) -> str:
    """Of a role of `deploy/iam`, named as its policy is: `nightly`."""
    return f"arn:aws:iam::{ACCOUNT}:role/moa-{role}"


def permits(document: Document, request: Request) -> bool:
    """Whether an identity's policy permits a request."""
    effects = effects_of(document, request)
    return "Allow" in effects and "Deny" not in effects


def effects_of(document: Document, request: Request) -> set[str]:
    """The effects of those statements that a request falls under."""
    return {one["Effect"] for one in document["Statement"] if _meets(one, request)}


def listed(value: str | list[str]) -> list[str]:
    """An element's values: JSON has one of them as it is."""
    return [value] if isinstance(value, str) else list(value)


def allowed(document: Document) -> list[tuple[str, str]]:
    """Each action with each resource that a policy allows."""
    return [
        (action, resource)
        for one in document["Statement"]
        if one["Effect"] == "Allow"
        for action in listed(one["Action"])
        for resource in listed(one["Resource"])
    ]


def only(action: str, resource: str) -> Document:
    """A policy that allows nothing else."""
    return {"Statement": [{"Effect": "Allow", "Action": action, "Resource": resource}]}


def without(document: Document, action: str, resource: str) -> Document:
    """A policy that allows all but this."""
    left = [one for one in allowed(document) if one != (action, resource)]
    assert len(left) == len(allowed(document)) - 1
    return {"Statement": [only(*one)["Statement"][0] for one in left]}


def _meets(statement: Document, request: Request) -> bool:
    unknown = statement.keys() - _ELEMENTS
    assert not unknown, f"this test does not know {unknown}"
    if not _named(statement, "Action", request.action.lower()):
        return False
    if not _named(statement, "Resource", request.resource):
        return False
    principal = statement.get("Principal", "*")
    if principal != "*" and not _is_principal(principal, request.context):
        return False
    return all(
        _condition(operator, key, listed(values), request.context)
        for operator, keys in statement.get("Condition", {}).items()
        for key, values in keys.items()
    )


def _named(statement: Document, element: str, value: str) -> bool:
    """Whether a statement's element has the value, or its `Not…` has it not. A policy of trust
    names no resource: it is the role itself.
    """
    if negated := statement.get(f"Not{element}"):
        return not _any_like(value, _patterns(element, negated))
    return element not in statement or _any_like(value, _patterns(element, statement[element]))


def _patterns(element: str, values: str | list[str]) -> list[str]:
    """Actions are the same in small letters, names of resources are not."""
    return [one.lower() if element == "Action" else one for one in listed(values)]


def _is_principal(principal: Mapping[str, str | list[str]], context: Mapping[str, str]) -> bool:
    found = {
        "AWS": context.get("aws:PrincipalArn"),
        "Federated": context.get("aws:FederatedProvider"),
        "Service": context.get("aws:PrincipalServiceName"),
    }
    return any(
        one in ("*", found[kind]) for kind, names in principal.items() for one in listed(names)
    )


def _condition(operator: str, key: str, values: list[str], context: Mapping[str, str]) -> bool:
    """One line of a condition; several values are alternatives, and `Not` has to miss all."""
    name = operator.removesuffix("IfExists")
    found = context.get(key)
    if found is None:
        # Negated operators hold for a key that is absent, others do not.
        return name != operator or "Not" in name
    match name:
        case "StringEquals" | "ArnEquals":
            return found in values
        case "StringNotEquals" | "ArnNotEquals":
            return found not in values
        case "StringLike" | "ArnLike":
            return _any_like(found, values)
        case "StringNotLike" | "ArnNotLike":
            return not _any_like(found, values)
        case "Bool":
            return found.lower() in [value.lower() for value in values]
        case _:
            raise AssertionError(f"this test does not know the operator {operator}")


def _any_like(text: str, patterns: Iterable[str]) -> bool:
    """Whether `text` is as one of the patterns, in which `*` is any text and `?` any letter."""
    return any(
        re.fullmatch(re.escape(one).replace(r"\*", ".*").replace(r"\?", "."), text, re.DOTALL)
        for one in patterns
    )
