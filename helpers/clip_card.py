"""The model card of a clip classifier, in place of that of a detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from helpers.cells import markdown_text
from helpers.run_folder import BEST, CONFIG_FILE, ENVIRONMENT_FILE, HISTORY_FILE

if TYPE_CHECKING:
    from config_clipwise import DownstreamOptions


def clip_card(options: DownstreamOptions, classes: tuple[str, ...], figures: Mapping[str, float], scored: str) -> str:
    """A page about the trained model: what it is, how it was made, how well it does, how to use it.

    Args:
        options: of the run, for one fold.
        classes: names of the classes.
        figures: final scores.
        scored: which clips and weights these belong to.
    """
    task, fold = options.row, options.folds[0]
    sequence = f" + {options.seq_model_type}:{options.seq_model_dim}" if options.seq_model_type else ""
    scores = "\n".join(f"| {markdown_text(name)} | {value:.4f} |" for name, value in figures.items())
    return f"""# {markdown_text(options.experiment_name)}

{options.model_name}{sequence}; clip-wise logits of the {len(classes)} classes of {task.title} from 16 kHz audio.

- Training: {options.n_epochs} epochs from {markdown_text(options.checkpoint or options.pretrained)}, clips of \
{options.clip_seconds:g} s, loss {task.loss}; fold {fold} of {task.folds} left out; \
data: {markdown_text(options.data_dir)}
- Options: `{CONFIG_FILE}`; software and machine: `{ENVIRONMENT_FILE}`; course of the figures: `{HISTORY_FILE}`
- Limits: classes and recordings are those of {task.title}, and so is its licence; frame-wise logits are not trained.

| figure | {scored} |
| --- | --- |
{scores}

Use: `python ex_downstream.py --task={options.task} --data_dir=DIR --fold={fold} --evaluate --checkpoint={BEST}`,
or `hear_api.load_model("{BEST}")` for embeddings.
"""
