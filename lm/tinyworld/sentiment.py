"""Sentiment: a short review, and its label, positive or negative.

The words around an adjective change its meaning: intensifiers, negation, "I doubt that" (which nests), and the opinion
of somebody else. In a sentence with "but" or "although", the second opinion counts double. The score of a review is the
sum of the scores of its clauses, and the label is its sign. If the score is 0, the label is drawn at random.

Opinions are coherent, as in real reviews. An opinion usually agrees with those before it, and two opinions in a
sentence with "but" or "although" usually disagree. So a model can learn the meaning of words without labels.
"""

import dataclasses
import functools
from collections.abc import Iterator

from lm.tinyworld.grammar import Choose

LABELS = ("negative", "positive")
DEGREES = {  # the score of a positive adjective after each
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
KINDS = {"one": 3, "and": 2, "but": 3, "although": 2, "hearsay": 2}  # kinds of sentences, and their weights
BELIEFS = {  # the factor of a clause after each
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
    """A subject of reviews, with its aspects and adjectives."""

    opening: str  # {} is replaced by a time
    singular: tuple[str, ...]  # aspects in the singular
    plural: tuple[str, ...]  # aspects in the plural
    good: tuple[str, ...]  # positive adjectives
    bad: tuple[str, ...]  # negative adjectives


GOOD, BAD = tuple("good great lovely charming".split()), tuple("bad awful poor disappointing".split())


@dataclasses.dataclass(frozen=True)
class World:
    """The words, and the length and complexity of reviews. Worlds of any size run the same program."""

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
    depth: int = 1  # the most nested beliefs before a clause
    coherence: float = 4  # odds that an opinion agrees with those before it
    most: int = 3  # the most sentences after the opening


WORLDS = {  # by difficulty
    1: World(depth=0, most=1, kinds=("one", "and", "but")),
    2: World(),
    3: World(depth=3, most=4),
}


def review(world: World, choose: Choose) -> tuple[str, int]:
    """Returns the text of a review, and its score."""
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
    """Returns the label of a review with this score; it is random only if the score is 0."""
    return LABELS[score > 0] if score else choose(LABELS)


def _sentence(world: World, choose: Choose, subject: Subject, aspects: list, score: int) -> tuple[str, int]:
    """Returns a sentence and its score, after sentences with the score `score`."""
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
    """Returns a clause and its score; the sign of `leaning` is the more likely sign of the score.

    The aspect of the clause is removed from `aspects`, so that a review mentions it only once.
    """
    told, _ = aspect = choose(aspects)
    aspects.remove(aspect)
    degree = choose(world.degrees, [4 if not degree else 1 for degree in world.degrees])
    leaning *= DEGREES[degree]
    odds = (1, 1) if not leaning else (1, world.coherence) if leaning > 0 else (world.coherence, 1)
    good = choose((False, True), odds)
    adjective = choose(subject.good if good else subject.bad)
    return " ".join(word for word in (told, degree, adjective) if word), DEGREES[degree] * (1 if good else -1)
