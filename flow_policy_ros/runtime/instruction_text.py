"""What any instruction must be before somebody reads it: words, not too many, and nothing that no one can see.

What a model makes of the words, and refuses of them, is ``policy.instruction``'s and ``vision``'s.
"""

from __future__ import annotations

import unicodedata

from flow_policy_ros.runtime.joint_order import BadInput

MOST_CHARACTERS = 2000
"""Far more than an order to a robot has, and few enough for any tokenizer to read within a control period or two."""
_FILLERS = "\u115f\u1160\u3164\uffa0"  # letters to Unicode, yet nothing is seen of them


def require_words(text: str) -> None:
    """Raise ``BadInput`` of kind ``instruction`` unless ``text`` has a visible word (a letter or digit), at most
    ``MOST_CHARACTERS`` characters and no control character, which would reach a model unseen.

    The length is looked at first: what is too long costs nothing more.
    """
    if len(text) > MOST_CHARACTERS:
        raise BadInput(
            "instruction",
            f"the instruction '{_shown(text)}' has {len(text)} characters, expected at most {MOST_CHARACTERS}. Shorten it; nothing "
            "is cut off silently.",
        )
    if not text.strip():
        raise BadInput("instruction", "the instruction is empty, expected words such as 'open the door'; set the instruction.")
    hidden = next((sign for sign in text if unicodedata.category(sign) in ("Cc", "Cs")), None)
    if hidden is not None:
        raise BadInput(
            "instruction",
            f"the instruction '{_shown(text)}' holds the control character {hidden!a}, expected words in one line; leave it out.",
        )
    if not any(sign.isalnum() and sign not in _FILLERS for sign in text):
        raise BadInput(
            "instruction",
            f"the instruction '{_shown(text)}' holds no word, expected some such as 'open the door'; set the instruction.",
        )


def _shown(text: str) -> str:
    """Its beginning, in signs that can be seen."""
    return ascii(text[:60])[1:-1]
