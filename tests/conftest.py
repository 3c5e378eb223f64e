import sys
from pathlib import Path

# So that ``module:factory`` names in the tests can point at the test modules themselves.
sys.path.insert(0, str(Path(__file__).parent))
