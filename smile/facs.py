"""What a face does, in the words of FACS: the phrases of captions, and expressions defined in the same phrases.

Words and numbers only, hashed with the prompt bank (`smile.prompts.bank_hash`): every site must hold the same.
Action units (AU): Ekman, Friesen & Hager, Facial Action Coding System (2002).
"""

from typing import NamedTuple


class Phrase(NamedTuple):
    """One row of the table: said when a measurement is `mm` or more off rest in the direction `sign`."""

    measurement: str  # a name of smile.measurements.MEASUREMENTS
    sign: int  # +1 larger than at rest, -1 smaller, 0 either
    mm: float
    text: str
    units: tuple[str, ...]  # the AUs that do this


REST, ALMOST = "face at rest", "face almost at rest"

# Of the rows of one measurement and sign, the last whose threshold is met is said. The first threshold is 1.5 to 2 times the
# error of a difference to rest when every landmark has 1 mm of noise (1.0 mm where both sides of the face are averaged,
# 1.4 mm between two points, 2 mm between four), and less than half of what the muscle does at most; the others stand for
# "marked" to "extreme" (C to E) in FACS. Lips parted, jaw dropped and mouth stretched are AU25, AU26 and AU27.
# fmt: off
PHRASES: tuple[Phrase, ...] = (
    Phrase("inner_brow_height", +1, 2.0, "inner brows raised", ("AU1",)),
    Phrase("inner_brow_height", +1, 5.0, "inner brows strongly raised", ("AU1",)),
    Phrase("inner_brow_height", -1, 2.0, "inner brows lowered", ("AU4", "AU9")),
    Phrase("inner_brow_height", -1, 5.0, "inner brows strongly lowered", ("AU4", "AU9")),
    Phrase("outer_brow_height", +1, 2.0, "outer brows raised", ("AU2",)),
    Phrase("outer_brow_height", +1, 5.0, "outer brows strongly raised", ("AU2",)),
    Phrase("outer_brow_height", -1, 2.0, "outer brows lowered", ("AU4", "AU6")),
    Phrase("brow_gap", -1, 3.0, "brows drawn together", ("AU4",)),
    Phrase("brow_gap", -1, 6.0, "brows drawn strongly together", ("AU4",)),
    Phrase("eye_opening", +1, 1.5, "eyes wide open", ("AU5",)),
    Phrase("eye_opening", +1, 3.5, "eyes very wide open", ("AU5",)),
    Phrase("eye_opening", -1, 1.5, "eyes narrowed", ("AU6", "AU7")),
    Phrase("eye_opening", -1, 6.0, "eyes fully closed", ("AU43",)),
    Phrase("cheek_raise", +1, 1.5, "cheeks raised", ("AU6", "AU12")),
    Phrase("cheek_raise", +1, 4.0, "cheeks strongly raised", ("AU6", "AU12")),
    Phrase("nose_length", -1, 2.5, "nose wrinkled", ("AU9",)),
    Phrase("nose_length", -1, 5.0, "nose strongly wrinkled", ("AU9",)),
    Phrase("upper_lip_height", -1, 2.5, "upper lip raised", ("AU9", "AU10")),
    Phrase("upper_lip_height", -1, 5.0, "upper lip strongly raised", ("AU10",)),
    Phrase("lip_corner_height", +1, 2.0, "lip corners raised", ("AU12",)),
    Phrase("lip_corner_height", +1, 5.0, "lip corners strongly raised", ("AU12",)),
    Phrase("lip_corner_height", -1, 2.0, "lip corners lowered", ("AU15",)),
    Phrase("lip_corner_height", -1, 5.0, "lip corners strongly lowered", ("AU15",)),
    Phrase("asymmetry", 0, 3.5, "lip corners uneven", ("R12", "R14")),
    Phrase("asymmetry", 0, 7.0, "lip corners strongly uneven", ("R12", "R14")),
    Phrase("mouth_width", +1, 3.0, "mouth stretched", ("AU12", "AU20")),
    Phrase("mouth_width", +1, 8.0, "mouth strongly stretched", ("AU12", "AU20")),
    Phrase("mouth_width", -1, 3.0, "mouth tightened", ("AU18", "AU23", "AU27")),
    Phrase("lip_thickness", -1, 3.0, "lips pressed", ("AU23", "AU24")),
    Phrase("mouth_opening", +1, 2.5, "mouth slightly open", ("AU25",)),
    Phrase("mouth_opening", +1, 6.0, "mouth open", ("AU25", "AU26")),
    Phrase("mouth_opening", +1, 16.0, "mouth wide open", ("AU25", "AU27")),
    Phrase("jaw_drop", +1, 3.0, "jaw lowered", ("AU26",)),
    Phrase("jaw_drop", +1, 10.0, "jaw strongly lowered", ("AU27",)),
    Phrase("jaw_drop", -1, 3.0, "chin raised", ("AU17",)),
)
# fmt: on

