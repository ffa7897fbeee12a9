"""A second opinion on decisions: the rules once more, on plain dictionaries, sharing no code with ``securefl.policy``.

`tests/policy/test_policy_decide.py` compares the two. Everything here is written from what a policy means, the long way.
"""

from __future__ import annotations

import ast
import copy
import datetime as dt
import math
from fractions import Fraction
from pathlib import Path

POLICY = {
    "securefl_policy": 1,
    "federation": "six-airlines",
    "version": 1,
    "valid": {"from": "2026-01-01", "until": "2030-12-31"},
    "budget": {
        "unit": "record", "neighbours": "add-or-remove-one", "epsilon": 8, "delta": "1/100000", "per_round": {"epsilon": 4},
        "per_dataset": {"epsilon": 8}, "overlap": 1, "per_run": {"epsilon": 8},
    },
    "training": {
        "mechanisms": ["poisson-gaussian"], "clip": {"at_most": "1/1", "norm": "l2"}, "clipping": ["flat", "quantile"], "noise_multiplier": {"at_least": "1/2"},
        "adapters": ["lora", "bottleneck", "head"], "rules": ["b-only", "svd"],
        "modules": ["query", "value", "attention.output.dense"], "rank": {"at_most": 16},
        "losses": ["own-label", "fedlsd"], "optimizers": ["sgd", "adamw"], "learning_rate": {"at_least": "1/100", "at_most": 2},
        "divisor": {"at_most": 1000}, "micro_batch": {"at_most": 128}, "tokens": {"at_most": 64}, "base": {"norm_at_most": 1000},
        "base_models": ["small-bert", "sha256:" + "ab" * 32],
    },
    "sharing": {
        "home": ["head", "blocks.1"], "pull": False, "attention": False, "weightings": 2, "probes": ["ef" * 32], "weight_ratio": {"at_most": 60},
    },
    "protection": {
        "schemes": ["masking", "ckks", "bfv", "masked-ckks", "masked-bfv"], "min_cohort": 3, "threshold": {"at_least": 4}, "colluding": 1, "trust": ["custodian"],
        "grid": {"fraction_bits": {"at_least": 12, "at_most": 24}, "value_bits": {"at_most": 31}},
    },
    "keys": {"max_age_days": 90},
    "release": {"fields": ["weights"], "to": "members"},
    "context": {"purposes": ["customer-service"], "regions": ["US", "CA"]},
    "parent": None,
    "approvals": {"required": 0},
}  # fmt: skip

PLAN = {
    "securefl_plan": 1, "federation": "six-airlines", "purpose": "customer-service", "regions": ["US"], "members": 6,
    "base_model": "small-bert", "kind": "lora", "rule": "b-only", "targets": ["query", "value"], "rank": 8, "sampling_rate": "1/8", "noise_multiplier": "9/10",
    "steps": 4, "clip": "1/2", "divisor": 100, "protection": "masking", "min_cohort": 3, "threshold": 4, "colluding": 1, "release": ["weights"],
}  # fmt: skip

# What stands around a plan when it is decided: costs in millionths, and what somebody may have got wrong on the way.
AROUND = {
    "round": 1_000_000, "run": 2_000_000, "federation": 2_000_000, "dataset": 2_000_000, "above": 2_000_000, "others": 8_000_000,
    "day": "2026-06-01", "twist": None,
}  # fmt: skip


def changed(document: dict, changes: dict) -> dict:
    """A copy, with dotted fields set."""
    made = copy.deepcopy(document)
    for dotted, value in changes.items():
        *outer, last = dotted.split(".")
        place = made
        for part in outer:
            place = place[part]
        place[last] = value
    return made


