"""Many tasks over one base model: who takes part, what is charged, what stays apart, and what a store serves."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from securefl.audit.verify import read_all, verify
from securefl.cli import main as cli
from securefl.coordinator import evidence
from securefl.documents import module_manifest, suite_file
from securefl.documents.suite_file import seed_of
from securefl.errors import OperatorFault, Tampered
from securefl.home import clock
from securefl.home.home import Home
from securefl.planning import explain, possible
from securefl.planning.plan import FirstState, strategy_of
from securefl.protocol import coordinator_state
from securefl.simulation import federation, parties, suite
from securefl.terms import (
    Adapter,
    AdapterKind,
    Hash,
    Level,
    MemberId,
    MessageReceived,
    MessageSent,
    Reserved,
    RunId,
    Task,
)
from securefl.training import module_store
from securefl.training.shared_base import Base
from tests.support import tiny_models
from tests.support.small import FEDERATION, POLICY, rows, save_model, sign
from tests.training import test_training_prompt as prompts

MEMBERS = ("east", "nort", "sout", "west")  # of one length, so that messages can be compared byte by byte
OWNERS = {"tone": MEMBERS, "mood": ("east", "nort", "west"), "wish": ("nort", "sout", "west")}
WIDE = POLICY.replace("per_dataset: {epsilon: 20}", "per_dataset: {epsilon: 90}").replace(
    "epsilon: 20,", "epsilon: 90,"
)


class Many:
    """A suite's folder, and runs of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        save_model(folder / "model")
        self.policy(WIDE)
        for task, members in OWNERS.items():
            for member in members:
                lines = ["text,label", *(f"{text},{label}" for text, label in rows(f"{task} {member}", 40))]
                (folder / f"{task}-{member}.csv").write_text("\n".join(lines) + "\n")
        self.file()

    def policy(self, text: str, name: str = "policy.yaml") -> Path:
        (self.folder / name).write_text(text)
        sign(self.folder / name)
        return self.folder / name

    def document(self) -> dict:
        document = copy.deepcopy(FEDERATION)
        del document["adapter"]["seed"]
        document["training"]["rounds"] = 1
        document["members"] = [{"name": name, "region": "here"} for name in MEMBERS]
        document["tasks"] = {
            task: {"records": task, "members": {each: {"file": f"{task}-{each}.csv"} for each in members}}
            for task, members in OWNERS.items()
        }
        return document

    def file(self, name: str = "suite.yaml", **changes) -> Path:
        """The suite's file, changed; nested keys as ``tasks__tone__records``, None takes one out."""
        document = self.document()
        for key, value in changes.items():
            place = document
            *outer, last = key.split("__")
            for part in outer:
                place = place.setdefault(part, {})
            if value is None:
                place.pop(last, None)
            else:
                place[last] = value
        path = self.folder / name
        path.write_text(json.dumps(document, indent=1))
        return path

    def run(self, out: Path, sites: Path, file: Path | None = None, **options) -> suite.Result:
        return suite.run(suite_file.load(file or self.folder / "suite.yaml"), out, sites=sites, **options)


@pytest.fixture(scope="session")
def many(tmp_path_factory) -> Many:
    return Many(tmp_path_factory.mktemp("many"))


