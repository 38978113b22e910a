"""The ARM head against an implementation that follows the paper word by word."""

from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from privatenet.models.arm import Affinity, ArmHead
from privatenet.models.errors import ModelError

AFFINITIES: tuple[Affinity, ...] = ("batch", "ema", "none")


def literal_arm(state: Mapping[str, Tensor], features: Tensor, affinity: Affinity, training: bool) -> Tensor:
    """Pixel shuffle by 16, one 32x32 convolution of stride 8, BatchNorm, means: nothing rearranged."""
    if "projection.weight" in state:
        features = F.conv2d(features, state["projection.weight"])
    picture = F.pixel_shuffle(features, 16)
    maps = torch.cat([F.conv2d(picture[:, [c]], state["kernel"], stride=8) for c in range(picture.shape[1])], dim=1)
    mean, variance = state["norm.running_mean"].view(1, -1, 1, 1), state["norm.running_var"].view(1, -1, 1, 1)
    if training:
        mean, variance = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), unbiased=False, keepdim=True)
    scale, shift = state["norm.weight"].view(1, -1, 1, 1), state["norm.bias"].view(1, -1, 1, 1)
    maps = (maps - mean) / (variance + 1e-5).sqrt() * scale + shift
    amended = maps.mean(1)
    if affinity != "none":
        running = affinity == "ema" and not training
        amended = amended + state["alpha"] * (state["running_affinity"][0, 0] if running else maps.mean((0, 1)))
    return amended.flatten(1)


def scrambled_head(channels: int, size: tuple[int, int], affinity: Affinity) -> ArmHead:
    """A head in float64 with no parameter or statistic at a value that would hide its absence, such as 0 or 1."""
    head = ArmHead(channels, size, num_classes=3, affinity=affinity).double()
    with torch.no_grad():
        for tensor in head.state_dict().values():
            if tensor.is_floating_point() and tensor.numel() < 1000:
                tensor.uniform_(0.3, 1.7)
    return head


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("affinity", AFFINITIES)
@pytest.mark.parametrize(
    ("channels", "size"), [(256, (2, 3)), (512, (3, 2)), (768, (4, 5)), (40, (3, 4))], ids=["1", "2", "3", "projected"]
)
def test_fast_form_and_all_its_gradients_are_the_papers(
    channels: int, size: tuple[int, int], affinity: Affinity, training: bool
) -> None:
    torch.manual_seed(0)
    head = scrambled_head(channels, size, affinity).train(training)
    features = torch.randn(3, channels, *size, dtype=torch.float64, requires_grad=True)
    inputs = [features, *head.parameters()]
    state = {**{key: buffer.clone() for key, buffer in head.named_buffers()}, **dict(head.named_parameters())}

    expected_arm = literal_arm(state, features, affinity, training)
    expected_logits = F.linear(expected_arm, state["linear.weight"], state["linear.bias"])
    logits, arm = head(features)

    assert arm.shape == (3, head.num_features) == (3, (2 * size[0] - 3) * (2 * size[1] - 3))
    torch.testing.assert_close(arm, expected_arm)
    torch.testing.assert_close(logits, expected_logits)
    toward_logits, toward_arm = torch.randn_like(logits), torch.randn_like(arm)
    ours = torch.autograd.grad((logits * toward_logits).sum() + (arm * toward_arm).sum(), inputs)
    theirs = torch.autograd.grad((expected_logits * toward_logits).sum() + (expected_arm * toward_arm).sum(), inputs)
    for gradient, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("affinity", "num_classes", "expected"),
    [("ema", 7, 1029 + 854), ("none", 7, 1028 + 854), ("batch", 2, 1273), ("ema", 5, 1639)],
)
def test_parameters_are_as_many_as_the_papers(affinity: Affinity, num_classes: int, expected: int) -> None:
    head = ArmHead(512, (7, 7), num_classes, affinity)
    assert sum(parameter.numel() for parameter in head.parameters()) == expected
    assert head.num_features == 121


def test_running_affinity_follows_batchnorms_rule_and_only_in_training() -> None:
    torch.manual_seed(0)
    head = ArmHead(512, (3, 3), num_classes=2)
    seen: list[Tensor] = []
    head.batch_mean.register_forward_hook(lambda _module, _inputs, mean: seen.append(mean.detach()))
    expected = torch.zeros(1, 1, 3, 3)
    for _ in range(3):
        head(torch.randn(4, 512, 3, 3))
        expected = 0.9 * expected + 0.1 * seen[-1]
    torch.testing.assert_close(head.running_affinity, expected)
    before = head.running_affinity.clone()
    head.eval()(torch.randn(4, 512, 3, 3))
    assert torch.equal(head.running_affinity, before)


@pytest.mark.parametrize("affinity", AFFINITIES)
def test_evaluation_depends_on_neighbours_only_with_the_batch_affinity(affinity: Affinity) -> None:
    torch.manual_seed(0)
    head = scrambled_head(512, (4, 4), affinity).eval()
    features = torch.randn(5, 512, 4, 4, dtype=torch.float64)
    alone, _ = head(features[:1])
    together, _ = head(features)
    assert torch.allclose(alone, together[:1]) == (affinity != "batch")


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bf16_autocast_stays_close_to_float32(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    head = ArmHead(512, (7, 7), num_classes=7)
    features = torch.randn(4, 512, 7, 7).to(memory_format=memory_format).requires_grad_()
    _, expected = head(features)
    with torch.autocast("cpu", torch.bfloat16):
        logits, arm = head(features)
    assert arm.dtype == head.running_affinity.dtype == torch.float32
    torch.testing.assert_close(arm, expected, rtol=0.02, atol=0.02)
    logits.float().square().sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_bad_heads_are_refused_with_what_is_accepted() -> None:
    with pytest.raises(ModelError, match=r"1x7.*2x2 and up.*64 px"):
        ArmHead(512, (1, 7), num_classes=2)
    with pytest.raises(ModelError, match=r"'mean'.*batch, ema, none"):
        ArmHead(512, (7, 7), num_classes=2, affinity="mean")  # type: ignore[arg-type]
