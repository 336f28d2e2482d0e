"""Pairs of an English sentence and its Chinese translation, from a synchronous grammar.

Each rule generates both sides at once. Chinese has its own word order (relative clauses before the noun, time and place
before the verb), measure words, and no spaces. Some Chinese words have a second form, which is drawn after the English
sentence is complete. A translator cannot know this draw; its entropy is the floor, the lowest mean loss of any model.
"""

import dataclasses
import functools
from typing import NamedTuple

from lm.tinyworld import lexicon
from lm.tinyworld.grammar import Choose
from lm.tinyworld.lexicon import (
    ALL,
    PERSON,
    Adjective,
    Chinese,
    Determiner,
    Landmark,
    Mood,
    Noun,
    Pronoun,
    Variants,
    Verb,
)

BE = {"I": "am", "he": "is", "they": "are"}
DO = {"I": "do", "he": "does", "they": "do"}
WANT = {"I": "want", "he": "wants", "they": "want"}
VERY = Variants("非常", "十分")


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """The words, and the depth of relative clauses. Worlds of any size run the same program."""

    nouns: tuple[Noun, ...] = lexicon.NOUNS
    subjects: tuple[Pronoun, ...] = lexicon.SUBJECTS
    objects: tuple[Pronoun, ...] = lexicon.OBJECTS
    determiners: tuple[tuple[float, tuple[Determiner, ...]], ...] = lexicon.DETERMINERS
    adjectives: tuple[Adjective, ...] = lexicon.ADJECTIVES
    verbs: tuple[Verb, ...] = lexicon.VERBS
    transfers: tuple[Verb, ...] = lexicon.TRANSFERS
    action_moods: tuple[Mood, ...] = lexicon.ACTION_MOODS
    state_moods: tuple[Mood, ...] = lexicon.STATE_MOODS
    places: tuple[Landmark, ...] = lexicon.PLACES
    furniture: tuple[Landmark, ...] = lexicon.FURNITURE
    kinds: tuple[str, ...] = ("act", "transfer", "locate", "exist", "describe")  # kinds of sentences, keys of KINDS
    depth: int = 2
    plain: float = 7  # weight of a noun without a modifier; each kind of clause, and a place, has 1


WORLDS = {1: World(depth=0), 2: World(), 3: World(depth=3, plain=2)}  # by difficulty


class NounPhrase(NamedTuple):
    english: str
    chinese: Chinese
    person: str  # the form that verbs agree with, as in `Pronoun`
    sort: str


def pair(world: World, choose: Choose) -> tuple[str, Chinese]:
    """Returns an English sentence and its translation, with variants that are not chosen yet."""
    kind = choose(world.kinds, [KINDS[kind][0] for kind in world.kinds])
    english, chinese = KINDS[kind][1](world, choose)
    return f"{english[0].upper()}{english[1:]}.", (*chinese, "。")


def render(chinese: Chinese, choose: Choose) -> str:
    """Returns the translation as text; given the source, the choices of its variants are the only random ones."""
    return "".join(choose(word, (9, 1)) if isinstance(word, Variants) else word for word in chinese)


def _act(world: World, choose: Choose) -> tuple[str, Chinese]:
    verb = choose(world.verbs)
    subject = _subject(world, choose, verb.subjects, world.depth, world.places)
    told, mood = _tell(choose, verb, subject, world.action_moods if verb.ing else world.state_moods)
    english = f"{subject.english} {told}"
    after = (verb.chinese, *mood.after)
    if verb.objects:
        thing = _object(world, choose, verb.objects, world.depth - 1)
        english += f" {thing.english}"
        after += thing.chinese
    before = mood.before
    if verb.ing and world.places and choose((False, True), (4, 1) if verb.objects else (1, 3)):
        where, place = _place(choose, world.places)
        english += f" {where}"
        # The 在 of a continuous verb and the 在 of a place merge into one.
        before += (place,) if mood.form == "ing" else ("在", place)
    return _in_time(choose, mood, english, subject.chinese, before + after)


def _transfer(world: World, choose: Choose) -> tuple[str, Chinese]:
    verb = choose(world.transfers)
    subject = _subject(world, choose, verb.subjects, world.depth)
    told, mood = _tell(choose, verb, subject, world.action_moods)
    thing = _noun_phrase(world, choose, verb.objects, 0)
    receiver = _object(world, choose, PERSON, 0)
    english = f"{subject.english} {told} {thing.english} to {receiver.english}"
    chinese = (*mood.before, verb.chinese, *mood.after, *receiver.chinese, *thing.chinese)
    return _in_time(choose, mood, english, subject.chinese, chinese)


