"""Data sets of our own, generated from a seed in seconds: news texts, sentence pairs, images.

They stand in where the real data cannot be had. They are made to be worth learning from: every
generator mixes what tells the classes apart with more that does not.
"""

import math
import random

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

# ---------------------------------------------------------------- news texts, shaped as AG_NEWS

_TOPICS = {
    1: """minister parliament embassy treaty ceasefire rebels president election ballot refugees border troops
        peacekeepers sanctions diplomat summit province militia protest coalition premier hostage convoy uprising senate
        referendum monarch exile insurgents capital""",
    2: """striker goalkeeper innings quarterback playoff tournament medal coach stadium penalty marathon sprinter
        champion league referee inning homer wicket grandslam relay roster rebound touchdown midfielder defender trophy
        semifinal derby umpire dugout""",
    3: """shares investors earnings merger dividend inflation bank shareholders bonds revenue retailer quarterly profit
        takeover oil barrel currency stocks exporters tariff lender bankruptcy auditor pension brokerage forecast output
        refinery wages consumers""",
    4: """software browser satellite telescope processor genome virus patch spacecraft broadband chip laboratory robot
        asteroid server encryption wireless researchers species galaxy database laptop molecule probe network console
        fossil search vaccine desktop""",
}  # fmt: skip
_SHARED_NOUNS = """
    plan report week month deal team group company country city officials leader source decision future record problem
    change question season market world people statement result program support attack victory loss chance center
    member role move talks pressure growth crisis effort review case contract board spokesman rival partner crowd fans
    test
""".split()
_SHARED_VERBS = """
    said announced expected faced reported won lost raised opened closed delayed rejected backed warned showed led
    launched cut joined ended started missed signed planned considered defended blamed praised ordered pushed
""".split()
_SHARED_ADJECTIVES = """
    new early late major strong weak final local global recent possible big key long public former young top likely
    second third surprising difficult costly quiet
""".split()
_PLACES = """
    London Tokyo Madrid Cairo Lima Oslo Nairobi Seoul Boston Berlin Delhi Lisbon Toronto Prague Athens Dublin Jakarta
    Bogota Sydney Vienna
""".split()
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def news(
    train_size: int = 8_000, test_size: int = 1_000, seed: int = 1234
) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """News-like texts of four topics that share most of their vocabulary.

    A noun is of the text's own topic in three cases of ten, of another topic in one of twenty, and
    otherwise one that all topics use; lengths spread as AG_NEWS's do (about 15 to 100 tokens).

    Returns:
        ``train`` and ``test``, each a list of ``(label 1-4, text)``.
    """
    rng = random.Random(seed)
    topics = {label: words.split() for label, words in _TOPICS.items()}

    def noun(label: int) -> str:
        draw = rng.random()
        if draw < 0.3:
            return rng.choice(topics[label])
        if draw < 0.35:
            return rng.choice(topics[rng.randint(1, 4)])
        return rng.choice(_SHARED_NOUNS)

    def clause(label: int) -> str:
        subject = f"the {rng.choice(_SHARED_ADJECTIVES)} {noun(label)}"
        words = f"{subject} {rng.choice(_SHARED_VERBS)} the {noun(label)}"
        if rng.random() < 0.5:
            words += f" of a {rng.choice(_SHARED_ADJECTIVES)} {noun(label)}"
        if rng.random() < 0.3:
            words += f" in {rng.choice(_PLACES)}"
        if rng.random() < 0.3:
            words += f" on {rng.choice(_DAYS)}"
        return words

    def text(label: int) -> str:
        title = f"{noun(label)} {rng.choice(_SHARED_VERBS)} {noun(label)}".capitalize()
        sentences = []
        for _ in range(max(1, min(9, round(rng.lognormvariate(0.9, 0.4))))):
            sentence = clause(label)
            if rng.random() < 0.4:
                sentence += f", while {clause(label)}"
            sentences.append(sentence[0].upper() + sentence[1:] + ".")
        return f"{title} {rng.choice(_PLACES).upper()} - {' '.join(sentences)}"

    labels = [1 + i % 4 for i in range(train_size + test_size)]
    rng.shuffle(labels)
    rows = [(label, text(label)) for label in labels]
    return rows[:train_size], rows[train_size:]


# ---------------------------------------------------------------- English-French sentence pairs

