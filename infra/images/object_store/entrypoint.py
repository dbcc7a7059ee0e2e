"""Runs the object store, SeaweedFS with its S3 interface. Accounts come from files in the form of AWS credentials:

    OBJECTS_ACCOUNTS  NAME=FILE=RIGHTS;… with RIGHTS as SeaweedFS names them, e.g. Read:bucket,Write:bucket/folder

Only S3 can be reached from outside the container, as SeaweedFS's other interfaces have no accounts."""

from __future__ import annotations

import configparser
import json
import os
import sys
from pathlib import Path
from typing import Any

from run_with_secrets import UnreadableSecret, read_secret

_ACCOUNTS = Path("/run/scratch/accounts.json")


def main() -> int:
    """Become the store; 2 when a secret is missing."""
    try:
        accounts = [account(*text.split("=")) for text in os.environ["OBJECTS_ACCOUNTS"].split(";")]
    except UnreadableSecret as error:
        print(f"the object store does not start: {error}", file=sys.stderr)
        return 2
    _ACCOUNTS.unlink(missing_ok=True)
    with os.fdopen(os.open(_ACCOUNTS, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"identities": accounts}, file)
    data = os.environ.get("OBJECTS_DATA", "/var/lib/trimtab/data")
    inside = ("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.volumeSizeLimitMB=1024", "-volume.max=0")
    outside = ("-s3", "-s3.port=8333", "-s3.ip.bind=0.0.0.0", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false",
               f"-s3.config={_ACCOUNTS}")  # fmt: skip
    command = ("weed", "-logtostderr=true", "server", f"-dir={data}", *inside, "-filer", *outside)
    return os.execvp(command[0], command)  # nosec B606


def account(name: str, file: str, rights: str) -> dict[str, Any]:
    """An account as SeaweedFS wants it; raises UnreadableSecret."""
    given = configparser.ConfigParser()
    given.read_string(read_secret(name, Path(file)))
    keys = given["default"]
    pair = {"accessKey": keys["aws_access_key_id"], "secretKey": keys["aws_secret_access_key"]}
    return {"name": name, "credentials": [pair], "actions": rights.split(",")}


if __name__ == "__main__":
    sys.exit(main())
