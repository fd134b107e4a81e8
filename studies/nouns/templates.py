"""Template questions in the style of visual question answering, written for this project.

The treebanks hold few questions and hardly any that name an object in a picture, so the recipe
adds questions drawn from the small grammar below. A template is words written ``form_TAG`` and
slots written ``<slot>``; tags follow the treebanks' conventions (existential "is" is a VERB,
"front" in "in front of" a NOUN, "How" an ADV).
"""

from __future__ import annotations

import random
import re

from studies.nouns.treebank import Sentence

_NOUNS = """
dog cat horse cow sheep elephant bear zebra giraffe bird duck fish lion tiger monkey rabbit goat pig
insect butterfly bee spider frog turtle snake whale shark penguin owl parrot chicken fox wolf deer
man woman boy girl child person lady guy baby player worker driver chef officer skier surfer rider
student teacher soldier tourist couple crowd audience bride batter pitcher catcher umpire
car bus truck train bicycle bike motorcycle boat ship airplane plane helicopter van taxi tractor
cart wagon skateboard surfboard snowboard kite frisbee ball bat racket glove helmet net goal ski
chair couch sofa table desk bed lamp clock mirror pillow blanket curtain rug shelf cabinet drawer
bench umbrella backpack suitcase purse handbag wallet tie hat cap shirt jacket coat dress skirt
pants shorts jeans shoe boot sock scarf watch ring necklace bracelet sweater uniform vest hoodie
bottle cup glass mug bowl plate fork knife spoon napkin tray pot pan kettle oven stove microwave
toaster refrigerator fridge sink faucet toilet towel bathtub shower soap tile counter dishwasher
pizza sandwich burger cake donut cookie bread apple banana orange lemon grape carrot broccoli tomato
onion pepper potato salad soup rice pasta cheese egg meat sauce juice coffee tea beer wine water
tree flower grass leaf bush plant branch log rock stone sand dirt mud snow ice mountain hill river
lake ocean beach sky cloud sun moon star rain field forest road street sidewalk path bridge fence
wall door window roof ceiling floor building house tower church barn garage store shop station
airport hotel restaurant kitchen bathroom bedroom office park zoo museum stadium court track runway
sign post pole hydrant meter light lamppost traffic crosswalk intersection corner curb lane parking
book newspaper magazine letter poster label logo brand word number digit title price date license
plate phone laptop computer keyboard mouse monitor screen television remote camera speaker cable
toy doll teddy balloon candle vase box bag basket bucket can jar lid rope chain wheel tire engine
seat handle button key lock flag banner ribbon map chart graph table diagram figure bar line axis
cell organism predator prey producer consumer magnet force temperature particle solution liquid gas
planet rocket fossil mineral volcano continent country state city capital colony region climate
mammal reptile amphibian vertebrate ecosystem food chain web wave energy battery circuit mixture
color colour shape size material pattern texture number amount position direction emotion gender
sport game event season weather room place location time year hour name type kind brand style mood
head face eye ear nose mouth hair beard neck arm hand finger leg foot knee shoulder back tail wing
paw fur feather horn beak stripe spot shadow reflection background foreground side edge top bottom
""".split()

_COMPOUNDS = [
    tuple(pair.split())
    for pair in """
fire hydrant|traffic light|stop sign|tennis racket|baseball bat|baseball player|cell phone|teddy bear
wine glass|dining table|parking meter|street sign|license plate|hair dryer|coffee table|soccer ball
tennis court|snow board|bus stop|train station|kitchen counter|computer mouse|phone number|book title
team name|bathroom sink|picture frame|bicycle helmet|pizza box|window frame|food web|bar graph|pie chart
ski pole|polo shirt|tank top|trash can|coffee mug|desk lamp|flower pot|fruit bowl|police officer|shop window
tennis player|water bottle|salad bowl|brand name|paper towel|swim suit|life jacket|ceiling fan|toilet paper
telephone pole|price tag|ticket number|store sign|bus driver|room number|street light|remote control
""".strip()
    .replace("\n", "|")
    .split("|")
]

_MASS = set(
    """grass sand dirt mud snow ice rain water juice coffee tea beer wine rice pasta bread cheese meat
soup sauce hair fur traffic parking weather energy food soap broccoli sky traffic salad sun moon pants
shorts jeans sheep fish glass""".split()
)
_IRREGULAR = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "person": "people",
    "foot": "feet",
    "knife": "knives",
    "leaf": "leaves",
    "shelf": "shelves",
    "mouse": "mice",
    "wolf": "wolves",
    "deer": "deer",
    "axis": "axes",
}

