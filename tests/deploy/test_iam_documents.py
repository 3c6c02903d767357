"""What the documents of `deploy/iam` allow and forbid, as they are written."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace

import boto3
import moto.iam.aws_managed_policies
import pytest
import yaml

from tests.deploy.cloud import LOGS, ROLES, ROUTING, RUN
from tests.deploy.policies import (
    IAM,
    Document,
    Request,
    allowed,
    effects_of,
    listed,
    permits,
    policy,
    role_arn,
)
from tests.jobs.conftest import ROOT

ADMIN = "arn:aws:iam::111122223333:role/bucket-admin"
ARN = f"arn:aws:s3:::{ROUTING}"


@pytest.mark.parametrize("name", sorted(path.stem for path in IAM.glob("*.json")))
def test_a_policy_names_real_actions_and_no_more_than_it_needs(name: str) -> None:
    known = moto.iam.aws_managed_policies.aws_managed_policies_data
    document = policy(name)

    assert len(json.dumps(document, separators=(",", ":"))) < 6144  # of a managed policy; IAM's
    for statement in document["Statement"]:
        actions = listed(statement.get("Action", statement.get("NotAction")))
        assert statement["Effect"] == "Deny" or not any("*" in action for action in actions)
        assert all(f'"{action}"' in known or is_trust(action) for action in actions)
        if statement["Effect"] == "Allow" and "Principal" not in statement:
            assert all(one.count("*") <= 2 for one in listed(statement["Resource"]))


def is_trust(action: str) -> bool:
    """Whether it is how a role is taken, of which no policy of AWS's own is an example."""
    operations = boto3.client("sts", region_name="us-east-1").meta.service_model.operation_names
    return action.startswith("sts:AssumeRole") and action.removeprefix("sts:") in operations


@pytest.mark.parametrize(
    ("role", "action", "key"),
    [
        ("nightly", "s3:PutObject", "routers/promotions/000009.json"),
        ("nightly", "s3:PutObject", "outcomes/graded_outcomes.parquet/date=2026-11-26/x.parquet"),
        ("nightly", "s3:DeleteObject", f"runs/{RUN}/manifest.json"),
        ("nightly", "s3:DeleteObject", f"runs/{RUN}/outcomes/0.parquet"),
        ("training", "s3:PutObject", f"runs/{RUN}/outcomes/0.parquet"),
        ("training", "s3:PutObject", "routers/promotions/000009.json"),
        ("training", "s3:DeleteObject", "outcomes/graded_outcomes.parquet/x.parquet"),
        ("promotion", "s3:PutObject", "candidates/second/weights.safetensors"),
        ("promotion", "s3:PutObject", "evaluations/second/verdict.json"),
        ("endpoint", "s3:GetObject", f"runs/{RUN}/queries/0.parquet"),
        ("endpoint", "s3:GetObject", "endpoint/asked/0.parquet"),
        ("endpoint", "s3:PutObject", "routers/promotions/000009.json"),
    ],
)
def test_a_role_may_not_do_what_another_may(role: str, action: str, key: str) -> None:
    request = Request(action, f"{ARN}/{key}", context_of(role))

    assert not permits(policy(f"aws_{role}"), request)


@pytest.mark.parametrize("bucket", [LOGS, ROUTING])
@pytest.mark.parametrize("who", ["plain HTTP", "nobody", "another role", "another account"])
def test_a_bucket_is_closed_to_all_but_its_own_roles_over_tls(bucket: str, who: str) -> None:
    context = context_of("nightly")
    match who:
        case "plain HTTP":
            context["aws:SecureTransport"] = "false"
        case "nobody":
            del context["aws:PrincipalArn"]
        case "another role":
            context = context_of("intern")
        case _:
            context["aws:PrincipalArn"] = "arn:aws:iam::999999999999:role/moa-nightly"
    guard = policy("bucket_policy" if bucket == ROUTING else "bucket_policy_logs")
    request = Request("s3:GetObject", f"arn:aws:s3:::{bucket}/nightly/0.parquet", context)

    assert effects_of(guard, request) == {"Deny"}
    assert effects_of(guard, replace(request, context=context_of("nightly"))) == set()


def context_of(role: str) -> dict[str, str]:
    """Of a request over TLS."""
    return {"aws:SecureTransport": "true", "aws:PrincipalArn": role_arn(role)}


