"""Sentiment: a short review, and whether it is positive or negative.

What a word says is turned by what stands around it: intensifiers, negation, "I doubt that" (which nests), the opinion
of somebody else, and "but", after which everything counts double. The score of a review is the sum of its clauses', and
its sign the label. Where praise and blame are equal, nobody can know, and the label is the toss of a coin.

Opinions hang together, as people's do: one most often goes with those before it, and against its neighbour where "but" or
"although" stands between them. So reviews say what words mean without any label, and a model can learn it from them.
"""

import dataclasses
import functools
from collections.abc import Iterator

from lm.tinyworld.grammar import Choose

LABELS = ("negative", "positive")
DEGREES = {  # how much an adjective counts after each
    "": 2,
    "quite": 1,
    "really": 3,
    "very": 3,
    "not": -2,
    "not very": -1,
    "never": -2,
    "hardly": -1,
    "anything but": -3,
}
KINDS = {"one": 3, "and": 2, "but": 3, "although": 2, "hearsay": 2}  # kinds of sentence, and weights
BELIEFS = {  # what a clause counts after each
    "I think that": 1,
    "I would say that": 1,
    "it is true that": 1,
    "I doubt that": -1,
    "I cannot say that": -1,
    "it is not true that": -1,
}
REACTIONS = {"and I agree": 1, "and they are right": 1, "but I disagree": -1, "but they are wrong": -1}


@dataclasses.dataclass(frozen=True)
class Subject:
    opening: str  # {} stands for when
    singular: tuple[str, ...]  # its aspects
    plural: tuple[str, ...]
    good: tuple[str, ...]  # adjectives
    bad: tuple[str, ...]


GOOD, BAD = tuple("good great lovely charming".split()), tuple("bad awful poor disappointing".split())


@dataclasses.dataclass(frozen=True)
class World:
    """The words, and how long and how involved reviews are. A smaller world is the same program."""

    subjects: tuple[Subject, ...] = (
        Subject(
            "{}, we saw a film.",
            ("plot", "music", "beginning", "ending", "camera work"),
            ("actors", "costumes", "dialogues", "jokes"),
            (*GOOD, "gripping", "clever"),
            (*BAD, "boring", "silly"),
        ),
        Subject(
            "{}, we ate at a restaurant.",
            ("soup", "bread", "dessert", "service", "wine"),
            ("potatoes", "waiters", "vegetables", "portions"),
            (*GOOD, "fresh", "excellent"),
            (*BAD, "stale", "tasteless"),
        ),
        Subject(
            "{}, we stayed at a hotel.",
            ("room", "breakfast", "view", "bathroom", "pool"),
            ("beds", "towels", "curtains", "guides"),
            (*GOOD, "clean", "pleasant"),
            (*BAD, "dirty", "shabby"),
        ),
        Subject(
            "{}, I finished a novel.",
            ("style", "story", "hero", "language", "last chapter"),
            ("characters", "pictures", "descriptions", "twists"),
            (*GOOD, "moving", "original"),
            (*BAD, "dull", "clumsy"),
        ),
    )
    times: tuple[str, ...] = ("Yesterday", "Last week", "On Sunday", "In spring", "On holiday")
    degrees: tuple[str, ...] = tuple(DEGREES)
    kinds: tuple[str, ...] = tuple(KINDS)
    beliefs: tuple[str, ...] = tuple(BELIEFS)
    others: tuple[str, ...] = ("The critics", "My friends", "My parents", "Some people")
    reactions: tuple[str, ...] = tuple(REACTIONS)
    depth: int = 1  # beliefs about beliefs
    coherence: float = 4  # opinions that go with those before, for one that goes against them
    most: int = 3  # sentences, after the opening


WORLDS = {  # by difficulty
    1: World(depth=0, most=1, kinds=("one", "and", "but")),
    2: World(),
    3: World(depth=3, most=4),
}


def review(world: World, choose: Choose) -> tuple[str, int]:
    """The text and its score."""
    subject = choose(world.subjects)
    aspects = [(f"the {aspect} was", aspect) for aspect in subject.singular]
    aspects += [(f"the {aspect} were", aspect) for aspect in subject.plural]
    spoken, score = [subject.opening.format(choose(world.times))], 0
    for _ in range(choose(range(1, world.most + 1))):
        text, worth = _sentence(world, choose, subject, aspects, score)
        spoken.append(f"{text[0].upper()}{text[1:]}.")
        score += worth
    return " ".join(spoken), score


def label(score: int, choose: Choose) -> str:
    """Given the review, a draw is the only thing left to chance."""
    return LABELS[score > 0] if score else choose(LABELS)


def _sentence(world: World, choose: Choose, subject: Subject, aspects: list, score: int) -> tuple[str, int]:
    """After sentences with this score."""
    clause = functools.partial(_clause, world, choose, subject, aspects)
    kind = choose(world.kinds, [KINDS[kind] for kind in world.kinds])
    if kind == "one":
        beliefs, sign = [], 1
        for belief in _beliefs(world, choose):
            beliefs.append(belief)
            sign *= BELIEFS[belief]
        text, worth = clause(sign * score)
        return " ".join((*beliefs, text)), sign * worth
    if kind == "hearsay":
        other, reaction = choose(world.others), choose(world.reactions)
        text, worth = clause(REACTIONS[reaction] * score)
        return f"{other} said that {text}, {reaction}", REACTIONS[reaction] * worth
    sign = 1 if kind == "and" else -1
    text, worth = clause(sign * score)
    second, more = clause(sign * worth)
    if kind == "and":
        return f"{text} and {second}", worth + more
    return (f"although {text}, {second}" if kind == "although" else f"{text}, but {second}"), worth + 2 * more


def _beliefs(world: World, choose: Choose) -> Iterator[str]:
    for _ in range(world.depth):
        if not choose((True, False), (1, 2)):
            return
        yield choose(world.beliefs)


def _clause(world: World, choose: Choose, subject: Subject, aspects: list, leaning: int) -> tuple[str, int]:
    """Each aspect is spoken of once at most. `leaning` has the sign that the opinion most often has; 0: neither."""
    told, _ = aspect = choose(aspects)
    aspects.remove(aspect)
    degree = choose(world.degrees, [4 if not degree else 1 for degree in world.degrees])
    leaning *= DEGREES[degree]
    odds = (1, 1) if not leaning else (1, world.coherence) if leaning > 0 else (world.coherence, 1)
    good = choose((False, True), odds)
    adjective = choose(subject.good if good else subject.bad)
    return " ".join(word for word in (told, degree, adjective) if word), DEGREES[degree] * (1 if good else -1)
