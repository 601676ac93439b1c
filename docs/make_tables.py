"""Write the tables of README.md that come from the code: released checkpoints, options.

python docs/make_tables.py            write them between their markers
python docs/make_tables.py --check    exit code 1 if the README is not up to date
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import config  # noqa: E402
from helpers.model_table import markdown, model_rows  # noqa: E402
from models.cards import Card, cards  # noqa: E402
from models.listing import HEADER  # noqa: E402

README = ROOT / "README.md"


def _row(*cells: object) -> str:
    return "| " + " | ".join("" if cell is None else str(cell).replace("|", "\\|") for cell in cells) + " |"


def _table(header: tuple[str, ...], rows: list[str]) -> str:
    return "\n".join([_row(*header), "|" + "---|" * len(header), *rows])


def _sequence(card: Card) -> str:
    return f"{card.seq_model_type}:{card.seq_model_dim}" if card.seq_model_type else ""


def checkpoints() -> str:
    """All cards: how to ask for them, and what was published about them."""
    rows = [
        _row(
            f"`{c.name}`",
            c.backbone,
            _sequence(c),
            f"`{c.stage}`",
            c.psds1,
            c.map,
            _number(c.max_lr),
            _number(c.seq_lr),
        )
        for c in cards().values()
    ]
    header = ("checkpoint", "`--model_name`", "sequence model", "`--pretrained`", "PSDS1", "mAP", "max_lr", "seq_lr")
    return _table(header, rows)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"


def _default(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else f"`{value}`"


def options_of(cls: type) -> Callable[[], str]:
    """Table of the options of one script."""

    def table() -> str:
        rows = []
        for f in dataclasses.fields(cls):
            default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            choices = f" ({', '.join(f.metadata['choices'])})" if f.metadata["choices"] else ""
            if f.metadata["choices"] == config.sequence_models():  # a new one is not to touch the README
                choices = " ([which](docs/sequence_models.md))"
            rows.append(_row(f"`--{f.name}`", _default(default), f.metadata["help"] + choices))
        return _table(("option", "default", "meaning"), rows)

    return table


def models() -> str:
    """Cost of every model and its published result."""
    return markdown(HEADER, model_rows())


TABLES: dict[str, Callable[[], str]] = {
    "models": models,
    "checkpoints": checkpoints,
    "options": options_of(config.StrongOptions),
}


def filled(text: str) -> str:
    """The README's text with all tables made anew."""
    for name, make in TABLES.items():
        pattern = rf"(<!-- table:{name} -->\n).*?(<!-- end -->)"
        table = make()
        parts = re.split(pattern, text, flags=re.DOTALL)
        if len(parts) != 4:
            raise SystemExit(f"README.md needs one pair of markers for the table '{name}', it has {len(parts) // 3}")
        text = f"{parts[0]}{parts[1]}{table}\n{parts[2]}{parts[3]}"
    return text


def main() -> None:
    """Write or check the README."""
    text = README.read_text(encoding="utf-8")
    new = filled(text)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if new == text else "README.md is not up to date: python docs/make_tables.py")
    README.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
