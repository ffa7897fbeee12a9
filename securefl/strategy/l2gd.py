"""L2GD-style personalisation: a member's own model is pulled to the members' mean, not replaced by it.

After Hanzely and Richtarik (2020), whose public coin decides before each step whether to train or to pull. Here a round
is a fixed number of training steps and then one pull: the number of steps is what is priced.
"""

from __future__ import annotations

from fractions import Fraction

from securefl.strategy import adapter_state


def pulled(own: bytes, mean: bytes, pull: Fraction) -> bytes:
    """``own + pull * (mean - own)``; float32, little endian: at 1 the mean, at 0 the member's own model."""
    mine, shared = adapter_state.reals(own), adapter_state.reals(mean)
    return adapter_state.stored(mine + float(pull) * (shared - mine))