_PERSONS = (  # English, contracted, French, plural, genders that it may stand for
    ("I am", "I'm", "je suis", False, "mf"),
    ("he is", "he's", "il est", False, "m"),
    ("she is", "she's", "elle est", False, "f"),
    ("you are", "you're", "tu es", False, "mf"),
    ("we are", "we're", "nous sommes", True, "mf"),
    ("they are", "they're", "ils sont", True, "m"),
)
_ADJECTIVES = (  # English, French masculine; the other forms follow from the rules below
    ("happy", "content"), ("tall", "grand"), ("small", "petit"), ("tired", "fatigué"), ("ready", "prêt"),
    ("strong", "fort"), ("rich", "riche"), ("poor", "pauvre"), ("sad", "triste"), ("young", "jeune"),
    ("calm", "calme"), ("brave", "courageux"), ("serious", "sérieux"), ("famous", "célèbre"), ("jealous", "jaloux"),
    ("curious", "curieux"), ("lucky", "chanceux"), ("careful", "prudent"), ("patient", "patient"), ("polite", "poli"),
    ("surprised", "surpris"), ("seated", "assis"), ("lost", "perdu"), ("alone", "seul"), ("angry", "fâché"),
    ("worried", "inquiet"), ("discreet", "discret"), ("proud", "fier"), ("first", "premier"), ("late", "dernier"),
    ("active", "actif"), ("naive", "naïf"), ("attentive", "attentif"), ("kind", "gentil"), ("cruel", "cruel"),
    ("sick", "malade"), ("weak", "faible"), ("free", "libre"), ("busy", "occupé"), ("wounded", "blessé"),
    ("bored", "ennuyé"), ("amused", "amusé"), ("married", "marié"), ("invited", "invité"), ("skilled", "doué"),
    ("known", "connu"), ("clumsy", "maladroit"), ("absent", "absent"),
)  # fmt: skip
_ADVERBS = (
    ("very", "très"), ("too", "trop"), ("still", "encore"), ("often", "souvent"), ("always", "toujours"),
    ("really", "vraiment"), ("almost", "presque"), ("already", "déjà"), ("never", None), ("not", None), ("", ""),
    ("", ""),
)  # fmt: skip
_NOUNS = (  # English, French, feminine
    ("garden", "jardin", False), ("house", "maison", True), ("school", "école", True), ("hotel", "hôtel", False),
    ("tree", "arbre", False), ("river", "rivière", True), ("car", "voiture", True), ("train", "train", False),
    ("church", "église", True), ("office", "bureau", False), ("kitchen", "cuisine", True), ("island", "île", True),
    ("forest", "forêt", True), ("castle", "château", False), ("mountain", "montagne", True),
    ("village", "village", False), ("market", "marché", False), ("station", "gare", True), ("beach", "plage", True),
    ("plane", "avion", False), ("bridge", "pont", False), ("door", "porte", True), ("window", "fenêtre", True),
    ("factory", "usine", True), ("museum", "musée", False), ("theater", "théâtre", False), ("lake", "lac", False),
    ("boat", "bateau", False), ("road", "route", True), ("room", "chambre", True), ("bed", "lit", False),
    ("table", "table", True), ("shop", "magasin", False), ("hospital", "hôpital", False), ("prison", "prison", True),
    ("tower", "tour", True), ("field", "champ", False), ("cinema", "cinéma", False), ("library", "bibliothèque", True),
    ("farm", "ferme", True), ("valley", "vallée", True), ("apartment", "appartement", False),
)  # fmt: skip
_PLACEMENTS = (
    ("in", "dans"), ("near", "près de"), ("in front of", "devant"), ("behind", "derrière"), ("without", "sans"),
    ("on", "sur"), ("under", "sous"), ("far from", "loin de"),
)  # fmt: skip
_DETERMINERS = (  # English, French masculine, feminine, before a vowel
    ("the", "le", "la", "l'"), ("a", "un", "une", None), ("my", "mon", "ma", "mon"), ("his", "son", "sa", "son"),
    ("your", "ton", "ta", "ton"), ("this", "ce", "cette", None), ("our", "notre", "notre", "notre"),
    ("their", "leur", "leur", "leur"),
)  # fmt: skip
_VOWELS = "aeiouhéêèîôâ"  # every h of the words above is silent


def _agree(adjective: str, feminine: bool, plural: bool) -> str:
    if feminine:
        for ending, replacement in (
            ("eux", "euse"), ("oux", "ouse"), ("ier", "ière"), ("if", "ive"), ("ïf", "ïve"),
            ("iet", "iète"), ("ret", "rète"), ("il", "ille"), ("el", "elle"), ("e", "e"),
        ):  # fmt: skip
            if adjective.endswith(ending):
                adjective = adjective[: -len(ending)] + replacement
                break
        else:
            adjective += "e"
    if plural and adjective[-1] not in "sx":
        adjective += "s"
    return adjective


