"""Stories: people move, things change hands, and the closing sentences describe the final state of all of them.

Much of a story follows from its earlier text: a verb agrees with a subject several relative clauses back, and pronouns,
the number of pears that are left, meetings, the colors of toys and all closing sentences are determined.
"""

import dataclasses
from collections.abc import Iterator

from lm.tinyworld.grammar import Choose

NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight")
PRONOUNS = {"f": ("she", "her"), "m": ("he", "him")}
KINDS = {"go": 3, "give": 6, "leave": 3, "pick up": 9, "eat": 2, "find": 2, "play": 2}  # events, and their weights


@dataclasses.dataclass(frozen=True, eq=False)  # identity is a fast comparison; fields would take half of the time
class Person:
    name: str
    gender: str  # a key of PRONOUNS


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    name: str
    preposition: str
    spots: tuple[str, ...]  # places for a toy; no two places share one


@dataclasses.dataclass(frozen=True)
class World:
    """The lexicon, and the length and depth of stories. Worlds of any size run the same program."""

    people: tuple[Person, ...] = tuple(
        Person(name, gender)
        for gender, names in (("f", "Anna Emma Lily Mia Nora Rosa"), ("m", "Ben Hugo Leo Max Sam Tom"))
        for name in names.split()
    )
    places: tuple[Place, ...] = (
        Place("kitchen", "in", ("on the table", "in the cupboard")),
        Place("garden", "in", ("under the roses", "behind the shed")),
        Place("park", "in", ("under the bench", "by the fountain")),
        Place("school", "at", ("on the desk", "behind the door")),
        Place("beach", "on", ("in the sand", "beside the boat")),
        Place("forest", "in", ("under the oak", "beside the stream")),
        Place("barn", "in", ("in the hay", "behind the ladder")),
        Place("market", "at", ("under the stall", "behind the barrel")),
        Place("library", "in", ("on the shelf", "under the lamp")),
        Place("station", "at", ("under the clock", "on the platform")),
    )
    toys: tuple[str, ...] = tuple("ball kite drum book lantern scarf whistle puzzle".split())
    colours: tuple[str, ...] = tuple("red blue green yellow white black".split())
    foods: tuple[str, ...] = tuple("apple pear plum carrot egg biscuit".split())
    amounts: tuple[int, ...] = (2, 3, 4, 5)  # of a food at the start
    weathers: tuple[str, ...] = tuple("sunny rainy windy cold warm".split())
    days: tuple[tuple[str, str], ...] = (("morning", "noon"), ("afternoon", "evening"), ("evening", "midnight"))
    scenes: tuple[str, ...] = ("Nearby", "Outside", "Far away")
    animals: tuple[tuple[str, str], ...] = (
        *((noun, f"{noun}s") for noun in "bird dog cat horse duck frog goat rabbit".split()),
        ("mouse", "mice"),
        ("goose", "geese"),
    )
    relations: tuple[str, ...] = tuple("chase follow like hear see fear".split())
    actions: tuple[str, ...] = tuple("sleep sing rest wait jump drink".split())
    landmarks: tuple[tuple[str, str], ...] = (("tree", "trees"), ("gate", "gates"), ("pond", "ponds"))
    depth: int = 2  # the most nested relative clauses
    most: int = 8  # the most of a food that one person can have
    max_sentences: int = 8
    stop: float = 1  # weight of ending after an event; another event has the weight 6, and the first scene 2


WORLDS = {  # by difficulty
    1: World(depth=0, max_sentences=6),
    2: World(),
    3: World(depth=3, max_sentences=12, stop=0.3),
}


