"""Write the generated pages of docs/reference."""

from __future__ import annotations

from tools.reference.pages import REFERENCE, pages

for name, text in pages().items():
    (REFERENCE / name).write_text(text, encoding="utf-8")
    print(f"docs/reference/{name}")
