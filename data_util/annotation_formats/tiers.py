"""Which tiers of an annotation hold the labels: the same answer for Praat and ELAN."""

from __future__ import annotations

from dataclasses import dataclass

from data_util.own_annotations import Row, Source
from errors import UserError


@dataclass(frozen=True)
class Tier:
    """A tier with its events; `main`: whether it counts where no tier is named."""

    name: str
    rows: list[Row]
    main: bool = True


def chosen_tiers(source: Source, tiers: list[Tier]) -> list[Row]:
    """Events of the tier that --label_column names, by default of all main ones.

    Raises:
        UserError: no tier has that name.
    """
    if source.label_column is None:
        left_out = [tier.name for tier in tiers if not tier.main and tier.rows]
        if left_out:
            source.note("tiers that depend on others are left out; choose one with --label_column", *left_out)
        return [row for tier in tiers if tier.main for row in tier.rows]
    wanted = source.label_column.strip().lower()
    chosen = [tier for tier in tiers if tier.name.lower() == wanted]
    if not chosen and tiers:
        names = ", ".join(tier.name for tier in tiers)
        raise UserError(f"--label_column is {source.label_column}: {source.path} has the tiers {names}")
    return [row for tier in chosen for row in tier.rows]