@dataclasses.dataclass
class State:
    """The state of the world, and the people and toys of the last sentence."""

    people: list[Person] = dataclasses.field(default_factory=list)
    place: dict[Person, Place] = dataclasses.field(default_factory=dict)
    colour: dict[str, str] = dataclasses.field(default_factory=dict)  # the color of each toy
    toys: dict[str, Person | tuple[Place, str]] = dataclasses.field(default_factory=dict)  # owner or place of each toy
    food: dict[tuple[Person, str], int] = dataclasses.field(default_factory=dict)
    day: str = ""  # the name of the end of the day
    scene: str = ""  # the closing sentence about the animals
    last: tuple[str, tuple[Person, ...]] = ("", ())  # kind and subject of the last event
    before: set[Person | str] = dataclasses.field(default_factory=set)  # people and toys in the last sentence
    now: set[Person | str] = dataclasses.field(default_factory=set)  # people and toys in this sentence
    sentences: int = 0

    def begin_sentence(self) -> None:
        self.before, self.now = self.now, set()
        self.sentences += 1


def story(world: World, choose: Choose) -> Iterator[str]:
    """Yields the phrases of one story; its text is the phrases joined by spaces."""
    state = State()
    yield from opening(world, state, choose)
    yield from events(world, state, choose)
    yield from _closing(state)


def events(world: World, state: State, choose: Choose) -> Iterator[str]:
    """Yields the phrases between the opening and the closing; leaves room for the closing sentences."""
    yield from _event(world, state, choose)
    # An event adds one sentence, and at most one more to the closing.
    while state.sentences + _closing_sentences(state) + 2 <= world.max_sentences:
        steps = {"act": 6, "stop": world.stop} | ({} if state.scene else {"scene": 2})
        step = choose(tuple(steps), tuple(steps.values()))
        if step == "stop":
            break
        yield from (_event if step == "act" else _scene)(world, state, choose)


def opening(world: World, state: State, choose: Choose) -> Iterator[str]:
    weather = choose(world.weathers)
    day, state.day = choose(world.days)
    yield f"One {weather} {day},"
    for _ in range(2):
        state.begin_sentence()
        person = choose([person for person in world.people if person not in state.people])
        there = [state.place[other] for other in state.people]
        place = choose(world.places, [len(world.places) if place in there else 2 for place in world.places])
        where = "there too" if place in there else f"{place.preposition} the {place.name}"
        yield f"{person.name} is {where}"
        state.people.append(person)
        state.place[person] = place
        state.now.add(person)
        thing = choose(("toy in hand", "toy nearby", "food"))
        if thing == "food":
            amount, food = choose(world.amounts), choose(world.foods)
            state.food[person, food] = amount
            yield f"with {counted(amount, food)}."
            continue
        toy = choose([toy for toy in world.toys if toy not in state.toys])
        colour = choose(world.colours)
        state.colour[toy] = colour
        state.now.add(toy)
        if thing == "toy in hand":
            state.toys[toy] = person
            yield f"with a {colour} {toy}."
        else:
            yield f"and sees a {colour} {toy}"
            spot = choose(place.spots)
            state.toys[toy] = place, spot
            yield f"{spot}."


def _event(world: World, state: State, choose: Choose) -> Iterator[str]:
    groups = [(person,) for person in state.people]
    if len(set(state.place.values())) == 1:
        groups.append(tuple(state.people))
    possible = {group: doings for group in groups if (doings := _possible(world, state, group))}
    group = choose(tuple(possible), [2 if group == state.last[1] else 1 for group in possible])
    kinds = possible[group]
    kind = choose(tuple(kinds), [KINDS[kind] for kind in kinds])
    state.last = kind, group
    state.begin_sentence()
    subject = _subject(state, group)
    yield subject[0].upper() + subject[1:]
    yield from EVENTS[kind](world, state, choose, group, kinds[kind])


def _possible(world: World, state: State, group: tuple[Person, ...]) -> dict[str, list]:
    """Returns the kinds of events that `group` can be the subject of, each with its possible objects."""
    person, *others = group
    held = held_by(state, group)
    possible = {"play": held}
    if not others:
        foods = foods_of(state, person)
        other = _other(state, person)
        together = state.place[person] is state.place[other]
        room = [food for food in foods if state.food.get((other, food), 0) < world.most]
        possible["give"] = held + room if together else []
        possible["leave"] = held
        possible["pick up"] = _lying(state, state.place[person]) if state.last[0] != "leave" else []
        possible["eat"] = foods
        possible["find"] = [food for food in foods if state.food[person, food] < world.most]
    possible.pop(state.last[0], None)
    possible["go"] = [place for place in world.places if place is not state.place[person]]
    if state.last == ("go", group):
        del possible["go"]
    return {kind: things for kind, things in possible.items() if things}