def broken_rules(policy: dict, plan: dict, around: dict) -> set[str]:  # noqa: C901 - one branch per rule
    """Which rules refuse; none means leave is given."""
    broken = set()
    say = broken.add
    number = lambda value: Fraction(str(value))  # noqa: E731
    training, protection, budget = policy["training"], policy["protection"], policy["budget"]

    today = dt.date.fromisoformat(around["day"])
    if today < dt.date.fromisoformat(policy["valid"]["from"]) or today > dt.date.fromisoformat(
        policy["valid"]["until"]
    ):
        say("valid")
    if around["twist"] == "another policy":
        say("policy")
    if plan["federation"] != policy["federation"]:
        say("federation")
    if plan["purpose"] not in policy["context"]["purposes"]:
        say("context.purposes")
    stand = [plan["regions"][n % len(plan["regions"])] for n in range(plan["members"])]
    if any(region not in policy["context"]["regions"] for region in stand):
        say("context.regions")

    unit = plan.get("unit", "record")
    sampled = plan.get("sampler", "poisson") == "poisson"
    of_records = "poisson-gaussian" if sampled else "full-batch-gaussian"
    mechanism = {"record": of_records, "client": "distributed-discrete-gaussian"}[unit]
    if mechanism not in training["mechanisms"]:
        say("training.mechanisms")
    if number(plan["clip"]) > number(training["clip"]["at_most"]):
        say("training.clip")
    clipping = plan.get("clipping", "flat")
    if unit == "record" and (clipping if isinstance(clipping, str) else clipping["kind"]) not in training["clipping"]:
        say("training.clipping")
    if number(plan["noise_multiplier"]) < number(training["noise_multiplier"]["at_least"]):
        say("training.noise_multiplier")
    kind, rule = plan["kind"], plan["rule"]
    if kind not in training["adapters"]:
        say("training.adapters")
    if kind in ("lora", "rslora"):
        if rule not in training["rules"]:
            say("training.rules")
    elif rule != "b-only":
        say("training.rules")
    if kind in ("lora", "rslora", "bottleneck"):
        if not plan["targets"] or any(target not in training["modules"] for target in plan["targets"]):
            say("training.modules")
    elif plan["targets"]:
        say("training.modules")
    if kind != "head" and (plan["rank"] < 1 or plan["rank"] > training["rank"]["at_most"]):
        say("training.rank")
    pinned = "sha256:" + plan.get("model_sha256", "00" * 32)
    named = plan["base_model"] in training["base_models"] and not plan["base_model"].startswith("sha256:")
    if not named and pinned not in training["base_models"] and "any" not in training["base_models"]:
        say("training.base_models")

    loss = plan.get("loss", "own-label")
    if (loss if isinstance(loss, str) else loss["kind"]) not in training["losses"]:
        say("training.losses")
    if plan.get("optimizer", "sgd") not in training["optimizers"]:
        say("training.optimizers")
    rate = number(plan.get("learning_rate", 1))
    if rate < number(training["learning_rate"]["at_least"]) or rate > number(training["learning_rate"]["at_most"]):
        say("training.learning_rate")
    if plan["divisor"] > training["divisor"]["at_most"]:
        say("training.divisor")
    if plan.get("micro_batch", 64) > training["micro_batch"]["at_most"]:
        say("training.micro_batch")
    read, at_once = plan.get("max_tokens", 64), plan.get("micro_tokens")
    if read < 4 or read > training["tokens"]["at_most"]:
        say("training.tokens")
    elif at_once and (at_once < read or at_once > training["tokens"]["at_most"] * training["micro_batch"]["at_most"]):
        say("training.tokens")

    sharing, meets, weights = policy["sharing"], plan.get("attention"), plan.get("weights", [])
    if any(part not in sharing["home"] for part in [*plan.get("home", []), *(meets["keys"] if meets else [])]):
        say("sharing.home")
    if "pull" in plan and not sharing["pull"]:
        say("sharing.pull")
    if meets and not sharing["attention"]:
        say("sharing.attention")
    if len(weights) > sharing["weightings"]:
        say("sharing.weightings")
    if any(each.get("kind") == "probe" for each in weights) and plan.get("probe_sha256") not in sharing["probes"]:
        say("sharing.probes")
    apart = [0.0]  # the largest logarithm of a factor between two weights
    for each in weights:
        reach = float(number(each.get("clip", 2)))
        apart.append(2 * (reach if each.get("kind") == "probe" else min(reach, abs(float(number(each["sharpness"]))))))
    if meets:
        apart.append(2 * min(float(number(meets.get("clip", 4))), float(number(meets.get("sharpness", 5)))))
    if math.exp(max(apart)) > number(sharing["weight_ratio"]["at_most"]):  # no choice comes close to the limit
        say("sharing.weight_ratio")

    if plan["protection"] not in protection["schemes"]:
        say("protection.schemes")
    if plan["min_cohort"] < protection["min_cohort"]:
        say("protection.min_cohort")
    if plan["members"] < plan["min_cohort"] or plan["members"] < protection["min_cohort"]:
        say("protection.cohort")
    if plan["colluding"] < protection["colluding"]:
        say("protection.colluding")
    sums = max(1, len(weights), 2 if meets and meets.get("residual") else 1)
    one, ratio = 2.0 ** max(-60, min(plan.get("fraction_bits", 20), 60)), math.exp(max(apart))
    on_grid = (one + 0.5) / (one / ratio - 0.5) if one / ratio > 0.5 and ratio > 1 else 1.0 if ratio == 1 else math.inf
    if math.floor((plan["min_cohort"] - plan["colluding"]) / on_grid) <= sums:  # no choice comes close to the limit
        say("protection.honest")
    moved = "pull" in plan or plan.get("home") or any(number(each.get("renewal", 1)) < 1 for each in weights)
    if (meets or (weights and moved)) and plan["min_cohort"] < plan["members"]:
        say("protection.whole_cohort")
    if unit == "record":
        noise = rate if plan.get("optimizer", "sgd") != "sgd" else (
            rate * number(plan["noise_multiplier"]) * number(plan["clip"]) * math.sqrt(plan["steps"]) / plan["divisor"]
        )  # fmt: skip
        if noise < ratio / one:
            say("protection.fresh")
    if unit == "client" and (weights or meets or plan.get("home") or "pull" in plan):
        say("protection.shared_whole")
    alone = plan["protection"] == "clear"  # each vector is seen with its own share of the noise and no other
    sure = 1 if alone else plan["min_cohort"] - plan["colluding"]
    priced = plan.get("honest", max(1, sure))
    if unit == "client" and priced > sure:
        say("protection.honest_shares")
    if around["twist"] in ("a member twice", "a key twice"):
        say("protection.seats")
    if plan["protection"] in ("masking", "masked-ckks", "masked-bfv"):
        if (
            plan["threshold"] < protection["threshold"]["at_least"]
            or 2 * plan["threshold"] <= plan["members"] + plan["colluding"]
        ):
            say("protection.threshold")
        if plan["threshold"] > plan["members"]:
            say("protection.threshold.reachable")
    if plan["protection"] in ("ckks", "bfv") and not protection["trust"]:
        say("protection.trust")
    if plan["protection"] in ("ckks", "bfv", "masked-ckks", "masked-bfv") and (
        not plan.get("custodian", True) or around["twist"] == "a member's custodian"
    ):
        say("protection.custodian")
    ring, bits = plan.get("ring_bits", 32), plan.get("value_bits", 24)
    if ring > 64 or bits < 1 or bits > ring or plan["members"] > 2 ** (ring - bits):
        say("protection.capacity")
    if unit == "client" and bits <= 53:
        units = 2 ** plan.get("fraction_bits", 20)
        share = math.sqrt(number(plan["noise_multiplier"]) ** 2 * number(plan["clip"]) ** 2 * units**2 / priced)
        if number(plan["clip"]) * units + 14 * share > 2 ** max(0, bits - 1):  # no choice comes close to the limit
            say("protection.capacity")

    fine, grid = plan.get("fraction_bits", 20), protection["grid"]
    if fine < grid["fraction_bits"]["at_least"] or fine > grid["fraction_bits"]["at_most"]:
        say("protection.grid")
    if bits < 1 or bits > grid["value_bits"]["at_most"]:
        say("protection.grid")

    if any(field not in policy["release"]["fields"] for field in plan["release"]):
        say("release.fields")

    if budget["unit"] != unit:
        say("budget.unit")
    if around["twist"] in ("another plan's price", "a stale price", "another policy's price"):
        say("budget.price")
    if around["twist"] == "reserved before":
        say("budget.once")
    for rule, cost, limit in (
        ("budget.per_round.epsilon", around["round"], budget["per_round"]["epsilon"]),
        ("budget.epsilon", around["federation"], budget["epsilon"]),
        ("budget.per_dataset.epsilon", around["dataset"], budget["per_dataset"]["epsilon"]),
    ):
        if Fraction(cost * budget["overlap"], 1_000_000) > number(limit):
            say(rule)
    if budget.get("per_run") and Fraction(around["run"] * budget["overlap"], 1_000_000) > number(
        budget["per_run"]["epsilon"]
    ):
        say("budget.per_run.epsilon")
    if around["others"] is not None and around["dataset"] > around["others"]:
        say("budget.others.epsilon")
    return broken


