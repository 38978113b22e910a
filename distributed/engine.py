"""DeepSpeed, and nothing else of ours knows it: one task, one engine, one summed loss."""

import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from privatenet.distributed.config import EngineConfig, FitConfig
from privatenet.distributed.exchange import GradientExchange
from privatenet.distributed.precision import DTYPES, channels_last, precision
from privatenet.distributed.ranks import Ranks


@contextmanager
def _missing(name: str) -> Iterator[None]:
    """Within the block the package `name` cannot be imported, unless it is already."""
    blocked = name not in sys.modules
    modules: dict[str, Any] = sys.modules
    modules.setdefault(name, None)
    try:
        yield
    finally:
        if blocked:
            del modules[name]


with _missing("mlflow"):  # of DeepSpeed's autotuner, which is not used here: a second of every start
    import deepspeed
    from deepspeed.utils import logger, safe_get_full_optimizer_state, safe_set_full_optimizer_state


class Engine:
    """Trains the parameters of `task` that ask for a gradient: mixed precision, data-parallel, ZeRO 0 to 2.

    `task` maps (images, labels) to a dictionary of scalar losses; its "loss" is the one that is differentiated.
    """

    def __init__(self, task: nn.Module, fit: FitConfig, config: EngineConfig, ranks: Ranks) -> None:
        logger.setLevel(logging.WARNING)
        _use_torch_collectives()
        self.named = {name: p for name, p in task.named_parameters() if p.requires_grad}
        self.optimizer = new_optimizer(fit, list(self.named.values()))
        self.zero_stage = config.zero_stage
        self.engine, *_ = deepspeed.initialize(
            model=task, optimizer=self.optimizer, config=deepspeed_config(fit, config, ranks), dist_init_required=False
        )
        if config.compile:
            task.compile()
        self.exchange: GradientExchange | None = None
        if not config.zero_stage:
            self._replace_parts(task, config, ranks)

    def step(self, images: Tensor, labels: dict[str, Tensor], lr: float) -> dict[str, Tensor]:
        """Forward and backward of one micro-batch; parameters move at the last one of a step. Returns losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        losses: dict[str, Tensor] = self.engine(images, labels)
        with self._exchange():
            self.engine.backward(losses["loss"])
        self.engine.step()
        return {name: loss.detach() for name, loss in losses.items()}

    def optimizer_state(self) -> tuple[dict[str, Tensor], int]:
        """The optimiser's tensors by parameter, "<parameter>/<key>", and its step, at any ZeRO stage. All ranks."""
        tensors = {
            f"{name}/{key}": self._full(parameter, key).detach().cpu().clone()
            for name, parameter in self.named.items()
            for key in self._keys()
        }
        steps = [int(state["step"]) for state in self._states() if "step" in state]
        return tensors, max(steps, default=0)

    def load_optimizer_state(self, tensors: dict[str, Tensor], step: int) -> None:
        """Set what `optimizer_state` returned, on any number of ranks and at any ZeRO stage. All ranks."""
        if self.zero_stage:
            self._wake_zero()
        for full_name, tensor in tensors.items():
            name, key = full_name.rsplit("/", 1)
            parameter = self.named[name]
            if self.zero_stage:
                safe_set_full_optimizer_state(parameter, tensor.to(parameter.device), key)
            else:
                # In the parameter's own memory layout: a fused optimiser walks through both alike.
                self.optimizer.state[parameter][key] = torch.empty_like(parameter).copy_(tensor)
                if not isinstance(self.optimizer, torch.optim.SGD):
                    self.optimizer.state[parameter]["step"] = torch.zeros((), device=parameter.device)
        for state in self._states():
            if "step" in state:
                state["step"].fill_(step)

    def size(self) -> Tensor:
        """The norm of what is trained; not finite where a parameter is not."""
        norms = torch._foreach_norm([parameter.detach() for parameter in self.named.values()])
        size: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return size

    def loss_scale(self) -> float:
        """What fp16's loss is multiplied by: half of it after every step that overflowed and was left out."""
        state = self.scaler_state()
        return state.get("scale", state.get("cur_scale", 1.0))

    def scaler_state(self) -> dict[str, float]:
        """Of fp16's loss scale, which moves with overflows; empty in other precisions."""
        scaler = self._scaler()
        state = scaler.state_dict() if isinstance(scaler, torch.amp.GradScaler) else vars(scaler) if scaler else {}
        return {name: value for name, value in state.items() if isinstance(value, int | float)}

    def load_scaler_state(self, state: dict[str, float]) -> None:
        """Set what `scaler_state` returned."""
        scaler = self._scaler()
        if isinstance(scaler, torch.amp.GradScaler):
            scaler.load_state_dict(state)
        elif scaler:
            vars(scaler).update(state)

    def _replace_parts(self, task: nn.Module, config: EngineConfig, ranks: Ranks) -> None:
        """Where nothing is spread over ranks, torch's own parts are the faster ones."""
        # DeepSpeed's clipping waits for the device, and exchanges a norm that is the same on every rank.
        self.engine.clip_fp32_gradients = partial(nn.utils.clip_grad_norm_, self.named.values(), config.clip)
        # Its exchange copies all gradients, also of a single rank, and begins when the last of them is there.
        self.engine.enable_backward_allreduce = False
        if config.channels_last:  # not before: DeepSpeed sends the first weights as flat bytes
            channels_last(task)
        if ranks.world_size > 1:
            self.exchange = GradientExchange(list(self.named.values()), ranks)

    def _exchange(self) -> AbstractContextManager[None]:
        """Around the backward pass: gradients of a step's last micro-batch, which hold all others', are exchanged."""
        last = self.engine.is_gradient_accumulation_boundary()
        return self.exchange.during_backward() if self.exchange and last else nullcontext()

    def _scaler(self) -> Any:
        if self.zero_stage:
            return getattr(self.engine.optimizer, "loss_scaler", None)
        return self.engine.torch_autocast_z0_gradscaler

    def _wake_zero(self) -> None:
        """Let ZeRO take over the weights just loaded, and make the states that else appear at its first step."""
        zero = self.engine.optimizer
        zero.refresh_fp32_params()
        for group in zero.optimizer.param_groups:
            group["lr"] = 0.0
        for partition in zero.single_partition_of_fp32_groups:
            partition.grad = torch.zeros_like(partition)
        zero.optimizer.step()
        for partition in zero.single_partition_of_fp32_groups:
            partition.grad = None
        zero._lazy_init_hp_params_optimizer_state()

    def _states(self) -> list[dict[str, Any]]:
        inner = self.engine.optimizer.optimizer if self.zero_stage else self.optimizer
        return list(inner.state.values())

    def _keys(self) -> tuple[str, ...]:
        present = {key for state in self._states() for key in state if key != "step" and state[key] is not None}
        return tuple(sorted(present))

    def _full(self, parameter: nn.Parameter, key: str) -> Tensor:
        if self.zero_stage:
            full: Tensor = safe_get_full_optimizer_state(parameter, key)
            return full
        tensor: Tensor = self.optimizer.state[parameter][key]
        return tensor


def deepspeed_config(fit: FitConfig, config: EngineConfig, ranks: Ranks) -> dict[str, Any]:
    """What DeepSpeed is told: sizes, ZeRO, and autocast that leaves parameters and normalisation in fp32."""
    name = precision(config, ranks.device)
    return {
        "train_batch_size": fit.batch_size,
        "train_micro_batch_size_per_gpu": fit.batch_size // (ranks.world_size * config.accumulation),
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": config.clip,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,  # SGD
        "torch_autocast": {"enabled": name != "fp32", "dtype": str(DTYPES[name]).removeprefix("torch.")},
        "steps_per_print": 2**31,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device after every step
    }


def new_optimizer(fit: FitConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if fit.optimizer == "sgd":
        return torch.optim.SGD(parameters, fit.lr, momentum=0.9, weight_decay=fit.weight_decay)
    kind = torch.optim.Adam if fit.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, fit.lr, weight_decay=fit.weight_decay, fused=True)


def _use_torch_collectives() -> None:
    """On CPUs DeepSpeed would compile a shared-memory all-reduce at first use, which needs a compiler and a minute."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
