"""Online distillation: every loss weight alone and together, and a teacher that hears what the student hears."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import config
from helpers.lit_distillation import OnlineDistillation
from helpers.lit_module import step_generator
from helpers.teacher import Teacher
from models import SEDModel, create_model

WEIGHTS = {
    "weak_supervised_loss_weight": 0.2,
    "weak_distillation_loss_weight": 0.3,
    "strong_supervised_loss_weight": 0.4,
    "strong_distillation_loss_weight": 0.5,
    "online_distillation_loss_weight": 0.6,
}
NOTHING = {
    "pretrained": "scratch",
    "wavmix_p": 0.0,
    "frame_shift_range": 0.0,
    "mixup_p": 0.0,
    "as_weak_mixup_p": 0.0,
    "mel_jitter": False,
}
N = 2  # clips of each kind, of 2 s


def model(seed: int) -> SEDModel:
    torch.manual_seed(seed)
    made = create_model("fmn04", n_classes_weak=527)
    return made


def batch() -> dict[str, Any]:
    """Strong and weak clips in turn, as the loader makes them; the teacher's table knows one weak clip of the two."""
    g = torch.Generator().manual_seed(1)
    strong = torch.tensor([True, False] * N)
    return {
        "audio": 0.1 * torch.randn(2 * N, 32_000, generator=g),
        "strong": ((torch.rand(2 * N, 447, 50, generator=g) < 0.05) & strong[:, None, None]).to(torch.uint8),
        "weak": ((torch.rand(2 * N, 527, generator=g) < 0.02) & ~strong[:, None]).float(),
        "pseudo_logits": torch.randn(2 * N, 447, 50, generator=g).half(),
        "has_pseudo": torch.tensor([True, False, False, False]),
        "weak_logits": torch.randn(2 * N, 527, generator=g),
        "weak_known": torch.tensor([False, True, False, False]),
    }


def module(teacher: Teacher | None = None, **options: Any) -> OnlineDistillation:
    return OnlineDistillation(model(0), config.OnlineOptions(**{**NOTHING, **options}), teacher=teacher)


def bce(z: torch.Tensor, t: torch.Tensor) -> np.ndarray:
    """Cross-entropy written out, per element."""
    z, t = z.detach().double().numpy(), t.double().numpy()
    return np.logaddexp(0, z) - z * t


def expected_terms(student: SEDModel, teacher: SEDModel, clips: dict[str, Any]) -> dict[str, float]:
    """Each term by itself, from the definitions; the student keeps its batch statistics."""
    student.train()
    audio = clips["audio"]
    strong, _ = student(student.mel_forward(audio[::2]))
    frames, tags = student(student.mel_forward(audio[1::2]))
    with torch.no_grad():
        heard = torch.sigmoid(teacher(teacher.mel_forward(audio))[0])
    pseudo = torch.sigmoid(clips["pseudo_logits"][::2].double())
    pseudo[1] = clips["strong"][2]  # unknown to the file: its labels stand in
    soft = bce(tags, torch.sigmoid(clips["weak_logits"][1::2])).mean(1)
    return {
        "weak_supervised_loss_weight": bce(tags, clips["weak"][1::2]).mean(),
        "weak_distillation_loss_weight": soft[0] / N,
        "strong_supervised_loss_weight": bce(strong, clips["strong"][::2]).mean(),
        "strong_distillation_loss_weight": bce(strong, pseudo).mean(),
        "strong_online": bce(strong, heard[::2]).mean(),
        "weak_online": bce(frames, heard[1::2]).mean(),
    }


@pytest.mark.parametrize("name", [*WEIGHTS, "all", "strong_online", "weak_online"])
def test_each_weight_alone_and_all_together(name: str) -> None:
    """Loss equals the definition; a head learns exactly when a term reaches it."""
    weights = dict.fromkeys(WEIGHTS, 0.0)
    ratio = {"strong_online": 1.0, "weak_online": 0.0}.get(name, 0.25)
    online = name in ("all", "online_distillation_loss_weight", "strong_online", "weak_online")
    weights["online_distillation_loss_weight"] = 0.6 if online else 0.0
    weights |= {n: w for n, w in WEIGHTS.items() if name in (n, "all")}
    teacher = model(5).eval()
    trained = module(Teacher(teacher), **weights, online_distillation_strong_ratio=ratio)
    both = batch()
    options = trained.options
    kind = {True: slice(0, None, 2), False: slice(1, None, 2)}
    clips = both
    if not (options.uses_strong and options.uses_weak):  # then the loader brings one kind alone
        clips = {k: v[kind[options.uses_strong]] for k, v in both.items()}
    terms = trained.loss_terms(clips, step_generator(0, 0))

    found = expected_terms(model(0), teacher, both)
    share = {"strong_online": ratio, "weak_online": 1 - ratio}
    scale = {**weights, **{k: weights["online_distillation_loss_weight"] * r for k, r in share.items()}}
    expected = sum(scale[k] * value for k, value in found.items())
    assert float(terms["loss"]) == pytest.approx(expected, abs=1e-5)
    terms["loss"].backward()
    heads = {h for h in ("strong_head", "weak_head") if getattr(trained.model, h).weight.grad is not None}
    assert heads == options.trained_heads


def test_teacher_hears_what_the_student_hears() -> None:
    """All augmentations on, two equal front ends: the teacher's input is the student's, clip by clip."""
    teacher = Teacher(model(5))
    heard: list[torch.Tensor] = []
    teacher.frames = lambda mel, n: heard.append(mel) or torch.zeros(len(mel), 447, n)  # type: ignore[method-assign]
    everything = {
        "wavmix_p": 1.0,
        "frame_shift_range": 0.2,
        "mixup_p": 1.0,
        "mixstyle_p": 1.0,
        "max_time_mask_size": 0.4,
        "filter_augment_p": 1.0,
        "freq_warp_p": 1.0,
        "as_weak_mixup_p": 1.0,
        "as_weak_freq_warp_p": 1.0,
    }
    trained = module(teacher, **everything)
    seen: list[torch.Tensor] = []
    trained.model.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    trained.loss_terms(batch(), step_generator(0, 0))
    assert len(seen) == len(heard) == 2
    for student, taught in zip(seen, heard, strict=True):
        assert torch.equal(student, taught)
    assert not torch.allclose(seen[0], trained.model.mel_forward(batch()["audio"][::2]))


def test_a_file_in_the_teachers_place_follows_the_augmentations() -> None:
    """Its probabilities are shifted by the frames that the labels are shifted by."""
    clips = batch()
    clips["teacher_logits"] = torch.where(clips["strong"].bool(), 20.0, -20.0).half()
    trained = module(frame_shift_range=0.3, weak_supervised_loss_weight=0.0)
    half = {k: v[::2] for k, v in clips.items()}
    generator = step_generator(3, 1)
    branch = trained.strong_branch(half, generator)
    assert not torch.equal(branch.strong, half["strong"].float())
    torch.testing.assert_close(branch.teacher, branch.strong, atol=1e-4, rtol=0)
