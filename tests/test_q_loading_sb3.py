"""Stable-Baselines3 models: built and saved by Stable-Baselines3 itself, and read without it."""

import base64
import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from gymnasium import spaces
from q_models import Images, Marker, frames, pixels
from stable_baselines3 import A2C, DQN, PPO, SAC
from stable_baselines3.common.env_util import make_atari_env
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecFrameStack
from torch import nn

from robopref.diagnosis import state_gradients
from robopref.envs.ale import atari_spec_for
from robopref.errors import RoboprefError
from robopref.policies.q_loading import load_q_policy

pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size:UserWarning")


def dqn(env, **policy_kwargs):
    return DQN("CnnPolicy", env, buffer_size=2, policy_kwargs=policy_kwargs, seed=0, device="cpu")


def saved(model, path):
    model.save(path)
    return path


def rewrite(path, new, edit=None, **members):
    """A copy of a model's zip with its JSON edited and members replaced."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(new, "w") as out:
        for name in old.namelist():
            contents = old.read(name)
            if name == "data" and edit is not None:
                data = json.loads(contents)
                edit(data)
                contents = json.dumps(data)
            out.writestr(name, members.pop(name, contents))
        for name, contents in members.items():
            out.writestr(name, contents)
    return new


def state_dict_bytes(tensors):
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def small_dqn(tmp_path_factory):
    path = tmp_path_factory.mktemp("sb3") / "dqn.zip"
    model = dqn(Images())
    return model, saved(model, path)


def test_dqn_on_pong_gives_the_values_of_stable_baselines3(tmp_path):
    env = VecFrameStack(make_atari_env("PongNoFrameskip-v4", n_envs=2, seed=0), 4)
    model = dqn(env)
    model.policy.set_training_mode(False)
    path = saved(model, tmp_path / "dqn-PongNoFrameskip-v4.zip")
    policy, spec = load_q_policy(path)
    observations = model.env.reset()
    for _ in range(6):
        observations = model.env.step(np.array([2, 3]))[0]
        states = torch.as_tensor(observations)
        with torch.no_grad():
            torch.testing.assert_close(policy.q_values(pixels(observations)), model.q_net(states), rtol=0, atol=1e-6)
        chosen = model.predict(observations, deterministic=True)[0]
        np.testing.assert_array_equal(policy.q_values(pixels(observations)).argmax(1), chosen)
    assert (spec.kind, spec.algorithm, spec.head) == ("stable-baselines3", "dqn", "values")
    assert (spec.n_actions, spec.shape, spec.frame_stack, spec.channels_per_frame) == (6, (4, 84, 84), 4, 1)
    assert spec.game == "PongNoFrameskip-v4"
    assert spec.policy_id.startswith("stable-baselines3-")
    atari = atari_spec_for(spec)
    assert (atari.game, atari.frame_stack, atari.sticky_actions) == ("pong", 4, 0.0)
    with pytest.raises(RoboprefError, match="trained on pong"):
        atari_spec_for(spec, "Breakout")


@pytest.mark.parametrize("kind", [PPO, A2C])
def test_an_actor_gives_its_logits(tmp_path, kind):
    env = VecFrameStack(make_atari_env("FreewayNoFrameskip-v4", n_envs=1, seed=0), 4)
    model = kind("CnnPolicy", env, n_steps=8, seed=0, device="cpu")
    model.learn(8)  # a fresh actor's logits are nearly all alike
    policy, spec = load_q_policy(saved(model, tmp_path / "best_model"))
    states = frames(5)
    with torch.no_grad():
        distribution = model.policy.get_distribution(torch.as_tensor(states)).distribution
        logits = policy.q_values(pixels(states))
    # softmax at temperature 1 is the policy itself
    torch.testing.assert_close(logits.softmax(1), distribution.probs, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(logits.argmax(1), model.predict(states, deterministic=True)[0])
    assert (spec.algorithm, spec.head, spec.n_actions) == (kind.__name__.lower(), "logits", 3)
    assert spec.value_unit == "logit"


@pytest.mark.parametrize(
    ("kind", "space", "settings"),
    [
        (DQN, None, {"net_arch": [64, 32], "activation_fn": nn.Tanh}),
        (DQN, None, {"features_extractor_kwargs": {"features_dim": 128}}),
        (DQN, None, {"normalize_images": False}),
        (DQN, spaces.Box(0, 1, (4, 84, 84), np.float32), {"normalize_images": False}),
        (DQN, spaces.Box(0, 255, (64, 64, 12), np.uint8), {}),
        (PPO, None, {"net_arch": {"pi": [32, 16], "vf": [8]}, "share_features_extractor": False}),
        (PPO, None, {"net_arch": [24], "activation_fn": nn.ELU}),
        (A2C, None, {"net_arch": {"pi": [16]}}),
    ],
)
def test_widths_activations_and_scales_are_read_off_the_file(tmp_path, kind, space, settings):
    extra = {"buffer_size": 2} if kind is DQN else {"n_steps": 8}
    model = kind("CnnPolicy", Images(space=space), policy_kwargs=settings, seed=0, device="cpu", **extra)
    policy, spec = load_q_policy(saved(model, tmp_path / "model.zip"))
    channels, size = model.observation_space.shape[:2]
    states = frames(3, channels, size)
    observed = states if model.observation_space.dtype == np.uint8 else states.astype(np.float32) / 255
    with torch.no_grad():
        tensors = torch.as_tensor(observed)
        if kind is DQN:
            expected, found = model.q_net(tensors), policy.q_values(pixels(states))
        else:
            expected = model.policy.get_distribution(tensors).distribution.logits
            found = policy.q_values(pixels(states)).log_softmax(1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert spec.shape == (channels, size, size)
    assert (spec.frame_stack, spec.channels_per_frame) == ((4, 3) if channels == 12 else (4, 1))


def test_gradients_in_double_precision_are_those_through_stable_baselines3(small_dqn):
    model, path = small_dqn
    policy, _ = load_q_policy(path)
    states = frames(3)
    found = state_gradients(policy, states, 0.1, dtype=torch.float64)
    net = model.q_net.double()
    try:
        for state, row in zip(pixels(states).double(), found, strict=True):
            inputs = state[None].requires_grad_()
            # past Stable-Baselines3's own conversion to float32
            values = net.q_net(net.features_extractor(inputs)) / 0.1
            loss = -torch.log_softmax(values, 1)[0, values.argmax()]
            np.testing.assert_allclose(row, torch.autograd.grad(loss, inputs)[0].flatten().numpy(), atol=1e-9)
    finally:
        net.float()


def test_the_text_that_older_versions_write_is_read_as_well(small_dqn, tmp_path):
    def as_version_1_0(data):  # gym's spaces, "shape" without underscore, no repr of the bounds, no library of policies
        space = data["observation_space"]
        space[":type:"] = "<class 'gym.spaces.box.Box'>"
        space["shape"] = space.pop("_shape")
        del space["low_repr"], space["high_repr"]
        data["action_space"] = {":type:": "<class 'gym.spaces.discrete.Discrete'>", "n": 4, "shape": []}

    def as_version_2_0(data):
        data["observation_space"] |= {"low_repr": "0", "high_repr": "255"}

    model, path = small_dqn
    for number, edit in enumerate((as_version_1_0, as_version_2_0)):
        policy, spec = load_q_policy(rewrite(path, tmp_path / f"{number}.zip", edit))
        assert spec.shape == (4, 84, 84)
        with torch.no_grad():
            torch.testing.assert_close(policy.q_values(pixels(frames())), model.q_net(torch.as_tensor(frames())))


def test_actors_of_version_1_with_shared_hidden_layers(tmp_path):
    model = PPO("CnnPolicy", Images(), n_steps=8, policy_kwargs={"net_arch": [24, 16]}, seed=0, device="cpu")
    path = saved(model, tmp_path / "new.zip")
    names = {"mlp_extractor.policy_net.0": "mlp_extractor.shared_net.0", "mlp_extractor.policy_net.2":
             "mlp_extractor.policy_net.0"}  # fmt: skip
    old = {}
    for name, tensor in model.policy.state_dict().items():
        layer, _, part = name.rpartition(".")
        if not name.startswith(("pi_features", "vf_features", "mlp_extractor.value_net")):
            old[f"{names.get(layer, layer)}.{part}"] = tensor
    path = rewrite(path, tmp_path / "old.zip", **{"policy.pth": state_dict_bytes(old)})
    policy, _ = load_q_policy(path)
    with torch.no_grad():
        expected = model.policy.get_distribution(torch.as_tensor(frames())).distribution.logits
        torch.testing.assert_close(policy.q_values(pixels(frames())).log_softmax(1), expected)


# --- nothing in a file is executed unless it is trusted


def test_pickles_in_the_json_are_never_opened(small_dqn, tmp_path):
    marker = tmp_path / "marker"
    bomb = base64.b64encode(pickle.dumps(Marker(marker))).decode()

    def edit(data):
        for value in data.values():
            if isinstance(value, dict) and ":serialized:" in value:
                value[":serialized:"] = bomb

    path = rewrite(small_dqn[1], tmp_path / "bomb.zip", edit)
    load_q_policy(path)
    load_q_policy(path, trust=True)  # nor with trust, while the weights say everything
    assert not marker.exists()
    with pytest.raises(Exception):  # noqa: B017, PT011  # Stable-Baselines3 itself opens them: the bomb is live
        DQN.load(path)
    assert marker.exists()


def test_code_among_the_weights_needs_trust(small_dqn, tmp_path):
    model, path = small_dqn
    marker = tmp_path / "marker"
    weights = state_dict_bytes({"bomb": Marker(marker), "state_dict": dict(model.policy.state_dict())})
    path = rewrite(path, tmp_path / "bomb.zip", **{"policy.pth": weights})
    with pytest.raises(RoboprefError, match=r"executing code that is pickled in it .*--trust"):
        load_q_policy(path)
    assert not marker.exists()
    load_q_policy(path, trust=True)
    assert marker.exists()


class OwnExtractor(BaseFeaturesExtractor):
    def __init__(self, observation_space):
        super().__init__(observation_space, 16)
        self.conv = nn.Conv2d(observation_space.shape[0], 4, 20, stride=20)
        self.linear = nn.Linear(4 * 4 * 4, 16)

    def forward(self, observations):
        return torch.sigmoid(self.linear(torch.tanh(self.conv(observations)).flatten(1)))


@pytest.mark.parametrize("kind", [DQN, PPO])
def test_custom_networks_need_trust_and_then_are_stable_baselines3s_own(tmp_path, kind):
    extra = {"buffer_size": 2} if kind is DQN else {"n_steps": 8}
    settings = {"features_extractor_class": OwnExtractor}
    model = kind("CnnPolicy", Images(), policy_kwargs=settings, seed=0, device="cpu", **extra)
    path = saved(model, tmp_path / "PongNoFrameskip-v4.zip")
    with pytest.raises(RoboprefError, match=r"OwnExtractor.*not NatureCNN.*--trust.*Supported are"):
        load_q_policy(path)
    policy, spec = load_q_policy(path, trust=True)
    with torch.no_grad():
        states = torch.as_tensor(frames())
        found = policy.q_values(pixels(frames()))
        expected = model.q_net(states) if kind is DQN else model.policy.get_distribution(states).distribution.logits
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (spec.kind, spec.algorithm, spec.shape) == ("stable-baselines3", kind.__name__.lower(), (4, 84, 84))
    assert (spec.head, spec.game) == ("values" if kind is DQN else "logits", "PongNoFrameskip-v4")
    assert state_gradients(policy, frames()).any(axis=1).all()


# --- what cannot be read is refused, with what to do


def test_a_grayscale_model_without_frame_stack_must_be_meant(tmp_path):
    path = saved(dqn(Images((84, 84, 1))), tmp_path / "m.zip")
    with pytest.raises(RoboprefError, match=r"single grayscale frame .*frame stack is missing.*frame_stack=1"):
        load_q_policy(path)
    _, spec = load_q_policy(path, frame_stack=1)
    assert (spec.frame_stack, spec.channels_per_frame) == (1, 1)


def test_a_single_colour_frame_may_be_three_gray_ones(tmp_path):
    path = saved(dqn(Images((84, 84, 3))), tmp_path / "m.zip")
    with pytest.raises(RoboprefError, match=r"single colour frame .*frame_stack=1 \(or frame_stack=3"):
        load_q_policy(path)
    assert load_q_policy(path, frame_stack=3)[1].channels_per_frame == 1
    with pytest.raises(RoboprefError, match="not 2 frames"):
        load_q_policy(path, frame_stack=2)


def test_channels_last_read_as_first_is_recognised(tmp_path):
    # Stable-Baselines3 takes the smallest axis for the channels, the first if there is none
    path = saved(dqn(Images(space=spaces.Box(0, 255, (84, 84, 84), np.uint8))), tmp_path / "m.zip")
    with pytest.raises(RoboprefError, match=r"84 channels.*channels last.*VecTransposeImage"):
        load_q_policy(path)


def test_weights_that_are_not_finite(small_dqn, tmp_path):
    tensors = dict(small_dqn[0].policy.state_dict())
    broken = tensors["q_net.q_net.0.bias"].clone()
    broken[1] = torch.nan
    tensors["q_net.q_net.0.bias"] = broken
    path = rewrite(small_dqn[1], tmp_path / "nan.zip", **{"policy.pth": state_dict_bytes(tensors)})
    with pytest.raises(RoboprefError, match=r"not finite: 1 of 4 in 'q_net.q_net.0.bias'.*earlier checkpoint"):
        load_q_policy(path)


def test_other_policies_are_refused_by_name(tmp_path):
    mlp = saved(DQN("MlpPolicy", Images(), buffer_size=2, device="cpu"), tmp_path / "mlp.zip")
    with pytest.raises(RoboprefError, match=r"no image through convolutions \(MlpPolicy\?\).*Supported are"):
        load_q_policy(mlp)
    box = spaces.Box(-1, 1, (2,), np.float32)
    ppo = saved(PPO("CnnPolicy", Images(action_space=box), n_steps=8, device="cpu"), tmp_path / "ppo.zip")
    with pytest.raises(RoboprefError, match="continuous actions"):
        load_q_policy(ppo)
    sac = saved(SAC("CnnPolicy", Images(action_space=box), buffer_size=2, device="cpu"), tmp_path / "sac.zip")
    with pytest.raises(RoboprefError, match=r"continuous actions \(SAC"):
        load_q_policy(sac)
    many = saved(
        A2C("CnnPolicy", Images(action_space=spaces.MultiDiscrete([2, 3])), n_steps=8, device="cpu"),
        tmp_path / "md.zip",
    )
    with pytest.raises(RoboprefError, match="MultiDiscrete"):
        load_q_policy(many)
    for settings in ({"trust": True}, {}):
        with pytest.raises(RoboprefError, match="Discrete"):
            load_q_policy(many, **settings)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"quantile_net.features_extractor.cnn.0.weight"}, "QR-DQN"),
        ({"lstm_actor.weight_ih_l0", "action_net.weight"}, "recurrent"),
        ({"q_net.features_extractor.extractors.image.cnn.0.weight"}, "dictionary of observations"),
        ({"net.0.weight"}, "no policy that is known"),
    ],
)
def test_foreign_layers_are_recognised(small_dqn, tmp_path, names, message):
    weights = state_dict_bytes({name: torch.zeros(2, 2) for name in names})
    path = rewrite(small_dqn[1], tmp_path / "m.zip", **{"policy.pth": weights})
    with pytest.raises(RoboprefError, match=message):
        load_q_policy(path)
    with pytest.raises(RoboprefError, match=r"although it is trusted|trusting it does not help"):
        load_q_policy(path, trust=True)


def test_layers_that_nobody_asked_for_are_not_ignored(small_dqn, tmp_path):
    tensors = dict(small_dqn[0].policy.state_dict()) | {"q_net.value_head.weight": torch.zeros(1, 512)}
    path = rewrite(small_dqn[1], tmp_path / "m.zip", **{"policy.pth": state_dict_bytes(tensors)})
    with pytest.raises(RoboprefError, match=r"layers beyond the usual \(q_net.value_head.weight\)"):
        load_q_policy(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["action_space"].update(n=5), "5 actions and the weights 4"),
        (lambda d: d["observation_space"].update(_shape=[4, 96, 96]), r"frames of 96 x 96 do not .* 84 to 91"),
        (lambda d: d["observation_space"].update(_shape=[84, 84, 4]), "channels last or the file mixes"),
        (lambda d: d["observation_space"].update(_shape=[7]), r"observations have shape \[7\]"),
        (lambda d: d.pop("observation_space"), "nothing of its observation space"),
        (lambda d: d["policy_class"].update(__module__="__main__"), "custom code"),
        (lambda d: d["observation_space"].update(dtype="float32", low="[-1. ... -1.]"), "from -1.0 to 255"),
        (lambda d: d.update(policy_kwargs={"activation_fn": "<class 'mine.Own'>"}), "activation"),
    ],
)
def test_contradictions_in_the_file_are_refused(small_dqn, tmp_path, edit, message):
    with pytest.raises(RoboprefError, match=message):
        load_q_policy(rewrite(small_dqn[1], tmp_path / "m.zip", edit))


def test_damaged_zips_and_other_zips(small_dqn, tmp_path):
    contents = small_dqn[1].read_bytes()
    cut = tmp_path / "cut.zip"
    cut.write_bytes(contents[:-1000])
    with pytest.raises(RoboprefError, match="damaged"):
        load_q_policy(cut)
    flipped = bytearray(contents)
    at = contents.index(b"policy.pth") + 5000
    flipped[at : at + 64] = bytes(64)
    bad = tmp_path / "bad.zip"
    bad.write_bytes(bytes(flipped))
    with pytest.raises(RoboprefError, match="damaged"):
        load_q_policy(bad)
    with pytest.raises(RoboprefError, match="damaged"):
        load_q_policy(rewrite(small_dqn[1], tmp_path / "json.zip", data=b"{"))
    with pytest.raises(RoboprefError, match="no Stable-Baselines3 model"):
        load_q_policy(rewrite(small_dqn[1], tmp_path / "list.zip", data=b"[]"))
    other = tmp_path / "photos.zip"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("cat.txt", "meow")
    with pytest.raises(RoboprefError, match="neither a Stable-Baselines3 model nor"):
        load_q_policy(other)


# --- what the names around the file say


def test_rl_zoo_says_the_game_and_settles_the_frame_stack(tmp_path):
    space = spaces.Box(0, 255, (12, 84, 84), np.uint8)
    path = saved(dqn(Images(space=space)), tmp_path / "BreakoutNoFrameskip-v4.zip")
    assert load_q_policy(path)[1].frame_stack == 4  # 12 channels: four colour frames, unless something says otherwise
    beside = tmp_path / "BreakoutNoFrameskip-v4"
    beside.mkdir()
    # as rl-zoo3 2.x writes them
    (beside / "args.yml").write_text(
        "!!python/object/apply:collections.OrderedDict\n- - - algo\n    - dqn\n  - - env\n    - ALE/Qbert-v5\n"
        "  - - env_kwargs\n    - null\n"
    )
    (beside / "config.yml").write_text(
        "!!python/object/apply:collections.OrderedDict\n- - - batch_size\n    - 32\n  - - frame_stack\n    - 12\n"
    )
    _, spec = load_q_policy(path)
    assert (spec.game, spec.frame_stack, spec.channels_per_frame) == ("ALE/Qbert-v5", 12, 1)
    assert spec.environment == {"fire_reset": True, "sticky_actions": 0.25}
    assert any("args.yml" in note for note in spec.notes)
    assert load_q_policy(path, frame_stack=4)[1].channels_per_frame == 3  # what the user says goes first
