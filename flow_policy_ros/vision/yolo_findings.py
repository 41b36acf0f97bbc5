"""What may be found in a user's data set, and what becomes of it: refused, skipped, mended or kept.

Looking for it is ``vision.yolo_folder``'s.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from flow_policy_ros.vision.yolo_labels import BEYOND, MALFORMED, NO_AREA, OUTSIDE, POLYGONS, REPEATED, UNKNOWN

LEAST_SIDE = 10
"""Of a picture that is trained on, pixels."""
EXAMPLES = 3

UNREADABLE = "pictures that OpenCV cannot read"
TINY = f"pictures smaller than {LEAST_SIDE} pixels"
UNLABELLED = "pictures without a label file"
EMPTY = "pictures whose label file is empty"
ORPHANS = "label files without a picture"
SHARED = "pictures that are both in train and in val"
UNSEEN = "classes without a label in train"
UNMEASURED = "classes without a label in val"
NOT_LABELLED = "data sets without any label"
MOSTLY_UNUSABLE = "data sets of which most pictures cannot be used"
LEFT_KEYPOINTS = "keypoints"

REFUSED, SKIPPED, MENDED, KEPT = "refused", "skipped", "mended", "kept"
TREATMENT = {
    UNKNOWN: (REFUSED, "add the class to names, or correct the labels"),
    NOT_LABELLED: (REFUSED, "labels/ lies beside images/, with a text file for each picture"),
    MOSTLY_UNUSABLE: (REFUSED, "see what is skipped, and why"),
    UNREADABLE: (SKIPPED, "remove or convert them"),
    TINY: (SKIPPED, "remove them"),
    MALFORMED: (SKIPPED, "with their pictures"),
    OUTSIDE: (SKIPPED, "with their pictures"),
    SHARED: (SKIPPED, "not trained on, so that what is measured was not learnt"),
    BEYOND: (MENDED, "cut at its edges"),
    NO_AREA: (MENDED, "left out"),
    REPEATED: (MENDED, "counted once"),
    POLYGONS: (MENDED, "taken as the boxes around them"),
    LEFT_KEYPOINTS: (MENDED, "left out; a pose model (such as yolo11n-pose.yaml) learns them"),
    UNLABELLED: (KEPT, "as pictures that show nothing"),
    EMPTY: (KEPT, "as pictures that show nothing"),
    ORPHANS: (KEPT, "not used"),
    UNSEEN: (KEPT, "will not be found"),
    UNMEASURED: (KEPT, "will not be measured"),
}


@dataclass(frozen=True)
class Finding:
    """``count`` of what ``kind`` names, ``examples`` of them, what ``becomes`` of them (one of the four words) and a ``remark``."""

    kind: str
    count: int
    examples: tuple[str, ...]
    becomes: str
    remark: str

    def __str__(self) -> str:
        shown = "; ".join(self.examples) + (", …" if self.count > len(self.examples) else "")
        return f"{self.becomes}: {self.count} {self.kind} ({self.remark})" + (f": {shown}" if self.examples else "")


@dataclass
class Notes:
    """What has been found so far."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str = "", count: int = 1) -> None:
        self.counts[kind] += count
        shown = self.examples.setdefault(kind, [])
        if example and len(shown) < EXAMPLES:
            shown.append(example)

    def findings(self) -> tuple[Finding, ...]:
        """What is refused first, then in the order of ``TREATMENT``."""
        return tuple(
            Finding(kind, self.counts[kind], tuple(self.examples[kind]), *treatment)
            for kind, treatment in TREATMENT.items()
            if self.counts[kind]
        )
