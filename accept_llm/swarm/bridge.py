"""Makes Petals 2.2 run with hivemind 1.1.12, which has moved names out of its top level.

Petals asks for hivemind 1.1.10.post2; 1.1.12 is the only one whose wheel carries the p2p daemon.
Nothing else is changed, and nothing that is there is replaced.
"""

import importlib.util
import logging
import warnings
from types import ModuleType

from accept_llm.errors import RecipeError

MOVED = {
    "hivemind.compression.serialization": (
        *("deserialize_tensor_stream", "deserialize_torch_tensor", "serialize_torch_tensor"),
    ),
    "hivemind.p2p": ("P2P", "P2PContext", "PeerID"),
    "hivemind.utils.asyncio": ("anext",),
    "hivemind.utils.logging": ("get_logger",),
    "hivemind.utils.nested": ("nested_compare", "nested_flatten", "nested_pack"),
    "hivemind.utils.serializer": ("MSGPackSerializer",),
    "hivemind.utils.tensor_descr": ("BatchTensorDescriptor", "TensorDescriptor"),
    "hivemind.utils.timed_storage": (
        *("MAX_DHT_TIME_DISCREPANCY_SECONDS", "TimedStorage", "get_dht_time"),
    ),
}
"""The module that has them now -> the names that Petals imports from `hivemind`."""


def import_petals() -> ModuleType:
    """Puts the moved names where Petals looks for them, and imports it; RecipeError without it."""
    if importlib.util.find_spec("petals") is None:
        message = "Petals is not in this environment"
        raise RecipeError([f"{message}; `make petals` makes .venv-petals: use what is in its bin"])
    hivemind = importlib.import_module("hivemind")
    for home, names in MOVED.items():
        module = importlib.import_module(home)
        for name in names:
            if not hasattr(hivemind, name):
                setattr(hivemind, name, getattr(module, name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what transformers 4.33 calls in torch
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # kernels that it could have
        return importlib.import_module("petals")
