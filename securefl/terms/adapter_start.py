"""Where a factor A starts: rows that only depend on a public seed and a tensor's name.

A public function, without a framework: member and auditor derive the same.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def uniform(label: bytes, seed: int, name: str, size: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), 53 bits each: (size,)."""
    import numpy as np  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415

    key = hashlib.sha256(label + seed.to_bytes(8, "big") + name.encode()).digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * size))
    drawn: NDArray[np.float64] = (np.frombuffer(stream, "<u8") >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return drawn


def orthonormal(seed: int, name: str, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Orthonormal rows: (rank, in).

    Raises:
        ValueError: there are more rows than a layer is wide.
    """
    import numpy as np  # noqa: PLC0415

    rank, width = shape
    if rank > width:
        raise ValueError(f"rank {rank} on a layer of width {width}")
    rows = (uniform(b"lora-a\0", seed, name, rank * width) - 0.5).reshape(rank, width)
    for i in range(rank):  # modified Gram-Schmidt, twice: the same steps on every machine
        for _ in range(2):
            for j in range(i):
                rows[i] -= (rows[i] * rows[j]).sum() * rows[j]
            rows[i] /= np.sqrt((rows[i] * rows[i]).sum())
    return rows.astype(np.float32)
