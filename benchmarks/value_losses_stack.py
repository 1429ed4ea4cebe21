"""R small models of one shape as one: their weights stacked, so that a step of all costs about what one would.

Models this small keep a GPU waiting for kernels to start. Here each weight is (R, ...), each product a batched one,
and a loss that is summed over models gives each its own gradient. The body is Qwen3's, whose weights it starts from
(`tests/benchmarks/test_value_losses.py` holds it against transformers).
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM


class StackedBody:
    """`weights` by the names of `Qwen3Model`, each (R, ...), float32 leaves."""

    def __init__(self, weights: dict[str, Tensor], config: Qwen3Config):
        self.weights, self.config = weights, config

    @classmethod
    def of(cls, models: list[Qwen3ForCausalLM], device: str) -> "StackedBody":
        states = [dict(model.model.named_parameters()) for model in models]
        stacked = {
            name: torch.stack([state[name].detach() for state in states]).to(device).requires_grad_()
            for name in states[0]
        }
        return cls(stacked, models[0].config)

    def repeated(self, which: list[int]) -> "StackedBody":
        """A stack of copies of these models."""
        weights = {name: weight.detach()[which].clone().requires_grad_() for name, weight in self.weights.items()}
        return StackedBody(weights, self.config)

    def __call__(self, ids: Tensor) -> Tensor:
        """(R, B, T) token ids, padded on the right -> last hidden states (R, B, T, H)."""
        config, (models, rows, tokens) = self.config, ids.shape
        heads, size = config.num_attention_heads, config.head_dim
        embedding = self.weights["embed_tokens.weight"]
        x = embedding[torch.arange(models, device=ids.device)[:, None], ids.flatten(1)]  # (R, B*T, H)
        base = config.rope_parameters["rope_theta"]
        rates = base ** (-torch.arange(0, size, 2, device=ids.device) / size)
        angles = torch.arange(tokens, device=ids.device)[:, None] * torch.cat([rates, rates])
        turn = angles.cos(), angles.sin()
        for layer in range(config.num_hidden_layers):
            h = self.norm(x, f"layers.{layer}.input_layernorm")
            q, k, v = (self.product(h, f"layers.{layer}.self_attn.{name}_proj") for name in "qkv")
            q, k, v = (z.reshape(models, rows, tokens, heads, size) for z in (q, k, v))
            q = self.norm(q, f"layers.{layer}.self_attn.q_norm")
            k = self.norm(k, f"layers.{layer}.self_attn.k_norm")
            q, k, v = (z.flatten(0, 1).transpose(1, 2) for z in (q, k, v))
            mixed = F.scaled_dot_product_attention(rotated(q, *turn), rotated(k, *turn), v, is_causal=True)
            mixed = mixed.transpose(1, 2).reshape(models, rows * tokens, heads * size)
            x = x + self.product(mixed, f"layers.{layer}.self_attn.o_proj")
            h = self.norm(x, f"layers.{layer}.post_attention_layernorm")
            gate, up = (self.product(h, f"layers.{layer}.mlp.{name}_proj") for name in ("gate", "up"))
            x = x + self.product(F.silu(gate) * up, f"layers.{layer}.mlp.down_proj")
        return self.norm(x, "norm").reshape(models, rows, tokens, -1)

    def logits(self, ids: Tensor) -> Tensor:
        """Of the next token, through the tied embedding, (R, B, T, V)."""
        states = self(ids).flatten(1, 2)
        return torch.bmm(states, self.weights["embed_tokens.weight"].mT).unflatten(1, ids.shape[1:])

    def norm(self, x: Tensor, name: str) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        weight = weight.reshape(weight.shape[0], *[1] * (x.dim() - 2), -1)
        return F.rms_norm(x, x.shape[-1:], eps=self.config.rms_norm_eps) * weight

    def product(self, x: Tensor, name: str) -> Tensor:
        return torch.bmm(x, self.weights[f"{name}.weight"].mT)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class StackedAdamW:
    """AdamW and clipping for each model of a stack by itself; betas 0.9 and 0.95 as in `training.engine.learner`.

    Args:
        groups: (weights, peak rates (R,)) of bodies and of heads.
    """

    def __init__(self, groups: list[tuple[list[Tensor], Tensor]], *, max_norm: float = 1.0):
        self.groups, self.max_norm, self.count = groups, max_norm, 0
        self.weights = [weight for weights, _ in groups for weight in weights]
        self.first = [torch.zeros_like(weight) for weight in self.weights]
        self.second = [torch.zeros_like(weight) for weight in self.weights]
        self.rates = [shaped(rates, weight) for weights, rates in groups for weight in weights]

    @torch.no_grad()
    def step(self, share: float) -> None:
        """One update with this share of the peak rates; gradients are used up."""
        gradients = [weight.grad for weight in self.weights]
        squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0)
        scale = (self.max_norm / (squares.sqrt() + 1e-6)).clamp(max=1)
        scale = torch.where(squares.isfinite(), scale, torch.zeros_like(scale))
        gradients = [shaped(scale, g) * g.nan_to_num(0, 0, 0) for g in gradients]
        self.count += 1
        torch._foreach_lerp_(self.first, gradients, 0.1)
        torch._foreach_mul_(self.second, 0.95)
        torch._foreach_addcmul_(self.second, gradients, gradients, 0.05)
        deviation = torch._foreach_sqrt(self.second)
        torch._foreach_div_(deviation, (1 - 0.95**self.count) ** 0.5)
        torch._foreach_add_(deviation, 1e-8)
        updates = torch._foreach_div(self.first, deviation)
        torch._foreach_mul_(updates, share / (1 - 0.9**self.count))
        torch._foreach_mul_(updates, self.rates)
        torch._foreach_sub_(self.weights, updates)
        for weight in self.weights:
            weight.grad = None


def shaped(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.reshape(-1, *[1] * (like.dim() - 1))


def rate_share(step: int, total: int, warmup: float = 0.05) -> float:
    """A linear rise over a twentieth of the steps, then half a cosine down: the critics' schedule."""
    rise = max(1, int(warmup * total))
    if step <= rise:
        return step / rise
    return 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * (step - rise) / max(1, total - rise)))))
