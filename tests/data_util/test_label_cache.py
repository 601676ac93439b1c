"""The cache of parsed labels: same events, right key, no harm when it is damaged."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from data_util import label_cache
from data_util.label_cache import load_strong_events
from data_util.label_files import read_strong_tsv
from data_util.labels import load_vocabulary
from errors import UserError


def test_cached_events_equal_parsed_ones(data_dir, tmp_path, monkeypatch):
    path, vocabulary = data_dir / "audioset_train_strong.tsv", load_vocabulary("strong")
    parsed = read_strong_tsv(path, vocabulary)
    load_strong_events(path, vocabulary, tmp_path)
    monkeypatch.setattr(label_cache, "read_strong_tsv", None)  # a second parse would fail
    cached = load_strong_events(path, vocabulary, tmp_path)
    for column in dataclasses.fields(parsed):
        first, second = getattr(parsed, column.name), getattr(cached, column.name)
        np.testing.assert_array_equal(first, second)
        assert first.dtype == second.dtype


def test_another_table_or_vocabulary_is_another_entry(data_dir, tmp_path):
    path, vocabulary = tmp_path / "labels.tsv", load_vocabulary("strong")
    text = (data_dir / "audioset_train_strong.tsv").read_text()
    path.write_text(text)
    whole = load_strong_events(path, vocabulary, tmp_path / "cache")
    path.write_text("\n".join(text.splitlines()[:-1]))
    assert load_strong_events(path, vocabulary, tmp_path / "cache").n_events == whole.n_events - 1
    backwards = dataclasses.replace(vocabulary, names=vocabulary.names[::-1], mids=vocabulary.mids[::-1])
    swapped = load_strong_events(path, backwards, tmp_path / "cache")
    assert sorted(446 - swapped.class_index) == sorted(read_strong_tsv(path, vocabulary).class_index)
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_damaged_cache_is_parsed_again_and_mended(data_dir, tmp_path):
    path, vocabulary = data_dir / "audioset_eval_strong.tsv", load_vocabulary("strong")
    expected = load_strong_events(path, vocabulary, tmp_path).onset
    (cached,) = tmp_path.iterdir()
    for content in (b"", b"rubbish", cached.read_bytes()[:200]):
        cached.write_bytes(content)
        np.testing.assert_array_equal(load_strong_events(path, vocabulary, tmp_path).onset, expected)
    assert len(cached.read_bytes()) > 200


def test_a_folder_that_cannot_be_made_does_no_harm(data_dir, tmp_path):
    (tmp_path / "file").write_text("in the way")
    path, vocabulary = data_dir / "audioset_eval_strong.tsv", load_vocabulary("strong")
    assert len(load_strong_events(path, vocabulary, tmp_path / "file" / "cache")) == 4


def test_a_missing_table_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.tsv"):
        load_strong_events(tmp_path / "nowhere.tsv", load_vocabulary("strong"), tmp_path)
