"""FedPer: some tensors, such as the head, never leave a member (Arivazhagan et al. 2019)."""

from __future__ import annotations

from securefl.strategy import adapter_state
from securefl.terms import Sharing
from securefl.terms.layout import Layout, stays


def at_home(layout: Layout, sharing: Sharing, base: bytes, own: bytes) -> bytes:
    """The state ``base`` with the tensors that stay at home as they are in ``own``: one member's model."""
    places = [place for name, place in layout.places().items() if stays(name, sharing)]
    return adapter_state.put(base, places, adapter_state.cut(own, places))