def _locate(world: World, choose: Choose) -> tuple[str, Chinese]:
    subject = _noun_phrase(world, choose, ALL, world.depth)
    where, place = _place(choose, world.places + world.furniture)
    negation, chinese = choose((("", "在"), (" not", "不在")), (2, 1))
    return f"{subject.english} {BE[subject.person]}{negation} {where}", (*subject.chinese, chinese, place)


def _exist(world: World, choose: Choose) -> tuple[str, Chinese]:
    some = [group for group in world.determiners if group[1][0].kind == "indefinite"]
    determiner = choose(choose(*_alternatives(some)))
    thing = _modified(world, choose, _bare_phrase(world, choose, ALL, determiner), world.depth - 1, ())
    where, place = _place(choose, world.places + world.furniture)
    return f"there {BE[thing.person]} {thing.english} {where}", (place, "有", *thing.chinese)


def _describe(world: World, choose: Choose) -> tuple[str, Chinese]:
    subject = _noun_phrase(world, choose, ALL, world.depth, world.places)
    adjectives = [adjective for adjective in _adjectives_of(world, subject.sort) if adjective.predicate]
    adjective = choose(adjectives)
    degree, before, after = choose(DEGREES, (3, 3, 2, 1, 4))
    english, chinese = adjective.english, (*before, adjective.predicate, *after)
    if degree == "and":
        contrary = {"small": "big", "big": "small"}.get(adjective.english)
        other = choose([other for other in adjectives if other.english not in (adjective.english, contrary)])
        english += f" and {other.english}"
        chinese += ("又", other.predicate)
    elif degree:
        english = f"{degree} {english}"
    return f"{subject.english} {BE[subject.person]} {english}", subject.chinese + chinese


DEGREES = (
    ("", ("很",), ()),
    ("very", (VERY,), ()),
    ("not", ("不",), ()),
    ("too", ("太",), ("了",)),
    ("and", ("又",), ()),
)
KINDS = {  # kinds of sentences: their weights and rules
    "act": (16, _act),
    "transfer": (2, _transfer),
    "locate": (2, _locate),
    "exist": (1.5, _exist),
    "describe": (3, _describe),
}


def _tell(choose: Choose, verb: Verb, subject: NounPhrase, moods: tuple[Mood, ...]) -> tuple[str, Mood]:
    mood = choose(moods, [mood.weight for mood in moods])
    person = subject.person
    auxiliary = mood.auxiliary.format(be=BE[person], do=DO[person], want=WANT[person])
    form = _present(verb, person) if mood.form == "present" else getattr(verb, mood.form)
    return " ".join(word for word in (auxiliary, form, verb.particle) if word), mood


def _present(verb: Verb, person: str) -> str:
    return verb.third if person == "he" else verb.base


def _in_time(choose: Choose, mood: Mood, english: str, subject: Chinese, rest: Chinese) -> tuple[str, Chinese]:
    """Returns both sides, perhaps with a time: first or last in English, before or after the subject in Chinese."""
    position = choose(("none", "first", "last"), (3, 1, 1)) if mood.times else "none"
    if position == "none":
        return english, subject + rest
    time, chinese = choose(mood.times)
    if position == "first":
        return f"{time} {english}", chinese + subject + rest
    return f"{english} {time}", subject + chinese + rest


def _subject(world: World, choose: Choose, sorts: frozenset, depth: int, places: tuple = ()) -> NounPhrase:
    if "person" in sorts and world.subjects and choose((False, True), (5, 2)):
        return _pronoun(choose(world.subjects))
    return _noun_phrase(world, choose, sorts, depth, places)


def _object(world: World, choose: Choose, sorts: frozenset, depth: int) -> NounPhrase:
    if "person" in sorts and world.objects and choose((False, True), (7, 1)):
        return _pronoun(choose(world.objects))
    return _noun_phrase(world, choose, sorts, depth)


def _pronoun(pronoun: Pronoun) -> NounPhrase:
    return NounPhrase(pronoun.english, (pronoun.chinese,), pronoun.person, "person")


