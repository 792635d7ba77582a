"""A forward pass over one token as the flat list of torch calls that it makes.

With quantised weights, a third of a small model's step is Python: modules calling modules, arguments handed down. All
that a pass over one token does to tensors is the same every time, so it is recorded once, calls as Python makes them,
and repeated by a function without the modules in between. Numbers come out equal to the last bit, since the calls are
the same; this is checked, not believed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _pop_mode_temporarily
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from tandem.inference.attention import ragged_attention

_log = logging.getLogger(__name__)

_NAME = "tandem-recording"
_INPUTS = ("input_ids", "position_ids", "logits_to_keep")
#: First steps, as a rule with other tokens at other positions, in which both are run and must give the same.
_CHECKS = 4
_PLAIN = (int, float, bool, str, torch.dtype, torch.device, nn.Module, type(None), type(Ellipsis))


class NotRecordableError(Exception):
    """A pass does what a list of calls cannot repeat."""


@dataclass(frozen=True, slots=True)
class _Call:
    """results: slots of what it returned; several were a sequence."""

    function: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    results: Sequence[int]
    several: bool

    @property
    def changes_an_argument(self) -> bool:
        name = getattr(self.function, "__name__", "")
        in_place = name.endswith("_") and not name.endswith("__")
        return in_place or name == "__setitem__" or name.startswith("__i") or "out" in self.kwargs


class Recorder(TorchFunctionMode):
    """Notes the calls made while it is active. A slot is the number of a tensor: first the inputs, then results."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.slots: dict[int, int] = {}
        self._alive: list[Any] = []  # so that no two tensors have one identity
        for tensor in inputs:
            self._slot(tensor)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        self.note(func, args, kwargs, results)
        return results

    def note(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], results: Any) -> None:
        several = isinstance(results, tuple | list) and bool(results)
        tensors = list(results) if several else [results]
        call = _Call(function, args, kwargs, [], several)
        self._alive.append((args, kwargs, results))
        if not all(isinstance(tensor, Tensor) for tensor in tensors):
            # Sizes, types, numbers: they become part of the calls that they are given to.
            if call.changes_an_argument:
                self.calls.append(call)
            return
        if not call.changes_an_argument and any(results is argument for argument in args):
            return  # `to` the type that it has
        self.calls.append(_Call(function, args, kwargs, [self._slot(tensor) for tensor in tensors], several))

    def _slot(self, tensor: Tensor) -> int:
        self._alive.append(tensor)
        return self.slots.setdefault(id(tensor), len(self.slots))


@dataclass(frozen=True, slots=True)
class _RecordedStep:
    """In the place of a step, which a pass hands on to the attention of each layer."""

    step: Any
    recorder: Recorder


def _attend(module: nn.Module, *tensors: Tensor | None, tandem_step: Any, **options: Any) -> Tensor:
    return ragged_attention(module, *tensors, tandem_step=tandem_step, **options)[0]  # type: ignore[arg-type]


def _recording_attention(module: nn.Module, *tensors: Tensor | None, tandem_step: Any, **options: Any) -> Any:
    """One call, whatever it does inside: that depends on the step."""
    with _pop_mode_temporarily():
        output = _attend(module, *tensors, tandem_step=tandem_step.step, **options)
    tandem_step.recorder.note(_attend, (module, *tensors), options, output)
    return output, None


AttentionInterface.register(_NAME, _recording_attention)
AttentionMaskInterface.register(_NAME, lambda *args, **kwargs: None)

Program = Callable[[Sequence[Tensor], Any], Tensor]


def record(
    model: PreTrainedModel, forward: Callable[..., Any], inputs: Mapping[str, Tensor], step: Any
) -> tuple[Program, Tensor]:
    """Runs `forward`, which is the model's own, over the inputs named in _INPUTS; returns its program and its logits.

    The program takes inputs of the same shapes, and a step. Raises NotRecordableError.
    """
    recorder = Recorder([inputs[name] for name in _INPUTS])
    implementation = model.config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        with recorder:
            logits = forward(**inputs, use_cache=False, tandem_step=_RecordedStep(step, recorder)).logits
    finally:
        model.set_attn_implementation(implementation)
    return _Writer(recorder, _tensors_of(model)).program(logits), logits


def _tensors_of(model: nn.Module) -> set[int]:
    """Identities of what a model holds between passes."""
    held = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        held += [value for value in vars(module).values() if isinstance(value, Tensor)]
    return {id(tensor) for tensor in held}


