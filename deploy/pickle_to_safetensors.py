#!/usr/bin/env python3
"""Takes the weights out of a PyTorch checkpoint and writes them as safetensors.

    python3 pickle_to_safetensors.py CHECKPOINT.pth WEIGHTS.safetensors [KEY]

Needs torch and safetensors. Checkpoints of the official code, of timm and of mmaction hold more
than tensors: settings, the optimizer's state, schedulers. Nothing of that is built, and no code
that a pickle names is run: only what tensors are made of is let through, and an empty object stands
for the rest, so that the packages which those objects come from need not be installed either.

The weights are taken from the first of the keys model, state_dict, module and net that the
checkpoint has, or from KEY (model_ema), or from its top level.
"""

import pickle
import sys

import torch
from safetensors.torch import save_file

KEYS = ("model", "state_dict", "module", "net")
# What the pickle of a tensor names. The storages themselves are torch.load's own business.
ALLOWED = {
    ("collections", "OrderedDict"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
}


class Other(dict):
    """Stands for an object that is no tensor: takes all that a pickle does to it, stays empty."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        super().__init__()

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def __call__(self, *args, **kwargs):
        return self

    def append(self, value):
        pass

    extend = append
    add = append
    __hash__ = object.__hash__


class TensorUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        # torch.load asks for storages by these names and replaces them itself.
        storage = module == "torch" and name.endswith("Storage")
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if (module, name) in ALLOWED or storage or dtype:
            return super().find_class(module, name)
        return Other


class TensorPickle:
    """What torch.load wants of a pickle module."""

    __name__ = "TensorPickle"
    Unpickler = TensorUnpickler

    @staticmethod
    def load(file, **kwargs):
        return TensorUnpickler(file, **kwargs).load()


def choose(checkpoint, key):
    """The part of the checkpoint that holds the weights."""
    if key is not None:
        if not isinstance(checkpoint, dict) or key not in checkpoint:
            raise SystemExit(f"there is no {key!r} in the file")
        return checkpoint[key]
    for name in KEYS:
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(name), dict):
            return checkpoint[name]
    return checkpoint


def main(arguments):
    if len(arguments) not in (2, 3):
        raise SystemExit(__doc__)
    source, target = arguments[:2]
    loaded = torch.load(
        source, map_location="cpu", pickle_module=TensorPickle, weights_only=False
    )
    weights = choose(loaded, arguments[2] if len(arguments) == 3 else None)
    tensors = {}
    if isinstance(weights, dict):
        for name, value in weights.items():
            # A copy each: safetensors refuses tensors that share memory.
            if isinstance(value, torch.Tensor):
                tensors[str(name)] = value.detach().clone().contiguous()
    if not tensors and isinstance(loaded, Other):
        raise SystemExit(
            f"{source} holds an object, such as a whole model; save its state_dict() with the "
            "program that it comes from"
        )
    if not tensors:
        keys = ", ".join(str(key) for key in loaded) if isinstance(loaded, dict) else "none"
        raise SystemExit(
            f"{source} has no weights where they were looked for; its keys: {keys};"
            " name the right one as the third argument"
        )
    save_file(tensors, target)
    print(f"wrote {len(tensors)} tensors to {target}")


if __name__ == "__main__":
    main(sys.argv[1:])
