"""Which mapping a session begins with."""

import numpy as np
import pytest
from teleop_sources import KEYS

from robopref.cli.teleop_mapping import choose_mapping
from robopref.errors import RoboprefError
from robopref.human_io.mapping_defaults import default_mapping
from robopref.human_io.mapping_file import save_mapping
from robopref.human_io.station_operator import ActionLayout

pytestmark = pytest.mark.alone

LABELS = ("x", "y", "z", "gripper")
ROBOT = ActionLayout(LABELS, -np.ones(4), np.ones(4))
GAME = ActionLayout(("NOOP", "FIRE", "RIGHT", "LEFT"))


@pytest.fixture(autouse=True)
def configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "robopref"


def test_without_a_file_it_is_the_default_and_changes_go_to_a_file_of_its_own(configuration):
    paths = set()
    for device, layout, game in (
        ("web", ROBOT, None), ("gamepad", ROBOT, None), ("web", GAME, "pong"), ("web", GAME, "breakout"),
    ):  # fmt: skip
        mapping, default, path = choose_mapping(device, layout, game, None)
        assert mapping == default == default_mapping(device, layout.labels, discrete=layout.discrete)
        assert path.parent == configuration
        assert not path.exists()
        paths.add(path)
    assert len(paths) == 4


def test_what_was_saved_is_taken_up_and_what_it_lacks_is_said(tmp_path, capsys):
    _, default, path = choose_mapping("web", ROBOT, None, None)
    save_mapping(path, KEYS)
    assert choose_mapping("web", ROBOT, None, None) == (KEYS, default, path)
    assert "nothing in it drives z" in capsys.readouterr().out


def test_a_file_of_the_users_own_need_not_exist_yet_but_must_be_a_mapping(tmp_path):
    path = tmp_path / "mine.json"
    assert choose_mapping("web", ROBOT, None, path)[2] == path
    path.write_text("{}")
    with pytest.raises(RoboprefError, match="mapping"):
        choose_mapping("web", ROBOT, None, path)