@pytest.fixture(scope="session")
def done(many: Many, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("suite")
    result = many.run(home / "run", home / "sites")
    assert result.outcome == "finished", result.why
    return home


def run_cli(capsys, *argv: object) -> tuple[int, dict]:
    capsys.readouterr()
    code = 0
    try:
        cli.main([str(part) for part in (*argv, "--json")])
    except SystemExit as leaving:
        code = leaving.code or 0
    return code, json.loads(capsys.readouterr().out)


def test_a_policy_is_held_against_each_task_of_a_suite(many: Many, capsys) -> None:
    code, told = run_cli(capsys, "policy", "explain", many.folder / "policy.yaml", many.folder / "suite.yaml")
    assert (code, told["decision"], list(told["tasks"])) == (0, "grant", list(OWNERS))
    file = many.file("lone.yaml", tasks__mood__members={"east": {"file": "mood-east.csv"}})
    code, told = run_cli(capsys, "policy", "explain", many.folder / "policy.yaml", file)
    assert (code, told["decision"], told["tasks"]["tone"]["decision"]) == (3, "refuse", "grant")
    assert "protection.cohort" in {each["rule"] for each in told["tasks"]["mood"]["reasons"]}


def test_a_suite_leaves_a_run_a_task_modules_and_ledgers_that_verify(done: Path) -> None:
    report = json.loads((done / "run" / "suite.json").read_text())
    assert list(report["tasks"]) == list(OWNERS)
    for task, members in OWNERS.items():
        folder = done / "run" / "tasks" / task
        assert verify(folder).ok, verify(folder).why
        assert {path.stem for path in (folder / "ledger").iterdir()} == {*members, "coordinator"}
        assert report["tasks"][task]["owners"] == list(members)
    assert verify(done / "run").ok, verify(done / "run").why
    assert {path.stem for path in (done / "run" / "ledger").iterdir()} == {*MEMBERS, "coordinator"}
    assert set(module_store.manifests(done / "run" / "modules")) == set(OWNERS)


def test_a_suites_report_and_modules_are_evidence_too(done: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(done / "run", tmp_path / "run")
    run, task = tmp_path / "run", next(iter(OWNERS))
    for path in (run / "suite.json", *sorted((run / "modules").iterdir()), run / "tasks" / task / "report.html"):
        whole = path.read_bytes()
        path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        assert not verify(run).ok, path
        path.unlink()
        assert not verify(run).ok, path
        path.write_bytes(whole)
    assert verify(run).ok, verify(run).why
    (run / "modules" / "more.safetensors").write_bytes(b"")
    assert "that the run did not leave" in verify(run).why


def test_each_round_of_a_task_is_one_sum_over_its_owners(done: Path) -> None:
    for task, members in OWNERS.items():
        report = json.loads((done / "run" / "tasks" / task / "report.json").read_text())
        assert [each["survivors"] for each in report["rounds"]] == [sorted(members)]


def test_tasks_of_one_name_or_none_add_up_and_others_stand_beside_each_other(many: Many, done: Path, tmp_path) -> None:
    apart = Home.at(done / "sites" / "nort", MemberId("nort"), clock.clock)
    many.run(
        tmp_path / "run",
        tmp_path / "sites",
        many.file("together.yaml", **{f"tasks__{t}__records": None for t in OWNERS}),
    )
    together = Home.at(tmp_path / "sites" / "nort", MemberId("nort"), clock.clock)
    with apart.transaction() as conn:
        account = apart.account(conn)
        assert {each.dataset for each in account.charges} == {f"nort.{task}" for task in OWNERS}
    with together.transaction() as conn:
        account = together.account(conn)
    assert [each.dataset for each in account.charges] == ["nort"] * 3
    assert len(account.standing(Level.DATASET, "nort")) == 3


def test_a_text_on_two_accounts_that_are_said_to_be_apart_is_refused(many: Many, tmp_path) -> None:
    file = many.file("twice.yaml", tasks__mood__members={each: {"file": f"tone-{each}.csv"} for each in OWNERS["mood"]})
    with pytest.raises(OperatorFault, match=r"has a record of the task tone in the task mood too.*adds up"):
        many.run(tmp_path / "run", tmp_path / "sites", file)
    assert not (tmp_path / "run").exists()


def test_a_task_that_too_few_own_is_refused_by_name_before_anything_trains(many: Many, tmp_path, capsys) -> None:
    for number, owners in enumerate((["nort"], ["nort", "west"])):
        members = {each: {"file": f"wish-{each}.csv"} for each in owners}
        for hidden in (False, True):
            file = many.file("few.yaml", tasks__wish__members=members, hide_ownership=hidden)
            out, sites = tmp_path / f"run{number}{hidden}", tmp_path / "sites"
            code, told = run_cli(capsys, "run", file, "--out", out, "--sites", sites)
            assert code == 3
            assert "task wish: protection.cohort" in told["outcome"]["why"]
            assert "tone" not in told["outcome"]["why"]
            assert not out.exists()
            assert not sites.exists()


def test_a_member_itself_refuses_the_sum_of_too_few(many: Many, tmp_path, monkeypatch) -> None:
    for place in (federation, possible):  # a coordinator that asks although it may know better
        monkeypatch.setattr(place, "check_seats", lambda *_: None)
    members = {each: {"file": f"wish-{each}.csv"} for each in ("nort", "west")}
    task = suite_file.load(many.file("itself.yaml", tasks__wish__members=members)).tasks["wish"]
    result = federation.run(task.loaded, tmp_path / "run", sites=tmp_path / "sites")
    assert result.outcome != "finished"
    ledgers = read_all(tmp_path / "run")
    assert not [entry for ledger in ledgers.values() for _, entry in ledger.each(Reserved)]


def test_training_one_task_leaves_the_logits_of_another_bit_for_bit(many: Many) -> None:
    loaded = suite_file.load(many.folder / "suite.yaml").tasks
    base = Base.load("./model", many.folder)
    models = base.models({name: suite._asked(each.loaded) for name, each in loaded.items()})
    records = parties.records_of(loaded["tone"].loaded, "nort").train
    encoded = models["mood"]._tokens(tuple(each.text for each in records), (0,) * len(records), 16)

    def logits(name: str) -> torch.Tensor:
        return models[name]._logits(encoded).clone()

    def moved(name: str) -> bytes:
        its, start = loaded[name].loaded, models[name].start
        policy = federation.policies.load(many.folder / "policy.yaml")
        plan = explain.first_plan(its, policy, FirstState.of(start, strategy_of(its, start)))
        return models[name].trained(plan, models[name].initial(), models[name].initial(), records, os.urandom)[0]

    from securefl.training import adapter_tensors

    adapter_tensors.load(models["mood"]._built, moved("mood"))
    before = {name: logits(name) for name in ("mood", "wish")}
    trained = moved("tone")
    assert trained != models["tone"].initial()
    adapter_tensors.load(models["tone"]._built, trained)
    assert not torch.equal(logits("tone"), before["wish"]), "the trained task has moved"
    for name, was in before.items():
        assert torch.equal(logits(name), was)


def test_the_base_is_in_memory_once(many: Many) -> None:
    tasks = suite_file.load(many.folder / "suite.yaml").tasks
    models = Base.load("./model", many.folder).models({name: suite._asked(each.loaded) for name, each in tasks.items()})
    frozen = [
        {p.data_ptr() for p in each._built.model.parameters() if not p.requires_grad and "lora_A" not in str(p.shape)}
        for each in models.values()
    ]
    words = [each._built.model.encoder.get_input_embeddings().weight.data_ptr() for each in models.values()]
    assert len(set(words)) == 1
    shared = set.intersection(*frozen)
    assert len(shared) >= 30
    lora = [dict(each._built.model.named_parameters()) for each in models.values()]
    a = next(name for name in lora[0] if "lora_A" in name)
    assert not torch.equal(lora[0][a], lora[1][a]), "each task has an A of its own"


def test_a_seed_follows_from_the_tasks_name_unless_one_is_given(many: Many) -> None:
    file = many.file("seed.yaml", tasks__tone__adapter={"seed": 5})
    tasks = suite_file.load(file).tasks
    assert [tasks[name].loaded.file.adapter.seed for name in OWNERS] == [5, seed_of("mood"), seed_of("wish")]


@pytest.fixture(scope="session")
def hidden(many: Many, tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("hidden")
    file = many.file("hidden.yaml", hide_ownership=True, training__rounds=2)
    result = many.run(home / "run", home / "sites", file)
    assert result.outcome == "finished", result.why
    return home


def seen_by_the_coordinator(task: Path, kind: type[MessageReceived] | type[MessageSent]) -> dict[str, Counter]:
    """Kind, round, size and cost of each message of a task's run, from or to each member."""
    ledger = read_all(task)[MemberId("coordinator")]
    run = RunId(bytes.fromhex(json.loads((task / "run.json").read_text())["run"]))
    seen = {name: Counter() for name in MEMBERS}
    for _, entry in ledger.each(kind):
        receipt = entry.receipt
        if receipt.run == run:
            other = receipt.sender if kind is MessageReceived else receipt.to
            seen[other][receipt.kind, receipt.round, receipt.size, receipt.cost] += 1
    return seen


@pytest.mark.parametrize("kind", [MessageReceived, MessageSent])
def test_hidden_owners_and_others_look_alike_to_the_coordinator(hidden: Path, kind) -> None:
    for task, owners in OWNERS.items():
        seen = seen_by_the_coordinator(hidden / "run" / "tasks" / task, kind)
        assert sum(seen["east"].values()) >= 6
        assert all(each == seen["east"] for each in seen.values()), (task, owners)


def test_hidden_owners_whose_updates_pass_the_grid_look_like_others_too(many: Many, tmp_path, capfd) -> None:
    owners, members = ("east", "nort", "west"), {}
    for name in owners:  # texts of one label move its bias far beyond a grid that noise alone fits
        lines = ["text,label", *(f"{text},good" for text, _ in rows(f"loud {name}", 300))]
        (many.folder / f"loud-{name}.csv").write_text("\n".join(lines) + "\n")
        members[name] = {"file": f"loud-{name}.csv"}
    file = many.file(
        "loud.yaml",
        hide_ownership=True,
        tasks={"loud": {"records": "loud", "members": members}},
        training__learning_rate=4,
        protection={"scheme": "masking", "value_bits": 8, "fraction_bits": 7},
    )
    many.run(tmp_path / "run", tmp_path / "sites", file)
    told = {line.split(":")[0] for line in capfd.readouterr().err.splitlines() if "clamped to the grid" in line}
    assert told == set(owners), "each owner's own operator is told, and nobody else"
    for kind in (MessageReceived, MessageSent):
        seen = seen_by_the_coordinator(tmp_path / "run" / "tasks" / "loud", kind)
        assert ("Submitted", 1) in {each[:2] for each in seen["east"]} or kind is MessageSent
        assert all(each == seen["east"] for each in seen.values())


def test_a_hidden_member_without_records_is_charged_and_sends_noise(hidden: Path) -> None:
    home = Home.at(hidden / "sites" / "sout", MemberId("sout"), clock.clock)
    with home.transaction() as conn:
        charges = home.account(conn).standing(Level.DATASET, "sout.mood")
    assert len(charges) == 2
    report = json.loads((hidden / "run" / "tasks" / "mood" / "report.json").read_text())
    assert {each["name"]: each["heldout"]["n"] > 0 for each in report["members"]} == {
        name: name in OWNERS["mood"] for name in MEMBERS
    }


def test_a_suite_that_stopped_goes_on_and_trains_no_task_twice(many: Many, tmp_path, monkeypatch) -> None:
    calls = []
    real, export_all = federation.run, evidence.export_all

    def watched(loaded, out, **options):
        calls.append(out.name)
        if calls == ["tone", "mood"]:
            raise KeyboardInterrupt
        return real(loaded, out, **options)

    def killed(homes, folder):
        if folder == tmp_path / "run" / "ledger":
            raise KeyboardInterrupt
        export_all(homes, folder)

    monkeypatch.setattr(federation, "run", watched)
    with pytest.raises(KeyboardInterrupt):
        many.run(tmp_path / "run", tmp_path / "sites")
    monkeypatch.setattr(evidence, "export_all", killed)
    with pytest.raises(KeyboardInterrupt):
        many.run(tmp_path / "run", tmp_path / "sites")
    monkeypatch.setattr(evidence, "export_all", export_all)
    result = many.run(tmp_path / "run", tmp_path / "sites")  # it was killed behind its last word
    assert (result.outcome, set(result.told["tasks"])) == ("finished", set(OWNERS))
    assert calls == ["tone", "mood", "mood", "wish"]
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for sites in ("sites", "others"):
        with pytest.raises(OperatorFault, match="a suite that is over"):
            many.run(tmp_path / "run", tmp_path / sites)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    assert verify(tmp_path / "run").ok, verify(tmp_path / "run").why
    with pytest.raises(OperatorFault, match="a suite of another file"):
        many.run(tmp_path / "run", tmp_path / "sites", many.file("other.yaml", training__divisor=21))


def test_a_refused_task_does_not_keep_the_others_from_their_own(many: Many, tmp_path, capsys) -> None:
    tight = many.policy(POLICY.replace("per_dataset: {epsilon: 20}", "per_dataset: {epsilon: 6}"), "tight.yaml")
    changes = {f"tasks__{task}__records": None for task in OWNERS}
    file = many.file("tight-suite.yaml", **changes)
    code, told = run_cli(
        capsys, "run", file, "--out", tmp_path / "run", "--sites", tmp_path / "sites", "--policy", tight
    )
    statuses = [each["outcome"]["status"] for each in told["tasks"].values()]
    assert code == 3
    assert statuses[0] == "finished"
    assert "refused" in statuses
    assert "budget.per_dataset.epsilon" in told["outcome"]["why"]
    assert verify(tmp_path / "run").ok, verify(tmp_path / "run").why


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tasks__tone__members": ["nobody"]}, "no member is called nobody"),
        ({"tasks__tone__members": ["west", "west", "nort"]}, "west stands twice"),
        ({"tasks__tone__members": []}, "nobody owns it"),
        ({"tasks__tone__task": {"labels": ["one"]}}, "labels"),
        ({"tasks__tone__protection": "clear"}, "unknown key"),
        ({"tasks__tone__task": {"kind": "language", "labels": []}}, "a language model among tasks"),
        ({"tasks": {}}, "tasks"),
        ({"runtime": "processes"}, "leave `runtime` out"),
        ({"hide_ownership": "yes"}, "write true or false"),
        ({"members": [{"name": "east", "federation": "east.yaml"}]}, "a federation as a member owns no tasks"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_with_its_line(many: Many, changes, told) -> None:
    file = many.file("wrong.yaml", **changes)
    with pytest.raises(OperatorFault, match=rf"(?s)wrong.yaml:\d+: .*{told}"):
        suite_file.load(file)


def test_a_store_gives_what_the_run_measured(many: Many, done: Path, capsys) -> None:
    store = done / "run" / "modules"
    modules = module_store.Modules.open(store, str(many.folder / "model"))
    tasks = suite_file.load(many.folder / "suite.yaml").tasks
    for name, task in tasks.items():
        records = [r for each in task.owners for r in parties.records_of(task.loaded, each).heldout]
        labels = modules.manifests[name].labels
        said = modules.answer(name, [each.text for each in records])
        right = sum(labels[record.label] == each.label for record, each in zip(records, said, strict=True))
        report = json.loads((done / "run" / "tasks" / name / "report.json").read_text())
        assert right / len(records) == pytest.approx(report["accuracy"]["after"])
        assert modules.manifests[name].run == report["run"]
        assert modules.manifests[name].price.epsilon >= report["epsilon"]["spent"] - 1e-9


def test_predict_serves_every_task_of_a_store_from_one_base(
    many: Many, done: Path, tmp_path, capsys, monkeypatch
) -> None:
    loads = []
    real = Base.load.__func__
    monkeypatch.setattr(Base, "load", classmethod(lambda cls, *given: loads.append(given) or real(cls, *given)))
    store, model = done / "run" / "modules", many.folder / "model"
    code, told = run_cli(capsys, "predict", store, "--model", model, "--text", "my flight was lovely", "--text", "late")
    assert code == 0
    assert [(each["row"], each["task"]) for each in told["answers"]] == [(n, t) for n in (0, 1) for t in sorted(OWNERS)]
    assert len(loads) == 1
    (tmp_path / "texts.csv").write_text("words\nso very late\n")
    code, told = run_cli(
        capsys, "predict", store, tmp_path / "texts.csv", "--column", "words", "--task", "mood", "--model", model
    )
    assert (code, [each["task"] for each in told["answers"]]) == (0, ["mood"])
    assert sum(told["answers"][0]["probabilities"].values()) == pytest.approx(1)
    for wrong in (("--task", "none", "--text", "x"), (), (tmp_path / "absent.csv",), (tmp_path / "texts.csv",)):
        assert run_cli(capsys, "predict", store, "--model", model, *wrong)[0] == 2


def test_a_module_for_another_base_and_tensors_that_were_changed_are_refused(many: Many, done: Path, tmp_path) -> None:
    shutil.copytree(done / "run" / "modules", tmp_path / "store")
    other = tiny_models.saved("bert", tmp_path / "other")
    with pytest.raises(OperatorFault, match="was made for the base"):
        module_store.Modules.open(tmp_path / "store", str(other)).answer("tone", ["x"])
    path = tmp_path / "store" / "tone.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    modules = module_store.Modules.open(tmp_path / "store", str(many.folder / "model"))
    with pytest.raises(Tampered, match="not the tensors"):
        modules.answer("tone", ["x"])
    assert modules.answer("mood", ["x"])


KINDS = {
    "lora": {"kind": "lora", "targets": ["c_attn"], "rank": 2},
    "rslora": {"kind": "rslora", "targets": ["c_attn"], "rank": 2},
    "head": {"kind": "head"},
    "soft": {"kind": "soft-prompt", "rank": 3},
    "prefix": {"kind": "prefix", "rank": 3},
    "bottle": {"kind": "bottleneck", "targets": ["mlp.c_proj"], "rank": 2},
}


def test_a_module_that_was_half_written_leaves_the_others(done: Path, tmp_path, monkeypatch) -> None:
    store = tmp_path / "store"
    shutil.copytree(done / "run" / "modules", store)
    names = module_store.manifests(store)
    whole = Path.write_text

    def half(self, text, *given, **named):
        whole(self, text[: len(text) // 2], *given, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(KeyboardInterrupt):
        module_store.write(store, names["tone"], {"t": (2,)}, bytes(8))
    assert set(module_store.manifests(store)) == set(names) - {"tone"}


def test_every_kind_of_adapter_is_a_task_over_one_base_and_comes_back_from_the_store(many: Many, tmp_path) -> None:
    tiny_models.saved("gpt2", many.folder / "decoder")
    members = {each: {"file": f"tone-{each}.csv"} for each in MEMBERS}
    policy = WIDE.replace("modules: [query, value]", "modules: [c_attn, mlp.c_proj]").replace("./model", "./decoder")
    adapters = "  adapters: [lora, rslora, head, soft-prompt, prefix, bottleneck]\n"
    many.policy(policy.replace("  rank:", adapters + "  rank:"), "kinds-policy.yaml")
    tasks = {name: {"adapter": adapter, "members": members} for name, adapter in KINDS.items()}
    file = many.file(
        "kinds.yaml", tasks=tasks, adapter=None, model="./decoder", policy="kinds-policy.yaml", training__steps=1
    )
    result = many.run(tmp_path / "run", tmp_path / "sites", file)
    assert result.outcome == "finished", result.why
    modules = module_store.Modules.open(tmp_path / "run" / "modules", str(many.folder / "decoder"))
    suite_ = suite_file.load(file)
    alone = parties.load_model
    for name, task in suite_.tasks.items():
        shared = alone(task.loaded)
        records = parties.records_of(task.loaded, "nort").heldout
        said = modules.answer(name, [each.text for each in records])
        labels = modules.manifests[name].labels
        home = Home.at(tmp_path / "sites" / "coordinator", MemberId("coordinator"), clock.clock)
        with home.transaction() as conn:
            ended = home.saved(conn, RunId(bytes.fromhex(modules.manifests[name].run)), coordinator_state.State)
        from securefl.training import adapter_tensors

        adapter_tensors.load(shared._built, ended.course.state)
        logits = shared._logits(shared._tokens(tuple(each.text for each in records), (0,) * len(records), 16))
        for row, each in zip(logits.softmax(1), said, strict=True):
            assert [each.probabilities[label] for label in labels] == pytest.approx(row.tolist(), abs=1e-6)


def test_prompts_and_whole_models_stand_beside_modules_and_come_back_from_the_store(tmp_path) -> None:
    from securefl.terms.layout import Layout
    from securefl.training import adapter_tensors

    prompts.masked("bert").save_pretrained(tmp_path / "base")
    prompts.masked_tokenizer().save_pretrained(tmp_path / "base")
    plain = Task("classification", prompts.TASK.labels)
    asked = {
        "plain": (plain, prompts.LORA, "auto"),
        "gap": (prompts.TASK, prompts.LORA, "auto"),
        "whole": (plain, Adapter(("encoder.layer",), 1, 1, 1, AdapterKind.FULL), "auto"),
    }
    base = Base.load("./base", tmp_path)
    models = base.models(asked)
    rows = {name: each._tokens(prompts.TEXTS, (0,) * 4, 32) for name, each in models.items()}
    before = {name: each._logits(rows[name]).clone() for name, each in models.items()}
    for name, each in models.items():
        drawn = torch.randn(each.dimension, generator=torch.Generator().manual_seed(1)) / 5
        trained = (torch.frombuffer(bytearray(each.initial()), dtype=torch.float32) + drawn).numpy().tobytes()
        adapter_tensors.load(each._built, trained)
        said = each._logits(rows[name])
        assert not torch.equal(said, before[name])
        for other in models:
            if other != name:
                assert torch.equal(models[other]._logits(rows[other]), before[other]), (name, other)
        planned = replace(tiny_models.plan(each), model=base.model, task=asked[name][0], adapter=asked[name][1])
        manifest = module_manifest.manifest_of(name, planned, Hash(bytes(32)), 1, 1.0, Fraction(1, 10**5))
        layout: Layout = each.layout
        module_store.write(tmp_path / "store", manifest, {t.name: t.shape for t in layout.tensors}, trained)
        adapter_tensors.load(each._built, each.initial())
        answers = module_store.Modules.open(tmp_path / "store", str(tmp_path / "base")).answer(name, prompts.TEXTS)
        told = torch.tensor([[answer.probabilities[label] for label in plain.labels] for answer in answers])
        assert torch.allclose(told, said.softmax(1), atol=1e-5)
