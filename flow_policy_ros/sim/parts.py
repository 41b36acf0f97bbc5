"""Which pieces of each task's model make up each class that a detector learns. Data alone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A piece of the model: ``kind`` is ``geom`` or ``site``, by name, or ``body``: the body's geom ``number``.

    ``span`` cuts a cylinder along its axis, from −1 to 1.
    """

    kind: str
    name: str
    number: int = 0
    span: tuple[float, float] = (-1.0, 1.0)


_HAND = {
    "palm": (Part("geom", "V_palm"),),
    "ff_tip": (Part("geom", "V_ffdistal"),),
    "mf_tip": (Part("geom", "V_mfdistal"),),
    "rf_tip": (Part("geom", "V_rfdistal"),),
    "lf_tip": (Part("geom", "V_lfdistal"),),
    "th_tip": (Part("geom", "V_thdistal"),),
}

PARTS: dict[str, dict[str, tuple[Part, ...]]] = {
    "door": {
        **_HAND,
        # The lever and the piece of its axle on this side of the door; the rear lever is not what a hand turns.
        "latch": (Part("body", "latch", 0, span=(1 / 3, 1.0)), Part("body", "latch", 1)),
        "door_panel": (Part("body", "door", 0), Part("body", "door", 1), Part("body", "door", 2)),
    },
    "hammer": {
        **_HAND,
        "hammer_head": (Part("geom", "head"),),
        "hammer_handle": (Part("geom", "handle"),),
        "nail": (Part("body", "nail", 0),),
        "nail_board": (Part("geom", "board"),),
    },
    # The far end of a pen is a disc of 4 mm; the last part of its barrel makes it an object one can see.
    "pen": {
        **_HAND,
        "pen_top": (Part("geom", "top"),),
        "pen_bottom": (Part("geom", "pen", span=(0.4, 1.0)), Part("geom", "bot")),
        "target_top": (Part("geom", "t_top"),),
        "target_bottom": (Part("geom", "target", span=(0.4, 1.0)), Part("geom", "t_bot")),
    },
    "relocate": {
        **_HAND,
        "ball": (Part("geom", "sphere"),),
        "goal": (Part("site", "target"),),
    },
    "relocate_goals": {
        **_HAND,
        "ball": (Part("geom", "sphere"),),
        "green_goal": (Part("site", "goal_green"),),
        "red_goal": (Part("site", "goal_red"),),
    },
}

CLASSES: dict[str, tuple[str, ...]] = {task: tuple(parts) for task, parts in PARTS.items()}
