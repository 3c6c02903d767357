from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from moa.errors import ConfigError
from moa.toml_file import Section, all_keys, describe_keys, read_toml


class Engine(Section):
    power_kw: float = Field(gt=0, le=500, description="Power in kW; > 0, at most 500")
    fuel: Literal["petrol", "none"] = "none"


class Car(Section):
    name: str
    path: str | list[str] = "here"
    seats: int = Field(default=4, ge=1, description="Seats; ≥ 1")
    built: date | None = None
    engine: Engine
    spare: Engine | None = None
    wheels: dict[str, Engine] = Field(default_factory=dict)


def written(folder: Path, text: str) -> Path:
    path = folder / "car.toml"
    path.write_text(text)
    return path


GOOD = """
name = "a"
[engine]
power_kw = 20
"""


def refused(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as refusal:
        read_toml(Car, written(folder, text), overrides)
    return str(refusal.value).splitlines()


def test_a_good_file_is_read(tmp_path: Path) -> None:
    car = read_toml(Car, written(tmp_path, GOOD))

    assert car.engine.power_kw == 20
    assert car.seats == 4


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("seats=2", "seats", 2),
        ("engine.power_kw = 7.5", "engine", Engine(power_kw=7.5)),
        ("name=plain text", "name", "plain text"),
        ("name='quoted'", "name", "quoted"),
        ("name=2026-11-24", "name", "2026-11-24"),
        ("name=17", "name", "17"),
        ("built=2026-11-24", "built", date(2026, 11, 24)),
        ('path=["a", "b"]', "path", ["a", "b"]),
        ("path=a", "path", "a"),
        ("name=x=y", "name", "x=y"),
        ("spare.power_kw=3", "spare", Engine(power_kw=3)),
        ("name=1\nseats = 9", "name", "1\nseats = 9"),
    ],
)
def test_an_override_replaces_a_value(
    tmp_path: Path, override: str, key: str, value: object
) -> None:
    car = read_toml(Car, written(tmp_path, GOOD), [override])

    assert getattr(car, key) == value


def test_the_last_override_wins(tmp_path: Path) -> None:
    car = read_toml(Car, written(tmp_path, GOOD), ["seats=2", "seats=3"])

    assert car.seats == 3


def test_every_problem_is_named_on_a_line_of_its_own(tmp_path: Path) -> None:
    text = """
    names = "a"
    seats = 0
    path = 5
    [engine]
    power_kw = 900
    fuels = "petrol"
    """

    heading, *lines = refused(tmp_path, text)

    assert heading.endswith("car.toml: 6 problems")
    assert lines == [
        "  name: missing, and it has no default",
        "  path = 5: should be a valid string or should be a valid list",
        "  seats = 0: should be greater than or equal to 1 [Seats; ≥ 1]",
        "  engine.power_kw = 900: should be less than or equal to 500 "
        "[Power in kW; > 0, at most 500]",
        "  engine.fuels: unknown key; did you mean engine.fuel?",
        "  names: unknown key; did you mean name?",
    ]


def test_an_unknown_key_is_answered_with_the_nearest_known_one(tmp_path: Path) -> None:
    lines = refused(tmp_path, GOOD + 'fuels = "petrol"')

    assert "engine.fuels: unknown key; did you mean engine.fuel?" in lines[1]


def test_a_key_in_the_wrong_section_is_answered_with_the_right_one(tmp_path: Path) -> None:
    lines = refused(tmp_path, 'fuel = "petrol"' + GOOD)

    assert "fuel: unknown key; did you mean engine.fuel?" in lines[1]


def test_a_key_like_nothing_known_is_answered_with_what_there_is(tmp_path: Path) -> None:
    lines = refused(tmp_path, GOOD + "xyzzy = 1")

    assert "known here: power_kw, fuel" in lines[1]


def test_tables_in_a_table_are_looked_into(tmp_path: Path) -> None:
    lines = refused(tmp_path, GOOD + "[wheels.left]\npower_kw = 1\nfuels = 'none'")

    assert "wheels.left.fuels: unknown key; did you mean wheels.left.fuel?" in lines[1]


def test_a_bad_override_is_named_as_one(tmp_path: Path) -> None:
    lines = refused(tmp_path, GOOD, "seats=-1", "engine.powers_kw=3")

    assert any("seats = -1 (from --set)" in line for line in lines)
    assert any("engine.powers_kw (from --set): unknown key" in line for line in lines)


@pytest.mark.parametrize("text", ["seats", "=3", "", "name.more=3"])
def test_an_override_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        read_toml(Car, written(tmp_path, GOOD), [text])


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    lines = refused(tmp_path, GOOD.replace("20", "nan"))

    assert "engine.power_kw = nan" in lines[1]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.toml: no such file"):
        read_toml(Car, tmp_path / "nowhere.toml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(Car, tmp_path)


def test_broken_toml_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"car.toml: not valid TOML: .*line 2"):
        read_toml(Car, written(tmp_path, "seats = 1\nname = = 2\n"))


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "car.toml"
    path.write_text(GOOD, encoding="utf-8-sig")

    assert read_toml(Car, path).name == "a"


@pytest.mark.parametrize("text", [f"name = {'[' * 3000}", f"{GOOD}\n[spare{'.a' * 3000}]"])
def test_toml_that_is_nested_too_deeply_is_refused_in_words(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        read_toml(Car, written(tmp_path, text))


def test_a_path_with_a_nul_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(Car, "a\0b")


def test_a_long_value_is_cut_in_the_message(tmp_path: Path) -> None:
    lines = refused(tmp_path, GOOD, f"seats={'x' * 1000}")

    assert len(lines[1]) < 250


def test_all_keys_of_all_sections_are_listed() -> None:
    keys = list(all_keys(Car))

    assert {"name", "engine", "engine.fuel", "spare.power_kw"} <= set(keys)


def test_the_description_has_a_row_per_value() -> None:
    rows = describe_keys(Car).splitlines()

    assert "| `seats` | `int` | `4` | Seats; ≥ 1 |" in rows
    assert "| `engine.fuel` | `'petrol' \\| 'none'` | `\"none\"` |  |" in rows
    assert '| `path` | `str \\| list[str]` | `"here"` |  |' in rows
    assert not any(row.startswith("| `engine` ") for row in rows)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.integers(), max_size=4))
def test_unknown_keys_never_pass(
    tmp_path_factory: pytest.TempPathFactory, extra: dict[str, Any]
) -> None:
    unknown = {key: number for key, number in extra.items() if key not in Car.model_fields}
    text = "".join(f"{key} = {number}\n" for key, number in unknown.items()) + GOOD
    path = written(tmp_path_factory.mktemp("cars"), text)

    if not unknown:
        assert read_toml(Car, path).name == "a"
        return
    with pytest.raises(ConfigError) as refusal:
        read_toml(Car, path)

    assert all(f"{key}: unknown key" in str(refusal.value) for key in unknown)