_SLOTS: dict[str, str] = {
    "adj": """red blue green yellow black white brown gray grey orange pink purple beige silver golden
tan dark bright large small big tall short long young old little empty full wooden metal plastic open
closed round square wet dry clean dirty shiny striped happy sad colorful cloudy sunny tiny huge thin
thick narrow wide modern antique main same different visible transparent soft hard hot cold heavy
common primary highest lowest largest smallest tallest""",
    "rel": "on_ADP|in_ADP|under_ADP|behind_ADP|near_ADP|above_ADP|below_ADP|beside_ADP|by_ADP"
    "|with_ADP|over_ADP|inside_ADP|against_ADP|around_ADP|at_ADP|beneath_ADP|across_ADP from_ADP"
    "|next_ADV to_ADP|in_ADP front_NOUN of_ADP|on_ADP top_NOUN of_ADP|close_ADJ to_ADP"
    "|to_ADP the_DET left_NOUN of_ADP|to_ADP the_DET right_NOUN of_ADP|on_ADP the_DET side_NOUN of_ADP"
    "|on_ADP the_DET back_NOUN of_ADP|at_ADP the_DET bottom_NOUN of_ADP|out_ADP of_ADP|between_ADP",
    "ving": """wearing holding carrying riding eating watching pulling pushing throwing catching hitting
using touching facing feeding reading drinking cutting cooking chasing following crossing driving
playing kicking washing cleaning selling walking jumping swinging making leading""",
    "ing": """sitting standing walking running jumping flying swimming sleeping smiling lying playing
surfing skiing skating cooking eating talking waiting laughing grazing looking moving raining
hanging leaning parked swinging posing driving crossing shining resting working""",
    "ved": """made shown used found displayed written printed pictured depicted parked covered
surrounded painted attached placed pulled worn visible held mounted captured seen""",
    "vinf": """see wear hold carry eat ride watch use need read play do show say represent indicate
contain cause produce have look appear seem belong weigh cost mean face describe provide""",
    "aux": "is_AUX|are_AUX|was_AUX",
    "do": "does_AUX|do_AUX|did_AUX",
    "modal": "can_AUX|could_AUX|would_AUX|will_AUX|should_AUX|might_AUX",
    "det": "the_DET|the_DET|the_DET|the_DET|the_DET|this_DET|that_DET|a_DET|any_DET|his_PRON|her_PRON"
    "|their_PRON|each_DET|another_DET",
    "pdet": "the_DET|the_DET|these_DET|those_DET|any_DET|the_DET two_NUM|three_NUM|some_DET|all_DET the_DET"
    "|many_ADJ|both_DET|the_DET other_ADJ|several_ADJ|the_DET following_VERB",
    "img": "the_DET image_NOUN|the_DET picture_NOUN|the_DET photo_NOUN|this_DET image_NOUN"
    "|the_DET photograph_NOUN|this_DET picture_NOUN|the_DET scene_NOUN|this_DET photo_NOUN",
    "where": "on_ADP the_DET left_NOUN|on_ADP the_DET right_NOUN|in_ADP the_DET middle_NOUN"
    "|in_ADP the_DET background_NOUN|in_ADP the_DET center_NOUN|at_ADP the_DET top_NOUN|here_ADV"
    "|in_ADP <img>|on_ADP the_DET left_ADJ side_NOUN|in_ADP the_DET upper_ADJ right_ADJ corner_NOUN"
    "|on_ADP the_DET right_ADJ hand_NOUN side_NOUN|outside_ADV|there_ADV|inside_ADV|in_ADP this_DET room_NOUN",
    "prop": """Boston Nike Texas Canada Coca Pepsi Adidas Samsung Nokia Canon London Virginia Georgia
France Africa Brazil Monday Christmas Google Microsoft Apple Sony Toyota Emirates Budweiser Heineken
Harry Mary John Emma Smith Washington Earth Jupiter Asia Chicago Dallas Yankees""",
    "num": "one two three four five six ten 2 3 5 10 12 20 50 100",
    "attr": "color_NOUN|colour_NOUN|shape_NOUN|size_NOUN|brand_NOUN|kind_NOUN of_ADP <bare>|number_NOUN"
    "|type_NOUN of_ADP <bare>|sport_NOUN|animal_NOUN|material_NOUN|room_NOUN|season_NOUN|word_NOUN"
    "|time_NOUN|pattern_NOUN|letter_NOUN|year_NOUN|city_NOUN|country_NOUN|object_NOUN|side_NOUN"
    "|sort_NOUN of_ADP <bare>|company_NOUN|team_NOUN|fruit_NOUN|furniture_NOUN|vehicle_NOUN|<bare>",
    "wh": "What_DET|What_DET|Which_DET",
    "np": "<det> <ns>|<det> <ns>|<det> <adj> <ns>|<pdet> <np_pl>|<pdet> <adj> <np_pl>|<bare>"
    "|the_DET <ns> <rel> the_DET <ns>|the_DET <ns> 's_PART <ns>|<prop>",
    "the": "the_DET <ns>|the_DET <ns>|the_DET <adj> <ns>|the_DET <ns> <rel> the_DET <ns>"
    "|the_DET <ns> 's_PART <ns>|the_DET <adj> <adj> <ns>|his_PRON <ns>|the_DET <ns> on_ADP the_DET left_NOUN"
    "|the_DET <ns> that_PRON is_AUX <ing> <rel> the_DET <ns>|the_DET <ns> <ing>",
    "thes": "the_DET <np_pl>|these_DET <np_pl>|the_DET <adj> <np_pl>|the_DET <ns> 's_PART <np_pl>"
    "|the_DET <np_pl> <rel> the_DET <ns>",
    "bare": "<ns>|<np_pl>|<ns>",
}

