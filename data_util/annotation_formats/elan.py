"""Annotation documents of ELAN (`.eaf`).

Format: https://www.mpi.nl/tools/elan/EAF_Annotation_Format_3.0_and_ELAN.pdf
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote
from xml.etree import ElementTree

from data_util.annotation_formats.tiers import Tier, chosen_tiers
from data_util.own_annotations import Row, Source, checked_event, recordings_of
from errors import UserError

_ROOT = "ANNOTATION_DOCUMENT"
_MILLISECONDS = r"-?[0-9]{1,15}"
_ALIGNED, _REFERRING = "ALIGNABLE_ANNOTATION", "REF_ANNOTATION"


def fits(text: str) -> bool:
    """Whether the root of the XML is ELAN's."""
    return text.lstrip().startswith("<") and f"<{_ROOT}" in text[:10_000]


def rows(source: Source) -> list[Row]:
    """Rows of the annotations of all tiers that depend on no other one.

    The label is the value of the annotation. A tier in which no annotation has a value names the class itself.

    Raises:
        UserError: no XML, an entity (ELAN writes none), an annotation without times, an empty label, bad times.
    """
    source.refuse_group_column()
    root = _parse(source)
    header = root.find("HEADER")
    units = "milliseconds" if header is None else header.get("TIME_UNITS", "milliseconds")
    if units != "milliseconds":
        raise UserError(f"{source.path} counts time in {units}; save it in ELAN with media in milliseconds")
    name, origin = _media(root, source)
    times = {slot.get("TIME_SLOT_ID", ""): slot.get("TIME_VALUE", "") for slot in root.iterfind("TIME_ORDER/TIME_SLOT")}
    annotations = {a.get("ANNOTATION_ID", ""): a for a in root.iterfind("TIER/ANNOTATION/*")}
    tiers = [_tier(tier, source, name, origin, times, annotations) for tier in root.iterfind("TIER")]
    return chosen_tiers(source, tiers)


def _parse(source: Source) -> ElementTree.Element:
    if "<!DOCTYPE" in source.text or "<!ENTITY" in source.text:
        raise UserError(f"cannot read {source.path}: it declares entities, which ELAN does not write")
    try:
        return ElementTree.fromstring(source.text.lstrip())
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(f"cannot read {source.path}: it is not an annotation document of ELAN ({error})") from None


def _media(root: ElementTree.Element, source: Source) -> tuple[str, int]:
    """Recording that the document is about, and the milliseconds of it that lie before time 0 of the document."""
    media = root.find("HEADER/MEDIA_DESCRIPTOR")
    if media is None:
        return source.name, 0
    origin = media.get("TIME_ORIGIN", "0").strip()
    place = unquote(media.get("MEDIA_URL") or media.get("RELATIVE_MEDIA_URL") or "").removeprefix("file:")
    if place and not source.beside:
        place = recordings_of(source, {place: str(source.path)})[place]
    return source.name if source.beside or not place else place, int(origin) if re.fullmatch(
        _MILLISECONDS, origin
    ) else 0


def _tier(
    tier: ElementTree.Element,
    source: Source,
    name: str,
    origin: int,
    times: Mapping[str, str],
    annotations: Mapping[str, ElementTree.Element],
) -> Tier:
    tier_name = tier.get("TIER_ID", "").strip()
    found = list(tier.iterfind("ANNOTATION/*"))
    labels = [" ".join((a.findtext("ANNOTATION_VALUE") or "").split()) for a in found]
    if not any(labels):
        labels = [tier_name] * len(labels)
    dependent = tier.get("PARENT_REF") is not None
    wanted = source.label_column is not None and source.label_column.strip().lower() == tier_name.lower()
    if dependent and not wanted:
        return Tier(tier_name, [Row(name, str(source.path))] if found else [], main=False)
    rows = []
    for annotation, label in zip(found, labels, strict=True):
        where = f"{source.path}, tier {tier_name!r}, annotation {annotation.get('ANNOTATION_ID')}"
        onset, offset = (_seconds(times.get(slot, ""), origin, where) for slot in _slots(annotation, annotations))
        rows.append(Row(name, where, *checked_event(onset, offset, label, where)))
    return Tier(tier_name, rows, main=not dependent)


def _slots(annotation: ElementTree.Element, annotations: Mapping[str, ElementTree.Element]) -> tuple[str, str]:
    """Names of its time slots; of an annotation that refers to another one, those of the latter."""
    current: ElementTree.Element | None = annotation
    for _ in range(len(annotations) + 1):  # a chain visits each annotation once, unless it is a circle
        if current is None or current.tag == _ALIGNED:
            break
        current = annotations.get(current.get("ANNOTATION_REF", ""))
    if current is None or current.tag != _ALIGNED:
        return "", ""
    return current.get("TIME_SLOT_REF1", ""), current.get("TIME_SLOT_REF2", "")


def _seconds(milliseconds: str, origin: int, where: str) -> str:
    if not re.fullmatch(_MILLISECONDS, milliseconds):
        raise UserError(f"{where}: it has no time of its own; choose another tier with --label_column")
    return f"{(int(milliseconds) + origin) / 1000:.3f}"
