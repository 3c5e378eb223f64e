import json
import math

import ale_py
import numpy as np
import pytest
from ale_py import roms
from hypothesis import given
from hypothesis import strategies as st

from robopref.envs.ale import AtariSpec, action_meanings
from robopref.envs.registry import make_task
from robopref.errors import RoboprefError
from robopref.human_io.atari_actions import atari_action, parts_of
from robopref.human_io.bindings import Binding
from robopref.human_io.key_codes import CODE_OF_SCANCODE, KEY_CODES
from robopref.human_io.mapping import ControlEdges, Mapping, MappingRow
from robopref.human_io.mapping_defaults import DEVICES, default_mapping
from robopref.human_io.mapping_file import FORMAT, load_mapping, mapping_from_json, mapping_to_json, save_mapping
from robopref.human_io.readings import Control, DeviceReading

ROBOT = ("x", "y", "z", "gripper")
SEVEN = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
PONG = ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")
ALL_18 = tuple(action.name for action in ale_py.Action)

unit = st.floats(-1, 1)
readings = st.builds(
    DeviceReading,
    keys=st.frozensets(st.sampled_from(sorted(KEY_CODES)), max_size=8),
    axes=st.lists(unit, max_size=8).map(tuple),
    buttons=st.frozensets(st.integers(0, 20), max_size=6),
    connected=st.booleans(),
)
bindings = st.builds(
    Binding,
    source=st.one_of(
        st.sampled_from(sorted(KEY_CODES)),
        st.integers(0, 16).map("button:{}".format),
        st.tuples(st.integers(0, 7), st.sampled_from(["", "+", "-"])).map(lambda a: f"axis:{a[0]}{a[1]}"),
    ),
    scale=st.floats(-1, 1).filter(bool),
)


@st.composite
def mappings(draw):
    """Any mapping without conflicts, over names of dimensions and controls."""
    names = [("action", n) for n in SEVEN] + [("control", str(c)) for c in Control]
    tables, taken = {"action": {}, "control": {}}, set()
    for binding in draw(st.lists(bindings, max_size=12)):
        if not binding.inputs & taken:
            taken |= binding.inputs
            kind, name = draw(st.sampled_from(names))
            tables[kind][name] = (*tables[kind].get(name, ()), binding)
    latched = (
        frozenset(draw(st.lists(st.sampled_from(sorted(tables["action"])), max_size=2))) if tables["action"] else ()
    )
    return Mapping(tables["action"], tables["control"], frozenset(latched), draw(st.floats(0, 0.9)))


def held(*keys, axes=(), buttons=()):
    return DeviceReading(keys=frozenset(keys), axes=tuple(axes), buttons=frozenset(buttons))


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (held(), [0, 0, 0, 0]),
        (held("KeyD"), [0, 1, 0, 0]),  # to the right of a picture that looks the robot in the face
        (held("KeyA", "KeyW"), [-1, -1, 0, 0]),
        (held("KeyA", "KeyD", "KeyS"), [1, 0, 0, 0]),
        (held("KeyF", "KeyC"), [0, 0, -1, 1]),
        (held("KeyR", "KeyV"), [0, 0, 1, -1]),
        (held(axes=(1, -1, 0, 1, 0, 0)), [-1, 1, -1, 0]),  # the browser's sticks: down is positive
        (held(buttons=(7,)), [0, 0, 0, 1]),
        (held("KeyD", axes=(1,)), [0, 1, 0, 0]),  # two devices together never ask for more than all
    ],
)
def test_a_robot_follows_keyboard_and_gamepad(reading, expected):
    command = default_mapping("web", ROBOT).command(reading, ROBOT)
    assert command.dtype == np.float32
    assert command.tolist() == expected


