"""Checkpoints: every layout loads, every name resolves, downloads resume, strangers are refused."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from errors import UserError
from models import backbone_names, cards, checkpoints, create_model, list_models, sequence_model_names
from models.cards import Card, find_card
from tests.equality import assert_equal_outputs
from tests.golden_recipe import GOLDEN, calibrated_model, filled_state, golden_model, published_names, wave

ROOT = Path(__file__).parents[2]


def released(model: torch.nn.Module, prefix: str = "net.") -> dict[str, torch.Tensor]:
    """Weights, which `model` is given too, under the keys of a released frame-wise file."""
    state = calibrated_model(model).state_dict()
    return {f"{prefix}{key}".replace(f"{prefix}model.fmn.", f"{prefix}model."): value for key, value in state.items()}


def assert_same_output(a: torch.nn.Module, b: torch.nn.Module) -> None:
    mel = a.mel_forward(wave(2, 32_000))
    assert_equal_outputs(a.eval(), b.eval(), mel, mel.flip(0), 0)


@pytest.mark.parametrize("prefix", ["net.", "model."])
@pytest.mark.parametrize("seq_model_type", [None, "tf", "gru", "hybrid"])
def test_released_layouts(prefix: str, seq_model_type: str | None, tmp_path: Path) -> None:
    model = create_model("fmn04", seq_model_type=seq_model_type, seq_model_dim=104)
    torch.save(released(model, prefix), tmp_path / "fmn04.pt")
    loaded = create_model("fmn04", seq_model_type=seq_model_type, seq_model_dim=104, checkpoint=tmp_path / "fmn04.pt")
    assert_same_output(loaded, model)


def test_a_file_of_another_width_names_its_model(tmp_path: Path) -> None:
    for name in ("fmn02", "fmn04"):
        torch.save(released(create_model(name)), tmp_path / "some.pt")
        with pytest.raises(UserError, match=f"does not fit the model.*: --model_name={name}$"):
            create_model("fmn01", checkpoint=tmp_path / "some.pt")


def test_weak_checkpoint_under_a_sequence_model(tmp_path: Path) -> None:
    weak = create_model("fmn04", n_classes_weak=527)
    torch.save(released(weak), tmp_path / "fmn04_weak.pt")
    model = create_model("fmn04", seq_model_type="tf", seq_model_dim=104)
    fresh = {k: v.clone() for k, v in model.state_dict().items()}
    report = checkpoints.load_weights(model, tmp_path / "fmn04_weak.pt")
    after = model.state_dict()
    assert all(key.startswith("model.") for key in report.loaded)
    assert {key.split(".")[0] for key in report.initialised} == {"seq_model", "strong_head", "weak_head"}
    assert set(report.refused) == {f"{head}_head.{part}" for head in ("strong", "weak") for part in ("weight", "bias")}
    assert all(after[key].equal(fresh[key]) for key in report.initialised)
    assert not after["model.fmn.features.0.0.weight"].equal(fresh["model.fmn.features.0.0.weight"])


def test_head_with_other_classes_stays_fresh(tmp_path: Path) -> None:
    torch.save(released(create_model("fmn04", n_classes_weak=527)), tmp_path / "weak.pt")
    model = create_model("fmn04")
    report = checkpoints.load_weights(model, tmp_path / "weak.pt")
    assert report.initialised == ["weak_head.bias", "weak_head.weight"]
    assert "527 classes in the file, 447 in the model" in str(report)


def test_published_tcn_layout(tmp_path: Path) -> None:
    """Each convolution stands in such a file twice; the later one counts."""
    shapes = json.loads((GOLDEN / "fmn10+tcn-128.keys.json").read_text())
    published = golden_model("fmn10+tcn-128", shapes)
    own = published.state_dict()
    state = {f"net.{key}": own[name] for key, name in published_names(published, shapes).items()}
    firsts = [key for key in state if ".conv1." in key or ".conv2." in key]
    assert firsts
    torch.save(state | {key: torch.zeros_like(state[key]) for key in firsts}, tmp_path / "tcn.pt")
    model = create_model("fmn10", seq_model_type="tcn", seq_model_dim=128, checkpoint=tmp_path / "tcn.pt")
    assert_same_output(model, published)


def test_clip_wise_weights(tmp_path: Path) -> None:
    """ImageNet and AudioSet files of the clip-wise family: same features, a classifier that is left out."""
    model = create_model("fmn10")
    state = filled_state({k.removeprefix("model.fmn."): v for k, v in model.state_dict().items() if "features" in k})
    state |= {"classifier.2.weight": torch.zeros(1280, 960), "classifier.5.bias": torch.zeros(527)}
    torch.save(state, tmp_path / "mn10_as.pt")
    report = checkpoints.load_weights(model, tmp_path / "mn10_as.pt")
    assert set(report.refused) == {"classifier.2.weight", "classifier.5.bias"}
    assert sorted(report.initialised) == [f"{h}_head.{p}" for h in ("strong", "weak") for p in ("bias", "weight")]
    assert model.state_dict()["model.fmn.features.3.block.0.0.weight"].equal(state["features.3.block.0.0.weight"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("net.model.features.0.0.weight"), "missing: model.fmn.features.0.0.weight"),
        (
            lambda s: s.update({"net.model.features.99.weight": torch.zeros(1)}),
            "unexpected: model.fmn.features.99.weight",
        ),
        (lambda s: s.update({"net.model.features.0.0.weight": torch.zeros(3)}), r"other shape: .*\(3,\) instead of"),
    ],
)
def test_strangers_are_named(change, words: str, tmp_path: Path) -> None:
    state = released(create_model("fmn04"))
    change(state)
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(UserError, match=words):
        create_model("fmn04", checkpoint=tmp_path / "x.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    model = create_model("fmn04")
    state = model.state_dict()
    state["strong_head.bias"][3] = value
    torch.save(state, tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"w\.pt.*values that are not finite: strong_head\.bias"):
        checkpoints.load_weights(create_model("fmn04"), tmp_path / "w.pt")


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    torch.save({"net.model": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(UserError, match="cannot be read as weights"):
        create_model("fmn04", checkpoint=tmp_path / "bomb.pt")
    assert not (tmp_path / "exploded").exists()


def test_an_exported_program_is_no_checkpoint(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "x.torchscript.pt"))
    recwarn.clear()
    with pytest.raises(UserError, match=r"TorchScript.*name the weights"):
        checkpoints.read_checkpoint(tmp_path / "x.torchscript.pt")
    assert not recwarn.list


def test_cards_and_registry_agree() -> None:
    for card in cards().values():
        assert card.backbone in backbone_names(), card.name
        assert card.seq_model_type is None or card.seq_model_type in sequence_model_names()
        stage = card.stage if card.stage not in ("ssl", "clipwise") else card.name
        assert find_card(card.backbone, stage, card.seq_model_type, card.seq_model_dim or 256) == card


def test_licences_that_are_certain_are_named() -> None:
    """Those of the networks that the transformers' weights come from; M2D's forbids more than the others."""
    for backbone, licence in {"BEATs": "MIT", "fpasst": "Apache-2.0", "M2D": "NTT"}.items():
        assert all(licence in card.licence for card in cards().values() if card.backbone == backbone)
    assert all("repository" in card.licence for card in cards().values())


def test_everything_is_listed_with_cost_and_result() -> None:
    by_name = {info.name: info for info in list_models()}
    assert {*backbone_names(), *cards()} <= by_name.keys() and len(by_name) == len(list_models())
    for name, card in cards().items():
        assert by_name[name].is_checkpoint and by_name[name].psds1 == card.psds1
        assert by_name[name].parameters and by_name[name].macs
    assert all(by_name[name].parameters and by_name[name].macs for name in backbone_names())
    assert {name.partition("+")[2].partition(":")[0] for name in by_name} >= {"", *sequence_model_names()}
    info = by_name["fmn10+tf:256"]
    model = create_model("fmn10", seq_model_type="tf", seq_model_dim=256)
    assert info.parameters == sum(p.numel() for p in model.parameters()) and info.psds1 == 43.86
    lines = str(list_models()).splitlines()
    assert len({len(line) for line in lines}) == 1 and "5,028,286" in next(x for x in lines if "fmn10+tf:256" in x)


def test_a_backbone_that_nobody_has_counted_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.listing.backbone_names", lambda: ["mine"])
    assert next(iter(list_models())).name == "mine"


def test_names_of_the_releases() -> None:
    expected = {f"fmn{w}_{s}" for w in ("04", "06", "10", "20", "30") for s in ("weak", "strong")}
    dims = {"04": [104], "06": [160], "10": [128, 256, 512, 1024], "20": [512], "30": [768]}
    expected |= {f"fmn{w}+{s}-{d}_strong" for w, ds in dims.items() for d in ds for s in ("tf", "hybrid", "gru")}
    expected |= {"fmn10+tf-256_advanced-kd-weak-strong"}
    expected |= {f"{t}_{s}" for t in ("BEATs", "ATST-F", "fpasst", "M2D", "ASIT") for s in ("ssl", "weak", "strong_1")}
    assert expected <= set(cards())
    assert cards()["fmn10+tf-256_strong"].url.endswith("/EfficientSED/releases/download/v0.0.1/fmn10+tf-256_strong.pt")
    assert cards()["BEATs_strong_1"].url.endswith("/PretrainedSED/releases/download/v0.0.1/BEATs_strong_1.pt")


def test_a_strong_checkpoint_needs_its_sequence_model() -> None:
    with pytest.raises(UserError, match=r"no 'strong' weights .*attn-256.*fmn10\+tf-256_strong"):
        find_card("fmn10", "strong", "attn", 256)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `content`, honours byte ranges, breaks off after `limit` bytes of a response."""

    content = bytes(range(256)) * 40_000
    limit: int | None = None
    ranges: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        body = self.content[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.limit])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def card() -> Iterator[Card]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/weights.pt"
        Server.limit, Server.ranges = None, []
        yield Card("weights", "fmn04", "strong", url, "fmn", "", "")
        server.shutdown()


