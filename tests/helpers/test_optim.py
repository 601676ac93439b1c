"""Parameter groups, optimisers and schedules against the published formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from errors import UserError
from helpers.optim import (
    build_optimizer,
    build_scheduler,
    decayed_names,
    decays,
    depth_of,
    effective_warmup,
    parameter_groups,
    schedule,
    weak_schedule,
)


class TinyBackbone(nn.Module):
    """Four depths: a stem with a token and a table of positions, two blocks, a last norm with block 1."""

    n_depths = 3
    depth_patterns = (
        (r"^net\.blocks\.(\d+)\.", None),
        (r"^net\.norm\.", 2),
        (r"^net\.(stem|cls_token|pos_embed)", 0),
    )

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Module()
        self.net.stem = nn.Conv1d(4, 8, 3)
        self.net.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.net.pos_embed = nn.Parameter(torch.zeros(1, 10, 8))
        self.net.blocks = nn.ModuleList([nn.Identity(), nn.Linear(8, 8), nn.Linear(8, 8)])
        self.net.norm = nn.LayerNorm(8)


class TinyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = TinyBackbone()
        self.seq_model = nn.Sequential(nn.Linear(8, 6), nn.GRU(6, 6))
        self.strong_head = nn.Linear(6, 5)


def groups_of(model: nn.Module, **options: Any) -> list[dict[str, Any]]:
    return parameter_groups(model, **{"backbone_lr": 1e-3, "seq_lr": 3e-3, **options})


def settings(model: nn.Module, groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay by parameter name; every trainable parameter must be in exactly one group."""
    names = {id(p): n for n, p in model.named_parameters()}
    found = [(names[id(p)], (g["lr"], g["weight_decay"])) for g in groups for p in g["params"]]
    assert sorted(n for n, _ in found) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    assert len({g["name"] for g in groups}) == len(groups) and all(g["params"] for g in groups)
    return dict(found)


def test_layer_wise_rates() -> None:
    model = TinyModel()
    groups = groups_of(model, lr_decay=0.5)
    rates = {name: lr for name, (lr, _) in settings(model, groups).items()}
    expected = {"net.stem.weight": 0.25e-3, "net.pos_embed": 0.25e-3, "net.blocks.1.bias": 0.5e-3}
    expected |= {"net.blocks.2.weight": 1e-3, "net.norm.bias": 1e-3}
    for name, rate in expected.items():
        assert rates[f"model.{name}"] == pytest.approx(rate)
    assert rates["seq_model.1.weight_hh_l0"] == rates["strong_head.bias"] == 3e-3
    assert [g["name"] for g in groups] == ["backbone.depth_00", "backbone.depth_01", "backbone.depth_02", "head"]


def test_scale_last_decays_the_last_depth_once() -> None:
    model = TinyModel()
    rates = settings(model, groups_of(model, lr_decay=0.5, scale_last=True))
    assert rates["model.net.norm.weight"][0] == pytest.approx(0.5e-3)
    assert rates["model.net.stem.weight"][0] == pytest.approx(0.125e-3)


@pytest.mark.parametrize("off", [0, 1, 0.0, 1.0])
def test_zero_and_one_switch_layer_decay_off(off: float) -> None:
    model = TinyModel()
    groups = groups_of(model, lr_decay=off, scale_last=True)
    rates = settings(model, groups)
    assert {lr for name, (lr, _) in rates.items() if name.startswith("model.")} == {1e-3}
    assert [g["name"] for g in groups] == ["backbone", "head"]


@pytest.mark.parametrize("lr_decay", [0.0, 0.9])
def test_weight_decay_spares_biases_norms_tokens_and_tables(lr_decay: float) -> None:
    model = TinyModel()
    groups = groups_of(model, weight_decay=0.01, lr_decay=lr_decay)
    found = settings(model, groups)
    decayed = {name for name, (_, decay) in found.items() if decay == 0.01}
    weights = {"model.net.stem.weight", "model.net.blocks.1.weight", "model.net.blocks.2.weight"}
    weights |= {"seq_model.0.weight", "seq_model.1.weight_ih_l0", "seq_model.1.weight_hh_l0", "strong_head.weight"}
    assert decayed == weights
    assert {decay for _, decay in found.values()} == {0.0, 0.01}
    assert all(g["name"].endswith(".no_decay") == (g["weight_decay"] == 0) for g in groups)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.beats.encoder.layers.0.self_attn.relative_attention_bias.weight", False),
        ("model.beats.encoder.pos_conv.0.parametrizations.weight.original0", False),
        ("model.beats.encoder.pos_conv.0.parametrizations.weight.original1", True),
        ("model.fpasst.time_new_pos_embed", False),
        ("model.fpasst.dist_token", False),
        ("model.atst.mask_embed", False),
        ("model.fpasst.patch_embed.proj.weight", True),
        ("seq_model.1.layers.0.self_attn.in_proj_weight", True),
    ],
)
def test_which_tables_decay(name: str, expected: bool) -> None:
    assert decays(name, nn.Parameter(torch.zeros(2, 3))) is expected


