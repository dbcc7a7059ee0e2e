"""Make what the flows need before they run: their account in MLflow and the bucket of the store. A job that ends; safe
to repeat, and a password that was changed in its file is changed in MLflow.

    MLFLOW_TRACKING_URI, MLFLOW_AUTH_ADMIN_PASSWORD_FILE, MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD_FILE
    TRIMTAB_STORE, TRIMTAB_STORE_ENDPOINT and boto3's usual credentials, of an account that may make buckets"""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from run_with_secrets import UnreadableSecret, read_secret


class Refused(Exception):
    """MLflow does not let us; the text says what it answered."""


def main(arguments: list[str]) -> int:
    """Make both, or with the argument `bucket` only that; 1 when one of them is refused, 2 when a secret is missing."""
    if arguments == ["bucket"]:
        print(bucket(os.environ["TRIMTAB_STORE"], os.environ.get("TRIMTAB_STORE_ENDPOINT")))
        return 0
    try:
        admin = read_secret("MLFLOW_AUTH_ADMIN_PASSWORD_FILE", Path(os.environ["MLFLOW_AUTH_ADMIN_PASSWORD_FILE"]))
        password = read_secret("MLFLOW_TRACKING_PASSWORD_FILE", Path(os.environ["MLFLOW_TRACKING_PASSWORD_FILE"]))
        user = os.environ["MLFLOW_TRACKING_USERNAME"]
        print(account(os.environ["MLFLOW_TRACKING_URI"], admin, user, password))
    except UnreadableSecret as error:
        print(f"nothing could be made: {error}", file=sys.stderr)
        return 2
    except Refused as error:
        print(f"the account in MLflow could not be made: {error}", file=sys.stderr)
        return 1
    print(bucket(os.environ["TRIMTAB_STORE"], os.environ.get("TRIMTAB_STORE_ENDPOINT")))
    return 0


def account(mlflow: str, admin: str, user: str, password: str) -> str:
    """Make *user*, or give it that *password*; what was done. Raises Refused."""
    body = {"username": user, "password": password}
    status, text = _ask(f"{mlflow}/api/2.0/mlflow/users/create", "POST", admin, body)
    if status == 200:
        return f"MLflow has an account {user} now"
    if "RESOURCE_ALREADY_EXISTS" not in text:
        raise Refused(f"{status} {text[:300]}")
    status, text = _ask(f"{mlflow}/api/2.0/mlflow/users/update-password", "PATCH", admin, body)
    if status != 200:
        raise Refused(f"{status} {text[:300]}")
    return f"MLflow's account {user} has the password of its file"


def _ask(url: str, method: str, admin: str, body: dict[str, str]) -> tuple[int, str]:
    key = base64.b64encode(f"admin:{admin}".encode()).decode()
    headers = {"Authorization": f"Basic {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # nosec B310 # our own address
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def bucket(store: str, endpoint: str | None) -> str:
    """Make the bucket of *store*, unless it is there; what was done."""
    import boto3
    from botocore.exceptions import ClientError

    name = urlsplit(store).netloc
    client = boto3.client("s3", endpoint_url=endpoint, region_name=os.environ.get("AWS_DEFAULT_REGION", "us-east-1"))
    try:
        client.head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        client.create_bucket(Bucket=name)
        return f"the bucket {name} has been made"
    return f"the bucket {name} is there"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
