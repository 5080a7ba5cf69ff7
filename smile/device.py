"""The device that a user names, tried before any work begins."""


def check_device(device: str) -> None:
    """Raises ValueError, naming `--device`, where torch cannot compute on it."""
    import torch

    try:
        torch.zeros(1, device=device).cpu()  # there and back: the `meta` device holds no numbers
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"--device {device} cannot be used ({reason}): leave it out for the CPU") from None