def test_parameters_may_refuse_decay_themselves() -> None:
    parameter = nn.Parameter(torch.zeros(2, 3))
    parameter._no_weight_decay = True  # type: ignore[attr-defined]  # as state-space models mark theirs
    assert not decays("seq_model.1.A_log", parameter)


def test_frozen_parameters_are_left_out() -> None:
    model = TinyModel()
    model.model.requires_grad_(False)
    assert [g["name"] for g in groups_of(model, lr_decay=0.9)] == ["head"]
    settings(model, groups_of(model, lr_decay=0.9))
    model.requires_grad_(False)
    with pytest.raises(UserError, match="frozen"):
        groups_of(model)


def test_parameters_without_a_depth_are_named() -> None:
    model = TinyModel()
    model.model.extra = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"extra\.weight"):
        groups_of(model, lr_decay=0.9)
    groups_of(model, lr_decay=1.0)  # depths are not needed
    with pytest.raises(ValueError, match="depth 7"):
        model = TinyModel()
        model.model.depth_patterns = ((".", 7),)  # type: ignore[assignment]
        groups_of(model, lr_decay=0.9)


def test_first_matching_pattern_counts() -> None:
    assert depth_of("a.features.12.b.3.weight", ((r"features\.(\d+)\.", None), (r".", 5))) == 12
    assert depth_of("a.norm.weight", ((r"features\.(\d+)\.", None), (r".", 5))) == 5


def test_published_rates_of_fmn10() -> None:
    """features.g has max_lr * d ** (16 - g), and d ** (17 - g) in the DCASE script."""
    from models import create_model

    model = create_model("fmn10", seq_model_type="tf", seq_model_dim=64, n_classes_strong=7)
    for scale_last in (False, True):
        groups = groups_of(model, backbone_lr=8e-4, lr_decay=0.9, scale_last=scale_last, weight_decay=1e-3)
        for name, (lr, _) in settings(model, groups).items():
            if name.startswith("model.fmn.features."):
                block = int(name.split(".")[3])
                assert lr == pytest.approx(8e-4 * 0.9 ** (16 + scale_last - block), rel=1e-12)
            else:
                assert lr == 3e-3
    stem = groups_of(model, lr_decay=0.9)[0]
    assert stem["lr"] / 1e-3 == pytest.approx(0.185, abs=5e-4)
    assert len(groups_of(model, lr_decay=0.9)) == 18


def test_every_registered_backbone_has_groups() -> None:
    """Patterns of every model cover its parameters; built without memory for the weights."""
    from models.registry import backbone_names, build_backbone

    for name in backbone_names():
        model = nn.Module()
        with torch.device("meta"):
            model.model = build_backbone(name)
            model.strong_head = nn.Linear(2, 2)
        groups = groups_of(model, lr_decay=0.75, weight_decay=0.1)
        settings(model, groups)
        depths = {g["name"].split(".")[1] for g in groups if g["name"].startswith("backbone")}
        assert len(depths) == model.model.n_depths, name


@pytest.mark.parametrize(
    "bad",
    [{"backbone_lr": 0.0}, {"seq_lr": -1.0}, {"weight_decay": -0.1}, {"lr_decay": 1.2}, {"lr_decay": float("nan")}],
)
def test_bad_options_are_refused_by_name(bad: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(bad)).replace("backbone_lr", "backbone learning rate")):
        groups_of(TinyModel(), **bad)


def test_optimizers() -> None:
    model = TinyModel()
    plain = build_optimizer(groups_of(model), adamw=False)
    assert type(plain) is torch.optim.Adam and plain.defaults["betas"] == (0.9, 0.999)
    decayed = build_optimizer(groups_of(model, weight_decay=0.01), adamw=True)
    assert type(decayed) is torch.optim.AdamW
    assert {g["weight_decay"] for g in decayed.param_groups} == {0.0, 0.01}
    # AdamW's own default decay must not reach groups that have none
    assert {g["weight_decay"] for g in build_optimizer(groups_of(model), adamw=True).param_groups} == {0.0}
    with pytest.raises(UserError, match="adamw"):
        build_optimizer(groups_of(model, weight_decay=0.01), adamw=False)


