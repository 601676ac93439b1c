"""Choosing classes by name, MID and group of the ontology."""

from __future__ import annotations

import pytest

from data_util.labels import load_vocabulary
from errors import UserError
from helpers.classes import ClassName, _outline, class_names, select_classes, tag_names

STRONG = class_names(load_vocabulary("strong").names)


def chosen(include=None, exclude=None, classes=STRONG) -> set[str]:
    return {classes[i].label for i in select_classes(classes, include, exclude)}


def test_every_class_of_audioset_stands_in_the_outline():
    everything = set(_outline()[0])
    assert set(load_vocabulary("strong").mids) <= everything
    assert set(load_vocabulary("weak").mids) <= everything


def test_a_group_holds_what_is_beneath_it():
    dogs = {"Dog", "Bark", "Yip", "Howl", "Bow-wow", "Growling", "Whimper (dog)", "Pant (dog)"}
    assert chosen(["Dog"]) == dogs
    assert chosen(["dog"]) == dogs
    assert dogs < chosen(["Domestic animals, pets"]) < chosen(["Animal"])
    assert chosen(["=Dog"]) == {"Dog"}
    assert chosen(["/m/0bt9lr"]) == {"Dog"}
    assert chosen(["Dog"], ["Bark", "Yip"]) == dogs - {"Bark", "Yip"}
    assert chosen(None, ["Human sounds"]).isdisjoint({"Speech", "Cough", "Applause"})


def test_both_names_of_a_class_are_known():
    assert chosen(["White noise"]) == {"White noise, pink noise"}  # the weak list's name
    assert "Car" in chosen(["Sounds of things"]) and "Car" not in chosen(["Natural sounds"])


def test_classes_of_ones_own():
    classes = class_names(["Pump", "Leak", "Bark"])
    assert classes == [ClassName("Pump", ""), ClassName("Leak", ""), ClassName("Bark", "/m/05tny_")]
    assert chosen(["leak"], None, classes) == {"Leak"}
    assert chosen(["Animal"], None, classes) == {"Bark"}


@pytest.mark.parametrize("word", ["Brak", "/m/nonsense", "=Natural sounds", ""])
def test_a_word_without_meaning(word):
    with pytest.raises(UserError, match=r"--include .*not one of the 447 classes"):
        chosen([word])
    with pytest.raises(UserError, match="--exclude"):
        chosen(None, [word])


def test_the_nearest_names_are_offered():
    with pytest.raises(UserError, match="Bark"):
        chosen(["Brak"])


def test_nothing_left():
    with pytest.raises(UserError, match="leave no class"):
        chosen(["Dog"], ["Animal"])


def test_names_of_tags():
    assert tag_names(447, STRONG) == STRONG
    assert tag_names(527, STRONG)[500].label == "Silence"
    assert tag_names(3, STRONG)[2].label == "tag 2"
