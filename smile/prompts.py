"""The prompt bank: sentences for each expression, and which sentence a sample is paired with.

Written once, hashed, the same at every site. No words of age, sex or ethnicity.
"""

import hashlib
import json
from typing import TYPE_CHECKING

from .facs import DEFINITIONS, GRADES, PHRASES, SCALES

if TYPE_CHECKING:
    from .config import SmileConfig

PROMPTS: dict[str, tuple[str, ...]] = {
    "neutral": (
        "a neutral face",
        "a person with a calm expression",
        "a relaxed face without emotion",
        "a face at rest",
        "a blank expression",
        "a face showing no expression",
        "relaxed brows and a closed relaxed mouth",
        "a person looking calm and neutral",
    ),
    "anger": (
        "an angry face",
        "a person looking furious",
        "a face showing anger",
        "an expression of rage",
        "a mad angry expression",
        "a face that is annoyed and angry",
        "lowered brows and pressed lips",
        "a person glaring in anger",
    ),
    "disgust": (
        "a disgusted face",
        "a person looking revolted",
        "a face showing disgust",
        "an expression of revulsion",
        "a grossed out disgusted expression",
        "a face that finds something repulsive",
        "a wrinkled nose and a raised upper lip",
        "a person grimacing in disgust",
    ),
    "fear": (
        "a fearful face",
        "a person looking scared",
        "a face showing fear",
        "an expression of terror",
        "a frightened fearful expression",
        "a face that is afraid",
        "raised tense brows, wide eyes and stretched lips",
        "a person staring in fear",
    ),
    "happiness": (
        "a happy face",
        "a person smiling",
        "a face showing happiness",
        "an expression of joy",
        "a cheerful happy expression",
        "a smiling face",
        "raised cheeks and lip corners pulled up",
        "a person beaming with joy",
    ),
    "sadness": (
        "a sad face",
        "a person looking unhappy",
        "a face showing sadness",
        "an expression of sorrow",
        "a gloomy sad expression",
        "a face close to tears",
        "raised inner brows and lip corners pulled down",
        "a person frowning in grief",
    ),
    "surprise": (
        "a surprised face",
        "a person looking astonished",
        "a face showing surprise",
        "an expression of amazement",
        "a startled surprised expression",
        "a face that is taken aback",
        "raised brows, wide eyes and an open mouth",
        "a person gaping in surprise",
    ),
    # States beyond the basic ones: used where a site's labels name them, and no default class of a bundle.
    "contempt": (
        "a contemptuous face",
        "a person looking scornful",
        "a face showing contempt",
        "an expression of disdain",
        "a smirking contemptuous expression",
        "a face that looks down on someone",
        "one lip corner tightened and dimpled",
        "a person sneering in contempt",
    ),
    "embarrassment": (
        "an embarrassed face",
        "a person looking ashamed",
        "a face showing embarrassment",
        "an expression of awkwardness",
        "a bashful embarrassed expression",
        "a face that feels caught out",
        "a suppressed smile and lowered gaze",
        "a person blushing with embarrassment",
    ),
    "pain": (
        "a face in pain",
        "a person who is hurting",
        "a face showing pain",
        "an expression of suffering",
        "an agonised pained expression",
        "a face that suffers an ache",
        "lowered brows, tightened eyelids and squeezed eyes",
        "a person wincing in pain",
    ),
}


def prompts_for(config: "SmileConfig") -> dict[str, tuple[str, ...]]:
    """Expression -> the sentences that zero-shot reads it by: for captions from geometry the definitions in the same phrases,
    else the bank."""
    return DEFINITIONS if config.objective.prompt_source == "geometry" else PROMPTS


def bank_hash(prompts: dict[str, tuple[str, ...]] = PROMPTS) -> str:
    """SHA-256 of the bank and of all that captions are made of: two sites with the same hash mean the same words."""
    words = [prompts, DEFINITIONS, PHRASES, SCALES, GRADES]
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()
