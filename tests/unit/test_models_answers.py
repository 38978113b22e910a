"""What a network answers to whoever only asks."""

import torch

from privatenet.models.answers import probabilities
from privatenet.models.channel import CENTRE, ChannelSpec
from privatenet.models.network import NetworkSpec, build_network


def test_a_noisy_answer_changes_with_the_batch_or_from_one_call_to_the_next() -> None:
    torch.manual_seed(0)
    network = build_network(NetworkSpec("resnet18", 7, 32, "linear", channel=ChannelSpec("noise", norm=4.0))).eval()
    network.head.linear.weight.data *= 30
    pictures = torch.randn(6, 3, 32, 32)
    with torch.inference_mode():
        together, again = probabilities(network, pictures), probabilities(network, pictures)
        alone = torch.cat([probabilities(network, picture[None]) for picture in pictures])
        centres = network(pictures)[1][CENTRE]
        draws = torch.stack([network.answer(network.channel(centres)).softmax(1) for _ in range(400)])
    assert torch.equal(together, again)
    assert torch.allclose(together, alone, atol=1e-5)
    assert (together - draws.mean(0)).abs().max() < 4 * (draws.std(0) / 20**0.5).max(), "it is no mean over draws"
