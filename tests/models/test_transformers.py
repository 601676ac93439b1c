"""The five transformers as networks: layers against plain formulas, depth groups, gradients, precision."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor, nn

from models.registry import backbone_names
from models.transformers.beats_blocks import GatedAttention, relative_bias, relative_buckets
from models.transformers.vit_blocks import Block, LayerStack, TransformerBackbone
from tests.models.tiny_transformers import BUILDERS, DIM, NAMES, tiny

EMBED_DIM = {"BEATs": 768, "ATST-F": 768, "fpasst": 768, "M2D": 3840, "ASIT": 768}


def random_mel(backbone: TransformerBackbone, batch: int = 2, frames: int = 160) -> Tensor:
    return torch.randn(batch, 1, backbone.mel_forward(torch.zeros(1, 1000)).shape[2], frames)


def full_size(name: str) -> TransformerBackbone:
    """The published size without memory for its weights."""
    with torch.device("meta"):
        return BUILDERS[name]()


def test_registered() -> None:
    assert set(NAMES) <= set(backbone_names())


# --- BEATs: relative positions and gate

BUCKETS = {0: 0, 79: 79, 80: 80, 81: 80, 82: 80, 83: 81, 84: 81, 85: 82, 90: 84, 100: 87, 120: 94, 150: 101, 200: 111}
BUCKETS |= {253: 120, 300: 125, 400: 135, 495: 143, 600: 150, 700: 155, 777: 158, 778: 159, 800: 159, 1100: 159}


def test_published_buckets() -> None:
    distances = torch.tensor(list(BUCKETS))
    expected = torch.tensor(list(BUCKETS.values()))
    assert torch.equal(relative_buckets(-distances), expected)
    assert torch.equal(relative_buckets(distances[1:]), expected[1:] + 160)


def test_buckets_of_all_distances() -> None:
    """The rule in Python floats, for every distance of an input of 30 s."""
    for r in range(-1500, 1501):
        a = abs(r)
        bucket = a if a < 80 else min(159, 80 + int(math.log(a / 80) / math.log(10) * 80))
        assert int(relative_buckets(torch.tensor(r))) == bucket + 160 * (r > 0), r


def test_bias_of_all_pairs() -> None:
    table = torch.randn(320, 3)
    bias = relative_bias(table, 300)
    for query, key in ((0, 0), (0, 299), (299, 0), (17, 117), (117, 17), (150, 151)):
        bucket = relative_buckets(torch.tensor(key - query))
        assert torch.equal(bias[:, query, key], table[bucket])
    rows, columns = torch.meshgrid(torch.arange(300), torch.arange(300), indexing="ij")
    assert torch.equal(bias, table[relative_buckets(columns - rows)].permute(2, 0, 1))


def plain_gated_attention(attn: GatedAttention, x: Tensor, table: Tensor) -> Tensor:
    """One clip and one head at a time, with the scores written out."""
    T, D = x.shape[1], x.shape[2]
    width = D // attn.n_heads
    out = torch.zeros_like(x)
    for b in range(x.shape[0]):
        for h in range(attn.n_heads):
            own = slice(h * width, (h + 1) * width)
            q, k, v = (proj(x[b])[:, own] for proj in (attn.q_proj, attn.k_proj, attn.v_proj))
            u = attn.grep_linear(q)
            first, second = u[:, :4].sum(1).sigmoid(), u[:, 4:].sum(1).sigmoid()
            gate = first * (second * attn.grep_a[0, h, 0, 0] - 1) + 2
            scores = q @ k.T / math.sqrt(width)
            for i in range(T):
                for j in range(T):
                    scores[i, j] += gate[i] * table[relative_buckets(torch.tensor(j - i)), h]
            out[b, :, own] = scores.softmax(-1) @ v
    return attn.out_proj(out)


@pytest.mark.parametrize("with_gradient", [True, False])
def test_gated_attention_equals_a_plain_one(with_gradient: bool) -> None:
    torch.manual_seed(0)
    table = nn.Embedding(320, 2)
    attn = GatedAttention(16, 2, table).eval()
    nn.init.normal_(attn.grep_linear.weight)
    nn.init.normal_(attn.grep_a)
    x = torch.randn(2, 9, 16)
    with torch.set_grad_enabled(with_gradient):
        result = attn(x, relative_bias(table.weight, 9))
    with torch.no_grad():
        expected = plain_gated_attention(attn, x, table.weight)
    torch.testing.assert_close(result.detach(), expected, atol=1e-5, rtol=0)


def test_bias_table_stays_shared_after_loading() -> None:
    backbone = tiny("BEATs")
    state = {key: torch.randn_like(value) for key, value in backbone.state_dict().items()}
    backbone.load_state_dict(state)
    tables = {id(layer.self_attn.relative_attention_bias.weight) for layer in backbone.beats.encoder.layers}
    assert len(tables) == 1
    aliases = [key for key in state if "relative_attention_bias" in key]
    assert torch.equal(backbone.beats.encoder.bias_table, state[aliases[-1]])  # a later entry wins


def test_layer_drop_only_in_training() -> None:
    stack = LayerStack(nn.Linear(1, 1) for _ in range(400))
    for layer in stack:
        nn.init.ones_(layer.weight)
        nn.init.ones_(layer.bias)
    stack.layer_drop = 0.05
    stack.requires_grad_(False)
    count = float(stack.train()(torch.zeros(1, 1)))
    assert 360 <= count < 400
    assert float(stack.eval()(torch.zeros(1, 1))) == 400


# --- ViT


def test_vit_layer_equals_a_plain_one() -> None:
    torch.manual_seed(0)
    block = Block(24, 3).eval()
    x = torch.randn(2, 7, 24)
    with torch.no_grad():
        h = block.norm1(x)
        weight, bias = block.attn.qkv.weight, block.attn.qkv.bias
        heads = []
        for i in range(3):
            q, k, v = (
                h @ weight[j * 24 + i * 8 : j * 24 + (i + 1) * 8].T + bias[j * 24 + i * 8 : j * 24 + (i + 1) * 8]
                for j in range(3)
            )
            heads.append((q @ k.transpose(1, 2) / math.sqrt(8)).softmax(-1) @ v)
        expected = x + block.attn.proj(torch.cat(heads, -1))
        inner = block.mlp.fc1(block.norm2(expected))
        expected = expected + block.mlp.fc2(inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))))
        torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_epsilon_of_the_norms(name: str) -> None:
    norms = [module.eps for module in full_size(name).modules() if isinstance(module, nn.LayerNorm)]
    assert set(norms) == {1e-5 if name == "BEATs" else 1e-6}
    assert len(norms) == (26 if name == "BEATs" else 25)


@pytest.mark.parametrize("name", NAMES)
def test_full_size(name: str) -> None:
    backbone = full_size(name)
    assert backbone.embed_dim == EMBED_DIM[name]
    assert backbone.target_frames(backbone.window_frames) == 250


def test_initialisation_of_beats() -> None:
    """Standard deviations of the published initialisation."""
    torch.manual_seed(0)
    beats = tiny("BEATs").beats
    conv = beats.encoder.pos_conv[0].parametrizations.weight
    assert float(conv.original1.std()) == pytest.approx(math.sqrt(4 / (128 * DIM)), rel=0.05)
    torch.testing.assert_close(conv.original0, conv.original1.square().sum((0, 1), keepdim=True).sqrt())
    layer, beta = beats.encoder.layers[1], 96**-0.25
    attn = layer.self_attn
    expected = {attn.q_proj: 1.0, attn.k_proj: 1.0, attn.v_proj: beta, attn.out_proj: beta, layer.fc1: beta}
    for linear, gain in {**expected, layer.fc2: beta}.items():
        std = gain * math.sqrt(2 / sum(linear.weight.shape))
        assert float(linear.weight.std()) == pytest.approx(std, rel=0.05)
        assert not linear.bias.any()
    assert float(attn.grep_linear.weight.std()) == pytest.approx(0.02, rel=0.2)
    assert float(beats.encoder.bias_table.std()) == pytest.approx(0.02, rel=0.1)
    assert bool((attn.grep_a == 1).all())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "BEATs"])
def test_initialisation_of_the_vits(name: str) -> None:
    torch.manual_seed(0)
    for key, parameter in tiny(name).named_parameters():
        if re.search(r"(qkv|attn\.proj|fc[12])\.weight|pos_embed|(mask_embed|dist_token)$", key):
            assert float(parameter.std()) == pytest.approx(0.02, rel=0.35), key
        elif re.search(r"(qkv|attn\.proj|fc[12])\.bias", key):
            assert not parameter.any(), key


# --- depth groups


def depth_of(backbone: TransformerBackbone, name: str) -> int:
    for pattern, depth in backbone.depth_patterns:
        if match := re.search(pattern, name):
            return int(match[1]) if depth is None else depth
    raise AssertionError(f"no depth for {name}")


GROUPS = {  # tensors in the first, a middle and the last group
    "BEATs": (30, 19, 19),
    "ATST-F": (15, 11, 13),
    "fpasst": (25, 12, 14),
    "M2D": (17, 12, 14),
    "ASIT": (16, 12, 14),
}
VALUES = {"BEATs": (12_339_348, 7_088_404, 7_088_404), "ATST-F": (7_476_480, 7_085_568, 7_087_104)}


@pytest.mark.parametrize("name", NAMES)
def test_depth_groups(name: str) -> None:
    backbone = full_size(name)
    groups: list[list[nn.Parameter]] = [[] for _ in range(backbone.n_depths)]
    for key, parameter in backbone.named_parameters():
        groups[depth_of(backbone, key)].append(parameter)
    first, middle, last = GROUPS[name]
    assert [len(group) for group in groups] == [first, *[middle] * 10, last]
    if name in VALUES:
        sizes = [sum(p.numel() for p in group) for group in groups]
        assert sizes == [VALUES[name][0], *[VALUES[name][1]] * 10, VALUES[name][2]]


# --- training


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient_or_is_listed(name: str) -> None:
    torch.manual_seed(0)
    backbone = tiny(name)
    embedding = backbone.embed(random_mel(backbone))
    (embedding * torch.randn_like(embedding)).sum().backward()
    for key, parameter in backbone.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.any())
        assert moved != backbone.is_unused(key), key
    listed = [key for key, _ in backbone.named_parameters() if backbone.is_unused(key)]
    assert len(listed) == len(backbone.unused_parameters)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_changes_nothing_but_memory(name: str) -> None:
    backbone = tiny(name).train()
    mel = random_mel(backbone)
    results = []
    for enabled in (False, True):
        backbone.set_gradient_checkpointing(enabled)
        backbone.zero_grad()
        torch.manual_seed(1)
        embedding = backbone(mel)
        embedding.square().sum().backward()
        grads = {key: p.grad.clone() for key, p in backbone.named_parameters() if p.grad is not None}
        results.append((embedding.detach(), grads))
    torch.testing.assert_close(results[0], results[1])


def test_gradient_checkpointing_is_used() -> None:
    calls = []
    backbone = tiny("ASIT").train()
    backbone.set_gradient_checkpointing()
    for layer in backbone.asit.blocks:
        layer.register_forward_pre_hook(lambda *_: calls.append(1))
    backbone(random_mel(backbone)).sum().backward()
    assert len(calls) == 4  # two layers, once forward and once again for the backward pass


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16(name: str) -> None:
    torch.manual_seed(0)
    backbone = tiny(name)
    mel = random_mel(backbone)
    expected = backbone(mel)
    with torch.autocast("cpu", torch.bfloat16):
        result = backbone(mel)
        result.float().square().mean().backward()
    assert float((result - expected).abs().max()) < 0.1 * float(expected.std())
    assert all(p.grad.isfinite().all() for p in backbone.parameters() if p.grad is not None)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert float((backbone(mel) - expected).abs().max()) < 0.1 * float(expected.std())


@pytest.mark.parametrize("name", NAMES)
def test_batch_mates_do_not_matter(name: str) -> None:
    backbone = tiny(name)
    mel = random_mel(backbone, batch=3)
    with torch.no_grad():
        together = backbone(mel)
        for i in range(3):
            torch.testing.assert_close(backbone(mel[i : i + 1])[0], together[i], atol=1e-5, rtol=0)


def test_short_clips_get_any_positions_in_training() -> None:
    backbone = tiny("fpasst").train()
    mel = random_mel(backbone, batch=1)
    with torch.no_grad():
        outputs = {float(backbone(mel).sum()) for _ in range(4)}
        assert len(outputs) > 1
        assert len({float(backbone.eval()(mel).sum()) for _ in range(3)}) == 1


# --- wrong input


@pytest.mark.parametrize("name", NAMES)
def test_wrong_shapes_are_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"expected a mel spectrogram \[B, 1, \d+, frames\], got \(1, 1, 40, 100\)"):
        tiny(name)(torch.zeros(1, 1, 40, 100))


def test_atst_says_when_its_positions_end() -> None:
    with pytest.raises(ValueError, match="250 tokens"):
        tiny("ATST-F")(torch.zeros(1, 1, 64, 1004))


@pytest.mark.parametrize("name", NAMES)
def test_width_must_suit_the_heads(name: str) -> None:
    with pytest.raises(ValueError, match="width 64 is not divisible by 5 heads"):
        BUILDERS[name](depth=1, dim=DIM, n_heads=5)


@pytest.mark.cuda
@pytest.mark.parametrize("name", NAMES)
def test_cuda_equals_cpu(name: str) -> None:
    torch.manual_seed(0)
    backbone = tiny(name)
    clips = 0.1 * torch.randn(2, 170_000)
    with torch.no_grad():
        expected = backbone.embed(backbone.mel_forward(clips))
        backbone.cuda()
        result = backbone.embed(backbone.mel_forward(clips.cuda()))
        with torch.autocast("cuda", torch.bfloat16):
            rough = backbone.embed(backbone.mel_forward(clips.cuda()))
    torch.testing.assert_close(result.cpu(), expected, atol=2e-3, rtol=0)
    assert float((rough.cpu() - expected).abs().max()) < 0.2 * float(expected.std())
