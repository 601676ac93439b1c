"""Where every audio file and every row of the label tables went when a folder was packed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from data_util.pack_labels import Wanted

PACKED, NO_LABEL, NO_AUDIO, DUPLICATE, LATE = "packed", "no label", "no audio", "duplicate", "after 10 s"


@dataclass(frozen=True)
class Account:
    """Audio files and rows by what became of them; each counts once."""

    files: Mapping[str, int]
    rows: Mapping[str, int]

    def lines(self) -> list[str]:
        """For the screen: each line begins with the sum of its parts."""
        return [_line("audio files", self.files), _line("table rows", self.rows)]


def _line(what: str, counts: Mapping[str, int]) -> str:
    order = (PACKED, NO_LABEL, NO_AUDIO, DUPLICATE, LATE)
    names = [name for name in (*order, *sorted(counts.keys() - set(order))) if counts.get(name)]
    return f"{sum(counts.values())} {what}: {', '.join(f'{counts[name]} {name}' for name in names) or 'none'}"


def account(
    wanted: Wanted, files: Mapping[str, Sequence[str]], n_files: int, packed: Iterable[str], why: Mapping[str, str]
) -> Account:
    """Count.

    Args:
        wanted: what the tables ask for.
        files: clip -> its files, of which the first was to be packed.
        n_files: audio files in the folder.
        packed: clips in the output.
        why: clip -> what kept it out, such as `unreadable`.
    """
    done = set(packed)
    fate = {clip: PACKED if clip in done else why.get(clip, "unreadable") for clip in files}
    of_files = Counter(fate.values())
    of_files[DUPLICATE] = sum(len(paths) - 1 for paths in files.values())
    of_files[NO_LABEL] = n_files - of_files.total()
    of_rows = Counter({DUPLICATE: wanted.repeated_rows})
    for clip in wanted.clips:
        fate_of_clip = fate.get(clip.clip_id, NO_AUDIO)
        late = clip.n_late if fate_of_clip == PACKED else 0
        of_rows[LATE] += late
        of_rows[fate_of_clip] += clip.n_rows - late
    return Account(of_files, of_rows)
