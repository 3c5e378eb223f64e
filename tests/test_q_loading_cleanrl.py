"""CleanRL models and plain state dicts: saved as their scripts do, and compared with their networks."""

import argparse
from collections import OrderedDict

import numpy as np
import pytest
import torch
from q_models import CleanRLAgent, CleanRLNetwork, Marker, frames, pixels, whole_pickle
from safetensors.torch import save_file
from torch import nn

from robopref.diagnosis import state_gradients
from robopref.envs.ale import atari_spec_for
from robopref.errors import RoboprefError
from robopref.policies.q_loading import load_q_policy

RUN = "PongNoFrameskip-v4__dqn_atari__1__1690000000"


def network(seed=0, **keywords):
    torch.manual_seed(seed)
    return CleanRLNetwork(**keywords).eval()


def agrees(policy, expected, channels=4, size=84):
    states = frames(4, channels, size)
    with torch.no_grad():
        reference = expected(torch.Tensor(states))  # as CleanRL's scripts make their tensors
        torch.testing.assert_close(policy.q_values(pixels(states)), reference, rtol=0, atol=1e-6)


def test_dqn_atari(tmp_path):
    model = network()
    path = tmp_path / "runs" / RUN / "dqn_atari.cleanrl_model"
    path.parent.mkdir(parents=True)
    torch.save(model.state_dict(), path)
    policy, spec = load_q_policy(path)
    agrees(policy, model)
    assert (spec.kind, spec.algorithm, spec.head, spec.n_actions, spec.shape) == (
        "cleanrl", "dqn", "values", 6, (4, 84, 84)
    )  # fmt: skip
    assert spec.game == "PongNoFrameskip-v4"
    assert atari_spec_for(spec).game == "pong"
    assert any("84 to 91 pixels fit" in note for note in spec.notes)
    # the same weights have the same name wherever they lie
    save_file(model.state_dict(), tmp_path / "copy.safetensors")
    again, copied = load_q_policy(tmp_path / "copy.safetensors")
    agrees(again, model)
    assert (copied.policy_id, copied.game) == (spec.policy_id, None)
    torch.save(network(seed=1).state_dict(), path)
    assert load_q_policy(path)[1].policy_id != spec.policy_id


def test_c51_atari_gives_the_expected_values(tmp_path):
    model = network(n_actions=3, atoms=torch.linspace(-10, 10, 51))
    path = tmp_path / "c51.cleanrl_model"
    args = {"env_id": "FreewayNoFrameskip-v4", "learning_rate": 2.5e-4, "wandb_entity": None, "track": False}
    torch.save({"model_weights": model.state_dict(), "args": args}, path)
    policy, spec = load_q_policy(path)
    agrees(policy, model.expected_values)
    assert (spec.algorithm, spec.n_actions, spec.head, spec.game) == ("c51", 3, "values", "FreewayNoFrameskip-v4")
    assert spec.about == args
    assert state_gradients(policy, frames(2), 0.01, dtype=torch.float64).any(axis=1).all()


def test_ppo_atari_gives_the_logits(tmp_path):
    torch.manual_seed(0)
    agent = CleanRLAgent().eval()
    torch.save(agent.state_dict(), tmp_path / "agent.pt")
    policy, spec = load_q_policy(tmp_path / "agent.pt")
    agrees(policy, agent.logits)
    assert (spec.kind, spec.algorithm, spec.head) == ("cleanrl", "ppo", "logits")


@pytest.mark.parametrize("wrap", [
    lambda d: {f"module.{k}": v for k, v in d.items()},
    lambda d: {f"_orig_mod.{k}": v for k, v in d.items()},
    lambda d: {"step": 3, "state_dict": d, "optimizer": {"lr": 0.1}},
    lambda d: {"step": 3, "anything": d},
    lambda d: {"target_network": d, "q_network": d},
])  # fmt: skip
def test_usual_wrappings_are_undone(tmp_path, wrap):
    model = network()
    torch.save(wrap(model.state_dict()), tmp_path / "m.pt")
    agrees(load_q_policy(tmp_path / "m.pt")[0], model)


def test_half_precision_is_computed_in_float32(tmp_path):
    model = network().half()
    torch.save(OrderedDict(model.state_dict()), tmp_path / "m.pt")
    agrees(load_q_policy(tmp_path / "m.pt")[0], model.float())


def test_old_torch_files(tmp_path):
    model = network()
    torch.save(model.state_dict(), tmp_path / "m.pth", _use_new_zipfile_serialization=False)
    agrees(load_q_policy(tmp_path / "m.pth")[0], model)


class Plain(nn.Module):
    """The same network under other names; it takes frames in 0..255 as they are."""

    def __init__(self, channels=4, side=7):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(channels, 16, 8, 4), nn.Conv2d(16, 32, 4, 2), nn.Conv2d(32, 32, 3)
        )  # fmt: skip
        self.fc1, self.fc2, self.out = nn.Linear(32 * side * side, 64), nn.Linear(64, 32), nn.Linear(32, 5)

    def forward(self, x):
        for conv in (self.conv1, self.conv2, self.conv3):
            x = torch.relu(conv(x))
        return self.out(torch.relu(self.fc2(torch.relu(self.fc1(x.flatten(1))))))


