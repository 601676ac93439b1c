"""A training step equals an independent computation; a loss that is not a number stops the run."""

from __future__ import annotations

import copy
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

import config
from config_clipwise import DownstreamOptions
from config_downstream import DcaseOptions
from config_finetune import FinetuneOptions
from helpers.lit_module import NEVER, SEDModule, TrainingDivergedError, step_generator
from models import create_model

PLAIN = {
    "pretrained": "scratch",
    "wavmix_p": 0.0,
    "frame_shift_range": 0.0,
    "mixup_p": 0.0,
    "mel_jitter": False,
    "accumulate_grad_batches": 1,
}


class Clips(torch.utils.data.Dataset):
    """Random clips of 2 s with labels and a teacher's logits."""

    def __init__(self, n_clips: int = 2, bad: bool = False) -> None:
        generator = torch.Generator().manual_seed(7)
        self.samples = [
            {
                "audio": torch.randn(32_000, generator=generator) * (float("nan") if bad else 0.1),
                "strong": (torch.rand(447, 50, generator=generator) < 0.05).float(),
                "pseudo_logits": torch.randn(447, 50, generator=generator).half(),
                "has_pseudo": i != 1,
                "clip_id": f"Y{i}",
                "valid": True,
            }
            for i in range(n_clips)
        ]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.samples[index]


class Gradients(pl.Callback):
    """Keeps the gradients of the first optimiser step, and its loss."""

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.gradients = {n: p.grad.clone() for n, p in pl_module.model.named_parameters() if p.grad is not None}
        self.loss = float(trainer.callback_metrics["train/loss"])


def run_one_step(module: SEDModule, clips: Clips, folder: Path) -> Gradients:
    gradients = Gradients()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=1,
        callbacks=[gradients],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, DataLoader(clips, batch_size=len(clips)))
    return gradients


@pytest.mark.parametrize("weight", [0.0, 0.9])
def test_loss_and_gradients_equal_an_independent_computation(weight: float, tmp_path: Path) -> None:
    """Float64, the cross-entropy written out: softplus(z) - z * target."""
    torch.manual_seed(3)
    model = create_model("fmn04", seq_model_type="gru", seq_model_dim=32)
    reference = copy.deepcopy(model).double().train()
    options = config.StrongOptions(**PLAIN, distillation_loss_weight=weight, pseudo_labels_file=Path("teacher.hdf"))
    clips = Clips()
    step = run_one_step(SEDModule(model, options), clips, tmp_path)

    audio = torch.stack([s["audio"] for s in clips.samples])
    labels = np.stack([s["strong"].double().numpy() for s in clips.samples])
    teacher = np.stack([1 / (1 + np.exp(-s["pseudo_logits"].double().numpy())) for s in clips.samples])
    teacher[1] = labels[1]  # this clip has no pseudo label
    target = torch.from_numpy(weight * teacher + (1 - weight) * labels)
    z, _ = reference(create_model("fmn04").mel_forward(audio).double())
    loss = (torch.log1p(torch.exp(-z.abs())) + z.clamp_min(0) - z * target).sum() / z.numel()
    loss.backward()

    assert step.loss == pytest.approx(loss.item(), abs=1e-6)
    expected = {n: p.grad for n, p in reference.named_parameters() if p.grad is not None}
    assert step.gradients.keys() == expected.keys()
    assert not any(name.startswith("weak_head") for name in expected)
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in step.gradients.items():
        # a bias in front of another batch norm has gradient 0: there only rounding is left to compare
        scale = max(expected[name].abs().max().item(), 1e-3 * largest)
        torch.testing.assert_close(gradient.double(), expected[name], rtol=0, atol=1e-3 * scale, msg=name)


