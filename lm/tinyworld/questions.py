"""Questions about facts: people move, things and food change hands, and the answer follows from the facts.

The places of people, their things and their food are given by the facts alone. A thing that is carried is at the place
of the person who carries it, even if the facts mentioned it long ago.
"""

import dataclasses

from lm.tinyworld import stories
from lm.tinyworld.grammar import Choose
from lm.tinyworld.stories import NUMBERS, Place, counted

FACTS = {"go": 6, "get": 3, "pick up": 3, "leave": 2, "give": 3, "find": 3, "share": 3, "eat": 2}  # kinds, with weights
QUESTIONS = {  # kinds, with weights
    "where": 3,
    "where before": 2,
    "where thing": 4,
    "who": 3,
    "whether": 3,
    "how many": 4,
    "how many people": 2,
    "how many things": 2,
}


@dataclasses.dataclass(frozen=True)
class World:
    """The lexicon, and the number of things to remember. Worlds of any size run the same program."""

    people: tuple[str, ...] = tuple(person.name for person in stories.World.people)
    places: tuple[Place, ...] = stories.World.places
    toys: tuple[str, ...] = stories.World.toys
    foods: tuple[str, ...] = stories.World.foods
    facts: tuple[str, ...] = tuple(FACTS)
    questions: tuple[str, ...] = tuple(QUESTIONS)
    present: int = 3  # number of people in an example
    around: int = 4  # the most places in an example
    things: int = 3  # the most toys, and the most kinds of food
    sentences: tuple[int, ...] = (4, 5, 6, 7, 8)  # numbers of facts, after a sentence per person with their place
    most: int = 8  # the most of a food that one person can have


WORLDS = {  # by difficulty
    1: World(
        present=2,
        around=3,
        things=1,
        sentences=(2, 3, 4),
        facts=("go", "get", "leave", "pick up", "give"),
        questions=("where", "where thing", "who", "whether"),
    ),
    2: World(),
    3: World(present=4, around=6, things=4, sentences=tuple(range(10, 21))),
}


@dataclasses.dataclass
class _State:
    place: dict[str, Place] = dataclasses.field(default_factory=dict)  # the place of each person
    before: dict[str, Place] = dataclasses.field(default_factory=dict)  # the place that each person came from
    holder: dict[str, str] = dataclasses.field(default_factory=dict)  # the person who carries each toy
    lying: dict[str, Place] = dataclasses.field(default_factory=dict)  # the place of each other toy
    food: dict[tuple[str, str], int] = dataclasses.field(default_factory=dict)
    foods: list[str] = dataclasses.field(default_factory=list)  # in the order in which they were found

    def toys(self) -> list[str]:
        return [*self.holder, *self.lying]


def question(world: World, choose: Choose) -> tuple[str, str]:
    """Returns the facts with a question about them, and the answer."""
    state = _State()
    places = world.places[:0]
    told = []
    for _ in range(world.present):
        person = choose([person for person in world.people if person not in state.place])
        # Once `around` places occur, people only go to these.
        place = choose(places if len(places) == world.around else world.places)
        places = places if place in places else (*places, place)
        state.place[person] = place
        told.append(f"{person} is {_at(place)}.")
    for _ in range(choose(world.sentences)):
        told.append(_fact(world, state, choose))
    asked, answered = _ask(world, state, choose)
    return " ".join((*told, asked)), answered


def answer(answered: str, choose: Choose) -> str:
    """Returns the answer; given the question, it is certain."""
    return answered