_QUESTIONS = """
<wh> <attr> is_AUX <the> ?
<wh> <attr> are_AUX <thes> ?
<wh> <attr> is_AUX <the> <ving> ?
<wh> <bare> is_AUX <rel> <the> ?
<wh> <bare> is_AUX <ing> <rel> <the> ?
<wh> <attr> is_AUX <ved> <where> ?
<wh> <attr> <do> <the> <vinf> ?
<wh> <attr> <do> <thes> <vinf> <where> ?
<wh> <bare> <modal> you_PRON <vinf> <where> ?
What_PRON is_AUX <the> <ving> ?
What_PRON is_AUX <the> ?
What_PRON is_AUX the_DET <attr> of_ADP <the> ?
What_PRON is_AUX the_DET <ns> doing_VERB <where> ?
What_PRON are_AUX <thes> doing_VERB ?
What_PRON are_AUX <thes> <ing> <rel> ?
What_PRON is_AUX <rel> <the> ?
What_PRON is_AUX <ing> <rel> <the> ?
What_PRON is_AUX <the> made_VERB of_ADP ?
What_PRON is_AUX <the> used_VERB for_ADP ?
What_PRON is_AUX in_ADP <img> ?
What_PRON is_AUX <ved> <where> ?
What_PRON <do> <the> say_VERB ?
What_PRON <do> <the> <vinf> ?
What_PRON <do> <thes> <vinf> <where> ?
What_PRON <modal> <np> be_AUX used_VERB for_ADP ?
What_PRON happened_VERB to_ADP <the> ?
What_PRON number_NOUN is_AUX on_ADP <the> ?
What_PRON 's_AUX <rel> <the> ?
What_PRON 's_AUX the_DET name_NOUN of_ADP <the> ?
Who_PRON is_AUX <ving> <np> ?
Who_PRON is_AUX <rel> <the> ?
Who_PRON makes_VERB <the> ?
Who_PRON is_AUX the_DET <ns> of_ADP <the> ?
Whose_PRON <ns> is_AUX <rel> <the> ?
Where_ADV is_AUX <the> ?
Where_ADV are_AUX <thes> ?
Where_ADV is_AUX <the> <ing> ?
Where_ADV was_AUX <the> taken_VERB ?
Where_ADV <do> <np> come_VERB from_ADP ?
When_ADV was_AUX <the> made_VERB ?
Why_ADV is_AUX <the> <ing> ?
Why_ADV are_AUX <thes> <ving> <np> ?
How_ADV many_ADJ <np_pl> are_VERB there_PRON ?
How_ADV many_ADJ <np_pl> are_VERB there_PRON <where> ?
How_ADV many_ADJ <np_pl> are_AUX <ving> <np> ?
How_ADV many_ADJ <np_pl> are_AUX <rel> <the> ?
How_ADV many_ADJ <adj> <np_pl> <modal> you_PRON see_VERB ?
How_ADV many_ADJ <np_pl> <do> <the> have_VERB ?
How_ADV much_ADJ <ns> is_AUX in_ADP <the> ?
How_ADV much_ADV <do> <the> cost_VERB ?
How_ADV <adj> is_AUX <the> ?
How_ADV is_AUX the_DET weather_NOUN <where> ?
How_ADV is_AUX <the> <ved> ?
Is_VERB there_PRON a_DET <ns> <where> ?
Is_VERB there_PRON an_DET <ns> <rel> <the> ?
Is_VERB there_PRON any_DET <bare> <rel> <the> ?
Is_VERB there_PRON a_DET <adj> <ns> <rel> <np> ?
Are_VERB there_PRON any_DET <np_pl> <where> ?
Are_VERB there_PRON <np_pl> or_CCONJ <np_pl> <rel> <the> ?
Are_VERB there_PRON <num> <np_pl> <where> ?
Is_AUX <the> <adj> ?
Is_AUX <the> <adj> or_CCONJ <adj> ?
Is_AUX <the> <adj> and_CCONJ <adj> ?
Is_AUX <the> <rel> <the> ?
Is_AUX <the> <ing> ?
Is_AUX <the> <ving> <np> ?
Is_AUX <the> <ving> a_DET <ns> or_CCONJ a_DET <ns> ?
Is_AUX <the> a_DET <ns> ?
Is_AUX this_PRON a_DET <ns> ?
Is_AUX this_PRON a_DET <ns> or_CCONJ a_DET <ns> ?
Is_AUX it_PRON <adj> <where> ?
Is_AUX that_PRON <np> ?
Are_AUX <thes> <adj> ?
Are_AUX <thes> <ing> ?
Are_AUX <thes> <ving> <np> ?
Are_AUX both_DET the_DET <ns> and_CCONJ the_DET <ns> <adj> ?
Are_AUX they_PRON <ving> <np> ?
Does_AUX <the> have_VERB <np> ?
Does_AUX <the> have_VERB the_DET same_ADJ <attr> as_ADP <the> ?
Does_AUX <the> look_VERB <adj> ?
Does_AUX <the> seem_VERB to_PART be_AUX <adj> ?
Does_AUX <the> appear_VERB to_PART be_AUX <ing> ?
Do_AUX you_PRON see_VERB <np> <where> ?
Do_AUX you_PRON see_VERB <np> or_CCONJ <np> ?
Do_AUX <thes> <vinf> <np> ?
Can_AUX you_PRON see_VERB <the> ?
Did_AUX the_DET <ns> <vinf> <the> ?
Has_AUX <the> been_AUX <ved> ?
Could_AUX <the> be_AUX a_DET <ns> ?
Describe_VERB <the> .
Describe_VERB <img> in_ADP detail_NOUN .
Name_VERB the_DET <attr> of_ADP <the> .
Name_VERB the_DET <ns> <ved> <where> .
Count_VERB the_DET <np_pl> <where> .
Tell_VERB me_PRON the_DET <attr> of_ADP <the> .
Identify_VERB the_DET <ns> .
Read_VERB the_DET <ns> on_ADP <the> .
Find_VERB the_DET <ns> <where> .
<the> is_AUX <rel> <the> .
<the> is_AUX <ving> <np> .
<the> and_CCONJ <the> are_AUX <adj> .
In_ADP <img> ,_PUNCT what_PRON is_AUX <the> <ving> ?
On_ADP <the> ,_PUNCT which_DET <attr> is_AUX <ved> ?
According_VERB to_ADP the_DET <ns> ,_PUNCT what_PRON is_AUX the_DET <ns> of_ADP <the> ?
Based_VERB on_ADP <the> ,_PUNCT which_DET <ns> is_AUX <adj> ?
Which_PRON of_ADP these_DET <np_pl> is_AUX <adj> ?
Which_PRON of_ADP the_DET following_VERB <np_pl> is_AUX a_DET <ns> ?
Which_DET <ns> is_AUX <adj> ,_PUNCT the_DET <ns> or_CCONJ the_DET <ns> ?
Which_PRON is_AUX <adj> ,_PUNCT <the> or_CCONJ <the> ?
Which_DET one_PRON is_AUX the_DET <ns> ?
Which_DET <ns> has_VERB the_DET <adj> <ns> ?
What_DET <attr> do_AUX these_DET <num> <np_pl> have_VERB in_ADP common_NOUN ?
Select_VERB the_DET <ns> with_ADP the_DET <adj> <ns> .
<letter> <bare>
<letter> <bare> .
<letter> <the>
<letter> <the> is_AUX <ving> <np>
<letter> <adj>
<letter> <adj> <bare>
<letter> <num>
<letter> <num> <np_pl>
<letter> <prop>
<letter> yes_INTJ
<letter> no_INTJ
<letter> <ing> <np>
<letter> <rel> <the>
<letter> <ns> and_CCONJ <ns>
<letter> It_PRON is_AUX <adj> .
""".strip().splitlines()

