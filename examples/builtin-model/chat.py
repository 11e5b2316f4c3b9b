"""The chat template and the tokenizer: what turns messages into token ids, in training as in serving."""

import json
from pathlib import Path

import jinja2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).parent
TEMPLATE = (HERE / "chat_template.jinja").read_text().rstrip()
MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>",
         "</tool_response>", "<tools>", "</tools>"]
SPECIAL = 3  # the first three are never part of an answer's text
PAD, START, END = 0, 1, 2
# Words with their leading space, one token per digit, runs of other signs. Digits stand alone so that numbers can be copied.
PIECES = r"""'(?:[sdmt]|ll|ve|re)|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

_environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)


def render(messages, tools=None, add_generation_prompt=False, compact=False):
    """The text of a conversation. `compact` writes tool definitions without blanks, as some servers do."""
    separators = (",", ":") if compact else (", ", ": ")
    _environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False, separators=separators)
    template = _environment.from_string(TEMPLATE) if "chat" not in _cache else _cache["chat"]
    _cache["chat"] = template
    return template.render(messages=messages, tools=tools, add_generation_prompt=add_generation_prompt)


_cache = {}


def train_tokenizer(texts, size):
    """A byte-level BPE of `size` tokens whose first ids are MARKS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PIECES), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, special_tokens=[AddedToken(mark, special=True, normalized=False) for mark in MARKS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    data = json.loads(tokenizer.to_str())
    for token in data["added_tokens"]:
        token["special"] = token["id"] < SPECIAL
    return Tokenizer.from_str(json.dumps(data))


def save_tokenizer(tokenizer, folder):
    """Writes tokenizer.json and tokenizer_config.json."""
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 4096,
        "add_bos_token": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(number): {"content": mark, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                          "special": number < SPECIAL}
            for number, mark in enumerate(MARKS)
        },
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def answer_mask(ids, header):
    """True for the ids that the model has to write: after each assistant header up to and with the end token."""
    mask, inside, width = [False] * len(ids), False, len(header)
    for at, token in enumerate(ids):
        mask[at] = inside
        if token == END:
            inside = False
        elif not inside and at + 1 >= width and ids[at + 1 - width : at + 1] == header:
            inside = True
    return mask
