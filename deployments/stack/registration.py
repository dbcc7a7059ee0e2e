"""The job that registers every deployment with the stack's Prefect server, then ends."""

from trimtab.settings import Settings


def main() -> None:
    """Register what `deployments.occasions` lists; it may be run again at any time."""
    from deployments.occasions import register

    register(Settings())


if __name__ == "__main__":
    main()
