"""Dialogues: a guest orders at a market stall, and the next reply of the seller follows from the conversation.

The guest also asks questions and changes the order. The seller begins with the goods and their prices. Each reply is
consistent with the whole conversation: the stock, the order, and the meaning of "that" and "the same again". After the
content of a reply is determined, its polite opening is drawn at random. This draw is the only uncertainty about a
reply.
"""

import dataclasses

from lm.tinyworld import stories
from lm.tinyworld.grammar import Choose
from lm.tinyworld.stories import NUMBERS, counted, listed

ACTS = {  # kinds of turns of the guest, and their weights
    "order": 6,
    "again": 2,
    "change": 3,
    "cancel": 2,
    "price": 2,
    "left": 2,
    "ordered": 3,
    "total": 3,
}


@dataclasses.dataclass(frozen=True)
class World:
    """The goods and the length of a conversation. Worlds of any size run the same program."""

    guests: tuple[str, ...] = tuple(person.name for person in stories.World.people)
    foods: tuple[str, ...] = stories.World.foods
    amounts: tuple[int, ...] = (2, 3, 4, 5, 6)  # of each food at the start
    prices: tuple[int, ...] = (1, 2, 3, 4, 5)
    acts: tuple[str, ...] = tuple(ACTS)
    goods: int = 3  # number of kinds of food
    wanted: int = 4  # the most of a food that the guest orders at once
    turns: tuple[int, ...] = (2, 3, 4, 5)  # numbers of turns of the guest; the target is the reply to the last one


WORLDS = {  # by difficulty
    1: World(goods=2, turns=(1, 2), acts=("order", "price", "left", "ordered")),
    2: World(),
    3: World(goods=4, turns=(5, 6, 7, 8, 9)),
}


@dataclasses.dataclass
class _State:
    price: dict[str, int] = dataclasses.field(default_factory=dict)
    stock: dict[str, int] = dataclasses.field(default_factory=dict)  # amounts that are left
    order: dict[str, int] = dataclasses.field(default_factory=dict)
    act: str = ""  # the last act of the guest
    # The last granted order; None if it was canceled, or if an order was refused since.
    last: tuple[str, int] | None = None


@dataclasses.dataclass(frozen=True)
class Reply:
    """The content of a reply, and two possible openings; the first one has a probability of 4/5."""

    content: str
    openings: tuple[str, str] | None = None


YES, NO = ("Certainly,", "With pleasure,"), ("I am sorry,", "Unfortunately,")


def conversation(world: World, choose: Choose) -> tuple[str, Reply]:
    """Returns the conversation before the reply, and the reply."""
    state = _State()
    guest = choose(world.guests)
    for _ in range(world.goods):
        food = choose([food for food in world.foods if food not in state.stock])
        state.stock[food], state.price[food] = choose(world.amounts), choose(world.prices)
    offer = listed(
        [f"{counted(amount, food)} at {_coins(state.price[food])} each" for food, amount in state.stock.items()]
    )
    said = [f"Seller: Good morning, {guest}. Today there are {offer}."]
    turns = choose(world.turns)
    for turn in range(turns):
        spoken, due = _speak(world, state, choose)
        said.append(f"Guest: {spoken}")
        if turn < turns - 1:
            said.append(f"Seller: {reply(due, choose)}")
    return "\n".join(said), due


def reply(due: Reply, choose: Choose) -> str:
    """Returns the reply as text; given the conversation, the choice of its opening is the only random one."""
    if due.openings is None:
        return f"{due.content[0].upper()}{due.content[1:]}"
    return f"{choose(due.openings, (4, 1))} {due.content}"


def _speak(world: World, state: _State, choose: Choose) -> tuple[str, Reply]:
    possible = {
        "again": state.last,
        "change": state.last and world.wanted > 1,
        "cancel": state.order,
        "total": state.order,
    }
    # A guest does not repeat a question directly if its answer would be the same.
    unasked = [act for act in world.acts if act != state.act or act not in ("ordered", "total")]
    acts = tuple(act for act in unasked if possible.get(act, True))
    act = choose(acts, [1 if act == "ordered" and not state.order else ACTS[act] for act in acts])
    state.act = act
    if act == "ordered":
        return "What have I ordered so far?", Reply(f"{_ordered(state)}.")
    if act == "total":
        total = sum(amount * state.price[food] for food, amount in state.order.items())
        return "How much is that in all?", Reply(f"that is {_coins(total)}.")
    if act == "again":
        return "The same again, please.", _grant(state, *state.last, 0)
    if act == "change":
        food, before = state.last
        amount = choose([amount for amount in range(1, world.wanted + 1) if amount != before])
        return f"Please make that {NUMBERS[amount]} instead of {NUMBERS[before]}.", _grant(state, food, amount, before)
    food = choose(tuple(state.order if act == "cancel" else state.stock))
    if act == "price":
        return f"How much is {_one(food)}?", Reply(f"{_one(food)} is {_coins(state.price[food])}.")
    if act == "left":
        return f"How many {food}s are left?", Reply(f"there {_left(state, food)}.")
    if act == "cancel":
        state.stock[food] += state.order.pop(food)
        if state.last and state.last[0] == food:
            state.last = None
        return f"I do not want the {food}s any more.", Reply(f"that leaves {_ordered(state)}.", YES)
    amount = choose(range(1, world.wanted + 1))
    return f"{counted(amount, food).capitalize()}, please.", _grant(state, food, amount, 0)


def _grant(state: _State, food: str, amount: int, before: int) -> Reply:
    """Replaces `before` by `amount` in the order if the stock is sufficient; otherwise the order stays as it is."""
    if amount - before > state.stock[food]:
        state.last = None  # "that" and "the same" would be ambiguous now
        more = " more" if food in state.order else ""
        return Reply(f"there {_left(state, food, more)}.", NO)
    state.stock[food] -= amount - before
    state.order[food] = state.order.get(food, 0) + amount - before
    state.last = food, amount
    return Reply(f"that makes {counted(state.order[food], food)}.", YES)


def _left(state: _State, food: str, more: str = "") -> str:
    amount = state.stock[food]
    number = "no" if amount == 0 else NUMBERS[amount]
    return f"{'is' if amount == 1 else 'are'} {number}{more} {food}{'' if amount == 1 else 's'} left"


def _ordered(state: _State) -> str:
    return listed([counted(amount, food) for food, amount in state.order.items()]) if state.order else "nothing"


def _one(food: str) -> str:
    return f"{'an' if food[0] in 'aeiou' else 'a'} {food}"


def _coins(amount: int) -> str:
    return f"{amount} coin{'' if amount == 1 else 's'}"
