"""A model fine-tuned on two branches, merged by every strategy, each result held against plain NumPy.

    python -m tests.support.merge_story

With torch and transformers installed, MiniLM is really fine-tuned (AdamW, a few steps a branch). The figures
and the times are printed; whatever is not as NumPy computes it ends the run.
"""

import math
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

import mcr
from mcr.errors import ConflictsLeftError
from tests.support.real_models import MINILM, fetch

Array = NDArray[np.float64]
Tensors = dict[str, NDArray[Any]]
WEIGHTS = "model.safetensors"
STRATEGIES = ("ours", "theirs", "mean", "weighted:0.3", "slerp:0.5", "ties:0.2")
STEPS = 4
_SENTENCES = {
    "exp": ["the bolt is loose", "tighten the bolt", "the gear is worn", "replace the gear"],
    "main": ["a cat sleeps", "the cat is asleep", "a dog barks", "the dog makes noise"],
}


def with_numpy(text: str, a: Array, b: Array, o: Array) -> Array:
    """What a strategy is defined to give, in float64, for flat arrays; written apart from mcr.

    Args:
        text: the strategy.
        a: ours.
        b: theirs.
        o: the base.
    """
    method, _, amount = text.partition(":")
    match method:
        case "ours":
            return a
        case "theirs":
            return b
        case "mean":
            return (a + b) * 0.5
        case "weighted":
            return (1 - float(amount)) * a + float(amount) * b
        case "slerp":
            return _slerp(float(amount), a, b)
        case _:
            return _ties(Fraction(amount), a, b, o)


def _slerp(t: float, a: Array, b: Array) -> Array:
    norm_a, norm_b, dot = (tree_sum(x) for x in (a * a, b * b, a * b))
    if norm_a == 0 or norm_b == 0:
        return (1 - t) * a + t * b
    cosine = dot / math.sqrt(norm_a) / math.sqrt(norm_b)
    if abs(cosine) > 0.9995:
        return (1 - t) * a + t * b
    # 64 bits of mantissa, rounded to 53.
    x = np.arccos(np.longdouble(cosine))
    p = float(np.sin((1 - np.longdouble(t)) * x) / np.sin(x))
    q = float(np.sin(np.longdouble(t) * x) / np.sin(x))
    return p * a + q * b


def _ties(density: Fraction, a: Array, b: Array, o: Array) -> Array:
    kept = []
    for side in (a, b):
        sizes = np.abs(side - o).astype(np.float32)
        count = math.ceil(density * sizes.size)
        kept.append(np.where(sizes >= np.sort(sizes)[-count], side - o, 0))
    sign = np.sign(kept[0] + kept[1])
    agree = np.stack([(np.sign(k) == sign) & (sign != 0) for k in kept])
    total = np.where(agree[0], kept[0], 0.0) + np.where(agree[1], kept[1], 0.0)
    result: Array = o + total / np.maximum(agree.sum(0), 1)
    return result


def tree_sum(products: Array) -> float:
    """Sum pieces of 65,536 by halving, the pieces one after the other."""
    total = 0.0
    for start in range(0, products.size, 65_536):
        piece = np.zeros(65_536)
        part = products[start : start + 65_536]
        piece[: part.size] = part
        while piece.size > 1:
            piece = piece[: piece.size // 2] + piece[piece.size // 2 :]
        total += float(piece[0])
    return total


def expected(text: str, base: Tensors, ours: Tensors, theirs: Tensors) -> Tensors:
    """Merge whole models in NumPy, three-way."""
    found: Tensors = {}
    for name, o in base.items():
        a, b = ours[name], theirs[name]
        if (a == b).all() or (b == o).all():
            found[name] = a
        elif (a == o).all():
            found[name] = b
        else:
            flat = [x.reshape(-1).astype(np.float64) for x in (a, b, o)]
            found[name] = with_numpy(text, *flat).astype(a.dtype).reshape(a.shape)
    return found


def same_bytes(one: Tensors, other: Tensors) -> bool:
    """Tell whether two models have the same tensors, bit for bit."""
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape and one[name].tobytes() == other[name].tobytes() for name in one
    )


