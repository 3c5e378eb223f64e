"""How stable a policy's decisions are: gradients, principal directions, shifts and attacks."""

from robopref.diagnosis.collection import EpisodeTrace, collect_episodes
from robopref.diagnosis.comparison import compare
from robopref.diagnosis.decisions import action_gaps, boundary_distances, greedy_actions
from robopref.diagnosis.directions import PrincipalDirections, StreamingDirections, principal_directions
from robopref.diagnosis.fourier import power_spectrum, radial_profile
from robopref.diagnosis.gradients import iter_state_gradients, state_gradients
from robopref.diagnosis.instability import find_peaks, norm_moments
from robopref.diagnosis.pipeline import diagnose
from robopref.diagnosis.plan import Plan
from robopref.diagnosis.quotient import bootstrap_quotient, feature_correlation_quotient
from robopref.diagnosis.results import Comparison, Diagnosis, Subject, load_comparison, load_diagnosis
from robopref.diagnosis.shifts import SHIFTS, make_shift, parse_shift
from robopref.diagnosis.sources import GameSource

__all__ = [
    "SHIFTS",
    "Comparison",
    "Diagnosis",
    "EpisodeTrace",
    "GameSource",
    "Plan",
    "PrincipalDirections",
    "StreamingDirections",
    "Subject",
    "action_gaps",
    "bootstrap_quotient",
    "boundary_distances",
    "collect_episodes",
    "compare",
    "diagnose",
    "feature_correlation_quotient",
    "find_peaks",
    "greedy_actions",
    "iter_state_gradients",
    "load_comparison",
    "load_diagnosis",
    "make_shift",
    "norm_moments",
    "parse_shift",
    "power_spectrum",
    "principal_directions",
    "radial_profile",
    "state_gradients",
]