def test_a_spacemouse_moves_what_it_is_moved_along():
    mapping = default_mapping("spacemouse", SEVEN)
    command = mapping.command(held(axes=(1, -1, 1, 0.55, 0, -1), buttons=(1,)), SEVEN)
    # pulled towards the viewer (the robot's +x) and to the right (+y), lifted, tilted about the axis to the right (+y)
    # by .55, which is half way from the dead zone's edge at .1, and turned clockwise
    assert command == pytest.approx([1, 1, 1, 0, 0.5, -1, -1])
    assert mapping.controls(held("Space")) == {Control.TAKE_OVER}  # the other hand's keyboard


@pytest.mark.parametrize("task", ["peg-insert-side", "fetch-push"])
def test_the_keys_follow_the_picture(task):
    """D moves to the right of the picture, S towards the viewer, R up, as the task's own camera sees the directions."""
    if task.startswith("fetch"):
        pytest.importorskip("gymnasium_robotics")
    env = make_task(task, image=False)
    env.reset(seed=0)
    base = env.unwrapped
    camera = base.data.camera(base.camera).xmat.reshape(
        3, 3
    )  # columns: the picture's right, its up, towards the viewer
    right, up, towards = camera.T
    if up[2] < 0:  # the picture of a camera that hangs upside down is turned
        right, up = -right, -up
    mapping = default_mapping("web", ROBOT)
    for key, way in (("KeyD", right), ("KeyS", towards), ("KeyR", up)):
        assert mapping.command(held(key), ROBOT)[:3] @ way > 0.6
    for stick, way in ((0, right), (1, towards)):
        axes = [0.0] * 6
        axes[stick] = 1.0
        assert mapping.command(held(axes=axes), ROBOT)[:3] @ way > 0.6
    env.close()


@pytest.mark.parametrize("device", DEVICES)
def test_every_control_and_every_dimension_has_an_input_on_every_device(device):
    mapping = default_mapping(device, SEVEN)
    assert mapping.unbound(SEVEN) == ()
    assert {row.name for row in mapping.rows() if row.kind == "control"} == set(Control)
    for labels in (("a0", "a1", "a2"), tuple(f"joint {i}" for i in range(12)), ("gripper", "x", "wrist")):
        strange = default_mapping(device, labels)
        assert strange.unbound(labels) == ()
        keys = [b.source for row in strange.rows() if row.kind == "action" for b in [row.binding]]
        assert len(keys) == len(set(keys))
    many = tuple(f"joint {i}" for i in range(14))
    assert default_mapping(device, many).unbound(many) == many[12:]
    assert "gripper" not in default_mapping(device, ("x", "y")).latched


def test_labels_that_make_no_sense():
    with pytest.raises(RoboprefError, match="at least one"):
        default_mapping("web", ())
    with pytest.raises(RoboprefError, match="occur once"):
        default_mapping("web", ("x", "x"))
    with pytest.raises(RoboprefError, match="web, keyboard, gamepad, spacemouse"):
        default_mapping("joystick", ROBOT)


def test_the_gripper_keeps_its_order_and_the_arm_does_not():
    mapping = default_mapping("keyboard", ROBOT)
    gripping = np.array([0.3, -0.2, 0.9, 1.0], np.float32)
    assert mapping.command(held(), ROBOT, previous=gripping).tolist() == [0, 0, 0, 1]
    assert mapping.command(held("KeyV"), ROBOT, previous=gripping).tolist() == [0, 0, 0, -1]
    assert mapping.command(held("KeyC", "KeyV"), ROBOT, previous=gripping).tolist() == [0, 0, 0, 0]
    assert mapping.command(held(), ROBOT).tolist() == [0, 0, 0, 0]
    gone = DeviceReading(keys=frozenset({"KeyD"}), connected=False)
    assert mapping.command(gone, ROBOT, previous=gripping).tolist() == [0, 0, 0, 0]
    with pytest.raises(RoboprefError, match="3 dimensions and there are 4"):
        mapping.command(held(), ROBOT, previous=np.zeros(3))


