"""Trains a byte-level BPE tokenizer of CLIP's form on given texts and saves it as CLIP's files are saved.

Every byte is a token, alone and at the end of a word, so that any text can be written without unknowns.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

START = "<|startoftext|>"
END = "<|endoftext|>"
END_OF_WORD = "</w>"
MAX_TOKENS = 77
# More merges than the captions have use for; training stops when every word is one token.
MAX_VOCABULARY = 2000

# CLIP's own pattern (Radford et al. 2021, simple_tokenizer): contractions, words, digits, the rest.
WORDS = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A tokenizer whose two highest ids are start and end of text, the end highest as in CLIP."""
    merges = _learn_merges(texts)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(byte + END_OF_WORD for byte in alphabet), *map("".join, merges), START, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return _assemble(_bpe(vocabulary, merges), vocabulary)


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    tokenizer.save(str(directory / "tokenizer.json"))
    _write_json(directory / "tokenizer_config.json", _tokenizer_config(tokenizer))
    _write_json(directory / "special_tokens_map.json", _special_tokens())


def _learn_merges(texts: Iterable[str]) -> list[tuple[str, str]]:
    learner = _with_clip_rules(Tokenizer(_bpe({}, [])))
    trainer = BpeTrainer(
        vocab_size=MAX_VOCABULARY,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        end_of_word_suffix=END_OF_WORD,
    )
    learner.train_from_iterator(texts, trainer)
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]


def _bpe(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> models.BPE:
    return models.BPE(
        vocab=vocabulary,
        merges=merges,
        unk_token=END if vocabulary else None,
        continuing_subword_prefix="",
        end_of_word_suffix=END_OF_WORD,
        fuse_unk=False,
    )


def _with_clip_rules(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def _assemble(model: models.BPE, vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = _with_clip_rules(Tokenizer(model))
    tokenizer.add_special_tokens([AddedToken(token, normalized=True, special=True) for token in (START, END)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        (END, vocabulary[END]),
        (START, vocabulary[START]),
        trim_offsets=False,
        add_prefix_space=False,
    )
    return tokenizer


def _special_tokens() -> dict[str, str]:
    return {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}


def _tokenizer_config(tokenizer: Tokenizer) -> dict[str, Any]:
    flags = {
        "lstrip": False,
        "normalized": True,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }
    return {
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(token)): {"content": token, **flags} for token in (START, END)
        },
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "extra_special_tokens": {},
        "model_max_length": MAX_TOKENS,
        "processor_class": "CLIPProcessor",
        "tokenizer_class": "CLIPTokenizer",
        **_special_tokens(),
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
