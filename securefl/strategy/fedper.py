"""FedPer: some tensors, such as the head, never leave a member (Arivazhagan et al. 2019)."""

from __future__ import annotations

from securefl.terms import Sharing
from securefl.terms.layout import Layout, stays


def at_home(layout: Layout, sharing: Sharing, base: bytes, own: bytes) -> bytes:
    """The state ``base`` with the tensors that stay at home as they are in ``own``: one member's model."""
    made = bytearray(base)
    for name, place in layout.places().items():
        if stays(name, sharing):
            made[4 * place.start : 4 * place.stop] = own[4 * place.start : 4 * place.stop]
    return bytes(made)
