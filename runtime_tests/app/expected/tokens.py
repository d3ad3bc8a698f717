"""The ids that text.py gives of prompts that are hard to read, by tokenizers of every kind that the families have."""

import json
import random
import unicodedata
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

from edge_hadanorm.errors import UserError
from edge_hadanorm.pipelines.text_encoders import PromptTokenizer
from runtime_tests.app.expected.files import write
from runtime_tests.app.expected.vocabularies import OLDER, REFUSED, TOKENIZERS, sentences

# (length, lower, prefix)
SETTINGS = [(64, False, ""), (64, True, ""), (400, True, "Enhanced prompt: a ")]
PAD = 5
# Ids that a negative prompt has at most where the encoder gives the states of so many places.
KEPT = 24
HARD = [
    "",
    " ",
    "grinning face",
    "a red cat",
    "  two   spaces  and\ttabs\n\nlines\r\n",
    "don't you've I'll he'd it's WE'RE",
    "naïve café Straße ŒUVRE ﬁn ﬃ",
    "nai\u0308ve cafe\u0301 e\u0301\u0302\u0323 \u0301lone",
    "İstanbul I\u0307 ıI ΑΣ ὈΔΥΣΣΕΎΣ Σ. ΣΑΣ'Σ",
    "日本語の猫 中文 한국어 \u1112\u1161\u11ab ｶﾞｷﾞ ﾊﾟ",
    "Ｆｕｌｌ　ｗｉｄｔｈ １２３ ①②③ ½ ² № ™ ℃",
    "👍🏽 👩‍👩‍👧 🇩🇪🇫🇷 ☺️ ❤️‍🔥 🫠 ©️",
    "zero\u200bwidth\u200djoin\u00adsoft\ufeffmark\u2060",
    "\u0000\u0001\u001b\u001f\u007f\u0085 \u001cx\u001d",
    "\u00a0nbsp\u2003em\u3000wide\u2028line\u2029end\u205f",
    "ไทยกำลัง ພາສາລາວ नमस्ते क्षि မြန်မာ ខ្មែរ",
    "العربية ٱلْعَرَبِيَّةُ \u0600١٢ עִבְרִית",
    "a</s>b<pad> <unk> <bos>x <extra_id_0> <extra_id_1>  <extra_id_3> y",
    "<|startoftext|>a cat<|endoftext|> <|ENDOFTEXT|>",
    "▁under▁line _ __ ▁",
    "½ำ½ຳ½ﾞ½ﾟ½\u200c½\u200d½\u0600½\u00ad½🏽 \u0600a\u0301\u06dda\u0301 \r\n\r x\r\ny \n\r",
    "~~~ cat ~~",
    "\x1c red cat\x1d",
    "\x1eblue\x1f\t",
    "\x1f\x1c\u2003",
    "1234567890 3.14 1,000 1e-3 ٣٤ 九",
    "!!!??? ... --- ~~ @#$%^&*()[]{}|\\/<>",
    "cat cats scat cat. CAT red hat red  hat   x redhat HAT hat",
    "the quick brown fox jumps over the lazy dog " * 2,
    "x" * 200,
    "é" * 40,
    "\U0001d4d0\U0001d4d1 \U00010400\U00020000 \U000e0041",
    "A\u030a \u212b \u1e9e ß ĳ ŉ ǰ ΐ ﷺ",
]
RANDOM, MOST = 150, 24


def make(folder: Path) -> None:
    for name, build in TOKENIZERS.items():
        (folder / name).mkdir()
        file = folder / name / "tokenizer.json"
        write(file, _aged(json.loads(build().to_str()), OLDER.get(name, ())))
        plain = Tokenizer.from_file(str(file))
        plain.no_padding()
        texts = [{"text": text, "ids": plain.encode(text).ids} for text in prompts()]
        write(folder / name / "cases.json", {"texts": texts, "prompts": [_setting(file, *each) for each in SETTINGS]})
    write(folder / "refused.json", _refused(folder / "reference/tokenizer.json"))


@cache
def prompts() -> list[str]:
    """Plain ones, hard ones, and random ones of characters that Unicode has had for long."""
    pool = random.Random(0)
    assigned = [chr(code) for code in range(0x110000) if unicodedata.ucd_3_2_0.category(chr(code))[0] != "C"]
    marks = [c for c in assigned if unicodedata.category(c)[0] == "M"]
    kinds = (assigned, marks, " aAbB'\t<>", "a\u0301\u0308\u0323e\u1100\u1161\u11a8\u200d\u0600ｶﾞ")
    random_ones = [
        "".join(pool.choice(pool.choice(kinds)) for _ in range(pool.randint(1, MOST))) for _ in range(RANDOM)
    ]
    after_fractions = ["½" + "½".join(marks[i : i + 20]) for i in range(0, len(marks), 20)]  # what is mapped, marked
    return list(dict.fromkeys([*HARD, *sentences()[::25], *random_ones, *after_fractions]))


def _aged(made: dict, changes: list[tuple[str, object]]) -> dict:
    for place, value in changes:
        *parents, key = place.split("/")
        part = made
        for name in parents:
            part = part[name]
        del part[key]
        part |= {} if value is None else {key: value}
    return made


def _setting(file: Path, length: int, lower: bool, prefix: str) -> dict:
    places = list(range(KEPT)), list(range(KEPT))
    tokenizer = PromptTokenizer(file, length, lower=lower, prefix=prefix, pad_id=PAD, kept=places)
    answers = [{"prompt": prompt, **_answer(tokenizer, prompt)} for prompt in prompts()]
    negatives = [{"prompt": prompt, **_answer(tokenizer, prompt, negative=True)} for prompt in HARD]
    about = {"length": length, "lower": lower, "prefix": prefix, "pad_id": PAD, "kept": KEPT}
    return about | {"answers": answers, "negatives": negatives}


def _answer(tokenizer: PromptTokenizer, prompt: str, negative: bool = False) -> dict:
    try:
        return {"ids": tokenizer(prompt, negative)}
    except UserError as error:
        return {"refusal": str(error)}


def _refused(reference: Path) -> list[dict]:
    """Files with a part that Java does not understand, which it has to name."""
    whole, cases = json.loads(reference.read_text()), []
    for name, (key, part) in REFUSED.items():
        made = json.loads(part.__getstate__())
        cases.append({"name": name, "file": json.dumps(whole | {key: made})})
    changes = {
        "future": {"future": {"type": "New"}},
        "added_tokens[0]": {"added_tokens": [{"id": 0, "content": "<pad>", "future": True}]},
        "another id than the vocabulary": {"added_tokens": [{"id": 9, "content": "<pad>", "special": True}]},
    }
    return [*cases, *({"name": name, "file": json.dumps(whole | change)} for name, change in changes.items())]
