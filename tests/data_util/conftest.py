"""A small synthetic set, made once, and ways to spoil copies of it."""

from __future__ import annotations

import shutil

import pytest

from data_util import label_cache
from data_util.synthetic import Request, make_dataset


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthetic")
    make_dataset(out, Request(train=12, eval=4, seed=3), workers=1)
    return out


@pytest.fixture
def data_copy(data_dir, tmp_path):
    return shutil.copytree(data_dir, tmp_path / "data")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(label_cache, "CACHE_DIR", tmp_path / "cache")
