"""Imported once by the fork server: what every run needs. It must start no thread."""

import accept_llm.cli
import accept_llm.run
import accept_llm.trainer
import transformers.models.llama.modeling_llama  # noqa: F401
