"""Rules that a model's own names follow: what turns the name of one state's input into that of its output."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile


@dataclass(frozen=True, slots=True)
class NamingRule:
    """Replace `before` with `after`: where a name ends or begins, or anywhere in it."""

    before: str
    after: str
    at_start: bool = False
    at_end: bool = False

    @classmethod
    def between(cls, source: str, target: str) -> "NamingRule | None":
        """Return the rule that turns one name into another; None where they have no letter in common."""
        if source == target:
            return None
        start = _common_start(source, target)
        rests = [name[len(start) :] for name in (source, target)]
        end = _common_start(*(rest[::-1] for rest in rests))[::-1]
        if not any(mark.isalpha() for mark in start + end):
            return None
        before, after = (rest[: len(rest) - len(end)] for rest in rests)
        return cls(before, after, at_start=not start, at_end=not end)

    def apply(self, name: str) -> list[str]:
        """Return what the rule makes of a name; several where it fits at several positions."""
        if self.at_end:
            stem = name.removesuffix(self.before)
            return [stem + self.after] if name.endswith(self.before) and stem else []
        if self.at_start:
            stem = name.removeprefix(self.before)
            return [self.after + stem] if name.startswith(self.before) and stem else []
        ends = [(at, at + len(self.before)) for at in range(1, len(name)) if name.startswith(self.before, at)]
        return [name[:at] + self.after + name[end:] for at, end in ends if end < len(name)]

    def __str__(self) -> str:
        where = " at the end" if self.at_end else " at the start" if self.at_start else ""
        return f"{self.before!r} becomes {self.after!r}{where}" if self.before else f"{self.after!r} is added{where}"


def rules_of(pairs: Iterable[tuple[str, str]]) -> list[tuple[NamingRule, tuple[str, str]]]:
    """Return each rule that these pairs of names follow, with the first pair that follows it."""
    found: dict[NamingRule, tuple[str, str]] = {}
    for source, target in pairs:
        rule = NamingRule.between(source, target)
        if rule is not None:
            found.setdefault(rule, (source, target))
    return list(found.items())


def shared_rules(pairs: Iterable[tuple[str, str]]) -> list[tuple[NamingRule, dict[str, str]]]:
    """Return the rules that several of these pairs follow, each with its pairs, input → output, most pairs first."""
    found: dict[NamingRule, list[tuple[str, str]]] = {}
    for source, target in pairs:
        rule = NamingRule.between(source, target)
        if rule is not None:
            found.setdefault(rule, []).append((source, target))
    shared = [(rule, dict(group)) for rule, group in found.items() if len(dict(group)) > 1]
    return sorted(shared, key=lambda one: -len(one[1]))


def _common_start(one: str, other: str) -> str:
    return "".join(a for a, _ in takewhile(lambda marks: marks[0] == marks[1], zip(one, other, strict=False)))
