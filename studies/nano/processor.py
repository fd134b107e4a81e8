"""The processor of the embedded models: pixels, words and a chat template in LLaVA-1.5's style."""

from __future__ import annotations

import re
from typing import Any

from studies.nano.questions import TEMPLATES, render
from studies.nano.scenes import COLOR_NAMES, IMAGE_SIZE, PATCH_SIZE, PLURALS, SHAPES

PAD, BOS, EOS, IMAGE, UNKNOWN = SPECIAL = ("<pad>", "<s>", "</s>", "<image>", "<unk>")
PIXEL_MEAN = PIXEL_STD = 0.5

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}"
    "{{ part['text'] + ' ' }}{% endfor %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)

# Words that users put around such questions, known so that a stray one is not <unk>. Training
# never sees them, so their embeddings stay random.
_SPARE_WORDS = (
    *("and", "any", "are", "at", "be", "below", "colour", "count", "does", "find", "for", "from"),
    *("give", "has", "how", "image", "it", "like", "look", "me", "much", "name", "near", "not"),
    *("number", "numbers", "objects", "one", "or", "photo", "please", "read", "scene", "shape"),
    *("shapes", "shown", "some", "than", "that", "these", "they", "thing", "this", "those", "to"),
    *("two", "under", "up", "was", "where", "who", "why", "with", "written", "you"),
)


def vocabulary() -> list[str]:
    """Return the tokens in order of their ids: special, punctuation, then words."""
    texts = [
        render(template, subject)
        for templates in TEMPLATES.values()
        for template in templates
        for subject in (*SHAPES, *COLOR_NAMES)
    ]
    words = [*COLOR_NAMES, *SHAPES, *PLURALS.values(), *"0123456789", "yes", "no"]
    words += ["user", "assistant", "system"]
    words += [w for text in texts for w in re.findall(r"[a-z]+", text.lower())]
    return list(dict.fromkeys([*SPECIAL, *"?.:,!'\"()-;/", *words, *sorted(_SPARE_WORDS)]))


def build_tokenizer() -> Any:
    """Build the tokenizer in LLaVA-1.5's style."""
    from tokenizers import processors

    words = vocabulary()
    first = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, words.index(BOS))],
    )
    return build_word_tokenizer(
        words,
        first,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        additional_special_tokens=[IMAGE],
    )


def build_word_tokenizer(words: list[str], post_processor: Any = None, **special: Any) -> Any:
    """Build a word-level tokenizer: lower-cased, split at spaces, punctuation and digits.

    Args:
        words: tokens in order of their ids.
        post_processor: what adds tokens to a text, if anything does.
        **special: names of the special tokens, as `PreTrainedTokenizerFast` takes them.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer_class: Any = PreTrainedTokenizerFast
    core = Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(words)}, unk_token=UNKNOWN)
    )
    core.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    if post_processor is not None:
        core.post_processor = post_processor
    return tokenizer_class(
        tokenizer_object=core,
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        **special,
    )


def build_processor() -> Any:
    """Build the `LlavaProcessor`; it saves and loads like any other."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    processor_class: Any = LlavaProcessor
    images = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[PIXEL_MEAN] * 3,
        image_std=[PIXEL_STD] * 3,
    )
    return processor_class(
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def chat(text: str) -> list[dict[str, Any]]:
    """Return the one-turn conversation that asks `text` about one image."""
    return [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