# Words that are ends of one scale, "raised" +1 and "lowered" -1. The text side binds them to what they are said of, and
# the first word of the other end is what a critic's changed sentence says instead.
SCALES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("raised", "up", "lifted"), ("lowered", "down")),
    (("open", "opened"), ("closed", "narrowed", "shut")),
    (("together",), ("apart",)),
    (("stretched",), ("tightened", "puckered")),
    (("pressed",), ("parted",)),
    (("wrinkled",), ("smooth",)),
    (("uneven",), ("even",)),
    (("tense",), ("relaxed",)),
)
GRADES = {
    "almost": 1.0,
    "slightly": 1.0,
    "wide": 1.0,
    "strongly": 1.5,
    "very": 1.5,
    "fully": 1.5,
}  # how much, and the weight it gives a phrase

# Each expression in the same phrases, with the AUs that a line states.
# The basic six: Ekman & Friesen, EMFACS (1983), and Ekman, Friesen & Hager, FACS Investigator's Guide (2002), table of
# prototypes and major variants. Contempt: Ekman & Friesen, A new pan-cultural facial expression of emotion (1986).
# Embarrassment: Keltner, Signs of appeasement (1995). Pain: Prkachin & Solomon, PSPI (2008): 4, 6 or 7, 9 or 10, 43.
# AU1 with AU4 leaves the inner brows raised and draws them together; AU5 with AU7 leaves the eyes nearly as open as at rest.
DEFINITIONS: dict[str, tuple[str, ...]] = {
    "neutral": (REST,),
    "anger": (
        "inner brows lowered, brows drawn together, lips pressed, mouth tightened",  # 4 5 7 23 24
        "inner brows strongly lowered, outer brows lowered, brows drawn together, eyes wide open, lips pressed",  # 4 5 24
        "inner brows lowered, brows drawn together, eyes narrowed, lips pressed",  # 4 7 23
        "inner brows strongly lowered, brows drawn strongly together, mouth slightly open",  # 4 5 7 25
    ),
    "disgust": (
        "inner brows lowered, brows drawn together, eyes narrowed, nose wrinkled, upper lip raised",  # 9
        "inner brows lowered, nose strongly wrinkled, upper lip strongly raised",  # 9 10
        "nose wrinkled, upper lip raised, lip corners lowered",  # 10 15 16
        "nose strongly wrinkled, upper lip raised, eyes narrowed, mouth slightly open",  # 9 16 25
    ),
    "fear": (
        "inner brows raised, outer brows raised, brows drawn together, eyes wide open, mouth stretched, mouth open",  # 1 2 4 5 20 25 26
        "inner brows raised, brows drawn together, eyes very wide open, mouth stretched",  # 1 4 5 20
        "inner brows raised, eyes wide open, mouth strongly stretched, mouth slightly open",  # 1 4 5 20 25
        "inner brows raised, brows drawn together, eyes wide open, mouth open, jaw lowered",  # 1 2 4 5 26
    ),
    "happiness": (
        "lip corners raised, cheeks raised, mouth stretched",  # 6 12
        "lip corners strongly raised, cheeks raised, eyes narrowed, mouth strongly stretched",  # 6 12
        "lip corners raised, cheeks raised, eyes narrowed, mouth stretched, mouth open",  # 6 12 25 26
        "lip corners raised, mouth stretched",  # 12
    ),
    "sadness": (
        "inner brows raised, brows drawn together, lip corners lowered",  # 1 4 15
        "inner brows raised, lip corners lowered, chin raised",  # 1 15 17
        "inner brows raised, lip corners strongly lowered, eyes narrowed",  # 1 4 15, gaze and lids down
        "lip corners lowered, chin raised, eyes narrowed",  # 11 15 17
    ),
    "surprise": (
        "inner brows raised, outer brows raised, eyes wide open, mouth open, jaw lowered",  # 1 2 5 26
        # 1 2 5 27, which also narrows the mouth
        "inner brows strongly raised, outer brows strongly raised, eyes wide open, mouth wide open, mouth tightened, jaw strongly lowered",
        "inner brows raised, outer brows raised, mouth open, jaw lowered",  # 1 2 26
        "inner brows raised, outer brows raised, eyes wide open",  # 1 2 5
    ),
    "contempt": (
        "lip corners uneven",  # R12 or R14
        "lip corners strongly uneven",
        "lip corners uneven, eyes narrowed",
    ),
    "embarrassment": (
        "lip corners raised, lips pressed",  # 12 24, gaze down
        "lip corners raised, lips pressed, eyes narrowed",  # 12 24 43
        "lip corners raised, eyes fully closed",  # 12 64
    ),
    "pain": (
        "inner brows lowered, brows drawn together, eyes fully closed",  # 4 43
        "inner brows lowered, cheeks raised, eyes fully closed, upper lip raised",  # 4 6 10 43
        "brows drawn together, cheeks raised, nose wrinkled, eyes fully closed",  # 4 6 9 43
    ),
}
