"""What a process of a group imports, so that it is there when one is forked."""

import transformers.models.llama.modeling_llama  # noqa: F401

import tandem.inference.parallel.follower  # noqa: F401
import tandem.inference.parallel.leader  # noqa: F401
import tandem.inference.serving  # noqa: F401
import target_service.__main__  # noqa: F401
import target_service.group  # noqa: F401
import target_service.server  # noqa: F401
