"""Values: what a dataclass would do, and nothing less."""

import copy
import dataclasses

import pytest

from llmrun.values import value


@value
class Point:
    """A point.

    Attributes:
        x: Across.
        names: What it is called.
        marks: A list of its own for each.
    """

    x: int
    names: tuple[str, ...] = ()
    marks: list[int] = dataclasses.field(default_factory=list)

    @property
    def double(self) -> int:
        """Twice across."""
        return 2 * self.x


@value
class Checked:
    """A value that checks itself."""

    x: int = 1

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("negative")


def test_it_is_compared_and_shown_by_what_it_holds() -> None:
    assert Point(x=1) == Point(x=1)
    assert Point(x=1) != Point(x=2)
    assert Point(x=1) != Checked(x=1)  # type: ignore[comparison-overlap]
    assert hash(Checked(x=2)) == hash(Checked(x=2))
    assert len({Checked(x=1), Checked(), Checked(x=2)}) == 2
    assert repr(Point(x=1, names=("a",))) == "Point(x=1, names=('a',), marks=[])"
    assert Point(x=3).double == 6


def test_defaults_are_not_shared() -> None:
    assert Point(x=1).marks is not Point(x=1).marks


def test_it_cannot_be_changed() -> None:
    point = Point(x=1)
    for name in ("x", "y"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(point, name, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(point, "x")
    assert not hasattr(point, "__dict__")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        pytest.param({}, "Point wants a value for x", id="missing"),
        pytest.param({"x": 1, "y": 2}, "Point has no field y", id="unknown"),
    ],
)
def test_it_takes_its_fields_and_no_others(given: dict[str, int], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        Point(**given)  # type: ignore[arg-type]


def test_fields_go_by_name_only() -> None:
    with pytest.raises(TypeError):
        Point(1)  # type: ignore[call-arg]


def test_dataclasses_work_on_it() -> None:
    point = Point(x=1, names=("a",), marks=[1])
    assert dataclasses.asdict(point) == {"x": 1, "names": ("a",), "marks": [1]}
    assert dataclasses.replace(point, x=2) == Point(x=2, names=("a",), marks=[1])
    assert [field.name for field in dataclasses.fields(Point)] == ["x", "names", "marks"]
    assert copy.copy(point) == point
    assert copy.deepcopy(point).marks is not point.marks


def test_it_may_check_itself() -> None:
    with pytest.raises(ValueError, match="negative"):
        Checked(x=-1)
