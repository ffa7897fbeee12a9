"""Each record's gradient is the one it has alone, whichever engine makes it; what cannot be kept apart is refused."""

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from securefl.errors import OperatorFault
from securefl.terms import Model
from securefl.training import device, step
from securefl.training.engines.choose import wrap
from securefl.training.engines.engine import expanded
from securefl.training.engines.refusals import refuse_packing
from securefl.training.model import build
from securefl.training.noise import repeatable
from securefl.training.shared_model import SharedModel
from tests.support.tiny_models import TASK, adapter, plan, saved

ENGINES = ("fast", "opacus")
LENGTHS = (9, 3, 6, 2)  # padded to 9
WORDS = 64
DECODER = {"vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
           "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32}  # fmt: skip


def bert(dropout):
    return BertForSequenceClassification(
        BertConfig(vocab_size=WORDS, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
                   max_position_embeddings=32, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, num_labels=3)
    )  # fmt: skip


def gpt2(dropout):
    config = GPT2Config(vocab_size=WORDS, n_positions=32, n_embd=32, n_layer=2, n_head=4, resid_pdrop=dropout,
                        embd_pdrop=dropout, attn_pdrop=dropout)  # fmt: skip
    return GPT2LMHeadModel(config)


def llama(dropout):
    return LlamaForCausalLM(LlamaConfig(**DECODER, attention_dropout=dropout, tie_word_embeddings=True))


def qwen2(dropout):
    return Qwen2ForCausalLM(Qwen2Config(**DECODER, attention_dropout=dropout))


def opt(dropout):
    return OPTForCausalLM(
        OPTConfig(vocab_size=WORDS, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
                  max_position_embeddings=32, word_embed_proj_dim=32, dropout=dropout, attention_dropout=dropout)
    )  # fmt: skip


def t5(dropout):
    return T5ForConditionalGeneration(
        T5Config(vocab_size=WORDS, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=dropout,
                 decoder_start_token_id=0)
    )  # fmt: skip


MAKERS = {
    "bert": (bert, ["query", "key", "value", "dense"]),
    "gpt2": (gpt2, ["c_attn", "c_proj", "c_fc"]),
    "llama": (llama, ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]),
    "qwen2": (qwen2, ["q_proj", "v_proj", "gate_proj"]),
    "opt": (opt, ["q_proj", "k_proj", "v_proj", "out_proj"]),
    "t5": (t5, ["q", "k", "v", "o", "wi", "wo"]),
}


def lora(kind, dropout=0.0, **more):
    """A model with random weights and LoRA (A and B, neither zero) on it."""
    torch.manual_seed(3)
    make, targets = MAKERS[kind]
    given = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": targets,
        "lora_dropout": dropout,
        "init_lora_weights": False,
        **more,
    }
    if kind == "bert":
        given.setdefault("modules_to_save", ["classifier"])
    model = get_peft_model(make(dropout), LoraConfig(**given)).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(0.1)  # a change as small as training makes it
    return model


@dataclass
class Case:
    """A batch: what a model is called with, and what its losses are measured against."""

    inputs: dict
    labels: torch.Tensor

    def of(self, record, width=None):
        """One record, as wide as it is itself or as wide as the batch."""
        width = width or int(self.inputs["attention_mask"][record].sum())
        row = {name: tensor[record : record + 1, :width] for name, tensor in self.inputs.items()}
        labels = self.labels[record : record + 1]
        return Case(row, labels[:, :width] if labels.dim() == 2 else labels)


def case(kind, lengths=LENGTHS):
    torch.manual_seed(5)
    ids = torch.randint(2, WORDS, (len(lengths), max(lengths)))
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ids = torch.where(mask, ids, 0)
    inputs = {"input_ids": ids, "attention_mask": mask.long()}
    if kind == "bert":
        return Case(inputs, torch.arange(len(lengths)) % 3)
    labels = torch.where(mask, ids, -100)
    labels[0, :4] = -100  # a prompt that is not to be learned
    if kind == "t5":
        inputs["decoder_input_ids"] = ids.roll(1, 1)
    return Case(inputs, labels)