def _go(world: World, state: State, choose: Choose, group: tuple[Person, ...], places: list[Place]) -> Iterator[str]:
    others = [person for person in state.people if person not in group]
    company = [state.place[person] for person in others]
    place = choose(places, [len(places) if place in company else 1 for place in places])
    for person in group:
        state.place[person] = place
    doings = [f"{_agree(group, 'go')} to the {place.name}"]
    doings += [f"{_agree(group, 'meet')} {_refer(state, other, 1)}" for other in others if state.place[other] is place]
    seen = _lying(state, place)
    state.now.update(seen)
    if seen:
        doings.append(f"{_agree(group, 'see')} {listed([f'the {state.colour[toy]} {toy}' for toy in seen])}")
    yield f"{listed(doings)}."


def _give(world: World, state: State, choose: Choose, group: tuple[Person, ...], gifts: list[str]) -> Iterator[str]:
    (person,) = group
    other = _other(state, person)
    gift = choose(gifts)
    if gift in state.toys:
        state.toys[gift] = other
        yield f"gives {_toy(state, gift)} to {_refer(state, other, 1)}."
        return
    had = state.food.get((other, gift), 0)
    amount = choose(range(1, min(state.food[person, gift], world.most - had) + 1))
    state.food[person, gift] -= amount
    state.food[other, gift] = had + amount
    kept = NUMBERS[state.food[person, gift]]
    yield f"gives {counted(amount, gift)} to {_refer(state, other, 1)} and keeps {kept}."


def _leave(world: World, state: State, choose: Choose, group: tuple[Person, ...], toys: list[str]) -> Iterator[str]:
    toy = choose(toys)
    yield f"leaves {_toy(state, toy)}"
    place = state.place[group[0]]
    spot = choose(place.spots)
    state.toys[toy] = place, spot
    yield f"{spot}."


def _pick_up(world: World, state: State, choose: Choose, group: tuple[Person, ...], toys: list[str]) -> Iterator[str]:
    toy = choose(toys)
    (state.toys[toy],) = group
    yield f"picks up {_toy(state, toy)}."


def _eat(world: World, state: State, choose: Choose, group: tuple[Person, ...], foods: list[str]) -> Iterator[str]:
    food = choose(foods)
    state.food[group[0], food] -= 1
    article = "an" if food[0] in "aeiou" else "a"
    yield f"eats {article} {food} and has {NUMBERS[state.food[group[0], food]]} left."


def _find(world: World, state: State, choose: Choose, group: tuple[Person, ...], foods: list[str]) -> Iterator[str]:
    food = choose(foods)
    had = state.food[group[0], food]
    more = choose(range(1, min(3, world.most - had) + 1))
    state.food[group[0], food] = had + more
    yield f"finds {NUMBERS[more]} more {food}{'' if more == 1 else 's'} and now has {NUMBERS[had + more]}."


def _play(world: World, state: State, choose: Choose, group: tuple[Person, ...], toys: list[str]) -> Iterator[str]:
    yield f"{_agree(group, 'play')} with {_toy(state, choose(toys))}."


# A new kind of event needs a function here, its weight in KINDS, and its possible objects in `_possible`.
EVENTS = {
    "go": _go,
    "give": _give,
    "leave": _leave,
    "pick up": _pick_up,
    "eat": _eat,
    "find": _find,
    "play": _play,
}


