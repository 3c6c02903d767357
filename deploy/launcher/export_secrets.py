"""Secrets of a cloud's store as `export NAME=VALUE` lines for a node's shell, which starts Ray.

    eval "$(python export_secrets.py aws us-west-2 moa/ray-token moa/vendor-keys)"
    eval "$(python export_secrets.py gcp example-project moa-ray-token moa-vendor-keys)"

Each secret is a JSON object of names and values. Whoever the machine is (its instance profile or
service account) must be permitted to read it. Nothing is printed unless all of them were read.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
import sys
from collections.abc import Callable

_NAME = re.compile(r"[A-Z_][A-Z0-9_]*")


def of_aws(region: str, secret: str) -> str:
    """A secret's text, from Secrets Manager."""
    import boto3

    client = boto3.client("secretsmanager", region_name=region)
    return str(client.get_secret_value(SecretId=secret)["SecretString"])


def of_gcp(project: str, secret: str) -> str:
    """A secret's text, from Secret Manager: its latest version."""
    import google.auth
    from google.auth.transport.requests import AuthorizedSession

    scope = "https://www.googleapis.com/auth/cloud-platform"
    session = AuthorizedSession(google.auth.default(scopes=[scope])[0])
    place = f"projects/{project}/secrets/{secret}/versions/latest"
    answer = session.get(f"https://secretmanager.googleapis.com/v1/{place}:access", timeout=30)
    if answer.status_code != 200:
        raise OSError(f"{place}: {answer.status_code} {answer.reason}")
    return base64.b64decode(answer.json()["payload"]["data"]).decode()


STORES: dict[str, Callable[[str, str], str]] = {"aws": of_aws, "gcp": of_gcp}


def exports(text: str) -> list[str]:
    """A line for each name of a secret.

    Raises:
        ValueError: it is no JSON object of names of variables and texts; the message has no value.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict) or not found:
        raise ValueError('should be a JSON object such as {"OPENAI_API_KEY": …}')
    for name, value in found.items():
        if not _NAME.fullmatch(name) or not isinstance(value, str):
            raise ValueError(f"{name!r} should be a variable's name with a text")
    return [f"export {name}={shlex.quote(value)}" for name, value in found.items()]


def main(store: str, where: str, *secrets: str) -> None:
    """Print all of them, or exit with what is wrong."""
    lines = []
    for one in secrets:
        try:
            lines += exports(STORES[store](where, one))
        except Exception as error:  # whatever the store's client raises: the node must not start
            sys.exit(f"secret {one}: {type(error).__name__}: {error}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