def test_a_dead_zone_has_no_step_at_its_edge():
    mapping = Mapping({"x": (Binding("axis:2", -0.5),)}, dead_zone=0.2)

    def x(axis):
        return float(mapping.command(held(axes=(0, 0, axis)), ("x",))[0])

    assert [x(0.0), x(0.2), x(-0.2)] == [0, 0, 0]
    assert x(0.6) == pytest.approx(-0.25)
    assert x(-1.0) == pytest.approx(0.5)
    assert abs(x(0.2001)) < 1e-4
    assert mapping.command(held(axes=(1.0,)), ("x",))[0] == 0  # the device has fewer axes than were bound


@given(mappings(), readings)
def test_whatever_is_held_the_command_is_in_range_and_silence_is_zero(mapping, reading):
    command = mapping.command(reading, SEVEN)
    assert command.shape == (7,)
    assert command.dtype == np.float32
    assert np.isfinite(command).all()
    assert (abs(command) <= 1).all()
    assert not mapping.command(DeviceReading(), SEVEN).any()
    assert not mapping.command(DeviceReading(connected=False, keys=reading.keys, axes=reading.axes), SEVEN).any()
    if not reading.connected:
        assert not command.any()
        assert mapping.controls(reading) == frozenset()


@given(mappings(), st.floats(-1, 1), st.floats(-1, 1), st.integers(0, 7))
def test_pushing_a_stick_further_never_turns_a_command_round(mapping, one, other, axis):
    """Monotone in each axis: up for a positive scale, down for a negative one, and zero at rest."""

    def commanded(level):
        return mapping.command(held(axes=[0.0] * axis + [level]), SEVEN)

    low, high = sorted([one, other])
    for i, label in enumerate(SEVEN):
        signs = {
            np.sign(b.scale) * (-1 if b.source.endswith("-") else 1)
            for b in mapping.action_bindings.get(label, ())
            if b.source.startswith(f"axis:{axis}")
        }
        if len(signs) == 1:
            assert signs.pop() * (commanded(high)[i] - commanded(low)[i]) >= 0


# ------------------------------------------------------------------------------------------------------------ Atari


@pytest.mark.parametrize(
    ("keys", "action"),
    [
        ((), "NOOP"),
        (("ArrowUp",), "UP"),
        (("ArrowUp", "ArrowRight"), "UPRIGHT"),
        (("KeyW", "KeyA", "KeyF"), "UPLEFTFIRE"),
        (("ArrowDown", "ArrowLeft", "KeyF"), "DOWNLEFTFIRE"),
        (("ArrowUp", "ArrowDown"), "NOOP"),
        (("ArrowUp", "ArrowDown", "ArrowLeft"), "LEFT"),
        (("KeyF",), "FIRE"),
    ],
)
def test_keys_together_make_the_diagonals(keys, action):
    mapping = default_mapping("web", ALL_18, discrete=True)
    assert ALL_18[mapping.command(held(*keys), ALL_18, discrete=True)] == action


def test_a_stick_and_a_cross_do_the_same():
    mapping = default_mapping("gamepad", ALL_18, discrete=True)

    def played(**pressed):
        return ALL_18[mapping.command(held(**pressed), ALL_18, discrete=True)]

    assert played(axes=(0.9, -0.9)) == played(buttons=(12, 15)) == "UPRIGHT"
    assert played(axes=(-0.3, 0.9)) == "DOWN"  # a stick that is not pushed half way is not pushed
    assert played(axes=(-1, 0), buttons=(7,)) == "LEFTFIRE"
    assert default_mapping("spacemouse", ALL_18, discrete=True).command(
        held(axes=(0, 1), buttons=(0,)), ALL_18, discrete=True
    ) == ALL_18.index("UPFIRE")