def test_download_resumes_and_is_atomic(card: Card, tmp_path: Path) -> None:
    Server.limit = 3_000_000
    with pytest.raises(UserError, match="cannot download 'weights'"):
        checkpoints.fetch(card, tmp_path)
    assert not (tmp_path / "weights.pt").exists()
    arrived = (tmp_path / "weights.pt.part").stat().st_size
    assert 0 < arrived <= 3_000_000

    Server.limit = None
    path = checkpoints.fetch(card, tmp_path)
    assert path.read_bytes() == Server.content
    assert Server.ranges == [None, f"bytes={arrived}-"]
    assert checkpoints.fetch(card, tmp_path) == path and len(Server.ranges) == 2  # nothing is fetched twice


def test_two_downloads_at_once_are_one(card: Card, tmp_path: Path) -> None:
    """Processes of one training ask for the same weights at the same moment: one fetches them, the others wait."""
    code = (
        "import sys; from pathlib import Path; from models import checkpoints; from models.cards import Card\n"
        "card = Card('weights', 'fmn04', 'strong', sys.argv[1], 'fmn', '', '')\n"
        "checkpoints.fetch(card, Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, card.url, str(tmp_path)]
    processes = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert (tmp_path / "weights.pt").read_bytes() == Server.content and len(Server.ranges) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pt"]


def test_a_folder_that_takes_no_file_is_named(card: Card, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(UserError, match=rf"cannot download 'weights' \({tmp_path / 'taken'}.*\): .*--checkpoint"):
        checkpoints.fetch(card, tmp_path / "taken")


TENSOR = {"model.x": torch.zeros(1)}
ABOUT = {"model_name": "fmn04", "seq_model_type": None, "seq_model_dim": 32, "labels": ["a", "b"], "n_classes_weak": 2}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"x": torch.zeros(1).expand(2**40)}, "weight 'x' is of shape (1099511627776,), larger than its file"),
        ({"x": torch.zeros(5).to_sparse()}, "weight 'x' is sparse"),
        ({"x": torch.quantize_per_tensor(torch.zeros(5), 1.0, 0, torch.qint8)}, "weight 'x' is sparse, quantised"),
        ({"x": torch.zeros(5, device="meta")}, "weight 'x' is on the device meta"),
        ({"labels": ["a", 5]}, "label 5 is not text"),
        ({"labels": [None]}, "label None is not text"),
        ({"labels": ["a\ud800"]}, "label 'a\\ud800' is not text"),
        ({"labels": ["a\0b"]}, "label 'a\\x00b' is not text"),
        ({"labels": "ab"}, "labels is 'ab', expected a list of 1"),
        ({"labels": []}, "labels is [], expected a list of 1"),
        ({"n_classes_weak": 2**40}, "n_classes_weak is 1099511627776, expected a whole number from 1"),
        ({"seq_model_dim": -1}, "seq_model_dim is -1"),
        ({"seq_model_dim": 1.5}, "seq_model_dim is 1.5"),
        ({"model_name": 7}, "model_name is 7, expected text"),
        ({"seq_model_type": ["gru"]}, "seq_model_type is ['gru'], expected text"),
        ({"untrained": 5}, "untrained is 5, expected a list"),
    ],
)
def test_what_a_stranger_may_have_put_into_a_file_is_one_line(
    content: dict[str, object], words: str, tmp_path: Path
) -> None:
    weights = {"state_dict": content} if "x" in content else {"state_dict": TENSOR}
    about = {**ABOUT, **({} if "x" in content else content)}
    torch.save({**weights, checkpoints.METADATA_KEY: about}, tmp_path / "x.ckpt")
    with pytest.raises(UserError) as refused:
        checkpoints.read_checkpoint(tmp_path / "x.ckpt")
    assert words in str(refused.value) and "\n" not in str(refused.value)
    torch.save({"state_dict": TENSOR, checkpoints.METADATA_KEY: ABOUT}, tmp_path / "x.ckpt")
    assert checkpoints.read_checkpoint(tmp_path / "x.ckpt")[1] == ABOUT


