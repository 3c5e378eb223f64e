import sys
from pathlib import Path

import torch

# So that ``module:factory`` names in the tests can point at the test modules themselves.
sys.path.insert(0, str(Path(__file__).parent))

# The tests' networks are tiny: more threads than one only wait for each other.
torch.set_num_threads(1)