def test_a_game_without_up_goes_up_all_the_same():
    assert action_meanings(AtariSpec("Pong")) == PONG
    mapping = default_mapping("web", PONG, discrete=True)
    assert PONG[mapping.command(held("ArrowUp"), PONG, discrete=True)] == "RIGHT"  # which moves Pong's paddle up
    assert PONG[mapping.command(held("ArrowDown", "KeyF"), PONG, discrete=True)] == "LEFTFIRE"
    freeway = action_meanings(AtariSpec("Freeway"))
    assert default_mapping("web", freeway, discrete=True).command(held("ArrowDown"), freeway, discrete=True) == 2


@pytest.mark.parametrize("full", [False, True])
def test_every_action_of_every_game_can_be_played(full):
    """The actions are read from the emulator; what is pressed is built from the mapping's own bindings."""
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    for game in ("pong", "freeway", "seaquest", "ms_pacman", "amidar"):
        assert roms.get_rom_path(game).is_file()
        labels = action_meanings(AtariSpec(game, full_action_set=full))
        for device in DEVICES:
            mapping = default_mapping(device, labels, discrete=True)
            for i, label in enumerate(labels):
                first = [mapping.action_bindings[part][0].source for part in parts_of(label)]
                assert mapping.command(held(*first), labels, discrete=True) == i, (game, device, label)


@given(
    st.sets(st.sampled_from(["UP", "DOWN", "LEFT", "RIGHT", "FIRE"])),
    st.sets(st.sampled_from(ALL_18[1:])).map(lambda some: ("NOOP", *sorted(some))),
)
def test_an_action_never_does_what_is_not_pressed(pressed, labels):
    chosen = parts_of(labels[atari_action(pressed, labels)])
    assert chosen <= pressed
    cancelled = pressed - ({"UP", "DOWN"} if {"UP", "DOWN"} <= pressed else set())
    cancelled -= {"LEFT", "RIGHT"} if {"LEFT", "RIGHT"} <= pressed else set()
    # no action of the game does more of what is wanted
    assert len(chosen) == max(len(parts_of(label)) for label in labels if parts_of(label) <= cancelled)


def test_actions_with_names_of_their_own_get_the_digit_keys():
    labels = ("left lane", "right lane", "brake")
    mapping = default_mapping("keyboard", labels, discrete=True)
    assert [mapping.command(held(f"Digit{i}"), labels, discrete=True) for i in (1, 2, 3)] == [0, 1, 2]
    assert mapping.command(held(), labels, discrete=True) == 0


# ------------------------------------------------------------------------------------------- controls and rebinding


def test_edges_are_presses_and_a_click_is_one():
    edges = ControlEdges()
    take, stop = Control.TAKE_OVER, Control.STOP
    assert edges.update(frozenset({take})) == ()  # held since before anyone looked
    assert edges.update(frozenset({take, stop})) == (stop,)
    assert edges.update(frozenset({take, stop})) == ()
    assert edges.update(frozenset()) == ()
    assert edges.update(frozenset({take}), ("pause", "next")) == (Control.PAUSE, Control.NEXT, take)
    assert edges.update(frozenset({take}), ("take_over",)) == (take,)
    edges.reset()
    assert edges.update(frozenset({stop}), ("failure",)) == (Control.FAILURE,)
    assert edges.update(frozenset()) == ()
    assert edges.update(frozenset({stop}), ("stop",)) == (stop,)


@given(st.lists(st.frozensets(st.sampled_from(list(Control)))))
def test_between_two_presses_there_is_a_release(levels):
    edges = ControlEdges()
    edges.update(frozenset())
    pressed = [set(edges.update(level)) for level in levels]
    for control in Control:
        held_at = [control in level for level in levels]
        rises = [now and not before for before, now in zip([False, *held_at], held_at, strict=False)]
        assert [control in p for p in pressed] == rises