def test_a_packed_file_is_not_unpacked(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1000)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as stored, zipfile.ZipFile(tmp_path / "y.pt", "w") as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name), zipfile.ZIP_DEFLATED)
    assert checkpoints.read_checkpoint(tmp_path / "x.pt")[0]["x"].shape == (1000,)
    with pytest.raises(UserError, match=r"y\.pt' is compressed"):
        checkpoints.read_checkpoint(tmp_path / "y.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": [torch.zeros(1)]}, "expected a table in its entry 'state_dict', got a list"),
        ({1: torch.zeros(1), (2, 3): torch.zeros(1)}, "no tensors with names"),
        (
            {"state_dict": TENSOR, checkpoints.METADATA_KEY: 5},
            "expected a table in its entry 'efficientsed', got a int",
        ),
        ({"state_dict": TENSOR, checkpoints.METADATA_KEY: {"model_name": "fmn04"}}, "lacks seq_model_type"),
        ([torch.zeros(1)], "expected a state dict, got a list"),
    ],
)
def test_contents_of_no_use_are_refused(content: object, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match=words):
        checkpoints.read_checkpoint(tmp_path / "odd.ckpt")


@pytest.mark.parametrize("size", [0, 100, 600])
def test_truncated_files_are_refused(size: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.ckpt"
    torch.save(TENSOR, path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"cut\.ckpt' cannot be read as weights") as error:
        checkpoints.read_checkpoint(path)
    assert "\n" not in str(error.value)


def test_no_network_says_where_to_get_the_file(tmp_path: Path) -> None:
    card = Card("weights", "fmn04", "strong", "http://127.0.0.1:9/weights.pt", "fmn", "", "")
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9/weights\.pt .*--checkpoint"):
        checkpoints.fetch(card, tmp_path)
