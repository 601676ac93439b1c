"""Options of the experiments: documented fields, validated, from which the command lines are built.

Every script has one dataclass here. A field's `option(...)` carries its help text, its allowed values and its
unit; `command_line.parse` turns a class into a command line and refuses a bad value in one line before any work
starts. This module imports neither torch nor the rest of the project.
"""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from command_line import as_dict, build, build_parser, check_output, option, parse, read_yaml, refuse, write_yaml
from errors import UserError, wrong_path

__all__ = ["as_dict", "build", "build_parser", "check_output", "option", "parse", "read_yaml", "refuse", "write_yaml"]

_SEQUENCE_FOLDER = Path(__file__).resolve().parent / "models" / "sequence"


@functools.cache
def sequence_models() -> tuple[str, ...]:
    """The sequence models that the files of models/sequence/ register, found without importing them (and torch)."""
    pattern = re.compile(r'^@register_sequence_model\("([^"]+)"\)', re.MULTILINE)
    texts = (file.read_text(encoding="utf-8") for file in sorted(_SEQUENCE_FOLDER.glob("*.py")))
    return tuple(sorted(name for text in texts for name in pattern.findall(text)))


STAGES = ("scratch", "ssl", "weak", "strong", "advanced-kd-weak-strong", "clipwise")
STRATEGIES = ("auto", "ddp", "fsdp", "deepspeed_stage_1", "deepspeed_stage_2")
LONGEST_NAME = 200  # bytes: file systems take 255, and runs get numbers
FROZEN_HELP = "train only the sequence model and the heads; the backbone keeps its weights and batch-norm statistics"
PRECISIONS = ("16", "32", "16-mixed", "bf16-mixed", "32-true")


@dataclass
class ModelOptions:
    """Which model, and which weights it starts from."""

    given: ClassVar[frozenset[str]] = frozenset()  # options that were named on the command line or in a file

    model_name: str = option("fmn10", "backbone, e.g. fmn04, fmn10, fmn30 (all: python inference.py --list_models)")
    seq_model_type: str | None = option(None, "sequence model on top of it", choices=sequence_models())
    seq_model_dim: int = option(256, "features of the sequence model", low=1, high=8192)
    pretrained: str = option("weak", f"weights to start from: {', '.join(STAGES)}, or a released checkpoint's name")
    checkpoint: Path | None = option(None, "weights file to start from, in place of --pretrained")


@dataclass
class RunOptions:
    """Where and how a run happens; the same for all scripts."""

    experiment_name: str = option("experiment", "name of the run: its folder and its name in W&B")
    output_dir: Path = option(Path("runs"), "folder of all runs; this one goes to OUTPUT_DIR/EXPERIMENT_NAME")
    overwrite: bool = option(
        False, "write into the run's folder although it exists (default: NAME-2, NAME-3, ...)", kept=False
    )
    resume: Path | None = option(
        None,
        "continue a run: its folder or a checkpoint in it; alone: the newest of this name",
        const=Path("newest"),
        kept=False,
    )
    evaluate: bool = option(False, "only evaluate, do not train", kept=False)
    save_model: bool = option(True, "keep the best and the last checkpoint")
    seed: int = option(0, "seed of all random numbers", low=0, high=2**32 - 1)
    num_workers: int = option(16, "data loading processes, at most one per core; 0: none", low=0)
    num_devices: int = option(1, "devices per node", low=1)
    num_nodes: int = option(1, "machines", low=1)
    accelerator: str = option("auto", "device to compute on", choices=("auto", "cpu", "cuda", "gpu", "mps"))
    strategy: str = option("auto", "how several devices share the work", choices=STRATEGIES)
    sync_batchnorm: bool = option(False, "batch-norm statistics over the clips of all devices, not of each")
    precision: str = option(
        "16", "arithmetic in Lightning's words; 16: 16-mixed on a GPU, 32 on a CPU", choices=PRECISIONS
    )
    logger: str = option("wandb", "where figures go", choices=("wandb", "tensorboard", "csv", "none"))
    check_val_every_n_epoch: int = option(5, "epochs between validations; the last epoch is always validated", low=1)
    accumulate_grad_batches: int = option(4, "batches whose gradients are summed for one step", low=1)
    gradient_clip: float = option(0.0, "largest norm of the gradient; 0: as it is", low=0)
    ema: float = option(
        0.0, "decay per step of averaged weights, which are validated and saved; 0: off", low=0, below=1
    )
    checkpoint_minutes: float = option(30.0, "minutes between checkpoints within epochs; 0: none", low=0)
    keep_checkpoints: int = option(2, "how many of these are kept, the newest", low=1)
    gradient_checkpointing: bool = option(False, "less memory, more time: transformers compute activations again")
    compile: bool = option(False, "compile the model with torch.compile")
    profile: bool = option(False, "write where the time goes to the run's folder")
    recorder: str = option("none", "record the run with Sacred as well", choices=("none", "sacred"))

    @property
    def is_new_training(self) -> bool:
        """Whether this starts a training: an evaluation has no teacher, and a resumed run keeps the one that it has."""
        return not self.evaluate and self.resume is None