def losses(model, given):
    """One loss for each record, (batch,): for text the mean over its own tokens that are not -100."""
    logits = model(**given.inputs).logits
    if given.labels.dim() == 1:
        return torch.nn.functional.cross_entropy(logits, given.labels, reduction="none")
    shifted = "decoder_input_ids" not in given.inputs
    logits, labels = (logits[:, :-1], given.labels[:, 1:]) if shifted else (logits, given.labels)
    each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=-100)
    return each.sum(1) / (labels != -100).sum(1).clamp(min=1)


def trained(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def flat(parts):
    return torch.cat([part.reshape(len(part), -1) for part in parts], dim=1)


def together(model, engine, given):
    """(batch, dimension) from one pass of an engine; the model is plain again afterwards."""
    wrapped, parameters = wrap(model, engine), trained(model)
    try:
        found = wrapped.gradients(parameters, lambda: losses(wrapped, given).sum())
        assert [tuple(part.shape) for part in found] == [(len(given.labels), *p.shape) for p in parameters]
        return flat(found)
    finally:
        wrapped.close()


def one_by_one(model, given):
    """(batch, dimension) from one plain backward pass for each record."""
    parameters = trained(model)
    rows = []
    for record in range(len(given.labels)):
        found = torch.autograd.grad(losses(model, given.of(record)).sum(), parameters)
        rows.append(torch.cat([part.reshape(-1) for part in found]))
    return torch.stack(rows)


def apart(a, b):
    """The largest relative distance of two records' gradients."""
    assert float(b.norm(dim=1).min()) > 0
    return float(((a - b).norm(dim=1) / b.norm(dim=1)).max())


def holds(kind, engine, model, given=None):
    given = given or case(kind)
    assert apart(together(model, engine, given), one_by_one(model, given)) < 1e-6


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", MAKERS)
def test_a_records_gradient_in_a_padded_batch_is_the_one_it_has_alone(kind, engine):
    holds(kind, engine, lora(kind))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_it_is_so_with_b_alone_rslora_and_eager_attention(kind, engine):
    model = lora(kind, use_rslora=True, lora_bias=kind == "llama")
    model.base_model.model.set_attn_implementation("eager")
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            parameter.requires_grad_(False)
    holds(kind, engine, model)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["gpt2", "llama", "t5"])
def test_an_adapter_on_a_tied_head_is_no_exception(kind, engine):
    model = lora(kind, target_modules=[*MAKERS[kind][1], "lm_head"])
    assert model.base_model.model.lm_head.base_layer.weight is model.get_input_embeddings().weight
    holds(kind, engine, model)


def recomputing(kind, reentrant):
    model = lora(kind)
    model.base_model.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    return model


@pytest.mark.parametrize(("engine", "reentrant"), [("fast", False), ("fast", True), ("opacus", True)])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5"])
def test_recomputing_activations_changes_nothing(kind, engine, reentrant):
    given = case(kind)
    assert apart(together(recomputing(kind, reentrant), engine, given), one_by_one(lora(kind), given)) < 1e-6


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama", "t5"])
def test_hooks_that_recomputing_passes_by_give_no_gradient_rather_than_a_wrong_one(kind):
    model, given = recomputing(kind, False), case(kind)
    wrapped = wrap(model, "opacus")
    found = wrapped.gradients(trained(model), lambda: losses(wrapped, given).sum())
    sizes = [parameter.numel() for parameter in trained(model)]
    plain = torch.split(one_by_one(lora(kind), given), sizes, dim=1)
    assert any(part is None for part in found)
    for part, exact in zip(found, plain, strict=True):
        assert part is None or apart(flat([part]), exact) < 1e-5


class Masks:
    """Dropout whose masks belong to the records: drawn once per place and record, so a batch and a loop share them."""

    def __init__(self, width):
        self.width, self.record, self.calls, self.drawn = width, None, 0, {}

    def dropout(self, x, p=0.5, training=True, inplace=False):
        if not training or p == 0:
            return x
        self.calls += 1
        rows = len(x) // (self.width if self.record is None else 1)  # of one record: OPT flattens records and tokens
        mask = self.drawn.setdefault(self.calls, (torch.rand((self.width, rows, *x.shape[1:])) >= p) / (1 - p))
        mine = mask if self.record is None else mask[self.record]
        return x * mine.reshape(x.shape)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", MAKERS)
