"""python -m benchmarks.head [--peers=PYTHON] [--rounds=11] [--json=FILE]

Cross-entropy of a dense head, loss and gradients of features, kernel and bias: ours, in chunks fused with the head,
beside the plain way in JAX (all logits, Optax's cross-entropy) and PyTorch's `nn.Linear` with `cross_entropy`; and the
peak of temporary memory, by the compiler's own account, of those in JAX. At 250,000 words both beside a sampled softmax
(`training.sampled_softmax`), which never has all logits of any position.
"""

import json

from absl import flags

from benchmarks import contest

POSITIONS, WIDTH = 2048, 512
CASES = {f"V {vocab:,}": {"vocab": vocab} for vocab in (1_000, 10_000, 32_000, 100_000)}
LARGE = {"V 250,000": {"vocab": 250_000}}
SAMPLED = 8192  # candidates


def _case(case: dict):
    import jax

    features = jax.random.normal(jax.random.key(0), (POSITIONS, WIDTH))
    kernel = jax.random.normal(jax.random.key(1), (WIDTH, case["vocab"]))
    bias = jax.numpy.zeros(case["vocab"])
    targets = jax.random.randint(jax.random.key(2), (POSITIONS,), 0, case["vocab"])
    return features, kernel * WIDTH**-0.5, bias, targets


def value(name: str):
    """The mean loss, a function of features, kernel, bias and targets."""
    import jax
    import jax.numpy as jnp
    import optax

    from lm.answers.cross_entropy import cross_entropy
    from lm.answers.sampled_softmax import draw_candidates, sampled_cross_entropy

    def ours(features, kernel, bias, targets):
        weights = jnp.ones((1, POSITIONS))
        return cross_entropy(features[None], (kernel, bias), targets[None], weights)[0] / POSITIONS

    def whole(features, kernel, bias, targets):
        return optax.softmax_cross_entropy_with_integer_labels(features @ kernel + bias, targets).mean()

    def sampled(features, kernel, bias, targets):
        candidates = draw_candidates(jax.random.key(3), kernel.shape[1], SAMPLED)
        given = (features[None], (kernel, bias), targets[None], jnp.ones((1, POSITIONS)))
        return sampled_cross_entropy(*given, candidates)[0] / POSITIONS

    return {"lm": ours, "lm all logits": whole, "lm sampled": sampled}[name]


def jax_contestant(name: str):
    def make(case: dict):
        import jax

        given = _case(case)
        run = jax.jit(jax.value_and_grad(value(name), (0, 1, 2)))
        return lambda: jax.block_until_ready(run(*given))

    return make


def torch(case: dict):
    import torch

    head = torch.nn.Linear(WIDTH, case["vocab"])
    features = torch.randn(POSITIONS, WIDTH, requires_grad=True)
    targets = torch.randint(0, case["vocab"], (POSITIONS,))

    def call():
        head.zero_grad()
        features.grad = None
        torch.nn.functional.cross_entropy(head(features), targets).backward()

    return call


USUAL = ("lm", "lm all logits")
WITH_SAMPLED = (*USUAL, "lm sampled")
CONTESTANTS = {name: jax_contestant(name) for name in WITH_SAMPLED} | {"torch": torch}


def memory(case: dict, names: tuple[str, ...]) -> dict[str, float]:
    """MiB of temporary memory of each."""
    import jax

    shapes = jax.eval_shape(lambda: _case(case))
    found = {}
    for name in names:
        compiled = jax.jit(jax.value_and_grad(value(name), (0, 1, 2))).lower(*shapes).compile()
        found[name] = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return found


def main() -> None:
    values = flags.FLAGS
    if values.as_contestant:
        contest.serve(CONTESTANTS[values.as_contestant](json.loads(values.case)))
        return
    results = {name: contest.race("benchmarks.head", (*USUAL, "torch"), case) for name, case in CASES.items()}
    results |= {name: contest.race("benchmarks.head", WITH_SAMPLED, case) for name, case in LARGE.items()}
    figures = {"head": contest.report(f"Loss and gradients of {POSITIONS:,} positions, width {WIDTH}", results)}
    figures["MiB"] = {name: memory(case, USUAL) for name, case in CASES.items()}
    figures["MiB"] |= {name: memory(case, WITH_SAMPLED) for name, case in LARGE.items()}
    for name, row in figures["MiB"].items():
        print(f"{name:26}" + "".join(f"{who}: {value:.1f} MiB   " for who, value in row.items()))
    contest.write(figures)


if __name__ == "__main__":
    from lm.terminal.program import program

    program(main)