def merge_by_each(model: mcr.Model, base: Tensors, ours: Tensors, theirs: Tensors, folder: Path) -> list[str]:
    """Merge `exp` into a branch a strategy; check and replay each; return what to print."""
    told = []
    for text in STRATEGIES:
        branch = text.replace(":", "-")
        model.create_branch(branch, at="main")
        started_s = time.perf_counter()
        outcome = model.merge("exp", into=branch, strategies=[f"*={text}", "*=theirs"])
        merge_s = time.perf_counter() - started_s
        model.checkout(outcome.version.name, folder / "out", delete=True)
        assert same_bytes(load_file(folder / "out" / WEIGHTS), expected(text, base, ours, theirs)), text
        started_s = time.perf_counter()
        model.replay(outcome.version.name)
        replay_s = time.perf_counter() - started_s
        told.append(
            f"{text:13} {outcome.version.name}: {outcome.decided} conflicts, as NumPy computes it; "
            f"merge {merge_s:.2f} s, replay gives the same bytes in {replay_s:.2f} s"
        )
    return told


def decide_by_hand(model: mcr.Model, other: mcr.Model, theirs: Tensors, folder: Path) -> str:
    """Decide a merge by a file, by choices, and through another client; return what to print."""
    model.create_branch("by-hand", at="main")
    try:
        model.merge("exp", into="by-hand")
    except ConflictsLeftError as left:
        merge = left.merge
    else:
        raise AssertionError("both branches changed the same tensors")
    waiting = other.conflicts(merge)
    names = [each.conflict.name for each in waiting.conflicts or ()]
    given = names[0].partition(":")[2]
    save_file({given: np.zeros_like(theirs[given])}, folder / "given.safetensors")
    assert other.resolve(merge, {names[0]: folder / "given.safetensors"}) is None
    assert model.resolve(merge, dict.fromkeys(names[1:-1], "mean")) is None
    outcome = other.resolve(merge, {names[-1]: "theirs"})
    assert outcome is not None
    assert not model.tensor(outcome.version.name, given).any()
    assert model.replay(outcome.version.name).id == outcome.version.id
    return f"by hand       {outcome.version.name}: {len(names)} conflicts, one of them by a file; replayed"


def fine_tune(folder: Path, into: Path, branch: str) -> None:
    """Train the model of a folder for a few steps: pairs of sentences shall come nearer to each other."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    torch.manual_seed(len(branch))
    tokenizer, network = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-4)
    batch = tokenizer(_SENTENCES[branch], padding=True, return_tensors="pt")
    for _ in range(STEPS):
        vectors = torch.nn.functional.normalize(network(**batch).last_hidden_state.mean(1), dim=1)
        loss = (vectors[0] - vectors[1]).square().sum() + (vectors[2] - vectors[3]).square().sum()
        loss = loss + (vectors[0] @ vectors[2]).abs()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.save_pretrained(into)


def main() -> None:
    """Run the story with MiniLM."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = fetch(MINILM)
        fine_tune_base = folder / "base"
        from transformers import AutoModel

        # Saved once by the same library, so that the versions differ in weights alone.
        AutoModel.from_pretrained(source).save_pretrained(fine_tune_base)
        for branch in _SENTENCES:
            fine_tune(source, folder / branch, branch)
        base, ours, theirs = (load_file(folder / name / WEIGHTS) for name in ("base", "main", "exp"))
        mcr.init(folder / "store")
        with mcr.connect(folder / "store") as client:
            model = client.model("text/minilm")
            model.commit(fine_tune_base, message="as published")
            model.commit(folder / "main", message="fine-tuned on cats")
            model.create_branch("exp", at="v1")
            model.commit(folder / "exp", message="fine-tuned on bolts", branch="exp")
            lines = merge_by_each(model, base, ours, theirs, folder)
            lines.append(decide_by_hand(model, model, theirs, folder))
        sys.stdout.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