def test_one_adamw_step_by_hand() -> None:
    """With betas (.9, .999) the first step is lr * sign(gradient); decay shrinks weights only."""
    model = TinyModel()
    optimizer = build_optimizer(groups_of(model, weight_decay=0.1, lr_decay=0.5), adamw=True)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    sum(p.sum() for p in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    after = dict(model.named_parameters())
    rate = 0.5e-3
    name = "model.net.blocks.1.weight"
    torch.testing.assert_close(after[name].detach(), before[name] * (1 - rate * 0.1) - rate)
    name = "model.net.blocks.1.bias"
    torch.testing.assert_close(after[name].detach(), before[name] - rate)


@pytest.mark.parametrize("mode", ["cos", "cosine"])
def test_cosine_schedule(mode: str) -> None:
    factor = schedule(mode, warmup_steps=20_000, total_steps=46_920)
    assert factor(0) == 0 and factor(5000) == 0.25 and factor(20_000) == 1
    assert factor(33_460) == pytest.approx(0.5)  # half-way between warm-up and end
    assert factor(40_190) == pytest.approx(0.5 * (1 + math.cos(0.75 * math.pi)))
    assert factor(46_920) == pytest.approx(0) and factor(50_000) == pytest.approx(0)


def test_linear_schedule_ends_at_lr_end_in_every_group() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr, "weight_decay": 0.0} for lr in (1e-3, 2e-4)]
    optimizer = build_optimizer(groups, adamw=False)
    scheduler = build_scheduler(optimizer, "linear", warmup_steps=10, total_steps=110, lr_end=1e-4)
    rates = []
    for _ in range(115):
        rates.append(scheduler.get_last_lr())
        optimizer.step()
        scheduler.step()
    assert rates[5] == pytest.approx([5e-4, 1e-4]) and rates[10] == pytest.approx([1e-3, 2e-4])
    assert rates[60] == pytest.approx([(1e-3 + 1e-4) / 2, (2e-4 + 1e-4) / 2])
    assert rates[110] == pytest.approx([1e-4, 1e-4]) and rates[114] == pytest.approx([1e-4, 1e-4])


def test_linear_schedule_never_rises_after_the_warmup() -> None:
    optimizer = build_optimizer(
        [{"params": [nn.Parameter(torch.zeros(1))], "lr": 1e-8, "weight_decay": 0.0}], adamw=False
    )
    scheduler = build_scheduler(optimizer, "linear", warmup_steps=0, total_steps=10, lr_end=1e-7)
    assert scheduler.get_last_lr() == [1e-8]


def test_exponential_schedule_has_no_warmup() -> None:
    factor = schedule("exp", warmup_steps=1000, total_steps=2000)
    assert factor(0) == 1 and factor(100_000) == pytest.approx(math.exp(100_000 * math.log(0.999996)))


def test_schedules_without_warmup_or_after_all_steps_are_warmup() -> None:
    assert schedule("cos", warmup_steps=0, total_steps=10)(0) == 1
    assert schedule("cos", warmup_steps=10, total_steps=10)(10) == 1


def test_unknown_schedule_is_refused_with_what_is_allowed() -> None:
    with pytest.raises(UserError, match=r"schedule_mode is sine.*cos, cosine, linear, exp"):
        schedule("sine", warmup_steps=0, total_steps=1)


@pytest.mark.parametrize(
    ("warmup", "total", "expected"),
    [
        (20_000, 46_920, (20_000, False)),  # published strong recipe
        (20_000, 93_840, (20_000, False)),  # online distillation
        (5_000, 11_730, (5_000, False)),  # 30 epochs with the default
        (100, 1_200, (100, False)),  # DCASE 2016 task 2
        (20_000, 11_730, (1_173, True)),  # would never have reached the full rate
        (5_000, 480, (48, True)),
        (5_000, 1, (0, True)),
        (0, 10, (0, False)),
    ],
)
def test_warmup_fits_the_run(warmup: int, total: int, expected: tuple[int, bool]) -> None:
    assert effective_warmup(warmup, total) == expected


def test_impossible_warmups_are_refused() -> None:
    with pytest.raises(UserError, match="warmup_steps"):
        effective_warmup(-1, 100)
    with pytest.raises(ValueError, match="at least one"):
        effective_warmup(10, 0)


def test_weak_schedule() -> None:
    factor = weak_schedule()
    assert factor(0) == pytest.approx(math.exp(-5 * (1 - 0.5 / 8) ** 2))
    assert factor(4) == pytest.approx(math.exp(-1.25))
    assert factor(8) == factor(80) == 1
    assert factor(81) == pytest.approx(0.01 + 0.99 * 94 / 95)
    assert factor(174) == pytest.approx(0.01 + 0.99 / 95)
    assert factor(175) == factor(199) == 0.01
    assert weak_schedule(warm_up_len=0, ramp_down_start=0, ramp_down_len=0, last_lr_value=0.5)(3) == 0.5


def test_weight_decay_survives_the_flattening_of_fsdp() -> None:
    """FSDP makes every parameter one-dimensional before the groups are formed."""
    model = TinyModel()
    before = settings(model, groups_of(model, weight_decay=0.1))
    decayed = decayed_names(model)
    for parameter in model.parameters():
        parameter.data = parameter.data.flatten()
    assert settings(model, groups_of(model, weight_decay=0.1, decayed=decayed)) == before
    assert {decay for _, decay in before.values()} == {0.0, 0.1}