def test_rebinding_one_input():
    mapping = default_mapping("web", ROBOT)
    other = mapping.rebind("action", "y", "KeyA", "ArrowDown")
    assert other.command(held("ArrowDown"), ROBOT).tolist() == [0, -1, 0, 0]
    assert not other.command(held("KeyA"), ROBOT).any()
    assert mapping.command(held("KeyA"), ROBOT).any()  # the old one is as it was
    again = other.rebind("control", "stop", "Escape", "KeyA")  # which is free now
    assert again.controls(held("KeyA")) == {Control.STOP}
    assert again.rebind("action", "y", "axis:0", "axis:2").command(held(axes=(0, 0, -1)), ROBOT)[1] == -1
    assert mapping.invert("y").command(held("KeyA", axes=(1, 0)), ROBOT).tolist() == [0, 0, 0, 0]
    assert mapping.invert("y").command(held("KeyA"), ROBOT).tolist() == [0, 1, 0, 0]
    assert mapping.bind("control", "pause", Binding("F9")).controls(held("F9")) == {Control.PAUSE}
    assert not mapping.unbind("action", "y", "KeyD").command(held("KeyD"), ROBOT).any()
    assert MappingRow("control", "stop", Binding("KeyA")) in set(again.rows())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.rebind("action", "y", "KeyA", "KeyS"), r"KeyS means both x \(KeyS\) and y \(KeyS\)"),
        (lambda m: m.rebind("action", "y", "KeyA", "Space"), "Space means both y .* and take_over"),
        (lambda m: m.rebind("action", "y", "KeyA", "KeyD"), "KeyD means both y .* and y"),
        (lambda m: m.bind("action", "z", Binding("axis:0+")), r"axis:0\+ means both y \(axis:0\) and z"),
        (
            lambda m: m.rebind("action", "y", "KeyT", "KeyU"),
            "y is not bound to KeyT: it is bound to KeyD, KeyA, axis:0",
        ),
        (
            lambda m: m.rebind("action", "yaw", "KeyQ", "KeyU"),
            "no input is bound to the action 'yaw'.* x, y, z, gripper",
        ),
        (lambda m: m.rebind("control", "halt", "KeyQ", "KeyU"), "no input is bound to the control 'halt'"),
        (lambda m: m.rebind("action", "y", "KeyA", "s"), "'s' is no input.*did you mean KeyS"),
        (lambda m: m.rebind("action", "y", "KeyA", "space"), "did you mean Space"),
        (lambda m: m.rebind("action", "y", "KeyA", "ArowUp"), "did you mean ArrowUp"),
        (lambda m: m.rebind("action", "y", "KeyA", "button:64"), "'button:64' is no input"),
        (lambda m: m.rebind("action", "y", "KeyA", "button:07"), "'button:07' is no input"),
        (lambda m: m.rebind("action", "y", "KeyA", "button:3+"), "is no input"),
        (lambda m: m.bind("control", "halt", Binding("KeyU")), "no control called 'halt': the controls are take_over"),
        (lambda m: m.unbind("control", "stop", "KeyU"), "stop is not bound to KeyU"),
        (lambda m: m.invert("yaw"), "no input is bound"),
        (lambda m: Binding("KeyU", 0), "scale of KeyU is 0"),
        (lambda m: Binding("KeyU", math.nan), "scale of KeyU is nan"),
        (lambda m: Binding("KeyU", -1.5), r"-1.5: give a number in \[-1, 1\]"),
        (lambda m: Mapping(dead_zone=1.0), "dead zone is 1.0"),
        (lambda m: Mapping(latched=frozenset({"gripper"})), "latched dimension 'gripper' has no input"),
    ],
)
def test_what_cannot_be_bound_is_said(change, says):
    with pytest.raises(RoboprefError, match=says):
        change(default_mapping("web", ROBOT))


# ------------------------------------------------------------------------------------------------------------- disk


@given(mappings())
def test_a_mapping_survives_json(mapping):
    assert mapping_from_json(json.loads(json.dumps(mapping_to_json(mapping)))) == mapping


