"""python -m benchmarks.sample [--peers=PYTHON] [--rounds=11] [--json=FILE]

Sampling 256 tokens from a 2-layer LSTM language model of 256 ids at temperature 1: our compiled loop beside PyTorch's
usual one, which calls `nn.LSTM` for each token. Milliseconds for all tokens.
"""

import json

from absl import flags

from benchmarks import contest

CASES = {
    "1 stream, H 128": {"width": 128, "batch": 1},
    "1 stream, H 512": {"width": 512, "batch": 1},
    "64 streams, H 512": {"width": 512, "batch": 64},
}
VOCAB, LAYERS, TOKENS = 256, 2, 256


def lm(case: dict, cell: str = "lstm"):
    import jax
    import jax.numpy as jnp

    from lm.batch import BOS, EOS
    from lm.config import ModelConfig
    from lm.models import parameters
    from lm.models.decoder import zero_states
    from lm.models.encoder_decoder import EncoderDecoder
    from lm.search import sampling

    config = ModelConfig(cell=cell, embed_dim=case["width"], hidden_dim=case["width"], layers=LAYERS)
    model = EncoderDecoder(config, VOCAB)
    params, batch = parameters.initial_params(model, 0), case["batch"]

    @jax.jit
    def sample(params, state, keys_b):
        def step(ids_b, state):
            features, state = model.apply({"params": params}, ids_b, state, method="step")
            return model.apply({"params": params}, features, method="logits"), state

        # No text ends, so that all are of one length.
        how = {"options": sampling.Sampling(), "length": TOKENS, "eos_id": EOS, "forbidden": (EOS,)}
        return sampling.sample(step, jnp.full(batch, BOS), state, keys_b, limits_b=jnp.full(batch, TOKENS), **how)

    keys_b = jax.random.split(jax.random.key(0), batch)
    return lambda: jax.block_until_ready(sample(params, zero_states(config, batch), keys_b))


def torch(case: dict):
    import torch
    from torch import nn

    width, batch = case["width"], case["batch"]
    embedding, lstm, head = nn.Embedding(VOCAB, width), nn.LSTM(width, width, LAYERS), nn.Linear(width, VOCAB)

    @torch.inference_mode()
    def call():
        ids, state, found = torch.ones(batch, dtype=torch.int64), None, []
        for _ in range(TOKENS):
            outputs, state = lstm(embedding(ids)[None], state)
            ids = torch.multinomial(torch.softmax(head(outputs[0]), -1), 1)[:, 0]
            found.append(ids)
        return torch.stack(found)

    return call


CONTESTANTS = {"lm": lm, "torch": torch}
CONTESTANTS |= {f"lm {cell}": lambda case, cell=cell: lm(case, cell) for cell in ("gru", "mingru", "rglru")}


def main() -> None:
    values = flags.FLAGS
    if values.as_contestant:
        contest.serve(CONTESTANTS[values.as_contestant](json.loads(values.case)))
        return
    results = {name: contest.race("benchmarks.sample", list(CONTESTANTS), case) for name, case in CASES.items()}
    contest.write({"sampling": contest.report(f"Sampling {TOKENS} tokens", results)})


if __name__ == "__main__":
    from lm.terminal.program import program

    program(main)
