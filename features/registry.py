"""Names turned into things: what the program knows itself, and what other distributions add by entry points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from offramp.features.errors import InputError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")


class Registry(MutableMapping[str, T]):
    """A dict of a kind of things, ``what``, by name; the entry points of the ``group`` join it.

    What is known may be given as ``module:name``, imported when it is first used; a class is called. Entry points
    are looked up when a name is asked for that is not there, or all names are; each is loaded when it is first
    used. One that can't be loaded, or has a name that is taken, is an InputError that names its distribution.

    >>> Registry("metric", "offramp.metrics", {"area": len}).find("aera", "--metric")
    Traceback (most recent call last):
    ...
    offramp.features.errors.InputError: --metric: expected one of area, found 'aera'
    """

    def __init__(self, what: str, group: str, known: Mapping[str, T | str]) -> None:
        self.what, self.group = what, group
        self._known: dict[str, Any] = dict(known)
        self._waiting: dict[str, EntryPoint] | None = None

    def find(self, name: str, where: str) -> T:
        """The thing of that name. Raises InputError, about ``where``, with the names that there are."""
        if name not in self:
            raise InputError(f"one of {', '.join(self)}", repr(name[:80]), where)
        return self[name]

    def __getitem__(self, name: str) -> T:
        if name not in self._known:
            self._known[name] = self._loaded(self._plugins()[name])
        found = self._known[name]
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            thing = getattr(import_module(module), attribute)
            found = self._known[name] = thing() if isinstance(thing, type) else thing
        made: T = found
        return made

    def __setitem__(self, name: str, thing: T) -> None:
        self._known[name] = thing

    def __delitem__(self, name: str) -> None:
        del self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in self._plugins()

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._known, *self._plugins()]))

    def __len__(self) -> int:
        return len(self._known.keys() | self._plugins().keys())

    def _plugins(self) -> Mapping[str, EntryPoint]:
        if self._waiting is None:
            from importlib.metadata import entry_points

            found: dict[str, EntryPoint] = {}
            for entry in entry_points(group=self.group):
                if entry.name in self._known or found.get(entry.name, entry).value != entry.value:
                    raise InputError(f"a {self.what} of a new name", f"{entry.name!r} once more", self._where(entry))
                found[entry.name] = entry
            self._waiting = found
        return self._waiting

    def _loaded(self, entry: EntryPoint) -> T:
        try:
            thing = entry.load()
        except Exception as error:  # whatever somebody else's module throws
            found = f"{type(error).__name__}: {str(error)[:200]}"
            raise InputError(f"a {self.what} that can be imported", found, self._where(entry)) from error
        made: T = thing() if isinstance(thing, type) else thing
        return made

    def _where(self, entry: EntryPoint) -> str:
        dist = "" if entry.dist is None else f" of {entry.dist.name}"
        return f"plug-in {entry.value}{dist} ({self.group})"
