"""Writes `docs/api.md` from the contract: `python protos/document.py [OUT]`, by default into the repository.

What is said of a service, a call, a type or a field is the comment that stands before it in `tandem/v1/*.proto`; the
page around it is `api.md.j2`. The callers' service comes first, and every type stands with the first service that
needs it.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_tools import protoc
from jinja2 import Environment, FileSystemLoader, StrictUndefined

PROTOS = Path(__file__).resolve().parent
PAGE = Path("docs/api.md")
_PACKAGE = "tandem.v1"
_SERVICES = ("CompletionService", "DraftService", "TargetService")
_ERRORS, _REASON = "ErrorReason", "ERROR_REASON_"
#: Elements of a file that have comments: messages, enums and services, by their field in FileDescriptorProto.
_COMMENTED = (4, 5, 6)
_CODE = re.compile(r"(`[^`]*`)")
#: A type's name in a sentence; of two words or more, since `Load` and `Block` are words of their own.
_NAME = re.compile(r"\b[A-Z][a-z]+(?:[A-Z][A-Za-z]+)+\b")
_KINDS = {
    int(number): name.removeprefix("TYPE_").lower() for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()
}

Type = Descriptor | EnumDescriptor


def document(out: Path) -> Path:
    """Writes `out`/docs/api.md and returns its path. Raises RuntimeError where protoc fails."""
    page = out / PAGE
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(_render(Contract(_files())), encoding="utf-8")
    return page


class Contract:
    """The services and types of some files, and what is said of each."""

    def __init__(self, files: descriptor_pb2.FileDescriptorSet) -> None:
        pool = DescriptorPool()
        self._comments: dict[str, str] = {}
        for file in files.file:  # each after those that it imports
            pool.Add(file)
            self._comments |= _comments(file)
        self.services: list[ServiceDescriptor] = [pool.FindServiceByName(f"{_PACKAGE}.{name}") for name in _SERVICES]
        self.errors: EnumDescriptor = pool.FindEnumTypeByName(f"{_PACKAGE}.{_ERRORS}")
        self._first: dict[str, str] = {}  # service that a type stands with, by their full names
        for service in self.services:
            for each in _reachable(service):
                self._first.setdefault(each.full_name, service.full_name)
        self._names = {name.rpartition(".")[2] for name in self._first}

    def types(self, service: ServiceDescriptor) -> dict[str, list[Type]]:
        """What the service needs and those before it did not, by file: its own first, each in its order."""
        own = {each.full_name: each for each in _reachable(service)}
        found: dict[str, list[Type]] = {each.file.name: [] for each in (service, *own.values())}
        for name in self._comments:
            if self._first.get(name) == service.full_name:
                found[own[name].file.name].append(own[name])
        return {file: types for file, types in found.items() if types}

    def comment(self, *names: str) -> str:
        """What is said of a service or type by its full name, or of what stands in it, in Markdown."""
        return self.prose(self._comments[".".join(names)])

    def reasons(self) -> Iterator[tuple[str, str, str]]:
        """The catalogue of errors: reason, status code and meaning."""
        for value in self.errors.values[1:]:
            status, _, meaning = self._comments[f"{self.errors.full_name}.{value.name}"].partition(". ")
            yield value.name.removeprefix(_REASON), status, self.prose(meaning)

    def prose(self, text: str) -> str:
        """Text that means itself in Markdown, in a table too; names of types are links."""
        pieces = _CODE.split(text.replace("|", r"\|"))
        return "".join(piece if piece.startswith("`") else self._linked(piece) for piece in pieces)

    def _linked(self, text: str) -> str:
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace("*", r"\*")
        return _NAME.sub(lambda found: _link(found[0]) if found[0] in self._names else found[0], text)


def _files() -> descriptor_pb2.FileDescriptorSet:
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "contract.binpb"
        sources = sorted((PROTOS / "tandem/v1").glob("*.proto"))
        flags = ("--include_imports", "--include_source_info", f"--descriptor_set_out={found}")
        if protoc.main(["protoc", f"-I{PROTOS}", *flags, *map(str, sources)]) != 0:
            raise RuntimeError("protoc failed; its message is above")
        return descriptor_pb2.FileDescriptorSet.FromString(found.read_bytes())


def _comments(file: descriptor_pb2.FileDescriptorProto) -> dict[str, str]:
    """Comments by full name, in one line each, in the order of the file. A path alternates between the number of a
    field and an index in it."""
    found = {}
    for location in file.source_code_info.location:
        if len(location.path) % 2 or not location.path or location.path[0] not in _COMMENTED:
            continue
        element, names = file, [file.package]
        for number, index in zip(location.path[::2], location.path[1::2], strict=True):
            element = getattr(element, element.DESCRIPTOR.fields_by_number[number].name)[index]
            if not hasattr(element, "name"):  # an option
                break
            names.append(element.name)
        else:
            found[".".join(names)] = " ".join(location.leading_comments.split())
    return found


def _reachable(service: ServiceDescriptor) -> Iterable[Type]:
    """Messages and enums of all its calls, each once."""
    found: dict[str, Type] = {}
    waiting: list[Type] = [each for method in service.methods for each in (method.input_type, method.output_type)]
    while waiting:
        each = waiting.pop(0)
        if each.full_name in found:
            continue
        found[each.full_name] = each
        if isinstance(each, Descriptor):
            waiting += [inner for field in each.fields if (inner := _inner(field)) is not None]
    return found.values()


def _inner(field: FieldDescriptor) -> Type | None:
    """The message or enum that a field holds, a map's as its values."""
    entry = _map_entry(field)
    return field.message_type or field.enum_type if entry is None else _inner(entry["value"])


def _map_entry(field: FieldDescriptor) -> Mapping[str, FieldDescriptor] | None:
    """Key and value of a map; None for any other field."""
    message = field.message_type
    return message.fields_by_name if message is not None and message.GetOptions().map_entry else None


def _type(field: FieldDescriptor) -> str:
    if (entry := _map_entry(field)) is not None:
        return f"map of {_type(entry['key'])} to {_type(entry['value'])}"
    inner = _inner(field)
    return _link(inner.name) if inner is not None else _KINDS[int(field.type)]


def _presence(field: FieldDescriptor) -> str:
    """How often there is one; empty for once, and for maps."""
    if field.is_repeated:
        return "" if _map_entry(field) is not None else "repeated"
    oneof = field.containing_oneof
    if oneof is None:
        return ""
    return "optional" if oneof.name == f"_{field.name}" else f"one of `{oneof.name}`"


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"


def _proto(file: str) -> str:
    """A link to where it is written."""
    return f"[{Path(file).name}](../protos/{file})"


def _render(contract: Contract) -> str:
    environment = Environment(
        loader=FileSystemLoader(PROTOS), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    environment.filters.update(link=_link, proto=_proto, type=_type, presence=_presence)
    environment.tests["message"] = lambda each: isinstance(each, Descriptor)
    return environment.get_template("api.md.j2").render(contract=contract)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write docs/api.md from the contract.")
    parser.add_argument("out", nargs="?", type=Path, default=PROTOS.parent, help="folder to generate into")
    document(parser.parse_args().out)
    print(PAGE)