@dataclass
class OptimizerOptions:
    """Optimiser and learning-rate schedule."""

    n_epochs: int = option(120, "epochs", low=1)
    adamw: bool = option(False, "AdamW in place of Adam")
    weight_decay: float = option(0.0, "weight decay, never on biases and norms; needs --adamw", low=0)
    backbone_frozen: bool = option(False, FROZEN_HELP)
    max_lr: float = option(8e-4, "peak learning rate of the backbone", above=0)
    seq_lr: float | None = option(None, "peak learning rate of sequence model and heads (default: max_lr)", above=0)
    lr_decay: float = option(
        0.9, "factor on the learning rate per layer from top to bottom; 0 or 1: off", low=0, high=1
    )
    schedule_mode: str = option("cos", "shape of the learning rate", choices=("cos", "cosine", "linear", "exp"))
    warmup_steps: int = option(5000, "optimiser steps of rising learning rate; scaled down on short runs", low=0)
    lr_end: float = option(2e-7, "last learning rate (linear schedule only)", low=0)
    bn_momentum: float | None = option(
        None, "momentum of batch-norm statistics (default: 0.1 from scratch, else 0.01)", above=0, high=1
    )


@dataclass
class CommonAugmentOptions:
    """Augmentations of any clips."""

    mixstyle_p: float = option(0.0, "probability per batch of mixing band statistics", low=0, high=1)
    freq_mixstyle_p: float = option(0.0, "probability per batch of Freq-MixStyle, with unfolded weights", low=0, high=1)
    freq_warp_p: float = option(0.0, "probability per batch of stretching the frequency axis", low=0, high=1)
    dir_p: float = option(0.0, "probability per clip of a device's impulse response", low=0, high=1)
    impulse_responses: Path | None = option(None, "folder of impulse responses for --dir_p")
    per_clip: bool = option(False, "draw for each clip what is otherwise drawn once for the batch")
    mel_jitter: bool = option(True, "draw the range of the mel filters per training batch (fmn and fpasst)")


@dataclass
class AugmentOptions(CommonAugmentOptions):
    """Augmentations of strongly labelled clips."""

    wavmix_p: float = option(0.5, "probability per clip of mixing in another clip's waveform", low=0, high=1)
    frame_shift_range: float = option(
        0.125, "standard deviation of the circular shift in time, as share of the clip", low=0, high=1
    )
    mixup_p: float = option(0.3, "probability per batch of mixing spectrograms", low=0, high=1)
    max_time_mask_size: float = option(0.0, "largest masked share of the clip; 0: off, else above 0.05", low=0, high=1)
    filter_augment_p: float = option(0.0, "probability per batch of a random equaliser", low=0, high=1)


@dataclass
class EventDataOptions:
    """Strongly labelled data and evaluation."""

    data_dir: Path | None = option(None, "folder with the HDF5 files and strong TSVs (default: variable AUDIOSET_DIR)")
    batch_size: int = option(64, "clips per batch and device", low=1)
    use_balanced_sampler: bool = option(False, "draw training clips so that rare classes come more often")
    epoch_len: int = option(100_000, "clips per epoch with --use_balanced_sampler", low=1)
    pseudo_labels_file: Path | None = option(None, "HDF5 with a teacher's logits, for distillation")
    median_window: int = option(9, "frames of the median filter in evaluation, odd", low=1, high=9999)


