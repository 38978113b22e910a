"""`privatenet train` that says, on stderr, when its first step is over, and ends there."""

import os
import sys
import time

from torch import Tensor

from privatenet.launch import train

FIRST_STEP = "first step at "


def _main() -> int:
    from privatenet.distributed.engine import Engine

    step = Engine.step

    def first(self: Engine, images: Tensor, labels: dict[str, Tensor], lr: float) -> dict[str, Tensor]:
        losses = step(self, images, labels, lr)
        float(losses["loss"])
        print(f"{FIRST_STEP}{time.time()}", file=sys.stderr, flush=True)
        os._exit(0)

    Engine.step = first  # type: ignore[method-assign]
    return train.main()


if __name__ == "__main__":
    sys.exit(_main())
