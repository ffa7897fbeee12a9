"""What a head is shown: centred, of norm 1, a constant behind it; of each record alone; and saved so that others get the same."""

import contextlib
import io
from fractions import Fraction as F

import pytest
import torch

from securefl.documents.task import AdapterPart
from securefl.terms import Adapter, AdapterKind, Features, Pooling
from securefl.training import saving
from securefl.training.classifier import LEAST_NORM
from securefl.training.model import build
from securefl.training.shared_model import SharedModel
from securefl.wire import decode, encode
from tests.support.tiny_models import TASK, encoder, plan, saved, tokenizer

ASKED = Features(centered=True, unit=True, bias=F(3, 10))
ADAPTER = Adapter((), 8, 16, 0, AdapterKind.HEAD, layer=1, features=ASKED)


def test_features_are_centred_scaled_and_have_the_constant_behind_them(tmp_path):
    model = build(saved("bert", tmp_path), TASK, ADAPTER).model
    assert [name for name, _ in model.head.named_parameters()] == ["weight"]
    assert model.head.weight.shape == (3, 33)
    assert float(model.center.abs().max()) > 0.01
    pooled = torch.randn(5, 32)
    pooled[4] = model.center
    shown = model.shown(pooled)
    assert torch.equal(shown[:, -1], torch.full((5,), 0.3))
    assert torch.allclose(shown[:4, :-1].norm(dim=1), torch.ones(4))
    apart = pooled[0] - model.center
    assert torch.allclose(shown[0, :-1], apart / apart.norm(), atol=1e-6)
    assert not shown[4, :-1].any()  # nothing is left of it: no number is divided by nothing
    assert torch.isfinite(model.shown(model.center[None] + LEAST_NORM / 2)).all()
    for record in range(5):
        assert torch.equal(model.shown(pooled[record : record + 1])[0], shown[record])


@pytest.mark.parametrize(("centered", "unit"), [(False, True), (True, False), (False, False)])
def test_each_part_of_the_features_may_be_left_out(tmp_path, centered, unit):
    model = build(
        saved("bert", tmp_path), TASK, Adapter((), 8, 16, 0, AdapterKind.HEAD, features=Features(centered, unit, F(1)))
    ).model
    assert bool(model.center.any()) is centered
    pooled = torch.randn(3, 32)
    assert torch.allclose(model.shown(pooled)[:, :-1].norm(dim=1), torch.ones(3)) is unit


@pytest.mark.parametrize("pooling", Pooling)
def test_what_was_saved_gives_the_same_logits_by_its_own_page_and_by_load(tmp_path, pooling):
    folder = saved("bert", tmp_path / "model")
    built = build(folder, TASK, Adapter((), 8, 16, 0, AdapterKind.HEAD, layer=1, pooling=pooling, features=ASKED))
    built.model.head.weight.data.normal_()
    saving.save(built, TASK, str(folder), 32, tmp_path / "out")
    ids = torch.tensor([tokenizer()("my flight was cancelled")["input_ids"]])
    due = built.model.eval()(ids, torch.ones_like(ids))
    loaded = saving.load(encoder("bert"), tmp_path / "out")
    assert loaded.features == ASKED
    assert torch.equal(loaded(ids, torch.ones_like(ids)), due)
    page = (tmp_path / "out" / "README.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    seen: dict = {}
    with contextlib.chdir(tmp_path / "out"), contextlib.redirect_stdout(io.StringIO()):
        exec(code, seen)
    assert torch.allclose(seen["logits"], due, atol=1e-5)


def test_a_plan_for_other_features_is_refused_and_features_travel(tmp_path):
    folder = saved("bert", tmp_path)
    of = SharedModel.load(str(folder), folder, TASK, ADAPTER)
    of.admit(plan(of))
    assert decode(encode(ADAPTER), Adapter) == ADAPTER
    other = Adapter((), 8, 16, 0, AdapterKind.HEAD, layer=1, features=Features(True, True, F(1, 10)))
    from dataclasses import replace

    with pytest.raises(Exception, match="the plan's adapter"):
        of.admit(replace(plan(of), adapter=other))


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"kind": "lora", "targets": ["query"], "features": {}}, "features are of kind head"),
        ({"kind": "head", "features": {"bias": 0}}, "bias"),
        ({"kind": "head", "features": {"norm": "l1"}}, "norm"),
        ({"kind": "head", "features": {"center": "mine.csv"}}, "center"),
    ],
)
def test_features_that_mean_nothing_are_refused(written, told):
    with pytest.raises(ValueError, match=told):
        AdapterPart.model_validate(written)
    assert AdapterPart.model_validate({"kind": "head", "features": {}}).adapter().features == ASKED
    with pytest.raises(ValueError, match="bias"):
        Features(centered=True, unit=True, bias=F(0))
    with pytest.raises(ValueError, match="of a head alone"):
        Adapter(("query",), 8, 16, 0, features=ASKED)