@dataclass
class StrongDataOptions(EventDataOptions):
    """Distillation from pseudo labels."""

    distillation_loss_weight: float = option(
        0.0, "weight of the pseudo labels in the loss; the labels get the rest", low=0, high=1
    )


@dataclass
class StrongOptions(AugmentOptions, OptimizerOptions, RunOptions, StrongDataOptions, ModelOptions):
    """Train or evaluate a sound event detector on AudioSet Strong."""

    monitor: ClassVar[str] = "val/psds1_macro_averaged"  # figure that chooses the best checkpoint
    validated: ClassVar[frozenset[str]] = frozenset({"strong"})  # kinds of evaluation clips
    trained_heads: ClassVar[frozenset[str]] = frozenset({"strong_head"})  # those that a loss reaches

    experiment_name: str = option("as_strong", "name of the run: its folder and its name in W&B")

    def check(self) -> None:
        """Raise UserError where options contradict each other."""
        check_common(self)
        if not self.is_new_training:
            return
        if self.distillation_loss_weight > 0 and self.pseudo_labels_file is None:
            refuse("distillation_loss_weight", self.distillation_loss_weight, "above 0 it needs --pseudo_labels_file")
        if self.distillation_loss_weight == 0 and self.pseudo_labels_file is not None:
            refuse("pseudo_labels_file", self.pseudo_labels_file, "--distillation_loss_weight is 0: published is 0.9")


@dataclass
class TeacherOptions:
    """A teacher network that runs beside the student."""

    teacher_model_name: str | None = option(None, "backbone of the teacher; a checkpoint of our own says it itself")
    teacher_pretrained: str | None = option(None, "released weights of the teacher, e.g. strong")
    teacher_checkpoint: Path | None = option(None, "weights file of the teacher, in place of --teacher_pretrained")
    teacher_seq_model_type: str | None = option(None, "sequence model of the teacher", choices=sequence_models())
    teacher_seq_model_dim: int = option(256, "features of the teacher's sequence model", low=1, high=8192)


@dataclass
class TagTeacherOptions:
    """A teacher's clip-wise logits in a file."""

    teacher_predictions: Path | None = option(None, "npy with a teacher's logits [clips, 527], for distillation")
    teacher_names: Path | None = option(None, "which clip is in which row: CSV, or the published pickle")
    teacher_temperature: float = option(1.0, "divides the teacher's logits", low=1e-3)


@dataclass
class WeakDataOptions(TagTeacherOptions):
    """Weakly labelled data and distillation."""

    data_dir: Path | None = option(None, "folder with the HDF5 files (default: variable AUDIOSET_DIR)")
    batch_size: int = option(120, "clips per batch and device", low=1)
    use_balanced_sampler: bool = option(True, "draw training clips so that rare classes come more often")
    epoch_len: int = option(100_000, "clips per epoch with the balanced sampler", low=1)
    distillation_loss_weight: float = option(
        0.0, "weight of the teacher in the loss, published 0.9; the labels get the rest", low=0, high=1
    )


@dataclass
class WeakOptimizerOptions:
    """Optimiser and learning rate per epoch: exponential warm-up, plateau, linear ramp down."""

    n_epochs: int = option(200, "epochs", low=1)
    adamw: bool = option(False, "AdamW in place of Adam")
    weight_decay: float = option(0.0, "weight decay, never on biases and norms; needs --adamw", low=0)
    backbone_frozen: bool = option(False, FROZEN_HELP)
    max_lr: float = option(8e-4, "peak learning rate of the backbone", above=0)
    seq_lr: float | None = option(None, "peak learning rate of sequence model and heads (default: max_lr)", above=0)
    lr_decay: float = option(
        0.0, "factor on the learning rate per layer from top to bottom; 0 or 1: off", low=0, high=1
    )
    warm_up_len: int = option(8, "epochs of rising learning rate", low=0)
    ramp_down_start: int = option(80, "last epoch at the peak learning rate", low=0)
    ramp_down_len: int = option(95, "epochs of falling learning rate", low=0)
    last_lr_value: float = option(0.01, "share of the peak at which it ends", low=0, high=1)
    bn_momentum: float | None = option(
        None, "momentum of batch-norm statistics (default: 0.1 from scratch, else 0.01)", above=0, high=1
    )


