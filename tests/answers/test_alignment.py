import numpy as np
import pytest

import lm
from lm.errors import UserError


@pytest.fixture(scope="module")
def run(trained) -> lm.Run:
    return lm.load(trained["buckets"])


def test_each_row_of_an_alignment_is_a_distribution_over_the_tokens_of_the_source(run):
    found = run.alignment("ant bee cat", "cat bee")
    assert found.weights_ts.shape == (len(found.target), len(found.source))
    assert (found.weights_ts > 0).all()
    np.testing.assert_allclose(found.weights_ts.sum(1), 1, rtol=1e-5)


def test_an_alignment_names_the_tokens_of_both_texts_and_their_ends(run):
    found = run.alignment("ant bee cat", "cat bee")
    for text, pieces in (("ant bee cat", found.source), ("cat bee", found.target)):
        assert pieces == [*run.tokenizer.pieces(run.tokenizer.encode(text)), pieces[-1]]
        assert pieces[-1] not in pieces[:-1]


def test_an_alignment_depends_on_no_later_token_of_the_target(run):
    """Row t predicts token t, so that it may depend on the tokens before it alone. They do differ after these."""
    one, other = (run.alignment("ant bee cat", target) for target in ("cat bee ant", "cat bee gnu"))
    same = next(t for t, pair in enumerate(zip(one.target, other.target, strict=False)) if pair[0] != pair[1])
    np.testing.assert_allclose(one.weights_ts[: same + 1], other.weights_ts[: same + 1], rtol=1e-6)
    rest = min(len(one.target), len(other.target))
    assert not np.allclose(one.weights_ts[same + 1 : rest], other.weights_ts[same + 1 : rest], rtol=1e-3)


def test_a_model_without_attention_to_a_source_has_no_alignment(trained):
    with pytest.raises(UserError, match="config.model.attention"):
        lm.load(trained["streams"]).alignment("ant", "bee")


def test_an_alignment_takes_texts_alone(run):
    with pytest.raises(UserError, match="examples"):
        run.alignment("ant", 3)