def loosens(parent: dict, child: dict) -> bool:  # noqa: C901, PLR0912 - one line per field
    """Whether anything that the child allows is not allowed by its parent."""
    number = lambda value: Fraction(str(value))  # noqa: E731
    day = dt.date.fromisoformat
    up, low = parent, child
    if day(low["valid"]["from"]) < day(up["valid"]["from"]) or day(low["valid"]["until"]) > day(up["valid"]["until"]):
        return True
    for section, field in (("budget", "epsilon"), ("budget", "delta")):
        if number(low[section][field]) > number(up[section][field]):
            return True
    for limit in ("per_round", "per_dataset"):
        if number(low["budget"][limit]["epsilon"]) > number(up["budget"][limit]["epsilon"]):
            return True
    runs = [policy["budget"].get("per_run") for policy in (up, low)]
    if runs[0] and not (runs[1] and number(runs[1]["epsilon"]) <= number(runs[0]["epsilon"])):
        return True
    ages = [policy["keys"]["max_age_days"] for policy in (up, low)]
    if ages[0] and not (ages[1] and ages[1] <= ages[0]):
        return True
    if up["budget"].get("bound") == "renyi-filter" != low["budget"].get("bound"):
        return True
    if low["budget"]["overlap"] < up["budget"]["overlap"] or low["budget"]["unit"] != up["budget"]["unit"]:
        return True
    for limit in ("clip", "rank"):
        if number(low["training"][limit]["at_most"]) > number(up["training"][limit]["at_most"]):
            return True
    if number(low["training"]["noise_multiplier"]["at_least"]) < number(up["training"]["noise_multiplier"]["at_least"]):
        return True
    for field in ("divisor", "micro_batch", "tokens", "learning_rate"):
        if number(low["training"][field]["at_most"]) > number(up["training"][field]["at_most"]):
            return True
    if number(low["training"]["learning_rate"]["at_least"]) < number(up["training"]["learning_rate"]["at_least"]):
        return True
    if number(low["training"]["base"]["norm_at_most"]) > number(up["training"]["base"]["norm_at_most"]):
        return True
    mine, theirs = low["protection"]["grid"], up["protection"]["grid"]
    if mine["value_bits"]["at_most"] > theirs["value_bits"]["at_most"]:
        return True
    if mine["fraction_bits"]["at_most"] > theirs["fraction_bits"]["at_most"]:
        return True
    if mine["fraction_bits"]["at_least"] < theirs["fraction_bits"]["at_least"]:
        return True
    mine, theirs = low["sharing"], up["sharing"]
    if (mine["pull"] and not theirs["pull"]) or (mine["attention"] and not theirs["attention"]):
        return True
    if mine["weightings"] > theirs["weightings"]:
        return True
    if number(mine["weight_ratio"]["at_most"]) > number(theirs["weight_ratio"]["at_most"]):
        return True
    for section, field in (
        ("training", "losses"), ("training", "optimizers"), ("sharing", "home"), ("sharing", "probes"),
        ("training", "mechanisms"), ("training", "modules"), ("protection", "schemes"), ("protection", "trust"), ("release", "fields"),
        ("context", "purposes"), ("context", "regions"),
    ):  # fmt: skip
        if not set(low[section][field]) <= set(up[section][field]):
            return True
    models = set(low["training"]["base_models"])
    if "any" not in up["training"]["base_models"] and not models <= set(up["training"]["base_models"]):
        return True
    for field in ("min_cohort", "colluding"):
        if low["protection"][field] < up["protection"][field]:
            return True
    if low["protection"]["threshold"]["at_least"] < up["protection"]["threshold"]["at_least"]:
        return True
    return low["approvals"]["required"] < up["approvals"]["required"]


def broken_in_stack(stack: list, plan: dict, around: dict) -> set[str] | None:
    """Which rules of any level refuse, a plan of the lowest (first) one; None for a stack that no site would load."""
    for lower, upper in zip(stack, stack[1:], strict=False):
        if loosens(upper, lower):
            return None
    broken = broken_rules(stack[0], plan, around)
    for level in stack[1:]:
        seen = broken_rules(level, {**plan, "federation": level["federation"]}, around)
        broken |= seen
        shared = Fraction(around["above"] * stack[0]["budget"]["overlap"], 1_000_000)
        if shared > Fraction(str(level["budget"]["epsilon"])):
            broken.add("budget.above.epsilon")
    return broken


def test_the_oracle_shares_no_code_with_what_it_judges():
    tree = ast.parse(Path(__file__).read_text())
    names = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
    }
    assert not any(name.startswith("securefl") for name in names)


def test_the_oracle_gives_leave_and_refuses():
    assert broken_rules(POLICY, PLAN, AROUND) == set()
    assert broken_rules(POLICY, changed(PLAN, {"rank": 17, "purpose": "x"}), AROUND) == {
        "training.rank",
        "context.purposes",
    }