@dataclass
class WeakAugmentOptions(CommonAugmentOptions):
    """Augmentations of weakly labelled clips."""

    mixup_folded: ClassVar[bool] = True

    mixup_p: float = option(1.0, "probability per batch of mixing spectrograms", low=0, high=1)
    mixup_alpha: float = option(0.3, "parameter of mixup's Beta distribution", low=1e-3)
    wavmix_p: float = option(
        0.0, "probability per clip of mixing in another clip's waveform, published 0.5", low=0, high=1
    )
    roll_seconds: float = option(0.0, "largest circular shift of the waveform, published 0.125", low=0, high=10)
    gain_db: int = option(0, "largest change of level per clip, decibels", low=0, high=60)
    freq_mask_bins: int = option(
        0, "SpecAugment: fewer mel bins than this masked per clip (EfficientAT's freqm)", low=0, high=128
    )
    time_mask_frames: int = option(
        0, "SpecAugment: fewer mel frames, of 10 ms, than this masked per clip (EfficientAT's timem)", low=0, high=1000
    )


@dataclass
class WeakOptions(WeakAugmentOptions, WeakOptimizerOptions, RunOptions, WeakDataOptions, TeacherOptions, ModelOptions):
    """Train or evaluate a tagger on AudioSet Weak, the stage before AudioSet Strong."""

    monitor: ClassVar[str] = "val/mAP"
    validated: ClassVar[frozenset[str]] = frozenset({"weak"})
    trained_heads: ClassVar[frozenset[str]] = frozenset({"weak_head"})

    experiment_name: str = option("as_weak", "name of the run: its folder and its name in W&B")
    pretrained: str = option(
        "ssl", f"weights to start from (ssl: ImageNet): {', '.join(STAGES)}, or a checkpoint's name"
    )
    accumulate_grad_batches: int = option(1, "batches whose gradients are summed for one step", low=1)

    def check(self) -> None:
        """Raise UserError where options contradict each other."""
        check_common(self)
        if not self.is_new_training:
            return
        live = self.teacher_checkpoint or self.teacher_pretrained
        weight = self.distillation_loss_weight
        if self.teacher_predictions and live:
            refuse("teacher_predictions", self.teacher_predictions, "there is a teacher network already")
        if self.teacher_checkpoint and self.teacher_pretrained:
            refuse("teacher_pretrained", self.teacher_pretrained, "--teacher_checkpoint names other weights")
        if weight > 0 and not (self.teacher_predictions or live):
            refuse("distillation_loss_weight", weight, "above 0 it needs --teacher_predictions or --teacher_checkpoint")
        if weight == 0 and (self.teacher_predictions or live):
            raise UserError("a teacher is named, but --distillation_loss_weight is 0: published is 0.9")
        if not live:
            why = "no teacher network is named: that takes --teacher_checkpoint or --teacher_pretrained"
            refuse_changed(self, TeacherOptions, why)
        if weight == 0:
            refuse_changed(self, TagTeacherOptions, "--distillation_loss_weight is 0: published is 0.9")


@dataclass
class OnlineWeightOptions:
    """Loss weights of online distillation."""

    weak_supervised_loss_weight: float = option(0.0, "clip logits of weak clips with their labels", low=0)
    weak_distillation_loss_weight: float = option(0.0, "clip logits of weak clips with --teacher_predictions", low=0)
    strong_supervised_loss_weight: float = option(0.1, "frame logits of strong clips with their labels", low=0)
    strong_distillation_loss_weight: float = option(0.0, "frame logits of strong clips: --pseudo_labels_file", low=0)
    online_distillation_loss_weight: float = option(0.9, "frame logits of all clips with the live teacher", low=0)
    online_distillation_strong_ratio: float = option(0.5, "share of the strong clips in that", low=0, high=1)