def test_a_plain_state_dict_must_be_told_its_scale(tmp_path):
    torch.manual_seed(0)
    model = Plain()
    torch.save(model.state_dict(), tmp_path / "m.pt")
    with pytest.raises(RoboprefError, match=r"pixels from 0 to 1 or from 0 to 255: pass input_scale=1"):
        load_q_policy(tmp_path / "m.pt")
    policy, spec = load_q_policy(tmp_path / "m.pt", input_scale=255)
    with torch.no_grad():
        expected = model(torch.as_tensor(frames()).float())
        torch.testing.assert_close(policy.q_values(pixels(frames())), expected, rtol=1e-4, atol=1e-4)
        expected = model(pixels(frames()))
        by_one = load_q_policy(tmp_path / "m.pt", input_scale=1)[0]
        torch.testing.assert_close(by_one.q_values(pixels(frames())), expected, rtol=0, atol=1e-6)
    assert (spec.kind, spec.algorithm, spec.n_actions) == ("state-dict", "", 5)
    assert any("rectifiers" in note for note in spec.notes)


@pytest.mark.parametrize(("size", "side"), [(64, 4), (84, 7), (96, 8), (56, 3)])
def test_the_image_size_follows_from_the_first_linear_layer(tmp_path, size, side):
    model = network(side=side)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    _, spec = load_q_policy(tmp_path / "m.pt", image_size=size)
    assert (spec.height, spec.width) == (size, size)
    policy, inferred = load_q_policy(tmp_path / "m.pt")
    agrees(policy, model, size=inferred.height)  # the size that is taken runs
    if size in (64, 84, 96):  # those that people use
        assert inferred.height == size
    with pytest.raises(RoboprefError, match=rf"frames of {size + 20} x {size + 20} do not .* pixels would"):
        load_q_policy(tmp_path / "m.pt", image_size=size + 20)


def test_twelve_channels_are_colour_unless_told_otherwise(tmp_path):
    model = network(channels=12)
    torch.save(model.state_dict(), tmp_path / "m.pt")
    assert load_q_policy(tmp_path / "m.pt")[1].channels_per_frame == 3
    assert load_q_policy(tmp_path / "m.pt", frame_stack=12)[1].channels_per_frame == 1


# --- nothing in a file is executed unless it is trusted


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
def test_malicious_files_do_nothing_without_trust(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "m.cleanrl_model"
    weights = network().state_dict()
    for write in (
        lambda: torch.save({"model_weights": weights, "args": Marker(marker)}, path),
        lambda: torch.save({"model_weights": weights, "args": Marker(marker)}, path,
                           _use_new_zipfile_serialization=False),
        lambda: whole_pickle(path, {"model_weights": weights, "args": Marker(marker)}),
    ):  # fmt: skip
        write()
        with pytest.raises(RoboprefError, match="--trust"):
            load_q_policy(path)
        assert not marker.exists()
    torch.save({"model_weights": weights, "args": Marker(marker)}, path)
    load_q_policy(path, trust=True)
    assert marker.exists()


def test_arguments_that_are_no_plain_values_need_trust(tmp_path):
    model = network()
    torch.save({"model_weights": model.state_dict(), "args": argparse.Namespace(env_id="Pong")}, tmp_path / "m.pt")
    with pytest.raises(RoboprefError, match=r"calls argparse\.Namespace\).*--trust"):
        load_q_policy(tmp_path / "m.pt")
    agrees(load_q_policy(tmp_path / "m.pt", trust=True)[0], model)


def test_a_pickled_module_needs_trust_and_a_scale(tmp_path):
    model = network()
    torch.save(model, tmp_path / "QbertNoFrameskip-v4.pt")
    with pytest.raises(RoboprefError, match="--trust"):
        load_q_policy(tmp_path / "QbertNoFrameskip-v4.pt")
    with pytest.raises(RoboprefError, match="pass input_scale=1 or input_scale=255"):
        load_q_policy(tmp_path / "QbertNoFrameskip-v4.pt", trust=True)
    policy, spec = load_q_policy(tmp_path / "QbertNoFrameskip-v4.pt", trust=True, input_scale=255)
    agrees(policy, model)
    assert (spec.kind, spec.game, spec.shape) == ("module", "QbertNoFrameskip-v4", (4, 84, 84))


def test_trust_does_not_help_a_file_whose_code_is_not_here(tmp_path):
    path = tmp_path / "m.pt"
    torch.save(network(), path)
    path.write_bytes(path.read_bytes().replace(b"q_models", b"q_nodels"))
    with pytest.raises(RoboprefError, match=r"damaged|must be importable here"):
        load_q_policy(path, trust=True, input_scale=1)


# --- what cannot be read is refused, with what to do


def with_bias(value):
    weights = network().state_dict()
    weights["network.7.bias"][3] = value
    return weights


def dueling():
    layers = {"conv1": nn.Conv2d(4, 32, 8), "conv2": nn.Conv2d(32, 64, 4), "conv3": nn.Conv2d(64, 64, 3)}
    layers |= {"value": nn.Linear(3136, 1), "advantage": nn.Linear(3136, 6)}
    return nn.ModuleDict(layers).state_dict()


def changed(**tensors):
    return network().state_dict() | tensors


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (with_bias(torch.nan), r"not finite: 1 of 512 in 'network.7.bias'"),
        (with_bias(torch.inf), "not finite"),
        (network(channels=1).state_dict(), "frame stack is missing.*frame_stack=1"),
        (network(channels=84).state_dict(), "84 channels.*channels last"),
        (nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2)).state_dict(), "no convolutions"),
        (nn.ModuleDict({"network": nn.Sequential(nn.Conv2d(4, 2, 8))}).state_dict(), "no fully connected layer"),
        (nn.ModuleDict({"c": nn.Conv2d(4, 16, 5), "l": nn.Linear(9, 3)}).state_dict(), "kernels 5 x 5 instead of 8"),
        (nn.ModuleDict({"c": nn.Conv2d(4, 16, 8), "lstm": nn.LSTM(9, 3)}).state_dict(), "recurrent"),
        (dueling(), "dueling or recurrent head"),
        (changed(**{"network.8.weight": torch.zeros(3)}), r"beyond the usual \(network.8.weight\)"),
        ({"network.0.weight": torch.zeros(4, 4, 8, 8)}, "no network.0.bias|no fully connected"),
        (changed(atoms=torch.linspace(-1, 1, 5)), "6 outputs cannot be .* 5 atoms"),
        (changed(atoms=torch.zeros(3)), "rising"),
        ({"network": 3, "step": 1}, r"no state dict .* \['network', 'step'\]"),
        ([torch.zeros(3)], "holds a list, not a state dict"),
        (changed(**{"network.9.weight": torch.zeros(1, 512), "network.9.bias": torch.zeros(1)}), "at least 2 actions"),
        (changed(**{"network.7.weight": torch.zeros(512, 3000)}), "3000 features, which no square image gives"),
    ],
)  # fmt: skip
def test_models_that_do_not_fit_are_refused(tmp_path, weights, message):
    torch.save(weights, tmp_path / "m.pt")
    with pytest.raises(RoboprefError, match=message):
        load_q_policy(tmp_path / "m.pt", input_scale=1)