@pytest.mark.parametrize(
    ("role", "action", "key"),
    [
        ("nightly", "s3:DeleteObject", "outcomes/graded_outcomes.parquet/x.parquet"),
        ("training", "s3:PutObject", "routers/promotions/000009.json"),
        ("training", "s3:DeleteObjectVersion", "outcomes/lock.json"),
        ("promotion", "s3:DeleteObject", "routers/promotions/000001.json"),
        ("nightly", "s3:PutBucketPolicy", ""),
    ],
)
def test_a_bucket_keeps_what_counts_even_from_a_role_that_was_given_too_much(
    role: str, action: str, key: str
) -> None:
    guard = policy("bucket_policy")
    request = Request(action, f"{ARN}/{key}".rstrip("/"), context_of(role))
    admin = {**context_of(role), "aws:PrincipalArn": ADMIN}

    assert effects_of(guard, request) == {"Deny"}
    assert effects_of(guard, replace(request, context=admin)) == set()


@pytest.mark.parametrize(
    ("role", "account_name", "permitted"),
    [
        ("nightly", "moa:nightly", True),
        ("nightly", "moa:endpoint", False),
        ("nightly", "other:nightly", False),
        ("endpoint", "moa:endpoint-head", True),
        ("endpoint", "moa:endpoint", True),
        ("endpoint", "moa:nightly", False),
    ],
)
def test_only_its_own_service_accounts_may_take_a_role(
    role: str, account_name: str, permitted: bool
) -> None:
    trust = policy(f"trust_irsa_{role}")
    request = token_of(trust, f"system:serviceaccount:{account_name}")

    assert permits(trust, request) is permitted
    assert not permits(trust, token_of(trust, f"system:serviceaccount:{account_name}", "other"))


def token_of(trust: Document, subject: str, audience: str = "sts.amazonaws.com") -> Request:
    """What EKS's token of a service account asks for."""
    provider = trust["Statement"][0]["Principal"]["Federated"]
    issuer = provider.partition("/")[2]
    context = {
        "aws:FederatedProvider": provider, f"{issuer}:sub": subject, f"{issuer}:aud": audience
    }  # fmt: skip
    return Request("sts:AssumeRoleWithWebIdentity", "", context)


def test_the_manifests_roles_may_be_taken_by_their_service_accounts() -> None:
    found = yaml.safe_load_all((ROOT / "deploy/kuberay/overlays/aws/roles.yaml").read_text())

    for account in found:
        meta = account["metadata"]
        role = meta["annotations"]["eks.amazonaws.com/role-arn"].rpartition("/moa-")[2]
        trust = policy(f"trust_irsa_{role}")
        subject = f"system:serviceaccount:{meta['namespace']}:{meta['name']}"
        assert permits(trust, token_of(trust, subject)), subject


@pytest.mark.parametrize(
    ("role", "action", "key"),
    [
        ("nightly", "s3:GetObject", "queries.path"),
        ("nightly", "s3:PutObject", "run.folder"),
        ("nightly", "s3:GetObject", "router.artifact"),
        ("endpoint", "s3:GetObject", "router.artifact"),
        ("endpoint", "s3:PutObject", "access.spent_folder"),
        ("endpoint", "s3:PutObject", "feedback.folder"),
    ],
)
def test_the_manifests_configs_name_places_that_their_role_may_use(
    role: str, action: str, key: str
) -> None:
    config = tomllib.loads((ROOT / f"deploy/kuberay/base/{role}.toml").read_text())
    section, name = key.split(".")
    place = config[section][name].removeprefix("s3://").rstrip("/")
    inside = {
        "access.spent_folder": "spent/2026-11-26.json",
        "feedback.folder": "graded_outcomes.parquet/0.parquet",
    }.get(key, "any/file")

    assert permits(policy(f"aws_{role}"), Request(action, f"arn:aws:s3:::{place}/{inside}"))


@pytest.mark.parametrize("role", ROLES)
def test_a_role_on_google_cloud_has_what_its_policy_for_aws_comes_to(role: str) -> None:
    needed = {
        "s3:ListBucket": {"storage.buckets.get", "storage.objects.list"},
        "s3:GetObject": {"storage.objects.get"},
        "s3:PutObject": {"storage.objects.create", "storage.objects.delete"},
        "s3:DeleteObject": {"storage.objects.delete"},
    }
    given = yaml.safe_load((IAM / f"gcp_{role}.yaml").read_text())

    actions = {action for action, _ in allowed(policy(f"aws_{role}"))}
    assert given.keys() == {"title", "description", "stage", "includedPermissions"}
    assert set(given["includedPermissions"]) == set().union(*(needed[one] for one in actions))


def test_every_file_of_the_folder_is_told_of() -> None:
    told = (IAM / "README.md").read_text()

    assert [path.name for path in IAM.iterdir() if path.name not in told] == ["README.md"]
