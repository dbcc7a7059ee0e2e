"""Replace the model servers one after the other without losing a request: `python3 infra/compose/rolling_restart.py
[SERVICE...]`.

Each is drained in the proxy (it gets nothing new, and has answered what it had), made anew from the image and the
settings that Compose has now, and taken in again when it is ready. The first that does not get ready ends it: the
others go on as they were."""

from __future__ import annotations

import sys
import time

from compose_command import Failed, compose

REPLICAS = ("server-1", "server-2", "server-3")


def main(arguments: list[str]) -> int:
    """Roll; 1 when a replica does not come back."""
    for name in arguments or REPLICAS:
        started = time.monotonic()
        try:
            roll(name)
        except Failed as error:
            print(f"{name} was not replaced, and the rest stays as it is: {error}", file=sys.stderr)
            return 1
        print(f"{name} is new after {time.monotonic() - started:.0f} s")
    return 0


def roll(name: str) -> None:
    """Replace one replica. Raises Failed; run again, it begins with draining again."""
    control = ("exec", "-T", "proxy", "python", "/srv/haproxy_control.py")
    compose(*control, "drain", name)
    compose("up", "--detach", "--no-deps", "--no-build", "--force-recreate", "--wait", "--wait-timeout", "120", name)
    compose(*control, "ready", name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