_FINAL = {"?": "?_PUNCT", ".": "._PUNCT"}
_NO_SPACE_BEFORE = re.compile(r"^(?:[?.,:)]|'s)$")


def _options(slot: str) -> list[str]:
    text = _SLOTS[slot]
    if "|" in text or "_" in text or "<" in text:
        return text.split("|")
    tag = {
        "adj": "ADJ",
        "ving": "VERB",
        "ing": "VERB",
        "ved": "VERB",
        "vinf": "VERB",
        "prop": "PROPN",
        "num": "NUM",
    }[slot]
    return [f"{word}_{tag}" for word in text.split()]


_CHOICES = {slot: _options(slot) for slot in _SLOTS}
_TAGGED_NOUNS = sorted({f"{noun}_NOUN" for noun in _NOUNS})


def _plural(noun: str) -> str:
    if noun in _MASS:
        return noun
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if re.search(r"(?:s|x|z|ch|sh)$", noun):
        return noun + "es"
    if re.search(r"[^aeiou]y$", noun):
        return noun[:-1] + "ies"
    return noun + "s"


def _noun(rng: random.Random, plural: bool) -> str:
    words = [rng.choice(_TAGGED_NOUNS)[: -len("_NOUN")]]
    if rng.random() < 0.12:
        words = list(rng.choice(_COMPOUNDS))
    if plural:
        words[-1] = _plural(words[-1])
    return " ".join(f"{word}_NOUN" for word in words)


