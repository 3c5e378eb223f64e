"""How stable a policy's decisions are: gradients, principal directions, shifts and attacks."""

from robopref.diagnosis.directions import principal_directions
from robopref.diagnosis.gradients import state_gradients

__all__ = ["principal_directions", "state_gradients"]
