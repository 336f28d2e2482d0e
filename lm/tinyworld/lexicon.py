"""The words of `translate`, in English and Chinese."""

from typing import NamedTuple


class Variants(NamedTuple):
    """Two Chinese words with the same meaning; `usual` has a probability of 9/10."""

    usual: str
    other: str


Chinese = tuple[str | Variants, ...]

PERSON, ANIMAL, FOOD, THING = (frozenset({sort}) for sort in ("person", "animal", "food", "thing"))
ANIMATE, GOODS = PERSON | ANIMAL, FOOD | THING
ALL = ANIMATE | GOODS


class Noun(NamedTuple):
    """A noun. No noun or adjective starts with a vowel, so the article `a` is never `an`."""

    sort: str  # person, animal, food or thing
    singular: str
    plural: str
    chinese: str
    measure: str  # the measure word, e.g. 个


class Pronoun(NamedTuple):
    english: str
    chinese: str
    person: str  # the form that verbs agree with: I; he, for all other singulars except you; they, for the rest


class Determiner(NamedTuple):
    kind: str  # definite, indefinite, demonstrative or possessive
    english: str
    plural: bool
    chinese: Chinese  # MEASURE is replaced by the measure word of the noun


class Adjective(NamedTuple):
    sorts: frozenset[str]  # sorts of the nouns that it can modify
    english: str
    attribute: str  # in Chinese, before a noun
    predicate: str  # in Chinese, after 很; empty: there is none


class Verb(NamedTuple):
    subjects: frozenset[str]  # sorts of its subjects
    objects: frozenset[str]  # sorts of its objects; empty for an intransitive verb
    chinese: str
    base: str
    third: str
    past: str = ""  # empty past and ing mark a state, which is only told in the present
    ing: str = ""
    particle: str = ""  # in English, after the verb


class Mood(NamedTuple):
    """The tense and modality of a verb."""

    weight: float
    auxiliary: str  # in English; {be}, {do} and {want} agree
    form: str  # of the English verb: present (which agrees), base, past or ing
    before: Chinese = ()  # words before the Chinese verb
    after: Chinese = ()  # words after it
    times: tuple[tuple[str, Chinese], ...] = ()  # times that it can be combined with


class Landmark(NamedTuple):
    english: str
    chinese: str
    sides: tuple[tuple[str, str], ...]  # (English preposition, Chinese postposition)


def _nouns(sort: str, table: str) -> tuple[Noun, ...]:
    """Returns the nouns of a table with rows `singular[/plural] Chinese measure-word`."""
    nouns = []
    for row in table.split(","):
        forms, chinese, measure = row.split()
        singular, _, plural = forms.partition("/")
        nouns.append(Noun(sort, singular, plural or f"{singular}s", chinese, measure))
    return tuple(nouns)


def _verbs(subjects: frozenset[str], objects: frozenset[str], table: str) -> tuple[Verb, ...]:
    """Returns the verbs of a table with rows `Chinese base third [past ing [particle]]`."""
    return tuple(Verb(subjects, objects, *row.split()) for row in table.split(","))


NOUNS = (
    *_nouns(
        "person",
        """boy 男孩 个, girl 女孩 个, man/men 男人 个, woman/women 女人 个, child/children 孩子 个, friend 朋友 个,
        teacher 老师 位, doctor 医生 位, nurse 护士 位, student 学生 名, farmer 农民 名""",
    ),
    *_nouns(
        "animal",
        """cat 猫 只, dog 狗 只, bird 鸟 只, rabbit 兔子 只, monkey 猴子 只, mouse/mice 老鼠 只, horse 马 匹,
        cow 牛 头, pig 猪 头, lion 狮子 头, snake 蛇 条""",
    ),
    *_nouns(
        "food",
        """banana 香蕉 根, carrot 胡萝卜 根, cake 蛋糕 块, potato/potatoes 土豆 个, peach/peaches 桃子 个,
        lemon 柠檬 个, pear 梨 个""",
    ),
    *_nouns(
        "thing",
        """book 书 本, pen 笔 支, letter 信 封, picture 照片 张, shirt 衬衫 件, hat 帽子 顶, key 钥匙 把,
        knife/knives 刀 把, car 汽车 辆, bike 自行车 辆, phone 手机 部, flower 花 朵, box/boxes 箱子 个, cup 杯子 个,
        lamp 灯 盏""",
    ),
)

SUBJECTS = (
    Pronoun("I", "我", "I"),
    Pronoun("you", "你", "they"),
    Pronoun("he", "他", "he"),
    Pronoun("she", "她", "he"),
    Pronoun("we", "我们", "they"),
    Pronoun("they", "他们", "they"),
)
OBJECTS = (
    Pronoun("me", "我", "I"),
    Pronoun("you", "你", "they"),
    Pronoun("him", "他", "he"),
    Pronoun("her", "她", "he"),
    Pronoun("us", "我们", "they"),
    Pronoun("them", "他们", "they"),
)

MEASURE = "#"
NUMBERS = tuple(zip("two three four five six seven eight nine ten".split(), "两三四五六七八九十", strict=True))
OWNERS = (("my", "我的"), ("your", "你的"), ("his", "他的"), ("her", "她的"), ("our", "我们的"), ("their", "他们的"))
DETERMINERS = (  # alternatives, with the weight of each group
    (6, (Determiner("definite", "the", False, ()),)),
    (4, (Determiner("definite", "the", True, ()),)),
    (4, (Determiner("indefinite", "a", False, ("一", MEASURE)),)),
    (2, (Determiner("indefinite", "many", True, (Variants("很多", "许多"),)),)),
    (6, tuple(Determiner("indefinite", number, True, (chinese, MEASURE)) for number, chinese in NUMBERS)),
    (
        3,
        tuple(
            Determiner("demonstrative", *this)
            for this in (("this", False, ("这", MEASURE)), ("these", True, ("这些",)))
        ),
    ),
    (
        3,
        tuple(
            Determiner("demonstrative", *that)
            for that in (("that", False, ("那", MEASURE)), ("those", True, ("那些",)))
        ),
    ),
    (3, tuple(Determiner("possessive", owner, False, (chinese,)) for owner, chinese in OWNERS)),
    (3, tuple(Determiner("possessive", owner, True, (chinese,)) for owner, chinese in OWNERS)),
)

