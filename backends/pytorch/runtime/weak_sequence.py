"""A sequence that does not keep its items alive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar
from weakref import ref

__all__ = ["WeakSequence"]

_Item = TypeVar("_Item")


class WeakSequence(Generic[_Item]):
    """Those of the items that still exist, in order.

    Args:
        items: The items.
    """

    def __init__(self, items: Iterable[_Item]) -> None:
        self._references = [ref(item) for item in items]

    def __iter__(self) -> Iterator[_Item]:
        for reference in self._references:
            item = reference()
            if item is not None:
                yield item

    @property
    def first(self) -> _Item:
        """The first item.

        Raises:
            ReferenceError: If it no longer exists.
        """
        item = self._references[0]()
        if item is None:
            raise ReferenceError("the first item no longer exists")
        return item
