"""Write the logits of a teacher, or the mean of several, for all clips of a split: the labels of a distillation.

python make_pseudo_labels.py --data_dir=DIR --teachers BEATs_strong_1 ATST-F_strong_1 --out=teacher.hdf
python make_pseudo_labels.py --data_dir=DIR --teachers runs/a/best.ckpt runs/b/best.ckpt --num_devices=2
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: busy waiting starves the data workers

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import config
import locks
import signals
from errors import UserError, exit_on_user_error, wrong_path

if TYPE_CHECKING:
    from models import SEDModel

log = logging.getLogger("efficientsed")


@dataclass
class PseudoLabelOptions:
    """Write the mean logits of one or several teachers for all clips of a split."""

    data_dir: Path | None = config.option(None, "folder with the HDF5 files (default: variable AUDIOSET_DIR)")
    split: str = config.option("train", "which clips", choices=("train", "eval"))
    clips: str = config.option("strong", "those with strong labels, or all of the split", choices=("strong", "all"))
    teachers: list[str] = config.option([], "checkpoint files of our own training, or names of released checkpoints")
    out: Path = config.option(Path("pseudo_labels.hdf"), "HDF5 to write (223 KB per clip)")
    compact: bool = config.option(False, "write the compact layout: a few KB per clip (docs/data.md)")
    overwrite: bool = config.option(False, "replace that file")
    batch_size: int = config.option(32, "clips per batch and device", low=1)
    num_workers: int = config.option(16, "data loading processes, at most one per core; 0: none", low=0)
    num_devices: int = config.option(1, "devices per node", low=1)
    num_nodes: int = config.option(1, "machines", low=1)
    accelerator: str = config.option("auto", "device to compute on", choices=("auto", "cpu", "cuda", "gpu", "mps"))
    strategy: str = config.option("auto", "how several devices share the work", choices=("auto", "ddp"))
    precision: str = config.option("32", "arithmetic of the networks", choices=config.PRECISIONS)

    def check(self) -> None:
        """Raise UserError where something is missing or in the way."""
        if not self.teachers:
            raise UserError("--teachers is missing: name checkpoint files or released checkpoints")
        config.check_output("out", self.out)
        if self.out.exists() and not self.out.is_file():
            config.refuse("out", self.out, "it is not a regular file; choose another name")


def load_teacher(name: str) -> SEDModel:
    """A detector from a file of our own training, or a released one by the name of its card."""
    from models import cards, create_model, load_model
    from models.checkpoints import read_checkpoint
    from models.registry import unknown_name

    if Path(name).is_file():
        model = load_model(name)
        if "strong_head" in model.untrained or "weak_labels" in read_checkpoint(name)[1]:
            _refuse_clipwise(name)
        model.require_trained("strong_head")
        return model
    if name not in cards():
        if Path(name).suffix:
            raise UserError(f"--teachers is {name}: {wrong_path('file', name)}")
        raise unknown_name("teacher", name, cards())
    card = cards()[name]
    if card.stage in ("ssl", "weak", "clipwise"):
        _refuse_clipwise(name)
    return create_model(
        card.backbone, seq_model_type=card.seq_model_type, seq_model_dim=card.seq_model_dim or 256, pretrained=name
    )


def _refuse_clipwise(name: str) -> NoReturn:
    why = "it scores whole clips and has no trained head for frames, of which the labels are made"
    raise UserError(f"--teachers is {name}: {why}; name a model that was trained on strong labels")


@exit_on_user_error()
def main(argv: Sequence[str] | None = None) -> None:
    """Options -> clips, ensemble, trainer -> parts -> file."""
    options = config.parse(PseudoLabelOptions, sys.argv[1:] if argv is None else argv)
    data_dir = config.data_dir(options.data_dir)

    import pytorch_lightning as pl
    import torch

    from data_util.audioset import AudioSetStrong, AudioSetWeak
    from data_util.loaders import Loader
    from helpers import devices, run
    from helpers.callbacks import KeepSignals
    from helpers.pseudo_labelling import BatchesOfRank, Ensemble, PartFolder, fingerprint
    from helpers.run_folder import global_rank

    run.prepare()
    if global_rank() == 0:
        locks.hold(options.out)
    strong = options.clips == "strong"
    clips = AudioSetStrong(data_dir, options.split) if strong else AudioSetWeak(data_dir, options.split)
    clips.replace_corrupt = False  # such clips are left out: in training, their hard labels stand in
    teachers = [load_teacher(name) for name in options.teachers]

    settings = [options.precision, str(options.batch_size), "compact" if options.compact else "dense"]
    request = "\n".join([*settings, fingerprint(teachers, clips)])
    parts = PartFolder(options.out, request, compact=options.compact)
    if options.out.exists() and not options.overwrite and "RANK" not in os.environ and "LOCAL_RANK" not in os.environ:
        if not parts.is_finished():
            config.refuse("out", options.out, "the file exists, from another request; add --overwrite to replace it")
        log.info("%s is complete, from this very request: nothing to do", options.out)
        return
    parts.prepare()
    n_batches = -(-len(clips) // options.batch_size)
    missing = parts.missing(n_batches)
    log.info("%d clips, %d of %d batches to do, %d teachers", len(clips), len(missing), n_batches, len(teachers))

    device = devices.accelerator(options)  # type: ignore[arg-type]
    trainer = pl.Trainer(
        accelerator=device,
        devices=options.num_devices,
        num_nodes=options.num_nodes,
        strategy=options.strategy,
        precision=devices.precision(options, device),  # type: ignore[arg-type]
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[run.ProgressBar(), KeepSignals()],
    )
    batches = BatchesOfRank(missing, len(clips), options.batch_size)
    workers = devices.n_workers(options)  # type: ignore[arg-type]
    loader = Loader.make(clips, batch_sampler=batches, num_workers=workers, pin_memory=torch.cuda.is_available())
    with signals.telling(lambda: parts.progress(n_batches)):
        if missing:
            trainer.predict(Ensemble(teachers, parts, options.batch_size), loader, return_predictions=False)
        trainer.strategy.barrier()
        names = parts.merge(n_batches) if trainer.is_global_zero else []
    if trainer.is_global_zero:
        log.info("%s: logits of %d clips", options.out, len(names))
        if left_out := sorted(set(clips.clip_ids).difference(names)):
            reasons = "they cannot be decoded, or their logits are not finite"
            log.warning("%d clips are left out (%s): %s", len(left_out), reasons, ", ".join(left_out))


if __name__ == "__main__":
    main()