def _scene(world: World, state: State, choose: Choose) -> Iterator[str]:
    """Yields a sentence with agreement over nested relative clauses.

    Example: "Nearby, the birds that the dog near the trees chases sing."
    """
    state.begin_sentence()
    where = choose(world.scenes)
    yield f"{where},"
    animal, plural = yield from _noun_phrase(world, choose, world.depth, ())
    action = choose(world.actions)
    state.scene = f"{where}, the {animal} still {action if plural else _third(action)}."
    yield f"{action if plural else _third(action)}."


def _noun_phrase(world: World, choose: Choose, depth: int, used: tuple) -> Iterator[str]:
    """Yields `the NOUN`, perhaps with a phrase or a clause; returns the noun and whether it is plural."""
    animal = choose([animal for animal in world.animals if animal not in used])
    plural = choose((False, True))
    yield f"the {animal[plural]}"
    modifiers = {"none": 2, "phrase": 3} | ({"clause": 5} if depth else {})
    modifier = choose(tuple(modifiers), tuple(modifiers.values()))
    if modifier == "phrase":
        yield f"near the {choose(world.landmarks)[choose((0, 1))]}"
    if modifier == "clause":
        yield "that"
        _, subject_plural = yield from _noun_phrase(world, choose, depth - 1, (*used, animal))
        relation = choose(world.relations)
        yield relation if subject_plural else _third(relation)
    return animal[plural], plural


def _closing(state: State) -> Iterator[str]:
    """Yields the closing sentences, which describe the final state; they involve no choice."""
    clauses = []
    for person in state.people:
        place = state.place[person]
        first = person == state.people[0]
        together = not first and place == state.place[state.people[0]]
        having = [f"the {state.colour[toy]} {toy}" for toy in held_by(state, (person,))]
        having += [counted(state.food[person, food], food) for food in foods_of(state, person)]
        where = "there too" if together else f"{place.preposition} the {place.name}"
        clauses.append(f"{person.name} is {where}" + (f" with {listed(having)}" if having else ""))
    yield f"By {state.day}, {clauses[0]}, and {clauses[1]}."
    lying = {toy: where for toy, where in state.toys.items() if isinstance(where, tuple)}
    if lying:
        clauses = [
            f"the {state.colour[toy]} {toy} is {spot} {place.preposition} the {place.name}"
            for toy, (place, spot) in lying.items()
        ]
        yield f"T{listed(clauses)[1:]}."
    if state.scene:
        yield state.scene


def _closing_sentences(state: State) -> int:
    return 1 + any(isinstance(where, tuple) for where in state.toys.values()) + bool(state.scene)


def _subject(state: State, group: tuple[Person, ...]) -> str:
    if len(group) == 1:
        return _refer(state, group[0], 0)
    together = all(person in state.before for person in group)
    state.now.update(group)
    return "they" if together else " and ".join(person.name for person in group)


def _other(state: State, person: Person) -> Person:
    first, second = state.people
    return second if person is first else first


def _refer(state: State, person: Person, case: int) -> str:
    """Returns a pronoun if the last sentence makes it unambiguous, otherwise the name."""
    state.now.add(person)
    candidates = [other for other in state.people if other in state.before and other.gender == person.gender]
    return PRONOUNS[person.gender][case] if candidates == [person] else person.name


def _toy(state: State, toy: str) -> str:
    state.now.add(toy)
    return "it" if [other for other in state.toys if other in state.before] == [toy] else f"the {toy}"


def held_by(state: State, group: tuple[Person, ...]) -> list[str]:
    return [toy for toy, holder in state.toys.items() if holder in group]


def _lying(state: State, place: Place) -> list[str]:
    return [toy for toy, where in state.toys.items() if isinstance(where, tuple) and where[0] == place]


def foods_of(state: State, person: Person) -> list[str]:
    return [food for (owner, food), amount in state.food.items() if owner == person and amount]


def counted(amount: int, food: str) -> str:
    return f"{NUMBERS[amount]} {food}{'' if amount == 1 else 's'}"


def _agree(group: tuple[Person, ...], verb: str) -> str:
    return _third(verb) if len(group) == 1 else verb


def _third(verb: str) -> str:
    return {"go": "goes"}.get(verb, f"{verb}s")


def listed(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
