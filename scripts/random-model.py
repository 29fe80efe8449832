#!/usr/bin/env python3
"""Writes a GGUF file of the llama architecture with random weights: for measuring speed, where the text does not matter.

The default shape is that of a 1.1B model (22 layers, width 2048, 32 heads on 4 of keys and values, 32,000 tokens). Needs nothing but
Python. The same arguments give the same file. Other types: `aded quantize --allow-requantize IN OUT TYPE`.
"""
import argparse
import random
import struct

TYPES = {"f16": (1, 1, 2), "q4_0": (2, 32, 18), "q8_0": (8, 32, 34)}  # ggml's number, values and bytes of a block
F32 = (0, 1, 4)
ALIGNMENT = 32
U32, F32_VALUE, STRING, ARRAY, I32 = 4, 6, 8, 9, 5  # kinds of metadata values


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def blocks(kind, seed):
    """Some megabytes of valid random blocks; tensors take pieces of them."""
    pick = random.Random(seed)
    if kind == "f16":
        return b"".join(struct.pack("<e", pick.gauss(0, 0.02)) for _ in range(1 << 20))
    _, values, size = TYPES[kind]
    # Codes are spread evenly: their deviation is 73.3 for signed bytes and 4.6 for four bits; the weights' is to be 0.02.
    scale = struct.pack("<e", 0.02 / (73.3 if kind == "q8_0" else 4.6))
    return b"".join(scale + pick.randbytes(size - 2) for _ in range(1 << 16))


def vocabulary(n):
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    kinds = [2, 3, 3] + [6] * 256
    tokens += [f"t{i}" for i in range(len(tokens), n)]
    kinds += [1] * (n - len(kinds))
    return tokens[:n], kinds[:n]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--type", choices=TYPES, default="q8_0", help="of all matrices")
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--inner", type=int, default=5632, help="width of the feed-forward part")
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--tied", action="store_true", help="use the embedding as the output head")
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()

    kv_width = a.width // a.heads * a.kv_heads
    kind = TYPES[a.type]
    tensors = [("token_embd.weight", (a.width, a.vocabulary), kind), ("output_norm.weight", (a.width,), F32)]
    if not a.tied:
        tensors.append(("output.weight", (a.width, a.vocabulary), kind))
    for layer in range(a.layers):
        shapes = {
            "attn_norm": (a.width,), "ffn_norm": (a.width,), "attn_q": (a.width, a.width), "attn_k": (a.width, kv_width),
            "attn_v": (a.width, kv_width), "attn_output": (a.width, a.width), "ffn_gate": (a.width, a.inner),
            "ffn_up": (a.width, a.inner), "ffn_down": (a.inner, a.width),
        }
        tensors += [(f"blk.{layer}.{name}.weight", shape, kind if len(shape) == 2 else F32) for name, shape in shapes.items()]

    tokens, kinds = vocabulary(a.vocabulary)
    numbers = {
        "llama.block_count": a.layers, "llama.context_length": a.context, "llama.embedding_length": a.width,
        "llama.feed_forward_length": a.inner, "llama.attention.head_count": a.heads,
        "llama.attention.head_count_kv": a.kv_heads, "llama.rope.dimension_count": a.width // a.heads,
        "llama.vocab_size": a.vocabulary, "general.file_type": {"f16": 1, "q4_0": 2, "q8_0": 7}[a.type],
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 0,
    }
    meta = [text("general.architecture") + struct.pack("<I", STRING) + text("llama"),
            text("general.name") + struct.pack("<I", STRING) + text("random weights"),
            text("tokenizer.ggml.model") + struct.pack("<I", STRING) + text("llama"),
            text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", F32_VALUE, 1e-5)]
    meta += [text(key) + struct.pack("<II", U32, value) for key, value in numbers.items()]
    meta.append(text("tokenizer.ggml.tokens") + struct.pack("<IIQ", ARRAY, STRING, len(tokens)) + b"".join(map(text, tokens)))
    meta.append(text("tokenizer.ggml.scores") + struct.pack("<IIQ", ARRAY, F32_VALUE, len(tokens))
                + struct.pack(f"<{len(tokens)}f", *(-float(i) for i in range(len(tokens)))))
    meta.append(text("tokenizer.ggml.token_type") + struct.pack("<IIQ", ARRAY, I32, len(kinds)) + struct.pack(f"<{len(kinds)}i", *kinds))

    infos, offset = [], 0
    for name, shape, (number, values, size) in tensors:
        if shape[0] % values:
            parser.error(f"{name} has rows of {shape[0]} values, but {a.type} needs a multiple of {values}")
        infos.append(text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
                     + struct.pack("<IQ", number, offset))
        n_values = shape[0] * (shape[1] if len(shape) > 1 else 1)
        offset += -(-n_values // values * size // ALIGNMENT) * ALIGNMENT

    pool = blocks(a.type, a.seed)
    pick = random.Random(a.seed)
    with open(a.out, "wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(meta)) + b"".join(meta) + b"".join(infos))
        out.write(bytes(-out.tell() % ALIGNMENT))
        for name, shape, (number, values, size) in tensors:
            if number == 0:
                out.write(struct.pack("<f", 1.0) * shape[0])
            else:
                left = shape[0] * shape[1] // values * size
                while left:
                    start = pick.randrange(len(pool) // size) * size
                    piece = pool[start:start + left]
                    out.write(piece)
                    left -= len(piece)
            out.write(bytes(-out.tell() % ALIGNMENT))


if __name__ == "__main__":
    main()
