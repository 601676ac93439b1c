"""The gated rotary attention of tf and attn against other implementations of its parts."""

from __future__ import annotations

import pytest
import torch
from rotary_embedding_torch import RotaryEmbedding

from models.sequence.transformer import GatedAttention, RotaryEncoding, attn, tf


@pytest.mark.parametrize("head_dim", [13, 16, 26, 64])  # 13: attn with 104 features, the last one not turned
def test_rotary_encoding_equals_the_package(head_dim: int) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 3, 50, head_dim).unbind(0)
    package = RotaryEmbedding(head_dim, cache_if_possible=False)
    ours = RotaryEncoding(head_dim)
    torch.testing.assert_close(ours.freqs, package.freqs)
    turned_q, turned_k = ours(q, k)
    torch.testing.assert_close(turned_q, package.rotate_queries_or_keys(q), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(turned_k, package.rotate_queries_or_keys(k), atol=1e-5, rtol=1e-5)


def test_angles_keep_float32_under_autocast() -> None:
    encoding = RotaryEncoding(16)
    expected = encoding.angles(2000)[0]
    with torch.autocast("cpu", torch.bfloat16):
        cos, _ = encoding.angles(2000)
    assert cos.dtype == torch.float32
    assert torch.equal(cos, expected)


def test_attention_equals_the_formula() -> None:
    """Softmax, gates and head layout written out, one head and one frame at a time."""
    torch.manual_seed(0)
    n_heads, dim, n_frames = 4, 24, 9
    layer = GatedAttention(dim, n_heads).eval()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(1, n_frames, dim)
    normed = layer.norm(x)[0]
    qkv = normed @ layer.to_qkv.weight.T
    heads = []
    for h in range(n_heads):
        q, k, v = (qkv[:, part * dim + h * 6 : part * dim + (h + 1) * 6] for part in range(3))
        q, k = (t[0, 0] for t in layer.pos_encoding(q[None, None], k[None, None]))
        rows = []
        for t in range(n_frames):
            weights = torch.softmax(torch.stack([q[t] @ k[s] for s in range(n_frames)]) / 6**0.5, dim=0)
            gate = torch.sigmoid(normed[t] @ layer.to_gates.weight[h] + layer.to_gates.bias[h])
            rows.append(gate * sum(weights[s] * v[s] for s in range(n_frames)))
        heads.append(torch.stack(rows))
    expected = torch.cat(heads, dim=-1) @ layer.to_out[0].weight.T
    torch.testing.assert_close(layer(x)[0], expected, atol=1e-5, rtol=1e-5)


def test_number_of_heads() -> None:
    assert tf(96, 104)[1].layers[0][0].n_heads == 4
    assert tf(96, 128)[1].layers[0][0].n_heads == 8
    assert attn(96, 104)[1].layers[0].n_heads == 8


def test_initialisation_and_dropout() -> None:
    torch.manual_seed(0)
    model = tf(960, 256)
    weight = model[1].layers[1][1].net[1].weight
    assert abs(weight.std() - 0.02) < 1e-3
    assert model[1].layers[1][1].net[1].bias.eq(0).all()
    x = torch.randn(1, 30, 960)
    assert not torch.equal(model(x), model(x))  # training mode: dropout of 0.2
    assert not torch.equal(tf(960, 256).train()(x), tf(960, 256).eval()(x))
    plain = attn(960, 256)
    assert torch.equal(plain(x), plain(x))  # no dropout


def test_frequencies_are_not_trained() -> None:
    frozen = [name for name, p in tf(96, 128).named_parameters() if not p.requires_grad]
    assert frozen == ["1.layers.0.0.pos_encoding.freqs", "1.layers.1.0.pos_encoding.freqs"]
