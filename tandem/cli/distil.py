"""`tandem distil`: makes a draft for a target."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tandem.cli.errors import CliError
from tandem.cli.signals import termination_unwinds

if TYPE_CHECKING:
    from tandem.distil.recipe import Recipe

_stderr = Console(stderr=True, highlight=False)

# What a flag is in a recipe.
_FIELDS = {
    "target": ("target",), "revision": ("revision",), "seed": ("seed",), "weights": ("weights",),
    "prompts": ("prompts", "files"), "exclude": ("prompts", "exclude"),
    "self_written": ("prompts", "self_written"), "tokens": ("data", "tokens"), "layers": ("student", "layers"),
    "kind": ("student", "kind"), "initial": ("student", "initial"), "start_from": ("student", "start_from"),
    "vocabulary": ("student", "vocabulary"), "epochs": ("training", "epochs"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Flags:
    """Those that are not of the recipe."""

    out: Path
    answers: Path | None
    device: str
    threads: int | None
    curve: bool
    fresh: bool

    def again(self) -> str:
        """The command that goes on. What the recipe says is known in the folder."""
        words = ["tandem", "distil", "--out", str(self.out)]
        words += ["--answers", str(self.answers)] if self.answers is not None else []
        words += ["--device", self.device] if self.device != "auto" else []
        words += ["--threads", str(self.threads)] if self.threads is not None else []
        words += ["--curve"] if self.curve else []
        return shlex.join(words)


def distil(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the draft.")],
    target: Annotated[
        str | None,
        typer.Option(help="Model to draft for: a Hugging Face id, a folder, a GGUF file; the recipe's if unset."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of a Hugging Face id.")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Recipe, TOML; if unset that of FOLDER where a run was begun, or defaults."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            help="What the draft reads: layers for tokens alone, features for the target's states as well; layers if"
            " unset."
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="Layers of the draft; 3 if unset, or 1 with --kind features.")
    ] = None,
    initial: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="The target's layers that it begins as; the first and last if unset."),
    ] = None,
    start_from: Annotated[
        str | None, typer.Option(metavar="DRAFT", help="Draft of the same shape to begin as; the target if unset.")
    ] = None,
    vocabulary: Annotated[
        int | None, typer.Option(min=0, help="Tokens that it can say, 0 for all; 16384 if unset.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of answers to learn from; 2000000 if unset.")
    ] = None,
    prompts: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Prompts, .jsonl or .txt. Repeatable.")
    ] = None,
    exclude: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Prompts that must not be learnt from. Repeatable.")
    ] = None,
    self_written: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of prompts that the target writes; .5 if unset and it can."),
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the data; 2 if unset.")] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="int8|bfloat16", help="Weights of the folder; int8 if unset.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="Of all that is drawn; 0 if unset.")] = None,
    answers: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where the answers are, for several drafts; the draft's own if unset."),
    ] = None,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where it is computed.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all cores if unset.")] = None,
    curve: Annotated[bool, typer.Option("--curve", help="Train on 1/8, 1/4 and 1/2 of the data too.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train anew; answers that fit are kept.")] = False,
) -> None:
    """Make a draft for a target: it answers prompts, and a few of its own layers learn to foresee it.

    Run again it goes on where it was ended, by Ctrl-C or otherwise. A recipe says more than flags do: docs/distil.md.

    \b
    tandem distil --target ORGANISATION/MODEL --out draft
    tandem distil --out draft                      # goes on
    tandem distil --recipe recipe.toml --layers 2 --out draft-2
    torchrun --nproc-per-node 4 -m tandem distil --target ./model --out draft
    """
    flags = _Flags(out, answers, device, threads, curve, fresh)
    own = {
        "target": target, "revision": revision, "seed": seed, "weights": weights, "tokens": tokens, "layers": layers,
        "kind": kind, "start_from": start_from, "vocabulary": vocabulary, "epochs": epochs,
        "self_written": self_written, "initial": _numbers(initial), "prompts": _absolute(prompts),
        "exclude": _absolute(exclude),
    }  # fmt: skip
    _run(flags, _recipe(recipe, out, fresh, {name: value for name, value in own.items() if value is not None}))


def _recipe(file: Path | None, out: Path, fresh: bool, own: dict[str, Any]) -> Recipe:
    """Flags over the file's, or what the folder was begun with, over defaults."""
    from pydantic import ValidationError

    from tandem.distil.paths import whole_paths
    from tandem.distil.recipe import Recipe, RecipeError
    from tandem.distil.work import WorkFolder

    try:
        given = whole_paths(Recipe.read(file), file.parent) if file is not None else None
        if given is None and not (fresh and "target" in own):
            given = WorkFolder(out).recipe()
    except RecipeError as error:
        raise CliError(str(error)) from error
    facts: dict[str, Any] = given.model_dump(exclude_unset=True) if given is not None else {}
    for name, value in own.items():
        *sections, field = _FIELDS[name]
        place = facts
        for section in sections:
            place = place.setdefault(section, {})
        place[field] = value
    if "target" not in facts:
        raise CliError(f"--target names the model that {out} is to be a draft for, or --recipe says it")
    try:
        return whole_paths(Recipe.model_validate(facts), Path.cwd())
    except ValidationError as error:
        first = error.errors()[0]
        path = tuple(str(part) for part in first["loc"])
        flag = next((name for name, field in _FIELDS.items() if field == path[: len(field)]), None)
        name = f"--{flag.replace('_', '-')}" if flag in own else ".".join(path)
        raise CliError(f"{name}: {first['msg']}") from error


def _run(flags: _Flags, recipe: Recipe) -> None:
    from tandem.distil.recipe import RecipeError
    from tandem.distil.work import WorkError, WorkFolder
    from tandem.serving import prepare_for_models

    try:  # before torch is loaded for nothing
        if not flags.fresh:
            WorkFolder(flags.out).check(recipe)
    except (RecipeError, WorkError) as error:
        raise CliError(str(error)) from error
    prepare_for_models()
    from tandem.cli.distil_progress import listener
    from tandem.distil.failures import FAILURES
    from tandem.distil.run import Order, distil
    from tandem.distil.training import Interrupted

    order = Order(recipe, flags.out, flags.answers, flags.device, flags.threads, flags.curve, flags.fresh)
    is_first = os.environ.get("RANK", "0") == "0"
    try:
        with termination_unwinds(), listener(_stderr, is_first) as shown:
            distil(order, shown)
    except FAILURES as error:
        raise CliError(str(error) or type(error).__name__) from error
    except (KeyboardInterrupt, SystemExit, Interrupted) as error:
        if is_first and WorkFolder(flags.out).recipe() is not None:
            _stderr.print(f"\nall that was done is kept; go on with: {flags.again()}", soft_wrap=True, markup=False)
        if isinstance(error, Interrupted):
            raise SystemExit(128 + error.signal_number) from error
        raise
    if is_first:
        print(flags.out)


def _numbers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise CliError(f"--initial is {text!r}; it must be numbers of layers, as 0,1,29") from None


def _absolute(paths: list[Path] | None) -> list[str] | None:
    return [str(path.expanduser().absolute()) for path in paths] if paths else None