def _fact(world: World, state: _State, choose: Choose) -> str:
    person = choose(tuple(state.place))
    place = state.place[person]
    company = [other for other in state.place if other != person and state.place[other] is place]
    held = [toy for toy, holder in state.holder.items() if holder == person]
    foods = [food for (owner, food), amount in state.food.items() if owner == person and amount]
    known = state.toys()
    new = [toy for toy in world.toys if toy not in known] if len(known) < world.things else []
    findable = world.foods if len(state.foods) < world.things else state.foods
    findable = [food for food in findable if state.food.get((person, food), 0) < world.most]
    possible = {
        "go": True,
        "get": new,
        "pick up": [toy for toy, where in state.lying.items() if where is place],
        "leave": held,
        "give": held and company,
        "find": findable,
        "share": foods and company,
        "eat": foods,
    }
    kinds = tuple(kind for kind in world.facts if possible[kind])
    kind = choose(kinds, tuple(FACTS[kind] for kind in kinds))
    if kind == "go":
        used = dict.fromkeys((*state.place.values(), *state.before.values(), *state.lying.values()))
        goals = [other for other in (world.places if len(used) < world.around else used) if other is not place]
        # Places with people are more likely, so that people meet often enough.
        goal = choose(goals, [3 if other in state.place.values() else 1 for other in goals])
        state.before[person], state.place[person] = place, goal
        return f"{person} goes to the {goal.name}."
    if kind == "get":
        toy = choose(new)
        state.holder[toy] = person
        return f"{person} gets a {toy}."
    if kind == "pick up":
        toy = choose(possible["pick up"])
        state.holder[toy] = person
        del state.lying[toy]
        return f"{person} picks up the {toy}."
    if kind == "leave":
        toy = choose(held)
        state.lying[toy] = place
        del state.holder[toy]
        return f"{person} leaves the {toy} there."
    if kind == "give":
        toy, other = choose(held), choose(company)
        state.holder[toy] = other
        return f"{person} gives the {toy} to {other}."
    food = choose(findable if kind == "find" else foods)
    had = state.food.get((person, food), 0)
    if kind == "find":
        amount = choose(range(1, min(4, world.most - had) + 1))
        if food not in state.foods:
            state.foods.append(food)
        state.food[person, food] = had + amount
        return f"{person} finds {counted(amount, food)}."
    if kind == "eat":
        amount = choose(range(1, min(2, had) + 1))
        state.food[person, food] = had - amount
        return f"{person} eats {counted(amount, food)}."
    other = choose(company)
    theirs = state.food.get((other, food), 0)
    if theirs == world.most:
        return f"{person} wants to give {other} {counted(1, food)}, but {other} has enough."
    amount = choose(range(1, min(had, world.most - theirs) + 1))
    state.food[person, food], state.food[other, food] = had - amount, theirs + amount
    return f"{person} gives {counted(amount, food)} to {other}."


def _ask(world: World, state: _State, choose: Choose) -> tuple[str, str]:
    toys = state.toys()
    possible = {
        "where before": state.before,
        "where thing": toys,
        "who": toys,
        "how many": state.foods,
        "how many things": toys,
    }
    kinds = tuple(kind for kind in world.questions if possible.get(kind, True))
    kind = choose(kinds, tuple(QUESTIONS[kind] for kind in kinds))
    if kind == "where before":
        person = choose(tuple(state.before))
        return f"Where was {person} before the {state.place[person].name}?", state.before[person].name
    if kind == "where thing":
        toy = choose(toys)
        place = state.lying[toy] if toy in state.lying else state.place[state.holder[toy]]
        return f"Where is the {toy}?", place.name
    if kind == "who":
        toy = choose(toys)
        return f"Who has the {toy}?", state.holder.get(toy, "nobody")
    if kind == "how many people":
        place = choose(tuple(dict.fromkeys((*state.place.values(), *state.before.values()))))
        return f"How many people are {_at(place)}?", NUMBERS[list(state.place.values()).count(place)]
    people = tuple(state.place)
    if kind == "how many":  # people who have some of the food are asked about more often
        food = choose(state.foods)
        had = [state.food.get((person, food), 0) for person in people]
        person = choose(people, tuple(4 if amount else 1 for amount in had))
        return f"How many {food}s does {person} have?", NUMBERS[had[people.index(person)]]
    if kind == "how many things":
        had = [list(state.holder.values()).count(person) for person in people]
        person = choose(people, tuple(4 if amount else 1 for amount in had))
        return f"How many toys does {person} carry?", NUMBERS[had[people.index(person)]]
    person = choose(people)
    if kind == "where":
        return f"Where is {person}?", state.place[person].name
    here = state.place[person]
    places = tuple(dict.fromkeys((here, *state.place.values(), *state.before.values())))
    place = choose(places, tuple(max(1, len(places) - 1) if place is here else 1 for place in places))
    return f"Is {person} {_at(place)}?", "yes" if place is here else "no"


def _at(place: Place) -> str:
    return f"{place.preposition} the {place.name}"
