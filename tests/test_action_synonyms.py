"""Synonyms of actions, measured in real games."""

import pytest

from robopref.envs.action_synonyms import action_synonyms
from robopref.envs.ale import AtariSpec, action_meanings


def names(spec, **settings):
    meanings = action_meanings(spec)
    return {tuple(meanings[index] for index in group) for group in action_synonyms(spec, **settings)}


def test_the_button_does_next_to_nothing_in_pong():
    assert names(AtariSpec("pong")) == {("NOOP", "FIRE"), ("RIGHT", "RIGHTFIRE"), ("LEFT", "LEFTFIRE")}


@pytest.mark.parametrize("game", ["freeway", "breakout", "space_invaders"])
def test_games_in_which_every_action_does_something_of_its_own(game):
    """In Breakout FIRE matters when a ball is served alone, which is enough."""
    assert not names(AtariSpec(game))


def test_the_groups_do_not_depend_on_the_player():
    spec = AtariSpec("pong")
    assert action_synonyms(spec, seed=1) == action_synonyms(spec, seed=2) == action_synonyms(spec)


def test_one_state_tells_less_than_many():
    """In most states of Boxing the glove is out of reach, and what it does makes no difference."""
    few, many = (len({i for g in action_synonyms(AtariSpec("boxing"), states=n) for i in g}) for n in (1, 150))
    assert few > many == 0
