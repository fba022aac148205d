"""Which of two classes is the positive one: the finding, not its absence."""

import re
from collections.abc import Sequence

_NEGATIONS = ("no", "non", "not", "un", "without", "neg", "negative")
# Words that a class without the finding is called by. Of "un", "uninfected"
# is said of what others call "parasitized"; "unicorn" is no negation.
_HEALTHY = {
    *("normal", "normals", "healthy", "health", "well", "intact", "none"),
    *("control", "controls", "ctrl", "hc", "nc", "cn", "background"),
    *("uninfected", "unaffected", "uninjured", "unremarkable"),
    *("no", "non", "not", "without", "neg", "negative", "absent", "absence"),
    *("0", "false"),
}
_HARMLESS = {"benign"}


def choose(class_names: Sequence[str]) -> tuple[str | None, bool]:
    """The positive one of two classes, and whether that is a guess.

    It is the one whose name does not negate the other or speak of health; if
    that says nothing, the last, which is a guess. Of more classes none is.
    """
    if len(class_names) != 2:
        return None, False
    first, last = sorted(class_names)
    for is_negative in (_is_negative, _is_harmless):
        verdicts = is_negative(first, last), is_negative(last, first)
        if verdicts[0] != verdicts[1]:
            return (last if verdicts[0] else first), False
    return last, True


def describe(class_names: Sequence[str], positive: str, is_given: bool) -> str:
    """A sentence on the choice, which says whether it was a guess."""
    sentence = f"positive class: {positive} (--positive_class changes it)"
    if not is_given and choose(class_names)[1]:
        sentence += ", a guess: neither name says which class is healthy"
    return sentence


def _is_negative(name: str, other: str) -> bool:
    if _negates(name, other):
        # "unhealthy" is no sign of health.
        return not _is_healthy(other)
    return _is_healthy(name)


def _is_harmless(name: str, _: str) -> bool:
    return not _HARMLESS.isdisjoint(_words(name))


def _is_healthy(name: str) -> bool:
    words = _words(name)
    # "tumor_free", but not "free_fluid".
    is_free = len(words) > 1 and words[-1] == "free"
    return is_free or not _HEALTHY.isdisjoint(words)


def _negates(name: str, other: str) -> bool:
    """Whether a name is the other one with a negation before a word of it."""
    words = _words(other)
    return any(
        _stem("".join((*words[:i], negation, *words[i:])))
        == _stem("".join(_words(name)))
        for negation in _NEGATIONS
        for i in range(len(words) + 1)
    )


def _words(name: str) -> list[str]:
    """Words in lower case, of `snake_case`, `CamelCase` and "plain text"."""
    border = r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"
    return re.findall(r"[^\W_]+", re.sub(border, " ", name).lower())


def _stem(text: str) -> str:
    """Without plural and number: notumor is none of tumors."""
    return re.sub(r"[s\d]+$", "", text)