@dataclass
class OnlineWeakOptions:
    """Weakly labelled clips beside the strong ones, and the live teacher."""

    as_weak_sampling_strategy: str = option("count", "how they are drawn", choices=("uniform", "count"))
    as_weak_mixup_p: float = option(1.0, "probability per batch of mixing their spectrograms", low=0, high=1)
    as_weak_mixup_alpha: float = option(0.3, "parameter of that mixup's Beta distribution", low=1e-3)
    as_weak_freq_warp_p: float = option(0.0, "probability per batch of stretching their frequencies", low=0, high=1)
    teacher_pseudo_labels: Path | None = option(None, "HDF5 with frame logits in place of the live teacher")


@dataclass
class OnlineOptions(
    OnlineWeightOptions,
    OnlineWeakOptions,
    AugmentOptions,
    OptimizerOptions,
    RunOptions,
    EventDataOptions,
    TagTeacherOptions,
    TeacherOptions,
    ModelOptions,
):
    """Train a sound event detector on strong and weak clips, beside a teacher that hears the same augmented clips."""

    validated: ClassVar[frozenset[str]] = frozenset({"strong", "weak"})
    mixstyle_alpha: ClassVar[float] = 0.3

    experiment_name: str = option("audioset_online_distillation", "name of the run: its folder and its name in W&B")
    n_epochs: int = option(240, "epochs", low=1)
    max_lr: float = option(3e-3, "peak learning rate of the backbone", above=0)
    teacher_model_name: str | None = option("BEATs", "backbone of the teacher; our own checkpoints say it themselves")
    teacher_pretrained: str | None = option("strong", "released weights of the teacher")

    @property
    def uses_strong(self) -> bool:
        """Whether any term of the loss needs strongly labelled clips."""
        online = self.online_distillation_loss_weight * self.online_distillation_strong_ratio
        return self.strong_supervised_loss_weight + self.strong_distillation_loss_weight + online > 0

    @property
    def uses_weak_frames(self) -> bool:
        """Whether the live teacher is heard on weakly labelled clips."""
        return self.online_distillation_loss_weight * (1 - self.online_distillation_strong_ratio) > 0

    @property
    def uses_weak_tags(self) -> bool:
        """Whether clip logits are trained."""
        return self.weak_supervised_loss_weight + self.weak_distillation_loss_weight > 0

    @property
    def uses_weak(self) -> bool:
        """Whether any term of the loss needs weakly labelled clips."""
        return self.uses_weak_frames or self.uses_weak_tags

    @property
    def trained_heads(self) -> frozenset[str]:
        """Heads that a loss reaches."""
        reached = {"strong_head": self.uses_strong or self.uses_weak_frames, "weak_head": self.uses_weak_tags}
        return frozenset(head for head, is_reached in reached.items() if is_reached)

    @property
    def monitor(self) -> str:
        """Figure that chooses the best checkpoint."""
        return "val/psds1_macro_averaged" if "strong_head" in self.trained_heads else "val/mAP"

    def check(self) -> None:
        """Raise UserError where options contradict each other."""
        check_common(self)
        if not (self.uses_strong or self.uses_weak):
            raise UserError("all loss weights are 0: nothing to train on")
        if self.is_new_training:
            self._check_teachers()

    def _check_teachers(self) -> None:
        """Raise UserError for a term of the loss without a teacher, and for a teacher that no term listens to."""
        if self.strong_distillation_loss_weight > 0 and self.pseudo_labels_file is None:
            weight = self.strong_distillation_loss_weight
            refuse("strong_distillation_loss_weight", weight, "above 0 it needs --pseudo_labels_file")
        if self.weak_distillation_loss_weight > 0 and self.teacher_predictions is None:
            weight = self.weak_distillation_loss_weight
            refuse("weak_distillation_loss_weight", weight, "above 0 it needs --teacher_predictions")
        for name, term in (
            ("pseudo_labels_file", "strong_distillation_loss_weight"),
            ("teacher_predictions", "weak_distillation_loss_weight"),
            ("teacher_pseudo_labels", "online_distillation_loss_weight"),
        ):
            if getattr(self, name) is not None and getattr(self, term) == 0:
                refuse(name, getattr(self, name), f"nothing would learn from it: --{term} is 0")
        online = self.online_distillation_loss_weight
        if online == 0:
            why = "nothing would learn from it: --online_distillation_loss_weight is 0"
            refuse_changed(self, TeacherOptions, why)
        if self.teacher_checkpoint and self.teacher_pretrained != "strong":
            refuse("teacher_pretrained", self.teacher_pretrained, "--teacher_checkpoint names other weights")
        if self.teacher_pseudo_labels is not None:
            refuse_changed(self, TeacherOptions, "--teacher_pseudo_labels stands in place of a network")
        if online + self.weak_distillation_loss_weight == 0:
            refuse_changed(
                self,
                TagTeacherOptions,
                "expected a teacher whose logits it divides, got none; name one, or leave the option out",
            )


