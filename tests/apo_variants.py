"""APO's two variants, for the tests of its loss."""

import pytest

VARIANTS = ("default", "reference")
VARIANT = pytest.mark.parametrize("variant", VARIANTS)