@pytest.mark.parametrize("device", DEVICES)
def test_a_mapping_survives_the_disk(tmp_path, device):
    for labels, discrete in ((ROBOT, False), (PONG, True)):
        mapping = default_mapping(device, labels, discrete=discrete)
        path = tmp_path / "new" / f"{device}.json"
        save_mapping(path, mapping)
        assert load_mapping(path) == mapping
        assert list(path.parent.iterdir()) == [path]  # nothing temporary is left


def test_a_save_that_fails_leaves_the_old_mapping(tmp_path, monkeypatch):
    path = tmp_path / "m.json"
    save_mapping(path, default_mapping("web", ROBOT))
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_mapping(path, default_mapping("web", SEVEN))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda m: m | {"format": "v0"}, FORMAT),
        (lambda m: m | {"speed": 1}, "unknown field 'speed'"),
        (lambda m: m | {"dead_zone": "wide"}, "dead zone is 'wide'"),
        (lambda m: m | {"dead_zone": True}, "dead zone is True"),
        (lambda m: m | {"latched": "gripper"}, '"latched" must be a list'),
        (lambda m: m | {"latched": ["yaw"]}, "'yaw' has no input"),
        (lambda m: {k: v for k, v in m.items() if k != "actions"}, '"actions" must be an object'),
        (lambda m: m | {"actions": {"x": "KeyD"}}, '"actions" must be an object from names to lists'),
        (lambda m: m | {"actions": {"x": ["KeyD"]}}, "actions 'x': a binding is an object"),
        (lambda m: m | {"actions": {"x": [{"input": "KeyD", "sign": 1}]}}, "a binding is an object"),
        (lambda m: m | {"actions": {"x": [{"input": 7}]}}, "actions 'x': 7 is no input"),
        (lambda m: m | {"actions": {"x": [{"input": "W"}]}}, "did you mean KeyW"),
        (lambda m: m | {"actions": {"x": [{"input": "KeyD", "scale": 2}]}}, "the scale of KeyD is 2"),
        (lambda m: m | {"controls": {"jump": []}}, "no control called 'jump'"),
        (lambda m: m | {"controls": {"stop": [{"input": "KeyD"}]}}, "KeyD means both y .* and stop"),
        (lambda m: [m], FORMAT),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path, edit, says):
    path = tmp_path / "mapping.json"
    path.write_text(json.dumps(edit(mapping_to_json(default_mapping("keyboard", ROBOT)))))
    with pytest.raises(RoboprefError, match=says) as caught:
        load_mapping(path)
    assert "mapping.json" in str(caught.value)


def test_files_that_are_no_json(tmp_path):
    with pytest.raises(RoboprefError, match="no mapping file"):
        load_mapping(tmp_path / "none.json")
    path = tmp_path / "mapping.json"
    path.write_text("{")
    with pytest.raises(RoboprefError, match="is not JSON"):
        load_mapping(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RoboprefError, match="is not JSON"):
        load_mapping(path)
    path.write_text(f'{{"format": "{FORMAT}", "actions": {{"x": [], "x": []}}, "controls": {{}}}}')
    with pytest.raises(RoboprefError, match="gives 'x' twice"):
        load_mapping(path)


def test_key_codes_are_those_of_the_hid_tables():
    """Spot checks against the HID usage tables (keyboard page) and the W3C's list."""
    known = {4: "KeyA", 26: "KeyW", 29: "KeyZ", 30: "Digit1", 39: "Digit0", 40: "Enter", 41: "Escape", 44: "Space",
             56: "Slash", 57: "CapsLock", 58: "F1", 69: "F12", 76: "Delete", 79: "ArrowRight", 82: "ArrowUp",
             88: "NumpadEnter", 98: "Numpad0", 224: "ControlLeft", 231: "MetaRight"}  # fmt: skip
    assert {number: CODE_OF_SCANCODE[number] for number in known} == known
    assert len(set(CODE_OF_SCANCODE.values())) == len(CODE_OF_SCANCODE)
