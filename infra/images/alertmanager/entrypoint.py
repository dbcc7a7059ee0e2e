"""Become Alertmanager. Debian's reads no address from a file, so the addresses in the files that its configuration
names (url_file) are written into a copy in memory; a receiver whose file is empty gets nothing, and the log says so."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

_GIVEN, _MADE = Path("/etc/trimtab/alertmanager.yaml"), Path("/run/scratch/alertmanager.yaml")
_WEBHOOK = re.compile(r"webhook_configs: \[\{url_file: (?P<file>[\w.-]+), (?P<rest>[^}]*)\}\]")


def main() -> int:
    """Become Alertmanager; 2 when a file of addresses is missing."""
    folder = Path(os.environ.get("ALERT_ADDRESSES", "/run/secrets"))
    try:
        text = _WEBHOOK.sub(lambda found: _webhook(folder / found["file"], found["rest"]), _GIVEN.read_text())
    except OSError as error:
        print(f"Alertmanager does not start: {error.filename} cannot be read: {error.strerror}", file=sys.stderr)
        return 2
    _MADE.unlink(missing_ok=True)
    with os.fdopen(os.open(_MADE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    command = ("prometheus-alertmanager", f"--config.file={_MADE}", "--storage.path=/var/lib/trimtab/data",
               "--web.listen-address=0.0.0.0:9093", "--cluster.listen-address=")  # fmt: skip
    return os.execvp(command[0], command)  # nosec B606


def _webhook(file: Path, rest: str) -> str:
    address = file.read_text().strip()
    if not address:
        print(f"{file} is empty: alerts of this receiver go nowhere", file=sys.stderr)
        return "webhook_configs: []"
    return f"webhook_configs: [{{url: '{address}', {rest}}}]"


if __name__ == "__main__":
    sys.exit(main())
