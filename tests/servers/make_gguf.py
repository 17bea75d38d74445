#!/usr/bin/env python3
"""Writes a small GGUF model that knows by heart what the client tests ask for.

    make_gguf.py OUT.gguf FOLDER...

The server that loads it is a real one: it reads the chat template, tokenizes, keeps
its cache, samples, parses tool calls, streams and counts.  Only the model is made by
hand.  Its attention and its feed-forward layer add nothing, so the next token depends
on the last one alone: the embedding of a token is a random vector, and the row of its
successor in the output matrix is the same vector.  The chat template ends each prompt
with a token that stands for what is to be said; from there one token leads to the
next.  Every other token is followed by some word, without end, so that a call may be
as long as its maximum.

FOLDER holds texts that the tokenizer is trained with.
"""
import json
import pathlib
import sys

import gguf
import numpy
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

CONTEXT = 32768
WIDTH = 256
HEAD = 64
MERGED_TOKENS = 4096
# Tokens that nothing leads to.  They slow each step down, so that a long answer takes
# seconds and can be left in the middle, and cost nothing where the prompt is read.
IDLE_TOKENS = 60000
# What the right successor is ahead by, in logits, against a noise of about one sixteenth.
CERTAINTY = 80.0

START, END = "<|im_start|>", "<|im_end|>"


def call(name, **arguments):
    return "<tool_call>\n" + json.dumps({"name": name, "arguments": arguments}) + "\n</tool_call>"


SAYINGS = {
    "<|hello|>": "Hello. I know a few sentences by heart, and this is one.",
    "<|weather|>": call("get_weather", city="Paris", unit="celsius"),
    "<|told|>": "It is mild there, eighteen degrees.",
    # Arguments in the order of the tool's schema: llama.cpp holds the model to it.
    "<|write|>": call("write", content="the tide is high\n", filePath="note.txt"),
    "<|bash|>": call("bash", command="wc -c note.txt"),
    "<|read|>": call("read", filePath="note.txt"),
    "<|tide|>": "The note holds one line: the tide is high",
}

TEMPLATE = (pathlib.Path(__file__).parent / "template.jinja").read_text()


def train(folders):
    """A byte-level BPE tokenizer: its vocabulary in order, and its merges."""
    texts = [path for folder in folders for path in sorted(pathlib.Path(folder).rglob("*")) if path.is_file()]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=MERGED_TOKENS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((path.read_text("utf-8", "replace") for path in texts), trainer)
    made = json.loads(tokenizer.to_str())["model"]
    vocabulary = sorted(made["vocab"], key=made["vocab"].get)
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in made["merges"]]
    return vocabulary, merges


def spell(text):
    """Bytes as the byte-level vocabulary writes them."""
    return "".join(piece for piece, _ in pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(text))


def split(text, taken):
    """Cuts a saying into pieces that are no tokens yet, so that each has one successor."""
    pieces = []
    while text:
        size = next((n for n in range(5, len(text)) if spell(text[:n]) not in taken), len(text))
        piece, text = spell(text[:size]), text[size:]
        if piece in taken:
            # What is left was said before: it goes with the piece before it.
            taken.remove(pieces[-1])
            piece = pieces.pop() + piece
        assert piece not in taken, piece
        taken.add(piece)
        pieces.append(piece)
    return pieces


def main(out, folders):
    vocabulary, merges = train(folders)
    words = [at for at, token in enumerate(vocabulary) if token[0] == "Ġ" and token[1:].isascii() and token[1:].isalpha()]
    kinds = [gguf.TokenType.NORMAL] * len(vocabulary)
    successor = {}

    def add(token, kind):
        vocabulary.append(token)
        kinds.append(kind)
        return len(vocabulary) - 1

    start = add(START, gguf.TokenType.CONTROL)
    end = add(END, gguf.TokenType.CONTROL)
    taken = set(vocabulary)
    for sign, text in SAYINGS.items():
        last = add(sign, gguf.TokenType.CONTROL)
        taken.add(sign)
        for piece in split(text, taken):
            token = add(piece, gguf.TokenType.NORMAL)
            successor[last], last = token, token
        successor[last] = end
    for idle in range(IDLE_TOKENS):
        add(f"<|idle_{idle}|>", gguf.TokenType.UNUSED)
    # The other words follow one another in a ring; what else there is leads to some word.
    for at, token in enumerate(words):
        successor.setdefault(token, words[(at + 1) % len(words)])

    chance = numpy.random.default_rng(5)
    size = len(vocabulary)
    embedding = chance.choice([-1.0, 1.0], (size, WIDTH)).astype(numpy.float16)
    output = numpy.zeros((size, WIDTH), numpy.float32)
    for token, following in successor.items():
        output[following] += embedding[token] * (CERTAINTY / WIDTH)

    writer = gguf.GGUFWriter(out, "llama")
    writer.add_name("by heart")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HEAD)
    writer.add_head_count(WIDTH // HEAD)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(start)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)

    def still(*shape):
        return numpy.zeros(shape, numpy.float16)

    def even():
        return numpy.ones(WIDTH, numpy.float32)

    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", even())
    writer.add_tensor("output.weight", output.astype(numpy.float16))
    writer.add_tensor("blk.0.attn_norm.weight", even())
    writer.add_tensor("blk.0.attn_q.weight", still(WIDTH, WIDTH))
    writer.add_tensor("blk.0.attn_k.weight", still(HEAD, WIDTH))
    writer.add_tensor("blk.0.attn_v.weight", still(HEAD, WIDTH))
    writer.add_tensor("blk.0.attn_output.weight", still(WIDTH, WIDTH))
    writer.add_tensor("blk.0.ffn_norm.weight", even())
    writer.add_tensor("blk.0.ffn_gate.weight", still(HEAD, WIDTH))
    writer.add_tensor("blk.0.ffn_up.weight", still(HEAD, WIDTH))
    writer.add_tensor("blk.0.ffn_down.weight", still(WIDTH, HEAD))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{out}: {size} tokens, {len(words)} words, {len(successor)} steps")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