def _noun_phrase(world: World, choose: Choose, sorts: frozenset, depth: int, places: tuple = ()) -> NounPhrase:
    """Returns a noun of one of `sorts`, perhaps with a clause (if `depth` > 0) or one of `places`."""
    determiner = choose(choose(*_alternatives(world.determiners)))
    phrase = _bare_phrase(world, choose, sorts, determiner)
    if determiner.kind == "possessive":
        return phrase
    return _modified(world, choose, phrase, depth, places)


def _bare_phrase(world: World, choose: Choose, sorts: frozenset, determiner: Determiner) -> NounPhrase:
    noun = choose(_nouns_of(world, sorts))
    english = noun.plural if determiner.plural else noun.singular
    chinese = (noun.chinese,)
    if determiner.plural and noun.sort == "person" and determiner.kind in ("definite", "possessive"):
        chinese += ("们",)  # the plural of people, used if nothing else shows that they are several
    adjectives = _adjectives_of(world, noun.sort)
    if adjectives and choose((False, True), (3, 2)):
        adjective = choose(adjectives)
        english, chinese = f"{adjective.english} {english}", (adjective.attribute, *chinese)
    before = tuple(noun.measure if word == lexicon.MEASURE else word for word in determiner.chinese)
    person = "they" if determiner.plural else "he"
    return NounPhrase(f"{determiner.english} {english}", before + chinese, person, noun.sort)


def _modified(world: World, choose: Choose, phrase: NounPhrase, depth: int, places: tuple) -> NounPhrase:
    english, chinese, person, sort = phrase
    subject_of, object_of = _verbs_of(world, sort)
    possible = {"none": True, "subject": depth > 0 and subject_of, "object": depth > 0 and object_of, "place": places}
    weights = {modifier: world.plain if modifier == "none" else 1 for modifier, ways in possible.items() if ways}
    modifier = choose(tuple(weights), tuple(weights.values()))
    if modifier == "subject":  # the cat that chases the dog, 追狗的猫
        verb = choose(subject_of)
        form, after = _clause_verb(choose, verb, person)
        thing = _object(world, choose, verb.objects, depth - 1)
        english = f"{english} that {form} {thing.english}"
        chinese = (verb.chinese, after, *thing.chinese, "的", *chinese)
    elif modifier == "object":  # the cat that the dog chases, 狗追的猫
        verb = choose(object_of)
        agent = _subject(world, choose, verb.subjects, depth - 1)
        form, after = _clause_verb(choose, verb, agent.person)
        english = f"{english} that {agent.english} {form}"
        chinese = (*agent.chinese, verb.chinese, after, "的", *chinese)
    elif modifier == "place":  # the cat in the garden, 花园里的猫
        where, place = _place(choose, places)
        english, chinese = f"{english} {where}", (place, "的", *chinese)
    return NounPhrase(english, chinese, person, sort)


def _clause_verb(choose: Choose, verb: Verb, person: str) -> tuple[str, str]:
    past = verb.past and choose((False, True), (2, 1))
    form, after = (verb.past, "过") if past else (_present(verb, person), "")
    return f"{form} {verb.particle}".strip(), after


def _place(choose: Choose, landmarks: tuple[Landmark, ...]) -> tuple[str, str]:
    landmark = choose(landmarks)
    english, chinese = choose(landmark.sides)
    return f"{english} the {landmark.english}", landmark.chinese + chinese


def _alternatives(groups) -> tuple[list, list[float]]:
    return [forms for _, forms in groups], [weight for weight, _ in groups]


@functools.cache
def _nouns_of(world: World, sorts: frozenset) -> tuple[Noun, ...]:
    return tuple(noun for noun in world.nouns if noun.sort in sorts)


@functools.cache
def _adjectives_of(world: World, sort: str) -> tuple[Adjective, ...]:
    return tuple(adjective for adjective in world.adjectives if sort in adjective.sorts)


@functools.cache
def _verbs_of(world: World, sort: str) -> tuple[tuple[Verb, ...], tuple[Verb, ...]]:
    """Returns the transitive verbs that can have a noun of `sort` as their subject, and as their object."""
    transitive = [verb for verb in world.verbs if verb.objects]
    return tuple(v for v in transitive if sort in v.subjects), tuple(v for v in transitive if sort in v.objects)