FILES = (
    "checkpoint",
    "pseudo_labels_file",
    "teacher_pseudo_labels",
    "teacher_checkpoint",
    "teacher_predictions",
    "teacher_names",
)


def check_common(options: Any) -> None:
    """Relations between options that several scripts share."""
    if isinstance(options, RunOptions):
        _check_folder(options)
    if getattr(options, "resume", None) is not None and getattr(options, "evaluate", False):
        refuse("resume", options.resume, "it continues a training; to evaluate, name the weights with --checkpoint")
    if getattr(options, "weight_decay", 0) > 0 and not options.adamw:
        refuse("weight_decay", options.weight_decay, "above 0 it needs --adamw")
    if getattr(options, "median_window", 1) % 2 == 0:
        refuse("median_window", options.median_window, "must be odd")
    if 0 < getattr(options, "max_time_mask_size", 0) <= 0.05:
        refuse("max_time_mask_size", options.max_time_mask_size, "must be 0 (off) or above 0.05")
    for name in ("freq_mask_bins", "time_mask_frames"):
        if getattr(options, name, 0) == 1:
            refuse(name, 1, "must be 0 (off) or at least 2: masks are narrower than this")
    if isinstance(options, TagTeacherOptions) and (options.teacher_predictions is None) != (
        options.teacher_names is None
    ):
        raise UserError("--teacher_predictions and --teacher_names belong together: logits, and whose they are")
    if (getattr(options, "dir_p", 0) > 0) and options.impulse_responses is None:
        refuse("dir_p", options.dir_p, "above 0 it needs --impulse_responses")
    resuming = getattr(options, "resume", None) is not None
    for name in FILES:
        path = getattr(options, name, None)
        needed = name != "checkpoint" or not resuming  # a resumed run no longer needs what it started from
        if path is not None and needed and not path.is_file():
            refuse(name, path, wrong_path("file", path))


def refuse_changed(options: Any, group: type, why: str) -> None:
    """Refuse an option of the group that is not at its default."""
    names = {f.name for f in fields(group)}
    for f in fields(options):
        value = getattr(options, f.name)
        if f.name in names and value != f.default:
            refuse(f.name, value, why)


def _check_folder(options: RunOptions) -> None:
    """Raise UserError for a name of a run that cannot be that of its folder."""
    name, folder = options.experiment_name, options.output_dir / options.experiment_name
    if not name.isprintable() or {"/", "\\"} & set(name) or name in (".", ".."):
        refuse("experiment_name", repr(name), "it must be a plain name, without slashes")
    if len(name.encode()) > LONGEST_NAME:
        refuse("experiment_name", name, f"it is too long: {LONGEST_NAME} characters at most")
    if options.resume is not None:
        return
    check_output("output_dir", options.output_dir, folder=True)
    if folder.exists() and not folder.is_dir():
        refuse("experiment_name", name, f"{folder} is a file; choose another name")


def data_dir(option_value: Path | None) -> Path:
    """The data folder from the option or the variable AUDIOSET_DIR; raises UserError if there is none."""
    path = option_value or (Path(os.environ["AUDIOSET_DIR"]) if os.environ.get("AUDIOSET_DIR") else None)
    if path is None:
        raise UserError("no data folder: name it with --data_dir or the variable AUDIOSET_DIR")
    if not path.is_dir():
        refuse("data_dir", path, wrong_path("folder", path))
    return path