def test_with_dropout_each_record_has_the_gradient_of_its_own_mask(kind, engine, monkeypatch):
    model, given = lora(kind, dropout=0.2), case(kind)
    model.base_model.model.set_attn_implementation("eager")  # its dropout is a call that can be watched
    masks = Masks(len(given.labels))
    monkeypatch.setattr(torch.nn.functional, "dropout", masks.dropout)
    batch = together(model, engine, given)
    seen, rows = masks.calls, []
    for record in range(len(given.labels)):
        masks.record, masks.calls = record, 0
        found = torch.autograd.grad(losses(model, given.of(record, max(LENGTHS))).sum(), trained(model))
        rows.append(torch.cat([part.reshape(-1) for part in found]))
        assert masks.calls == seen > 4
    assert apart(batch, torch.stack(rows)) < 1e-6
    masks.record, masks.calls = None, 0
    masks.drawn.clear()
    assert apart(together(model, engine, given), batch) > 1e-2  # the masks do matter


@pytest.mark.parametrize("kind", MAKERS)
def test_under_one_generator_state_both_engines_drop_the_same_and_agree(kind):
    model, given = lora(kind, dropout=0.2), case(kind)
    found = []
    for engine in ENGINES:
        torch.manual_seed(11)
        found.append(together(model, engine, given))
    assert apart(*found) < 1e-6
    torch.manual_seed(12)
    assert apart(together(model, "fast", given), found[0]) > 1e-2


class Small(torch.nn.Module):
    """Layers on inputs with any number of middle dimensions; the first is called again and again."""

    def __init__(self, repeats, bias):
        super().__init__()
        self.a, self.b = torch.nn.Linear(5, 5, bias=bias), torch.nn.Linear(5, 3, bias=bias)
        self.repeats = repeats

    def forward(self, x):
        for _ in range(self.repeats):
            x = torch.tanh(self.a(x))
        return self.b(x)


