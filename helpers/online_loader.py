"""The training loader of online distillation: the clips that its loss needs, with what the teachers' files say."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

import config
from data_util.audioset import AudioSetStrong, AudioSetWeak
from data_util.mixed import MixedDataset, MixedSampler
from data_util.pseudo_labels import open_pseudo_labels
from data_util.samplers import BalancedSampler, EpochSampler, ShuffleSampler, strong_weights, weak_weights
from data_util.teacher_store import WithTeacherFrames
from data_util.weak_teacher import WeakTeacher, WithWeakTeacher
from helpers.run import make_loader, make_sampler
from helpers.run_folder import resume_position


def online_loader(options: config.OnlineOptions, strong: AudioSetStrong, weak: AudioSetWeak) -> DataLoader[Any]:
    """Loader of `batch_size` strong and as many weak clips in turn, or of one kind alone where the loss has no term
    for the other; it goes on where a resumed run stopped.

    Raises UserError for unusable files of teachers.
    """
    samplers: dict[str, EpochSampler] = {}
    if options.uses_strong:
        samplers["strong"] = make_sampler(len(strong), lambda: strong_weights(strong.events), options)
    if options.uses_weak:
        samplers["weak"] = weak_sampler(weak, options)
    if options.resume is not None:
        epoch, batches = resume_position(options.resume)
        for sampler in samplers.values():
            sampler.epoch, sampler.position = epoch, batches * options.batch_size
    parts: dict[str, Any] = {"strong": strong, "weak": weak}
    clips, sampler_of_all = parts[next(iter(samplers))], next(iter(samplers.values()))
    if len(samplers) == 2:
        clips = MixedDataset(strong, weak)
        sampler_of_all = MixedSampler(samplers["strong"], samplers["weak"], len(strong))  # type: ignore[assignment]
    if options.weak_distillation_loss_weight > 0 and options.teacher_predictions and options.teacher_names:
        tags = WeakTeacher(options.teacher_predictions, options.teacher_names)
        clips = WithWeakTeacher(clips, tags, weak.clip_ids)
    if options.online_distillation_loss_weight > 0 and options.teacher_pseudo_labels is not None:
        store = open_pseudo_labels(options.teacher_pseudo_labels, len(strong.vocabulary))
        clips = WithTeacherFrames(clips, store, [parts[name].clip_ids for name in samplers])
    batch_size = len(samplers) * options.batch_size
    drop_last = len(sampler_of_all) >= batch_size
    return make_loader(clips, options, sampler_of_all, drop_last=drop_last, batch_size=batch_size)


def weak_sampler(weak: AudioSetWeak, options: config.OnlineOptions) -> EpochSampler:
    """Weak clips so that rare classes come more often, or all alike."""
    if options.as_weak_sampling_strategy == "count":
        return BalancedSampler(weak_weights(weak.targets()), options.epoch_len, seed=options.seed + 1)
    return ShuffleSampler(len(weak), options.epoch_len, seed=options.seed + 1)
