"""A Hugging Face directory in transformers, float32."""
import torch
from transformers import AutoModelForCausalLM


def load(folder):
    """the model; every weight is in the files and no file has more"""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                       output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[key]:
            raise AssertionError(f"{folder}: {key}: {sorted(info[key])[:3]}")
    return model.eval()


def torch_logits(folder, ids):
    with torch.no_grad():
        return load(folder)(torch.tensor([ids])).logits[0].double().numpy()


def torch_perplexity(folder, ids, length, windows):
    """tokens 2..length of each window, in double from float32 logits"""
    model = load(folder)
    nll = []
    with torch.no_grad():
        for i in range(windows):
            w = torch.tensor(ids[i * length:(i + 1) * length])[None]
            logp = model(w).logits[0, :-1].double().log_softmax(-1)
            nll.append(-logp.gather(1, w[0, 1:, None]).mean())
    return float(torch.stack(nll).mean().exp())