class TaggedClips(Clips):
    """The same clips with clip labels, and a teacher that knows the first one."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(8)
        for i, sample in enumerate(self.samples):
            del sample["strong"], sample["pseudo_logits"], sample["has_pseudo"]
            sample["weak"] = (torch.rand(527, generator=generator) < 0.02).float()
            sample["weak_logits"] = torch.randn(527, generator=generator)
            sample["weak_known"] = i == 0


@pytest.mark.parametrize("weight", [0.0, 0.9])
def test_weak_loss_equals_an_independent_computation(weight: float, tmp_path: Path) -> None:
    """The soft loss of an unknown clip is 0, but counts in the mean; only the weak head learns."""
    torch.manual_seed(3)
    model = create_model("fmn04", n_classes_weak=527)
    reference = copy.deepcopy(model).double().train()
    options = config.WeakOptions(
        pretrained="scratch", mixup_p=0.0, mel_jitter=False, distillation_loss_weight=weight, teacher_temperature=2.0
    )
    clips = TaggedClips()
    step = run_one_step(SEDModule(model, options), clips, tmp_path)

    audio = torch.stack([s["audio"] for s in clips.samples])
    z = reference(create_model("fmn04").mel_forward(audio).double())[1].detach().numpy()
    y = np.stack([s["weak"].numpy() for s in clips.samples])
    t = 1 / (1 + np.exp(-np.stack([s["weak_logits"].double().numpy() for s in clips.samples]) / 2))
    soft = (np.logaddexp(0, z) - z * t).mean(1) * np.array([1, 0])
    expected = (1 - weight) * (np.logaddexp(0, z) - z * y).mean() + weight * soft.mean()
    assert step.loss == pytest.approx(expected, abs=1e-6)
    assert "weak_head.weight" in step.gradients and "strong_head.weight" not in step.gradients


def test_weak_learning_rate_follows_the_epochs(tmp_path: Path) -> None:
    """Exponential warm-up, plateau, ramp: values of the published formula at some epochs."""
    options = config.WeakOptions(pretrained="scratch", max_lr=1.0, warm_up_len=4, ramp_down_start=6, ramp_down_len=2)
    module = SEDModule(create_model("fmn04", n_classes_weak=527), options)
    found = module.configure_optimizers()
    assert found["lr_scheduler"]["interval"] == "epoch"
    factor = found["lr_scheduler"]["scheduler"].lr_lambdas[0]
    expected = [np.exp(-5 * (1 - 0.5 / 4) ** 2), np.exp(-5 * 0.25), 1.0, 1.0, 0.505, 0.01, 0.01]
    assert [factor(e) for e in (0, 2, 4, 6, 7, 8, 100)] == pytest.approx(expected)


def test_a_loss_that_is_no_number_names_the_step(tmp_path: Path) -> None:
    module = SEDModule(create_model("fmn04"), config.StrongOptions(**PLAIN))
    with pytest.raises(TrainingDivergedError, match="optimiser step 0") as damaged:
        run_one_step(module, Clips(bad=True), tmp_path)
    assert "the audio of this step reaches nan" in str(damaged.value) and "max_lr" not in str(damaged.value)


def test_the_cause_of_a_loss_that_is_no_number_is_named() -> None:
    module = SEDModule(create_model("fmn04"), config.StrongOptions(**PLAIN))
    module._trainer = types.SimpleNamespace(  # type: ignore[assignment]
        state=types.SimpleNamespace(fn="fit"), sanity_checking=False, global_step=7, current_epoch=2, model=module
    )
    nan, audio = torch.tensor(float("nan")), torch.ones(2, 100)
    module.watch(torch.tensor(1.0), 1e30 * audio)
    with pytest.raises(TrainingDivergedError, match=r"step 7 \(epoch 2\): the audio of this step reaches 1.0e\+30"):
        module.watch(nan, 1e30 * audio)
    module._diverged_at = torch.tensor(NEVER)
    with pytest.raises(TrainingDivergedError, match=r"the learning rate is probably too high \(--max_lr "):
        module.watch(nan, audio)
    module._diverged_at = torch.tensor(NEVER)
    module.on_validation_model_eval()
    next(module.parameters()).data[0] = float("inf")  # what an update has spoilt, no loss has shown
    with pytest.raises(TrainingDivergedError, match=r"weights are not finite numbers after optimiser step 7 .*max_lr"):
        module.on_validation_model_eval()


def test_step_generator_depends_on_the_position_alone() -> None:
    draws = {
        torch.rand((), generator=step_generator(*key)).item() for key in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    }
    assert len(draws) == 4
    assert torch.rand(3, generator=step_generator(4, 2, 1)).equal(torch.rand(3, generator=step_generator(4, 2, 1)))


def test_scratch_runs_follow_their_batch_statistics_faster() -> None:
    momenta = {}
    for pretrained in ("scratch", "weak"):
        module = SEDModule(create_model("fmn04"), config.StrongOptions(pretrained=pretrained))
        momenta[pretrained] = module.model.model.fmn.features[0][1].momentum
    assert momenta == {"scratch": 0.1, "weak": 0.01}


@pytest.mark.parametrize("cls", [config.StrongOptions, config.WeakOptions])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_backbone_keeps_weights_and_statistics(cls: type, frozen: bool, tmp_path: Path, caplog) -> None:
    """Bit for bit, while sequence model and head learn; without the option all of them change."""
    model = create_model("fmn04", seq_model_type="gru", seq_model_dim=16, n_classes_weak=527)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = {name: value for name, value in PLAIN.items() if name in cls.__dataclass_fields__}
    options = cls(**plain, backbone_frozen=frozen, **({"roll_seconds": 0.0} if cls is config.WeakOptions else {}))
    module = SEDModule(model, options)
    run_one_step(module, Clips() if cls is config.StrongOptions else TaggedClips(), tmp_path)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    backbone = {name for name in changed if name.startswith("model.")}
    assert bool(backbone) == (not frozen)
    assert any("running_mean" in name for name in backbone) == (not frozen)
    head = "strong_head.weight" if cls is config.StrongOptions else "weak_head.weight"
    assert head in changed and any(name.startswith("seq_model.") for name in changed)
    assert model.model.training == (not frozen) and model.seq_model.training
    assert ("will never learn" in caplog.text) == frozen


@pytest.mark.parametrize(
    "cls",
    [config.StrongOptions, config.OnlineOptions, config.WeakOptions, DownstreamOptions, DcaseOptions, FinetuneOptions],
)
def test_every_script_that_trains_on_a_backbone_can_freeze_it(cls: type) -> None:
    options = config.build_parser(cls).parse_args(["--backbone_frozen"])
    assert options.backbone_frozen and not config.build_parser(cls).parse_args([]).__dict__.get("backbone_frozen")