@given(
    st.lists(st.integers(1, 4), max_size=3), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.booleans(),
    st.sampled_from(ENGINES),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_middle_dimensions_and_repeated_calls_add_up(middle, batch, repeats, bias, frozen, engine):
    torch.manual_seed(0)
    model = Small(repeats, bias).double()
    model.a.weight.requires_grad_(not frozen)
    x = torch.randn(batch, *middle, 5, dtype=torch.float64)
    parameters, wrapped = trained(model), wrap(model, engine)
    found = wrapped.gradients(parameters, lambda: wrapped(x).square().sum())
    for record in range(batch):
        plain = torch.autograd.grad(model(x[record : record + 1]).square().sum(), parameters)
        for part, other in zip(found, plain, strict=True):
            assert torch.allclose(part[record], other, rtol=1e-10, atol=1e-12)


def test_one_layer_called_on_other_numbers_of_rows_is_refused():
    class Twice(Small):
        def forward(self, x):
            return self.b(self.a(x)) + self.b(self.a(x[:1]))

    model = Twice(1, True)
    wrapped = wrap(model, "fast")
    with pytest.raises(OperatorFault, match="is used on 1 rows and on 4|is used on 4 rows and on 1"):
        wrapped.gradients(trained(model), lambda: wrapped(torch.randn(4, 5)).sum())


def test_a_tensor_that_is_also_used_outside_its_layer_has_no_gradient_of_a_record():
    class Penalised(Small):
        def forward(self, x):
            return self.b(self.a(x)) * self.b.weight.sum()

    model = Penalised(1, True)
    wrapped = wrap(model, "fast")
    found = wrapped.gradients(trained(model), lambda: wrapped(torch.randn(4, 5)).sum())
    names = [name for name, _ in model.named_parameters()]
    assert [name for name, part in zip(names, found, strict=True) if part is None] == ["b.weight"]


@pytest.mark.parametrize("engine", ENGINES)
def test_outside_of_an_engines_pass_the_model_is_a_plain_one(engine):
    model, given = lora("gpt2"), case("gpt2")
    before = torch.autograd.grad(losses(model, given).sum(), trained(model))
    wrapped = wrap(model, engine)
    for _ in range(2):
        plain = torch.autograd.grad(losses(wrapped, given).sum(), trained(model))
        assert all(torch.equal(a, b) for a, b in zip(plain, before, strict=True))
        wrapped.gradients(trained(model), lambda: losses(wrapped, given).sum())
        assert all(p.grad is None and p.grad_sample is None for p in trained(model))


def test_a_closed_engine_leaves_the_model_free_for_another_and_for_other_trainable_tensors():
    model, given = lora("llama"), case("llama")
    for factor, engine in (("lora_A", "fast"), ("lora_B", "opacus"), ("lora_A", "opacus"), ("lora_B", "fast")):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(factor in name)
        holds("llama", engine, model, given)
    assert not any("grad_sample" in vars(parameter) for parameter in model.parameters())


def test_under_autocast_gradients_are_float32_and_near():
    model, given = lora("llama"), case("llama")
    plain = one_by_one(model, given)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the backward pass stands inside too
        found = together(model, "fast", given)
        exact = model.base_model.model.lm_head(torch.zeros(1, 32)).dtype
    assert (found.dtype, exact) == (torch.float32, torch.bfloat16)
    assert apart(found, plain) < 5e-2


# Which engine.


def test_auto_is_fast_where_all_that_moves_is_linear_and_opacus_elsewhere():
    model = lora("bert")
    assert wrap(model).name == "fast"
    norm = next(name for name, _ in model.named_modules() if name.endswith("LayerNorm"))
    model.get_submodule(norm).weight.requires_grad_(True)
    assert wrap(model).name == "opacus"
    with pytest.raises(OperatorFault, match=r"LayerNorm\.weight` is in a LayerNorm; the fast engine") as caught:
        wrap(model, "fast")
    assert "opacus" in caught.value.remedy
    with pytest.raises(OperatorFault, match="no engine `quick`"):
        wrap(model, "quick")


def test_norms_have_each_records_gradient_from_opacus():
    model = lora("bert")
    for name, parameter in model.named_parameters():
        if "LayerNorm" in name:
            parameter.requires_grad_(True)
    holds("bert", "auto", model)


@pytest.mark.parametrize("asked", ["auto", *ENGINES])
def test_the_choice_can_be_read(asked, tmp_path):
    of = SharedModel.load(str(saved("bert", tmp_path)), tmp_path, TASK, adapter("bert"), asked)
    assert of.engine == (asked if asked != "auto" else "fast")
    of.preflight()


def test_both_engines_train_to_the_same_state(tmp_path):
    from securefl.terms.records import Record

    records = tuple(Record(f"{word} {i}", i % 3) for i in range(20) for word in ("late", "ok then"))
    updates = []
    for engine in ENGINES:
        of = SharedModel.load(str(saved("llama", tmp_path)), tmp_path, TASK, adapter("llama"), engine)
        updates.append(torch.from_numpy(of.train(plan(of), of.initial(), records, repeatable("same")).values))
    assert float((updates[0] - updates[1]).norm() / updates[0].norm()) < 1e-5


# Modules that expand their tensors themselves.


class Prompted(torch.nn.Module):
    """A model behind a soft prompt: its trainable tensor is in no layer."""

    expands = ("prompt",)

    def __init__(self, model, tokens=3):
        super().__init__()
        self.model = model
        self.prompt = torch.nn.Parameter(torch.randn(tokens, 32) * 0.1)

    def forward(self, input_ids, attention_mask):
        words = self.model.get_input_embeddings()(input_ids)
        prompt = expanded(self.prompt, len(input_ids))  # (batch, tokens, 32)
        mask = torch.cat([attention_mask.new_ones(prompt.shape[:2]), attention_mask], 1)
        out = self.model(inputs_embeds=torch.cat([prompt, words], 1), attention_mask=mask)
        out.logits = out.logits[:, len(self.prompt) :]
        return out


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("reentrant", [None, False, True])
def test_a_tensor_that_its_module_expands_has_each_records_gradient(engine, reentrant):
    if engine == "opacus" and reentrant is False:
        pytest.skip("its hooks do not survive this kind of recomputing")
    model = Prompted(lora("llama"))
    plain = one_by_one(model, case("llama"))
    if reentrant is not None:
        model.model.base_model.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert apart(together(model, engine, case("llama")), plain) < 1e-6


@pytest.mark.parametrize("engine", ENGINES)
def test_an_expanded_tensor_alone_may_be_trained_and_used_twice(engine):
    class Both(torch.nn.Module):
        expands = ("shift",)

        def __init__(self):
            super().__init__()
            self.shift = torch.nn.Parameter(torch.randn(5))

        def forward(self, x):
            return torch.tanh(x + expanded(self.shift, len(x))) * expanded(self.shift, len(x))

    model, x = Both().double(), torch.randn(4, 5, dtype=torch.float64)
    wrapped = wrap(model, engine)
    (found,) = wrapped.gradients(trained(model), lambda: wrapped(x).sum())
    for record in range(4):
        (plain,) = torch.autograd.grad(model(x[record : record + 1]).sum(), trained(model))
        assert torch.allclose(found[record], plain, rtol=1e-12)


# What is refused, before any data is touched.


def refused(model, engine="auto"):
    with pytest.raises(OperatorFault) as caught:
        wrap(model, engine)
    assert caught.value.remedy
    return str(caught.value)


def tuned(kind, config):
    return get_peft_model(MAKERS[kind][0](0.0), config)


def test_ia3_is_refused():
    told = refused(tuned("llama", IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")))
    assert (
        "k_proj.ia3_l.default` belongs to a ParameterDict in `base_model.model.model.layers.0.self_attn.k_proj`" in told
    )
    assert "use LoRA on this layer" in told


def test_dora_is_refused():
    told = refused(lora("llama", use_dora=True))
    assert "lora_magnitude_vector.default.weight` belongs to a Dora" in told
    assert "q_proj" in told
    assert "turn use_dora and the like off" in told


def test_dora_is_refused_though_its_magnitudes_are_frozen():
    model = lora("llama", use_dora=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_B" in name)
    told = refused(model)
    assert "q_proj` has LoRA of another kind (DoraLinearVariant)" in told
    assert "turn use_dora and the like off" in told


def test_lora_on_an_embedding_is_refused():
    told = refused(lora("gpt2", target_modules=["c_attn", "wte"]))
    assert "lora_embedding_A.default` belongs to a ParameterDict in `base_model.model.transformer.wte`" in told
    assert "leave the embedding out of the targets" in told


def test_an_embedding_that_is_trained_and_tied_to_a_linear_head_is_refused():
    model = lora("gpt2")
    model.base_model.model.lm_head.weight.requires_grad_(True)
    assert "wte.weight` belongs to a Embedding" in refused(model)


@pytest.mark.parametrize(
    "config",
    [
        PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
        PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    ],
)
def test_prompts_of_peft_are_refused(config):
    told = refused(tuned("llama", config))
    assert "prompt_encoder.default.embedding.weight` belongs to a Embedding" in told
    assert "expands it for each record" in told


@pytest.mark.parametrize(
    "model",
    [
        MixtralForCausalLM(MixtralConfig(**DECODER, num_local_experts=2, num_experts_per_tok=1)),
        Qwen2MoeForCausalLM(
            Qwen2MoeConfig(**DECODER, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16,
                           shared_expert_intermediate_size=16)
        ),
    ],
    ids=["mixtral", "qwen2_moe"],
)  # fmt: skip
def test_a_mixture_of_experts_is_refused(model):
    tuned = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
    told = refused(tuned)
    assert "layers.0.mlp" in told
    assert "use a dense model" in told


def test_a_list_of_modules_that_is_called_experts_is_refused():
    model = Small(1, True)
    model.experts = torch.nn.ModuleList([torch.nn.Linear(5, 5)])
    assert "`experts` is a ModuleList" in refused(model)


def test_batch_norm_is_refused():
    model = Small(1, True)
    model.norm = torch.nn.BatchNorm1d(5)
    assert "`norm` is a BatchNorm1d: it mixes records; use a model with LayerNorm" in refused(model)


@pytest.mark.parametrize(
    "given",
    [
        {"position_ids": torch.tensor([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]])},
        {"position_ids": torch.tensor([[0, 0, 0, 1, 2]])},
        {"cu_seq_lens_q": torch.tensor([0, 3, 5])},
        {"seq_idx": torch.tensor([[0, 0, 1, 1, 1]])},
    ],
)
def test_records_that_are_packed_into_one_row_are_refused(given):
    model = lora("llama")
    wrapped = wrap(model)
    ids = torch.randint(2, WORDS, (len(next(iter(given.values()))) if "position_ids" in given else 1, 5))
    with pytest.raises(OperatorFault, match="packed into one") as caught:
        wrapped.gradients(trained(model), lambda: wrapped(input_ids=ids, **given).logits.sum())
    assert "pad" in caught.value.remedy


def test_padded_positions_are_no_packing():
    positions = torch.tensor([[1, 1, 0, 1, 2], [0, 1, 2, 1, 1]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    refuse_packing({"position_ids": positions, "attention_mask": mask})
    refuse_packing({"position_ids": torch.arange(5).expand(2, 5)})


@pytest.mark.parametrize("engine", ENGINES)
def test_layers_that_lose_sight_of_records_are_found_by_the_preflight(engine):
    model = lora("opt", target_modules=["q_proj", "fc1"])  # OPT flattens records and tokens before fc1
    wrapped, parameters, given = wrap(model, engine), trained(model), case("opt")
    found = wrapped.gradients(parameters, lambda: losses(wrapped, given).sum())
    wrong = {n for (n, p), g in zip(((n, p) for n, p in model.named_parameters() if p.requires_grad), found, strict=True)
             if g is None or g.shape != (len(given.labels), *p.shape)}  # fmt: skip
    assert wrong == {name for name, p in model.named_parameters() if p.requires_grad and "fc1" in name}


# The placement a GPU would have, on a CPU.


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_bfloat16_base_has_float32_adapters_norms_and_gradients(kind, engine, tmp_path):
    built = build(saved(kind, tmp_path), TASK, adapter(kind))
    wide = copy.deepcopy(built.model)
    device.place(built.model, torch.device("cpu"), torch.bfloat16)
    types = {name: parameter.dtype for name, parameter in built.model.named_parameters()}
    for name, type_ in types.items():
        narrow = not ("lora_" in name or name.startswith("head.") or "norm" in name.lower() or ".ln_" in name)
        assert type_ == (torch.bfloat16 if narrow else torch.float32), name
    of = SharedModel(built, Model("m", bytes(32)), TASK, adapter(kind), engine)
    of.preflight()
    for parameter in built.parameters:
        torch.nn.init.normal_(parameter, std=0.1)
    wide.load_state_dict(built.model.state_dict())
    encoded = of._tokens(("late again", "thanks!", "where is the desk"), (0, 1, 2), 32)
    found = step.per_record_gradients(of._wrapped, built.parameters, encoded.batch([0, 1, 2]))
    assert {part.dtype for part in found} == {torch.float32}
    other = replace(
        built, model=wide, trainable=tuple(sorted((n, p) for n, p in wide.named_parameters() if p.requires_grad))
    )
    exact = step.per_record_gradients(wrap(wide, engine), other.parameters, encoded.batch([0, 1, 2]))
    assert 1e-6 < apart(flat(found), flat(exact)) < 5e-2


def test_the_cpu_is_float32_and_cuda_would_have_a_bfloat16_base():
    assert device.base_type(torch.device("cpu")) == torch.float32
    assert device.base_type(torch.device("cuda")) == torch.bfloat16
    assert device.best().type == ("cuda" if torch.cuda.is_available() else "cpu")
