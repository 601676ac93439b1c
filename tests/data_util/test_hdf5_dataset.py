"""Packed files: what a good one gives and how a bad one is refused."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor

import h5py
import numpy as np
import pytest

from data_util.clip_index import clip_id_of_name
from data_util.hdf5_dataset import LazyHdf5, Mp3File, entry, open_hdf5
from data_util.pseudo_labels import holds_nan
from errors import UserError


def write(path, *, names=True, mp3=True, target=True, n=3, **changes):
    with h5py.File(path, "w") as file:
        if names:
            dtype = changes.get("name_dtype", "S20")
            data = [f"{i:02d}/Y--id_{i:06d}.mp3".encode() for i in range(n)] if dtype == "S20" else range(n)
            file.create_dataset("audio_name", data=np.array(data, dtype))
        if mp3:
            entry = file.create_dataset("mp3", (n,), h5py.vlen_dtype(changes.get("mp3_dtype", np.uint8)))
            for i in range(n):
                entry[i] = np.arange(i + 1)
        if target:
            shape = (changes.get("n_targets", n), changes.get("n_bytes", 66))
            file.create_dataset("target", data=np.ones(shape, changes.get("target_dtype", np.uint8)))
    return path


def test_reads_names_bytes_and_targets(tmp_path):
    reader = Mp3File(write(tmp_path / "a.hdf"))
    assert reader.clip_ids.tolist() == ["Y--id_000000", "Y--id_000001", "Y--id_000002"]
    assert reader.mp3(2).tolist() == [0, 1, 2] and reader.mp3(2).dtype == np.uint8
    assert reader.target(0).tolist() == [1] * 66
    assert reader.targets().shape == (3, 66) and len(reader) == 3


@pytest.mark.parametrize(
    ("name", "clip"),
    [
        ("Yabc.mp3", "Yabc"),
        ("17/Y-_mp3.mp3.mp3", "Y-_mp3.mp3"),
        ("Yendsinm", "Yendsinm"),
        ("YtestIDmp3", "YtestIDmp3"),
        ("Yabcp.mp3", "Yabcp"),
    ],
)
def test_only_the_suffix_goes(name, clip):
    assert clip_id_of_name(name) == clip


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_open_the_file_themselves(tmp_path, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    reader = Mp3File(write(tmp_path / "a.hdf"))
    assert reader.mp3(0).tolist() == [0]  # the parent holds a handle when the child starts
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        assert pool.submit(reader.mp3, 1).result(timeout=60).tolist() == [0, 1]
    assert reader.mp3(2).tolist() == [0, 1, 2]


def test_pickling_leaves_the_handle_behind(tmp_path):
    reader = Mp3File(write(tmp_path / "a.hdf"))
    reader.mp3(0)
    assert pickle.loads(pickle.dumps(reader)).mp3(1).tolist() == [0, 1]


def test_no_handle_stays_open_after_construction(tmp_path):
    path = write(tmp_path / "a.hdf")
    Mp3File(path)
    with h5py.File(path, "r+"):  # refused while a reader holds the file
        pass


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"names": False}, ["audio_name", "mp3, target"]),
        ({"mp3": False}, ["'mp3'", "audio_name, target"]),
        ({"target": False}, ["'target'", "uint8 [N, 66]"]),
        ({"n_bytes": 65}, ["'target'", "uint8 [3, 65]", "uint8 [N, 66]"]),
        ({"target_dtype": np.float32}, ["'target'", "float32 [3, 66]"]),
        ({"mp3_dtype": np.int16}, ["'mp3'", "vlen uint8"]),
        ({"name_dtype": np.int64}, ["'audio_name'", "int64 [3]"]),
        ({"n_targets": 2}, ["3, 3 and 2 rows"]),
    ],
)
def test_malformed_files_say_what_is_wrong(tmp_path, changes, words):
    path = write(tmp_path / "bad.hdf", **changes)
    with pytest.raises(UserError) as caught:
        Mp3File(path)
    for word in ["bad.hdf", *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_truncated_and_other_files(tmp_path):
    with pytest.raises(UserError, match="expected a file or folder, got a path that does not exist"):
        Mp3File(tmp_path / "nowhere.hdf")
    whole = write(tmp_path / "a.hdf", n=200).read_bytes()
    (tmp_path / "cut.hdf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cut\.hdf is truncated"):
        Mp3File(tmp_path / "cut.hdf")
    (tmp_path / "text.hdf").write_text("hello")
    with pytest.raises(UserError, match=r"text\.hdf cannot be read as HDF5"):
        Mp3File(tmp_path / "text.hdf")


@pytest.mark.parametrize("signature", [b"TREE", b"SNOD", b"HEAP"])
def test_damaged_metadata_is_one_line(tmp_path, signature):
    data = write(tmp_path / "a.hdf").read_bytes()
    (tmp_path / "bad.hdf").write_bytes(data.replace(signature, b"XXXX", 1))
    with pytest.raises(UserError, match=r"bad\.hdf .*copy or download it again") as caught:
        Mp3File(tmp_path / "bad.hdf")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["external storage", "external link", "link through a link", "virtual"])
def test_values_of_another_file_are_refused(tmp_path, kind):
    """A file from a stranger must not make us read another one of this machine."""
    (tmp_path / "secret").write_bytes(bytes(range(66)))
    with h5py.File(tmp_path / "other.hdf", "w") as other:
        other["target"] = np.zeros((1, 66), np.uint8)
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        if kind == "external storage":
            file.create_dataset("target", (1, 66), np.uint8, external=[(str(tmp_path / "secret"), 0, 66)])
        elif kind == "virtual":
            layout = h5py.VirtualLayout((1, 66), np.uint8)
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf"), "target", (1, 66))
            file.create_virtual_dataset("target", layout)
        elif kind == "external link":
            file["target"] = h5py.ExternalLink(str(tmp_path / "other.hdf"), "target")
        else:
            file["there"] = h5py.ExternalLink(str(tmp_path / "other.hdf"), "/")
            file["target"] = h5py.SoftLink("/there/target")
        file["own"] = np.zeros(3)
    with open_hdf5(tmp_path / "a.hdf") as file:
        with pytest.raises(UserError, match="'target' takes its values from another file"):
            entry(file, "target", "")
        assert entry(file, "own", "").shape == (3,)
    assert LazyHdf5(tmp_path / "a.hdf").entry("own").shape == (3,)
    with pytest.raises(UserError, match="another file"):
        LazyHdf5(tmp_path / "a.hdf").entry("target")


def test_plus_infinity_is_no_logit():
    sound = [(-np.inf, False), (65504, False), (-65504, False)]
    for value, bad in [(np.inf, True), (np.nan, True), (-np.nan, True), *sound]:
        logits = np.zeros((3, 4), np.float16)
        logits[1, 2] = value
        assert holds_nan(logits) is bad, value
