"""Which tokens end a response; read from a checkpoint's files, without its weights."""

from collections.abc import Collection
from typing import Any

from gradcurate.policies.checkpoints import Checkpoint
from gradcurate.policies.imports import import_transformers


def find_stop_token_ids(checkpoint: Checkpoint, tokenizer: Any) -> frozenset[int]:
    """Return the tokens at which the generation configuration, or else the tokenizer, ends a response."""
    transformers = import_transformers()
    try:
        generation = transformers.GenerationConfig.from_pretrained(checkpoint.folder)
    except OSError:  # it has none: generation would be set up from the model's configuration
        config = transformers.AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
        generation = transformers.GenerationConfig.from_model_config(config)
    configured = generation.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*ids, tokenizer.eos_token_id] if token is not None)


def end_token_id(tokenizer: Any, stop_token_ids: Collection[int]) -> int | None:
    """Return the token that ends a response: of several, the one that the chat template writes."""
    template = str(tokenizer.chat_template or "")
    written = [t for t in sorted(stop_token_ids) if tokenizer.convert_ids_to_tokens(t) in template]
    return next(iter(written), tokenizer.eos_token_id)