def _noun_phrase(determiner: tuple, noun: tuple, preposition: str) -> str:
    _, masculine, feminine, vowel = determiner
    _, word, is_feminine = noun
    before_vowel = word[0] in _VOWELS
    article = feminine if is_feminine else masculine
    if before_vowel and vowel:
        article = vowel
    elif before_vowel and article == "ce":
        article = "cet"
    if preposition.endswith(" de"):
        if article == "le":
            preposition, article = preposition[:-2] + "du", ""
        elif article in ("un", "une"):
            preposition, article = preposition[:-1] + "'" + article, ""
    phrase = f"{preposition} {article}".strip()
    return phrase + word if phrase.endswith("'") else f"{phrase} {word}"


def sentence_pairs(count: int = 10_000, seed: int = 1234) -> list[tuple[str, str]]:
    """Different ``(english, french)`` sentences from a small grammar with gender, number and elision.

    All begin with a form of "I am", and both sides stay under ten words after normalization.
    """
    rng = random.Random(seed)
    pairs: dict[tuple[str, str], None] = {}
    while len(pairs) < count:
        full, contracted, french, plural, genders = rng.choice(_PERSONS)
        gender = rng.choice(genders)
        if french == "ils sont" and rng.random() < 0.3:
            french, gender = "elles sont", "f"
        adverb, adverbe = rng.choice(_ADVERBS)
        if adverbe is None:  # negation surrounds the verb, and ne loses its e before a vowel
            pronoun, verb = french.split()
            ne = "n'" if verb[0] in _VOWELS else "ne "
            french = f"{pronoun} {ne}{verb} {'jamais' if adverb == 'never' else 'pas'}"
            adverbe = ""
        adjective, adjectif = rng.choice(_ADJECTIVES)
        english = [contracted if rng.random() < 0.8 else full, adverb, adjective]
        second = [french, adverbe, _agree(adjectif, gender == "f", plural)]
        if rng.random() < 0.9:
            place, lieu = rng.choice(_PLACEMENTS)
            determiner, noun = rng.choice(_DETERMINERS), rng.choice(_NOUNS)
            article = "an" if determiner[0] == "a" and noun[0][0] in "aeiou" else determiner[0]
            english.append(f"{place} {article} {noun[0]}")
            second.append(_noun_phrase(determiner, noun, lieu))
        sides = [" ".join(filter(None, words)) + "." for words in (english, second)]
        if all(len(side.replace("'", " ").replace(".", " .").split()) < 10 for side in sides):
            english, second = (side[0].upper() + side[1:] for side in sides)
            pairs[english, second] = None
    return list(pairs)


# ---------------------------------------------------------------- images, shaped as CIFAR-10

SHAPES = ("disk", "ring", "square", "triangle", "cross", "star", "crescent", "stripes", "checkers", "spiral")


def _inside(shape: str, u: Tensor, v: Tensor) -> Tensor:
    """Where the shape is, for coordinates in which it reaches about 1 from the center."""
    radius, angle = torch.hypot(u, v), torch.atan2(v, u)
    if shape == "disk":
        return radius < 0.9
    if shape == "ring":
        return (radius < 1) & (radius > 0.55)
    if shape == "square":
        return torch.maximum(u.abs(), v.abs()) < 0.8
    if shape == "triangle":
        return (v > -0.5) & (v < 1 - 1.73 * u.abs())
    if shape == "cross":
        return (torch.minimum(u.abs(), v.abs()) < 0.28) & (torch.maximum(u.abs(), v.abs()) < 1)
    if shape == "star":
        return radius < 0.65 + 0.4 * torch.cos(5 * angle)
    if shape == "crescent":
        return (radius < 1) & (torch.hypot(u - 0.5, v) > 0.75)
    if shape == "stripes":
        return (torch.cos(2 * math.pi * u * 1.6) > 0) & (radius < 1.1)
    if shape == "checkers":
        return (torch.cos(4 * u) * torch.cos(4 * v) > 0) & (torch.maximum(u.abs(), v.abs()) < 1.15)
    return (torch.cos(angle - 8 * radius) > 0) & (radius < 1.1)  # spiral


