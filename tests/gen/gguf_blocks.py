"""Two random blocks of every ggml type that sq decodes and their values as the gguf package computes them
-> tests/golden/gguf_blocks.safetensors. Run again after adding a type: python tests/gen/gguf_blocks.py"""
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize
from safetensors.numpy import save_file

# bytes of a block that hold f16 scales
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0]}
rng = np.random.default_rng(1)
out = {}
for name in ["F16", "BF16", *SCALES]:
    elements, size = GGML_QUANT_SIZES[T[name]]
    blocks = rng.integers(0, 256, (2, size if name in SCALES else 64), dtype=np.uint8)
    for at in SCALES.get(name, []):
        blocks[:, at:at + 2] = rng.normal(0, 0.1, 2).astype(np.float16).reshape(2, 1).view(np.uint8)
    if name in ("F16", "BF16"):
        blocks[:, 1::2] &= 0xbf  # no Inf, no NaN
    out[name + ".blocks"] = blocks
    out[name + ".values"] = dequantize(blocks, T[name]).astype(np.float32).reshape(-1)
    assert np.isfinite(out[name + ".values"]).all()
save_file(out, "tests/golden/gguf_blocks.safetensors")