class _Writer:
    """Writes the calls as the source of a function, which Python runs quicker than anything that reads a list."""

    def __init__(self, recorder: Recorder, constants: set[int]) -> None:
        self._recorder = recorder
        self._constants = constants
        self._names: dict[str, Any] = {}

    def program(self, logits: Tensor) -> Program:
        inputs, wanted = len(_INPUTS), {self._recorder.slots[id(logits)]}
        lines: list[str] = []
        for call in reversed(self._recorder.calls):  # from the end, to leave out what nothing needs
            if call.function is not _attend and not call.changes_an_argument and wanted.isdisjoint(call.results):
                continue
            known = set(wanted)
            function = self._constant(call.function)
            given = [self._written(value, wanted) for value in call.args]
            given += [f"{name}={self._written(value, wanted)}" for name, value in call.kwargs.items()]
            given += ["tandem_step=step"] if call.function is _attend else []
            # Memory that is used no more is taken again while it is still in the processor's cache.
            done = sorted((wanted | set(call.results)) - known - set(range(inputs)))
            results = ", ".join(f"t{slot}" for slot in call.results) + ("," if call.several else "")
            lines.append(f"{results} = " * bool(call.results) + f"{function}({', '.join(given)})")
            lines[-1] += f"; del {', '.join(f't{slot}' for slot in done)}" if done else ""
        head = f"def program(inputs, step):\n {', '.join(f't{slot}' for slot in range(inputs))} = inputs\n "
        tail = f"\n return t{self._recorder.slots[id(logits)]}\n"
        exec(head + "\n ".join(reversed(lines)) + tail, self._names)
        return self._names["program"]

    def _written(self, value: Any, wanted: set[int]) -> str:
        """As source. Adds to `wanted` the slots that it reads."""
        if isinstance(value, Tensor):
            slot = self._recorder.slots.get(id(value))
            if slot is not None:
                wanted.add(slot)
                return f"t{slot}"
            if id(value) not in self._constants:
                raise NotRecordableError("a tensor comes from elsewhere than the inputs and the model")
            return self._constant(value)
        if isinstance(value, tuple | list):
            inner = "".join(f"{self._written(entry, wanted)}, " for entry in value)
            return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
        if isinstance(value, slice):
            return f"slice({', '.join(self._written(edge, wanted) for edge in (value.start, value.stop, value.step))})"
        if not isinstance(value, _PLAIN):
            raise NotRecordableError(f"a call takes a {type(value).__name__}")
        return self._constant(value)

    def _constant(self, value: Any) -> str:
        name = f"c{id(value)}"
        self._names[name] = value  # which keeps it, and so its identity
        return name


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a model's forward returns, as far as a step needs it: logits [1, 1, V]."""

    logits: Tensor


class Replay:
    """The forward of a model: passes over one token by the recording of the first of them, others by the modules."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._forward = model.forward
        self.is_paused = False
        self._program: Program | None = None
        self._checks = _CHECKS

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._checks < 0 or self.is_paused or not _is_one_token(kwargs):
            return self._forward(*args, **kwargs)
        inputs, step = [kwargs[name] for name in _INPUTS], kwargs["tandem_step"]
        if self._program is not None and self._checks == 0:
            return StepOutput(self._program(inputs, step))
        return StepOutput(self._checked(inputs, step))

    def _checked(self, inputs: Sequence[Tensor], step: Any) -> Tensor:
        """The modules' result. Runs the recording too, which leaves the cache as the modules do."""
        named = dict(zip(_INPUTS, inputs, strict=True))
        logits: Tensor
        try:
            if self._program is None:
                self._program, logits = record(self._model, self._forward, named, step)
            else:
                logits = self._forward(**named, use_cache=False, tandem_step=step).logits
            if not torch.equal(self._program(inputs, step), logits):
                raise NotRecordableError("its results are not the model's")
        except NotRecordableError as error:
            _log.info("%s runs its modules in every step: %s", type(self._model).__name__, error)
            self._program, self._checks = None, -1
            return self._forward(**named, use_cache=False, tandem_step=step).logits
        self._checks -= 1
        return logits


def _is_one_token(kwargs: Mapping[str, Any]) -> bool:
    return kwargs.keys() == {*_INPUTS, "use_cache", "tandem_step"} and kwargs["input_ids"].numel() == 1


def replay_steps(model: PreTrainedModel) -> None:
    """Makes `model` repeat its passes over one token from a recording. Its modules must not be changed afterwards."""
    model.forward = Replay(model)  # type: ignore[method-assign,assignment]


@contextmanager
def modules_run(model: PreTrainedModel) -> Iterator[None]:
    """Meanwhile all passes run the modules, so that what hooks into them is called."""
    replay: Any = model.forward
    if not isinstance(replay, Replay):
        yield
        return
    replay.is_paused = True
    try:
        yield
    finally:
        replay.is_paused = False