def _letter(rng: random.Random) -> str:
    """An option letter as spaCy cuts it: "A." is one token, "A)" two."""
    letter = rng.choice("ABCDE")
    if rng.random() < 0.2:
        letter = letter.lower()
    shapes = [
        f"{letter}._X",
        f"{letter}._X",
        f"{letter}_X )_PUNCT",
        f"(_PUNCT {letter}_X )_PUNCT",
        f"{letter}_X :_PUNCT",
    ]
    return rng.choice(shapes)


def _expand(template: str, rng: random.Random) -> list[str]:
    words: list[str] = []
    for part in template.split():
        if part in ("<ns>", "<np_pl>"):
            words += _noun(rng, plural=part == "<np_pl>").split()
        elif part == "<letter>":
            words += _letter(rng).split()
        elif part.startswith("<"):
            words += _expand(rng.choice(_CHOICES[part[1:-1]]), rng)
        else:
            words.append(_FINAL.get(part, part))
    return words


def _article(words: list[str]) -> list[str]:
    """Agrees "a" and "an" with the word that follows."""
    agreed = list(words)
    for at, word in enumerate(words[:-1]):
        if word in ("a_DET", "an_DET"):
            agreed[at] = "an_DET" if words[at + 1][0].lower() in "aeiou" else "a_DET"
    return agreed


def question(rng: random.Random) -> Sentence:
    """Draws one tagged question, caption or answer option."""
    pairs = [word.rsplit("_", 1) for word in _article(_expand(rng.choice(_QUESTIONS), rng))]
    words = [form for form, _ in pairs]
    if words[0].islower() and len(words[0]) > 1 and rng.random() < 0.7:
        words[0] = words[0].capitalize()
    spaces = [
        not _NO_SPACE_BEFORE.match(following) and word != "("
        for word, following in zip(words, [*words[1:], "."], strict=True)
    ]
    return Sentence(tuple(words), tuple(tag for _, tag in pairs), tuple(spaces))


def questions(count: int, seed: int) -> list[Sentence]:
    """Draws ``count`` questions; the same seed draws the same ones."""
    rng = random.Random(seed)
    return [question(rng) for _ in range(count)]
