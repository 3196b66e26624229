"""llama.cpp through its C interface: llama_cpp.Llama insists on a tokenizer."""
import ctypes
import sys

import llama_cpp
import numpy as np

WARNING = 3


@llama_cpp.llama_log_callback
def log(level, text, data):
    if level == WARNING + 1:
        sys.stderr.write(text.decode(errors="replace"))


class Model:
    def __init__(self, path, length, threads=1, repack=True):
        llama_cpp.llama_log_set(log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        mp = llama_cpp.llama_model_default_params()
        mp.n_gpu_layers = 0
        mp.use_extra_bufts = repack  # repacked weights do not go through a BLAS
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), mp)
        if not self.model:
            raise RuntimeError(f"{path}: llama.cpp does not load it")
        cp = llama_cpp.llama_context_default_params()
        cp.n_ctx = cp.n_batch = cp.n_ubatch = length
        cp.n_threads = cp.n_threads_batch = threads
        cp.type_k = cp.type_v = llama_cpp.GGML_TYPE_F32
        self.ctx = llama_cpp.llama_init_from_model(self.model, cp)
        if not self.ctx:
            raise RuntimeError(f"{path}: llama.cpp makes no context for it")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)

    def close(self):
        llama_cpp.llama_free(self.ctx)
        llama_cpp.llama_model_free(self.model)

    def tokenize(self, text):
        """with the file's own BOS rule; special tokens in the text are text"""
        raw = text.encode()
        out = (llama_cpp.llama_token * (len(raw) + 16))()
        n = llama_cpp.llama_tokenize(self.vocab, raw, len(raw), out, len(out), True, False)
        return list(out[:n])

    def logits(self, ids):
        """[len(ids), vocabulary]"""
        return self.decode(ids).astype(np.float64)

    def decode(self, ids):
        """the same in float32, in llama.cpp's memory, until the next call"""
        n = len(ids)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.ctx), True)
        batch = llama_cpp.llama_batch_init(n, 0, 1)
        batch.n_tokens = n
        for i, t in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = t, i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, 1
        rc = llama_cpp.llama_decode(self.ctx, batch)
        llama_cpp.llama_batch_free(batch)
        if rc != 0:
            raise RuntimeError("llama_decode failed")
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.ctx), shape=(n, self.n_vocab))


def nll(logits, ids):
    """mean negative log-likelihood of ids[1:]"""
    top = logits.max(1, keepdims=True)
    logp = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
    return -logp[np.arange(len(ids) - 1), ids[1:]].mean()


def perplexity(model, ids, length, windows):
    """tokens 2..length of each window, as sq-eval"""
    each = [nll(model.logits(ids[i * length:(i + 1) * length]), ids[i * length:(i + 1) * length]) for i in range(windows)]
    return float(np.exp(np.mean(each)))
