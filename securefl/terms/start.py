"""Where training starts: what is trained, which tensors a state of it has, and their first values."""

from __future__ import annotations

from dataclasses import dataclass, field

from securefl.terms.adapters import Adapter, Model, Task
from securefl.terms.layout import VALUE_BYTES, Layout


@dataclass(frozen=True, slots=True)
class Start:
    """What a coordinator needs to know of a model that it does not have. Each member computes the same of its own.

    Raises:
        ValueError: two tensors of one name, one without entries, or values of another size than the tensors.
    """

    model: Model
    task: Task
    adapter: Adapter
    layout: Layout
    state: bytes = field(repr=False)  # float32, little endian: (layout.entries,)

    def __post_init__(self) -> None:
        names = [tensor.name for tensor in self.layout.tensors]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"{len(names)} tensors of {len(set(names))} names")
        if not all(size > 0 for tensor in self.layout.tensors for size in tensor.shape):
            raise ValueError("a tensor without entries")
        if self.layout.rule is not self.adapter.rule:
            raise ValueError(f"a layout for the rule {self.layout.rule}, and an adapter with {self.adapter.rule}")
        if len(self.state) != VALUE_BYTES * self.layout.entries:
            raise ValueError(f"{len(self.state)} bytes of values for {self.layout.entries} entries")
