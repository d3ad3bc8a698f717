"""Small tokenizers made of the parts that those of the families are made of, trained on plain sentences."""

import importlib.util
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

import edge_hadanorm

REFERENCE = Path(edge_hadanorm.__file__).parent / "reference/weights"
SPECIAL = ["<pad>", "</s>", "<unk>", "<bos>"]
CLIP_SPECIAL = ["<|startoftext|>", "<|endoftext|>"]
# What stood where `prepend_scheme` and `split` stand now.
METASPACE = {"str_rep": "▁", "add_prefix_space": True}
BpeTrainer = partial(trainers.BpeTrainer, show_progress=False)
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@cache
def sentences() -> list[str]:
    """The reference model's prompts, and the project's own prose."""
    prompts = json.loads((REFERENCE / "about.json").read_text())["prompts"]
    prose = (REFERENCE / "README.md").read_text() + (
        Path(edge_hadanorm.__file__).parent / "pipelines/noise.py"
    ).read_text()
    return [*prompts, *prose.splitlines(), "naïve café, Straße, 日本語の 猫, Привет", "ﬁne ①②③ Ｆｕｌｌ ｗｉｄｔｈ"]


@cache
def charsmap() -> bytes:
    """SentencePiece's nmt_nfkc, which T5's normalizer is."""
    folder = importlib.util.find_spec("sentencepiece").submodule_search_locations[0]
    return (Path(folder) / "package_data/nmt_nfkc.bin").read_bytes()


def reference() -> Tokenizer:
    return Tokenizer.from_file(str(REFERENCE / "tokenizer/tokenizer.json"))


def _unigram(
    normalizer, pre_tokenizer, template: str = "$A </s>", byte_fallback: bool = False, size: int = 700
) -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer, made.pre_tokenizer = normalizer, pre_tokenizer
    bytes_ = [f"<0x{value:02X}>" for value in range(256)] if byte_fallback else []
    trainer = trainers.UnigramTrainer(
        show_progress=False,
        vocab_size=size + len(bytes_),
        special_tokens=SPECIAL,
        unk_token="<unk>",
        max_piece_length=12,
    )
    made.train_from_iterator(sentences(), trainer)
    if byte_fallback:
        vocabulary = json.loads(made.to_str())["model"]["vocab"]
        made.model = models.Unigram([*map(tuple, vocabulary), *((name, -30.0) for name in bytes_)], 2, True)
    made.post_processor = processors.TemplateProcessing(single=template, special_tokens=_ids(made, SPECIAL))
    return made


def t5() -> Tokenizer:
    """As transformers converts T5's SentencePiece model."""
    steps = [normalizers.Precompiled(charsmap()), normalizers.Strip(left=False, right=True)]
    steps.append(normalizers.Replace(Regex(" {2,}"), "▁"))
    made = _unigram(normalizers.Sequence(steps), pre_tokenizers.Metaspace(prepend_scheme="always"))
    extra = [AddedToken(f"<extra_id_{i}>", lstrip=i % 2 == 0, rstrip=i % 3 == 0, normalized=False) for i in range(6)]
    made.add_special_tokens(extra)
    return made


def t5_first() -> Tokenizer:
    """A mark before the first word alone, if nothing before it was taken away; words as added tokens of every kind."""
    steps = [normalizers.Precompiled(charsmap()), normalizers.Strip(right=False), normalizers.Replace(Regex("~+"), "-")]
    made = _unigram(normalizers.Sequence(steps), pre_tokenizers.Metaspace(prepend_scheme="first", split=False))
    made.add_tokens(
        [
            AddedToken("cat", single_word=True),
            AddedToken("HAT", normalized=True, single_word=False),
            AddedToken("red hat", rstrip=True),
            AddedToken("red", lstrip=True, normalized=False),
            AddedToken("①②", normalized=True),
        ]
    )
    return made


def t5_words() -> Tokenizer:
    """The oldest conversion: words first; unknown characters as bytes; nothing added."""
    words = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    steps = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(), normalizers.Lowercase()])
    return _unigram(steps, words, template="$A", byte_fallback=True)


def clip() -> Tokenizer:
    """As transformers converts CLIP's vocabulary."""
    made = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = BpeTrainer(
        vocab_size=1100, special_tokens=CLIP_SPECIAL, initial_alphabet=ALPHABET, end_of_word_suffix="</w>"
    )
    made.train_from_iterator(sentences(), trainer)
    begin, end = _ids(made, CLIP_SPECIAL)
    made.post_processor = processors.RobertaProcessing(end, begin, trim_offsets=False, add_prefix_space=False)
    return made