def images(
    train_size: int = 5_000, test_size: int = 1_000, seed: int = 1234
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Ten shapes drawn with random colors, place, scale, rotation, shading and noise.

    Returns:
        ``train`` and ``test``, each ``(images (N, 3, 32, 32) uint8, labels (N,) long)``;
        label ``i`` is ``SHAPES[i]``.
    """
    generator = torch.Generator().manual_seed(seed)
    count = train_size + test_size

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    labels = torch.arange(count) % len(SHAPES)
    labels = labels[torch.randperm(count, generator=generator)]
    line = torch.linspace(-1, 1, 32)
    y, x = torch.meshgrid(line, line, indexing="ij")  # (32, 32)
    x, y = x - uniform(-0.15, 0.15, 1, 1), y - uniform(-0.15, 0.15, 1, 1)  # (N, 32, 32)
    turn, scale = uniform(-0.4, 0.4, 1, 1), uniform(0.65, 0.9, 1, 1)
    u = (x * turn.cos() + y * turn.sin()) / scale
    v = (y * turn.cos() - x * turn.sin()) / scale
    mask = torch.zeros(count, 32, 32, dtype=torch.bool)
    for label, shape in enumerate(SHAPES):
        mine = labels == label
        mask[mine] = _inside(shape, u[mine], v[mine])

    # The figure is always lighter than the ground; by how much in each color differs.
    ground = uniform(0.05, 0.55, 3, 1, 1)
    figure = ground + uniform(0.1, 0.45, 3, 1, 1)
    shading = uniform(-0.15, 0.15, 1, 1, 1) * line + uniform(-0.15, 0.15, 1, 1, 1) * line[:, None]
    pictures = torch.where(mask[:, None], figure, ground) + shading
    pictures += 0.08 * torch.randn(pictures.shape, generator=generator)
    pictures = (pictures.clamp(0, 1) * 255).round().to(torch.uint8)
    train, test = slice(None, train_size), slice(train_size, None)
    return (pictures[train], labels[train]), (pictures[test], labels[test])


# ---------------------------------------------------------------- drawings of things that CIFAR-10 knows


def drawings() -> tuple[Tensor, tuple[str, ...]]:
    """Five small pictures of ours: ``(5, 3, 32, 32) uint8``, and what they show."""
    sky, sea, road, meadow = "#9cc8ee", "#2c5f8a", "#8a8a86", "#6fa04a"
    scenes = {  # name: (ground, [shape, points in 0 to 32, color])
        "airplane": (sky, [
            ("ellipse", (3, 14, 29, 19), "#f2f2f2"), ("polygon", (13, 16, 19, 16, 14, 26, 10, 26), "#c9ced6"),
            ("polygon", (15, 15, 19, 15, 15, 7, 12, 7), "#d6dae0"), ("polygon", (3, 16, 8, 15, 5, 8, 2, 8), "#3a5fa8"),
        ]),
        "automobile": (sky, [
            ("rectangle", (0, 21, 32, 32), road), ("polygon", (8, 17, 11, 10, 21, 10, 25, 17), "#b32222"),
            ("rectangle", (3, 16, 29, 23), "#cf2b2b"), ("polygon", (10, 16, 12, 12, 20, 12, 23, 16), "#bfe0f5"),
            ("ellipse", (5, 20, 12, 27), "#1c1c1c"), ("ellipse", (20, 20, 27, 27), "#1c1c1c"),
        ]),
        "ship": (sky, [
            ("rectangle", (0, 22, 32, 32), sea), ("polygon", (2, 18, 30, 18, 26, 25, 6, 25), "#39404a"),
            ("rectangle", (9, 13, 22, 18), "#f4f4f0"), ("rectangle", (12, 6, 16, 13), "#d8642c"),
        ]),
        "truck": (sky, [
            ("rectangle", (0, 24, 32, 32), road), ("rectangle", (2, 7, 20, 23), "#e8e4da"),
            ("polygon", (21, 12, 27, 12, 30, 18, 30, 23, 21, 23), "#2f6fb5"),
            ("rectangle", (23, 13, 27, 17), "#cfe6f5"),
            ("ellipse", (4, 21, 10, 27), "#1c1c1c"), ("ellipse", (22, 21, 28, 27), "#1c1c1c"),
        ]),
        "frog": (meadow, [
            ("ellipse", (7, 12, 25, 27), "#3f7d2b"), ("ellipse", (3, 19, 13, 29), "#37701f"),
            ("ellipse", (19, 19, 29, 29), "#37701f"), ("ellipse", (8, 8, 15, 15), "#4c8f35"),
            ("ellipse", (17, 8, 24, 15), "#4c8f35"), ("ellipse", (10, 10, 13, 13), "#111111"),
            ("ellipse", (19, 10, 22, 13), "#111111"), ("ellipse", (12, 19, 20, 26), "#b9c97a"),
        ]),
    }  # fmt: skip
    pictures = []
    for ground, shapes in scenes.values():
        picture = Image.new("RGB", (256, 256), ground)
        for shape, points, color in shapes:
            getattr(ImageDraw.Draw(picture), shape)([8 * p for p in points], fill=color)
        pictures.append(pil_to_tensor(picture.resize((32, 32), Image.Resampling.BOX)))
    return torch.stack(pictures), tuple(scenes)
