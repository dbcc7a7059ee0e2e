"""All generated pages. `tests/test_docs.py` compares them with the committed ones."""

from __future__ import annotations

from tools.reference.command_and_ledger import cli_page, ledger_page
from tools.reference.flows import flows_page
from tools.reference.observability import alerts_page, events_page, metrics_page
from tools.reference.settings import params_page, settings_page
from tools.reference.tables import ROOT

REFERENCE = ROOT / "docs" / "reference"
NOTE = "<!-- Written by tools/reference from the code: run `make reference`, do not edit. -->"


def pages() -> dict[str, str]:
    """The text of each page by its name in docs/reference.

    Raises Incomplete where the code has an event, a table, a key or a variable that is not described, or the other way
    round.
    """
    written = {
        "params.md": params_page(),
        "settings.md": settings_page(),
        "cli.md": cli_page(),
        "flows.md": flows_page(),
        "events.md": events_page(),
        "metrics.md": metrics_page(),
        "alerts.md": alerts_page(),
        "ledger.md": ledger_page(),
    }
    return {name: f"{NOTE}\n\n{text.rstrip()}\n" for name, text in written.items()}