def test_several_state_dicts_cannot_be_told_apart(tmp_path):
    weights = network().state_dict()
    torch.save({"alpha": weights, "beta": weights}, tmp_path / "m.pt")
    with pytest.raises(RoboprefError, match=r"told from the rest.*alpha"):
        load_q_policy(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git lfs pull"),
        (b"\x81\xa6params\x81" + bytes(100), "neither a zip archive nor anything that torch.save wrote.*JAX"),
        (b"just some text", "no model that this version reads"),
        (b"\x80\x02garbage", "damaged"),
    ],
)
def test_files_that_are_no_models(tmp_path, contents, message):
    (tmp_path / "m.cleanrl_model").write_bytes(contents)
    with pytest.raises(RoboprefError, match=message):
        load_q_policy(tmp_path / "m.cleanrl_model")


def test_a_cut_or_flipped_file_is_damaged(tmp_path):
    torch.save(network().state_dict(), tmp_path / "m.pt")
    contents = (tmp_path / "m.pt").read_bytes()
    for cut in (contents[:-100], contents[:5000], contents[:20]):
        (tmp_path / "cut.pt").write_bytes(cut)
        with pytest.raises(RoboprefError, match=r"damaged|no model"):
            load_q_policy(tmp_path / "cut.pt")
    save_file(network().state_dict(), tmp_path / "m.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "m.safetensors").read_bytes()[:-4])
    with pytest.raises(RoboprefError, match="damaged or no safetensors"):
        load_q_policy(tmp_path / "cut.safetensors")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript is on its way out; its files are not
def test_torchscript_is_code(tmp_path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "m.pt")
    for trust in (False, True):
        with pytest.raises(RoboprefError, match=r"TorchScript.*as_q_policy"):
            load_q_policy(tmp_path / "m.pt", trust=trust)


def test_gradients_are_those_of_the_saved_network(tmp_path):
    model = network()
    torch.save(model.state_dict(), tmp_path / "m.pt")
    policy, _ = load_q_policy(tmp_path / "m.pt")
    found = state_gradients(policy, frames(2), 0.05, dtype=torch.float64)
    model = model.double()
    for state, row in zip(frames(2), found, strict=True):
        inputs = torch.as_tensor(state[None]).double().requires_grad_()
        values = model(inputs) / 0.05
        loss = -torch.log_softmax(values, 1)[0, values.argmax()]
        expected = 255 * torch.autograd.grad(loss, inputs)[0]  # per pixel of [0, 1]
        np.testing.assert_allclose(row, expected.flatten().numpy(), rtol=1e-6, atol=1e-12)