def gemma() -> Tokenizer:
    """As transformers converts Gemma's SentencePiece model: no words, bytes for what is not known."""
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    special = [*SPECIAL, *(f"<0x{value:02X}>" for value in range(256))]
    made.train_from_iterator(sentences(), BpeTrainer(vocab_size=900, special_tokens=special))
    made = _with_added(made, SPECIAL)
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=_ids(made, SPECIAL))
    made.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("<table>", normalized=False)])
    return made


def unknowing() -> Tokenizer:
    """BPE that knows few characters, without bytes, and whole words before merges."""
    made = Tokenizer(models.BPE(unk_token="<unk>", ignore_merges=True, continuing_subword_prefix="##"))
    made.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.Prepend("▁")])
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s"), "merged_with_next")
    trainer = BpeTrainer(vocab_size=400, special_tokens=SPECIAL, continuing_subword_prefix="##")
    made.train_from_iterator([text for text in sentences() if text.isascii()][:300], trainer)
    return made


def splits() -> Tokenizer:
    """Splits of every behavior, by patterns with all that patterns may have."""
    split = pre_tokenizers.Split
    return byte_level(
        "$A",
        [
            split(Regex(r"[\p{N}#&.]+(?:\.\p{N}+)?(?!\S)"), "isolated"),
            split(Regex(r"'|\P{L}#?\S"), "contiguous"),
            split(Regex(r"(a|e).(?=[^\s\-x])|\t+"), "merged_with_previous", invert=True),
            split("'", "contiguous", invert=True),
            split(".", "merged_with_next"),
            split(Regex(r"[\n\r]{2,}"), "removed"),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ],
    )


def byte_level(template: str, steps: list | None = None) -> Tokenizer:
    """What the tests' tiny pipelines have, after other steps."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=template.startswith("<"))
    if steps:
        made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    trainer = BpeTrainer(vocab_size=500, special_tokens=SPECIAL, initial_alphabet=ALPHABET)
    made.train_from_iterator(sentences(), trainer)
    made.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single=template, special_tokens=_ids(made, SPECIAL)),
        ]
    )
    return made


def _ids(made: Tokenizer, names: list[str]) -> list[tuple[str, int]]:
    return [(name, made.token_to_id(name)) for name in names]


def _with_added(made: Tokenizer, names: list[str]) -> Tokenizer:
    """The same with these added tokens; the others are the vocabulary's alone."""
    data = json.loads(made.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] in names]
    return Tokenizer.from_str(json.dumps(data))


TOKENIZERS: dict[str, Callable[[], Tokenizer]] = {
    "reference": reference,
    "t5": t5,
    "t5-first": t5_first,
    "t5-words": t5_words,
    "clip": clip,
    "gemma": gemma,
    "unknowing": unknowing,
    "splits": splits,
    "bytes": lambda: byte_level("$A </s>"),
    "bytes-bos": lambda: byte_level("<bos> $A </s>"),
}

# Changes that make a file one of older versions, as (place, value), or None where they lack what is there.
OLDER = {
    "bytes": [("model/ignore_merges", None), ("model/byte_fallback", None), ("model/fuse_unk", None)],
    "t5": [("model/byte_fallback", None), ("pre_tokenizer", {"type": "Metaspace", "replacement": "▁"} | METASPACE)],
}

# By what a refusal has to name: a change of the reference's file, as (key, value).
REFUSED = {
    "BertNormalizer": ("normalizer", normalizers.BertNormalizer()),
    "Nmt": ("normalizer", normalizers.Sequence([normalizers.NFC(), normalizers.Nmt()])),
    "StripAccents": ("normalizer", normalizers.StripAccents()),
    "BertPreTokenizer": ("pre_tokenizer", pre_tokenizers.BertPreTokenizer()),
    "UnicodeScripts": ("pre_tokenizer", pre_tokenizers.UnicodeScripts()),
    "Digits": ("pre_tokenizer", pre_tokenizers.Sequence([pre_tokenizers.Digits()])),
    r"\w+": ("pre_tokenizer", pre_tokenizers.Split(Regex(r"\w+"), "isolated")),
    "^a": ("pre_tokenizer", pre_tokenizers.Split(Regex(r"^a"), "isolated")),
    "(?i:a)": ("pre_tokenizer", pre_tokenizers.Split(Regex(r"(?i:a)"), "isolated")),
    "[a&&b]": ("normalizer", normalizers.Replace(Regex("[a&&b]"), "")),
    "BertProcessing": ("post_processor", processors.BertProcessing(("</s>", 1), ("<s>", 0))),
    "WordPiece": ("model", models.WordPiece({"<unk>": 1, "<pad>": 0}, unk_token="<unk>")),
    "dropout": ("model", models.BPE({"a": 0}, [], dropout=0.5)),
}
