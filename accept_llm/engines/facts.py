"""What there is to know of each engine before one is opened."""

COMMANDS = {
    "single": "accept-llm train RECIPE, or python launchers/single_gpu.py RECIPE",
    "ddp": "accelerate launch --num_processes N launchers/ddp.py RECIPE",
    "fsdp2": "accelerate launch --num_processes N launchers/fsdp.py RECIPE",
    "zero3": "accelerate launch --num_processes N launchers/zero3.py RECIPE",
    "petals": ".venv-petals/bin/python launchers/petals_client.py RECIPE engine.peers=ADDRESS",
}
# model.weights that an engine can hold: bitsandbytes' cannot be cut up, nor DeepSpeed cut int8.
WEIGHTS = {
    **dict.fromkeys(("single", "ddp"), ("bf16", "int8", "bnb-int8", "bnb-nf4")),
    "fsdp2": ("bf16", "int8"),
    "zero3": ("bf16",),
    "petals": ("bf16", "bnb-int8", "bnb-nf4"),  # what its servers hold
}
LOCAL = ("single", "ddp", "fsdp2", "zero3")  # the weights are in these processes

_EXTRAS = {"bitsandbytes": "quant", "deepspeed": "deepspeed"}
