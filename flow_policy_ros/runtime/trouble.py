"""When to say that something is wrong that may come and go many times a second: one line where it begins, one where it is over.

No clock and no logger: instants are given (seconds of any clock that is not set back), and what is to be said is returned.
"""

from __future__ import annotations

from dataclasses import dataclass, field

SETTLED_S = 2.0
"""It is over when it has not been there for so long."""
APART_S = 10.0
"""While it comes and goes, it is said again no sooner than this after the last time, with how often it came."""


@dataclass
class _Spell:
    """From where it comes until it is over: ``came`` counts how often it came, ``unsaid`` how often since ``spoke``."""

    reason: str
    spoke: float
    came: int = 1
    unsaid: int = 0
    away_since: float | None = None
    said: set[str] = field(default_factory=set)


class Trouble:
    """One thing that is wrong at times, for a reason that may change. It is there or not, and *over* once it has stayed away.

    Each reason is said when it comes for the first time. Figures in it make no other reason of it: a growing age is no news.
    """

    def __init__(self) -> None:
        self._spell: _Spell | None = None

    def wrong(self, reason: str, now: float) -> str | None:
        """It is there. What to say, None for nothing new."""
        spell = self._spell = self._spell or _Spell(reason, now)
        if spell.away_since is not None:
            spell.came, spell.unsaid, spell.away_since = spell.came + 1, spell.unsaid + 1, None
        spell.reason = reason
        kind = "".join(c for c in reason if not c.isdigit())
        if kind not in spell.said:
            spell.said.add(kind)
            spell.spoke = now
            return reason
        if not spell.unsaid or now - spell.spoke < APART_S:
            return None
        text = f"{reason} ({spell.unsaid} times more in {now - spell.spoke:.0f} s)"
        spell.spoke, spell.unsaid = now, 0
        return text

    def well(self, now: float) -> int:
        """It is not there. Once, when that makes it over: how often it came; 0 otherwise."""
        spell = self._spell
        if spell is None:
            return 0
        if spell.away_since is None:
            spell.away_since = now
        if now - spell.away_since < SETTLED_S:
            return 0
        self._spell = None
        return spell.came

    def text(self) -> str | None:
        """What is wrong, for who asks from time to time; None when it is over."""
        spell = self._spell
        if spell is None:
            return None
        how = [f"{spell.came} times"] * (spell.came > 1) + ["gone for the moment"] * (spell.away_since is not None)
        return f"{spell.reason} ({', '.join(how)})" if how else spell.reason
