"""Tiny Hugging Face models with random weights, saved as folders a backbone can be loaded from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

WORDS = ["[PAD]", "[UNK]", "[SEP]", "a", "water", "bowl", "home", "kitchen", "soap", "of", "rose"]
VOCABULARY = len(WORDS)
WIDTH = 16
LAYERS = 3
# Large enough that a change at one token is seen at another one through random weights.
SPREAD = 0.3
COMMON: dict[str, Any] = {"vocab_size": VOCABULARY, "initializer_range": SPREAD}
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}


def tiny(kind: str, folder: Path, **changes: Any) -> str:
    """Save a model of this kind under ``folder``; its path.

    ``kind`` is bert, roberta, modernbert, gpt2, qwen2 or t5; GPT-2 and Qwen2 are saved as language
    models. ``changes`` go into the config.
    """
    torch.manual_seed(1)
    model: Any
    if kind == "bert":
        model = BertModel(BertConfig(**{**COMMON, **SIZES, **changes}))
    elif kind == "roberta":
        model = RobertaModel(RobertaConfig(**{**COMMON, **SIZES, "pad_token_id": 1, **changes}))
    elif kind == "modernbert":
        ends = dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 2)
        model = ModernBertModel(
            ModernBertConfig(**{**COMMON, **SIZES, **ends, "pad_token_id": 0, **changes})
        )
    elif kind == "gpt2":
        sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_positions": 32}
        ends = dict.fromkeys(("bos_token_id", "eos_token_id"), 2)
        model = GPT2LMHeadModel(GPT2Config(**{**COMMON, **sizes, **ends, **changes}))
    elif kind == "qwen2":
        model = Qwen2ForCausalLM(
            Qwen2Config(**{**COMMON, **SIZES, "num_key_value_heads": 1, **changes})
        )
    elif kind == "t5":
        model = T5Model(T5Config(vocab_size=VOCABULARY, d_model=8, d_ff=8, d_kv=4, num_heads=2))
    else:
        raise ValueError(kind)
    path = folder / kind
    model.save_pretrained(path)
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", sep_token="[SEP]"
    )
    tokenizer.save_pretrained(path)
    return str(path)