ADJECTIVES = (
    Adjective(ALL, "small", "小", "小"),
    Adjective(ALL, "big", "大", "大"),
    Adjective(ALL, "beautiful", "漂亮的", "漂亮"),
    Adjective(ALL, "strange", "奇怪的", "奇怪"),
    Adjective(ANIMATE, "clever", "聪明的", "聪明"),
    Adjective(ANIMATE, "brave", "勇敢的", "勇敢"),
    Adjective(ANIMATE, "lazy", "懒惰的", "懒惰"),
    Adjective(ANIMATE, "happy", "快乐的", "快乐"),
    Adjective(ANIMATE, "young", "年轻的", "年轻"),
    Adjective(GOODS, "new", "新的", "新"),
    Adjective(GOODS, "cheap", "便宜的", "便宜"),
    Adjective(GOODS, "clean", "干净的", "干净"),
    Adjective(ANIMAL | GOODS, "red", "红色的", ""),
    Adjective(ANIMAL | GOODS, "white", "白色的", ""),
    Adjective(ANIMAL | GOODS, "black", "黑色的", ""),
)

VERBS = (
    *_verbs(ANIMATE, ANIMATE, "追 chase chases chased chasing, 怕 fear fears"),
    *_verbs(ANIMATE, ANIMATE | THING, "推 push pushes pushed pushing"),
    *_verbs(ANIMATE, FOOD, "吃 eat eats ate eating"),
    *_verbs(ANIMATE, ALL, "找 look looks looked looking for, 喜欢 like likes"),
    *_verbs(PERSON, PERSON, "帮助 help helps helped helping, 认识 know knows"),
    *_verbs(PERSON, ANIMAL, "喂 feed feeds fed feeding"),
    *_verbs(PERSON, ANIMATE, "爱 love loves"),
    *_verbs(PERSON, FOOD, "煮 cook cooks cooked cooking"),
    *_verbs(PERSON, GOODS, "洗 wash washes washed washing, 买 buy buys bought buying, 卖 sell sells sold selling"),
    *_verbs(PERSON, GOODS, "需要 need needs"),
    *_verbs(PERSON, ALL, "画 draw draws drew drawing, 记得 remember remembers"),
    *_verbs(ANIMATE, frozenset(), "睡觉 sleep sleeps slept sleeping, 跑步 run runs ran running"),
    *_verbs(ANIMATE, frozenset(), "游泳 swim swims swam swimming, 唱歌 sing sings sang singing"),
    *_verbs(PERSON, frozenset(), "哭 cry cries cried crying"),
)
TRANSFERS = _verbs(PERSON, GOODS, "给 give gives gave giving, 寄给 send sends sent sending")  # something to somebody

DID_NOT = Variants("没", "没有")
YESTERDAY = (("yesterday", ("昨天",)), ("last week", ("上周",)))
TOMORROW = (("tomorrow", ("明天",)),)
ACTION_MOODS = (
    Mood(10, "", "present", times=(("every day", ("每天",)),)),
    Mood(2, "always", "present", ("总是",)),
    Mood(3, "often", "present", (Variants("常常", "经常"),)),
    Mood(2, "never", "present", ("从不",)),
    Mood(2, "{do} not", "base", ("不",)),
    Mood(8, "{be}", "ing", (Variants("在", "正在"),), times=(("now", (Variants("现在", "如今"),)),)),
    Mood(1, "{be} not", "ing", (DID_NOT, "在")),
    Mood(8, "", "past", after=("了",), times=YESTERDAY),
    Mood(1, "did not", "base", (DID_NOT,), times=YESTERDAY),
    Mood(2, "will", "base", ("会",), times=TOMORROW),
    Mood(1, "will not", "base", ("不会",), times=TOMORROW),
    Mood(1, "can", "base", ("能",)),
    Mood(1, "cannot", "base", ("不能",)),
    Mood(1, "{want} to", "base", ("想",)),
    Mood(1, "{do} not want to", "base", ("不想",)),
)
STATE_MOODS = (
    Mood(6, "", "present"),
    Mood(1.5, "still", "present", ("仍然",)),
    Mood(3, "{do} not", "base", ("不",)),
)

AROUND = (("in", "里"), ("near", "附近"), ("behind", "后面"), ("in front of", "前面"))
PLACES = (
    Landmark("garden", "花园", AROUND),
    Landmark("kitchen", "厨房", AROUND),
    Landmark("park", "公园", AROUND),
    Landmark("school", "学校", AROUND),
    Landmark("hospital", "医院", AROUND),
    Landmark("shop", "商店", AROUND),
    Landmark("library", "图书馆", AROUND),
    Landmark("forest", "森林", AROUND),
)
BESIDE = (("on", "上"), ("under", "下面"), ("near", "旁边"))
FURNITURE = (
    Landmark("table", "桌子", BESIDE),
    Landmark("bed", "床", BESIDE),
    Landmark("chair", "椅子", BESIDE),
    Landmark("sofa", "沙发", BESIDE),
)
