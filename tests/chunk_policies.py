"""Policies of several actions per inference, in bins and as FAST tokens, and data sets of their chunks."""

import numpy as np
import torch
from synthetic import demonstrations, interactions
from test_policies import UNIT

from robopref.labeling import LabelingRule
from robopref.policies.chunked_tokenizer import ChunkedActionTokenizer
from robopref.policies.compact import CompactPolicy
from robopref.policies.compact_network import CompactArchitecture
from robopref.policies.fast_tokenizer import FastTokenizer
from robopref.policies.tokenizer import ActionTokenizer
from robopref.training.dataset import StepDataset

H, A = 4, 4
BINNED = ChunkedActionTokenizer(H, A, ActionTokenizer(bins=32))
FAST = FastTokenizer.fit(
    np.sin(np.arange(60)[:, None, None] + 0.3 * np.arange(H)[:, None] + np.arange(A)), vocabulary_size=96, scale=8.0
)


def chunk_policy(tokenizer, seed=0, execute_steps=None):
    """A policy from the 5-dimensional state."""
    torch.manual_seed(seed)
    arch = CompactArchitecture(inputs=("state",), width=32, state_size=5, action_size=A, bins=tokenizer.bins)
    return CompactPolicy(arch, UNIT, tokenizer, {"reach": "reach the goal"}, execute_steps).eval()


def make_dataset(policy, episodes=None, window=5):
    episodes = episodes or demonstrations() + interactions()
    return StepDataset(
        episodes, [LabelingRule(window=window).apply(e) for e in episodes], policy, policy.observation_keys
    )
