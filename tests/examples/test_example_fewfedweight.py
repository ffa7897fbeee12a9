"""The example with own models, shortened: its own file and policy, on a tiny encoder and made-up sentences."""

from __future__ import annotations

import random
from pathlib import Path

import yaml

from securefl.audit.verify import verify
from securefl.documents import federation_file
from securefl.simulation import federation
from securefl.terms import PseudoLabels, Scorer
from tests.support.small import FILLER, WORDS, own_of, save_model

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "fewfedweight" / "federation.yaml"


def sentences(name: str) -> str:
    drawn, lines = random.Random(name), ["text,label,rating"]
    for _ in range(60):
        label = drawn.choice(["negative", "neutral", "positive"])
        words = drawn.sample(FILLER, 4) + drawn.sample(
            WORDS.get({"negative": "bad", "positive": "good"}.get(label), FILLER), 2
        )
        lines.append(f"{' '.join(words)},{label},0")
    return "\n".join(lines) + "\n"


def test_the_example_runs_and_every_publisher_ends_with_a_model_of_its_own(tmp_path: Path) -> None:
    document = yaml.safe_load(EXAMPLE.read_text())
    policy = (EXAMPLE.parent / document["policy"]).read_text()
    named = document["model"]
    save_model(tmp_path / "model")
    (tmp_path / "policy.yaml").write_text(policy.replace(named, "./model"))
    document |= {
        "policy": "policy.yaml",
        "model": "./model",
        "adapter": {**document["adapter"], "targets": ["query", "value"]},
    }
    document["training"] |= {"rounds": 4, "steps": 2, "sampling_rate": "1/4", "divisor": 15, "max_tokens": 16}
    for member in document["members"]:
        member["data"]["file"] = f"{member['name']}.csv"
        (tmp_path / f"{member['name']}.csv").write_text(sentences(member["name"]))
    (tmp_path / "federation.yaml").write_text(yaml.safe_dump(document))
    loaded = federation_file.load(tmp_path / "federation.yaml")
    loss = loaded.file.strategy.loss.loss(4)
    assert isinstance(loss, PseudoLabels)
    assert loss.scorer is Scorer.ENERGY
    assert loss.first < 4

    result = federation.run(loaded, tmp_path / "out", sites=tmp_path / "sites")
    assert result.outcome == "finished", result.why
    assert verify(tmp_path / "out").ok
    names = [member["name"] for member in document["members"]]
    own = {name: own_of(tmp_path / "sites", name, result.report["run"], 5) for name in names}  # of round 4, the last
    assert all(own[name] != own_of(tmp_path / "sites", name, result.report["run"], 4) for name in names)
    assert len({each.model for each in own.values()}) == len(names)
    assert all(each.model for each in own.values())
    assert all(len(each.weights) == 32 + 8 for each in own.values())  # what it was made under, and one weight
    assert all(member["heldout"]["broadcast"] is not None for member in result.report["members"])


def test_no_sentence_of_the_public_probe_is_a_publishers_record() -> None:
    """Where the publishers' sentences are on this machine."""
    probe = {each["text"] for each in yaml.safe_load(EXAMPLE.read_text())["strategy"]["probe"]}
    for file in sorted((ROOT / "build" / "data" / "publishers").glob("*.csv")):
        assert not any(text in file.read_text(encoding="utf-8") for text in probe)
