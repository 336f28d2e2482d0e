"""Summaries: the outcome of a story, without its weather, animals and games, and without events that were undone.

The story is one of `stories` without its closing sentences. The summary gives the final place of each person, the toys
that changed their place or owner, and the amounts of food that changed. After the story is complete, some of the
wording of the summary is drawn at random.
"""

from typing import NamedTuple

from lm.tinyworld import stories
from lm.tinyworld.grammar import Choose
from lm.tinyworld.stories import counted, held_by, listed

World = stories.World
WORLDS = {  # by difficulty
    1: World(depth=0, max_sentences=7),
    2: World(max_sentences=10, stop=0.5),
    3: World(depth=3, max_sentences=16, stop=0.2),
}


class Gist(NamedTuple):
    """The content of a summary."""

    ends: tuple[tuple[str, bool, str], ...]  # names, whether they are several, and their final place
    changes: tuple[str, ...]


def story(world: World, choose: Choose) -> tuple[str, Gist]:
    """Returns the text of a story, and the content of its summary."""
    state = stories.State()
    phrases = list(stories.opening(world, state, choose))
    toys, food = dict(state.toys), dict(state.food)
    phrases += stories.events(world, state, choose)
    return " ".join(phrases), _gist(state, toys, food)


def summary(gist: Gist, choose: Choose) -> str:
    """Returns the summary as text; given the story, these choices are the only random ones, and the text shows them."""
    forms = choose((("ends up", "end up"), ("finishes", "finish")), (4, 1))
    (who, several, where), *others = gist.ends
    text = f"{who} {forms[several]} {where}" + "".join(f" and {who} {where}" for who, _, where in others)
    if not gist.changes:
        return f"{text}."
    return f"{text}{choose(('. Now', ', and now'), (4, 1))} {listed([*gist.changes])}."


def _gist(state: stories.State, toys: dict, food: dict) -> Gist:
    """Returns the final places of all people, and the toys and food that changed since the start."""
    where = [f"{place.preposition} the {place.name}" for place in map(state.place.get, state.people)]
    names = [person.name for person in state.people]
    ends = [(name, False, place) for name, place in zip(names, where, strict=True)]
    if len(set(where)) == 1:
        ends = [(" and ".join(names), True, where[0])]
    changes = []
    for person in state.people:
        has = [f"the {state.colour[toy]} {toy}" for toy in held_by(state, (person,)) if toys[toy] is not person]
        for (owner, kind), amount in state.food.items():
            if owner is person and amount != food.get((owner, kind), 0):
                has.append(counted(amount, kind) if amount else f"no {kind}s")
        if has:
            changes.append(f"{person.name} has {listed(has)}")
    for toy, at in state.toys.items():
        if isinstance(at, tuple) and at != toys[toy]:
            changes.append(f"the {state.colour[toy]} {toy} is {at[1]} {at[0].preposition} the {at[0].name}")
    return Gist(tuple(ends), tuple(changes))
