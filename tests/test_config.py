"""Objects from configs: what is accepted is exact, what is wrong is listed at once and by name."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Annotated, ClassVar, Literal, Protocol

import pytest
from annotated_types import Gt, Interval
from pydantic import BaseModel, ConfigDict

from pdediff import config
from pdediff.config import ROOMS, build, canonical, check, choices, to_dict, validate
from pdediff.errors import ConfigError, ConfigErrors
from pdediff.flows import compose
from pdediff.stages.configs import ComputeConfig, DemoConfig, EvaluateConfig, GenerateConfig, ReconstructConfig


class Equation(Protocol):
    """What a class of the fake group `pde` offers."""

    name: ClassVar[str]

    def solve(self, x: float) -> float: ...


@dataclass(frozen=True)
class Euler:
    """A fake sampler."""

    eta: Annotated[float, Interval(ge=0, le=1)] = 0.0


@dataclass(frozen=True)
class Heat:
    """A fake equation with an argument of every kind."""

    name: ClassVar[str] = "heat"
    kappa: Annotated[float, Gt(0)]
    steps: Annotated[int, Gt(0)] = 2
    periodic: bool = True
    edge: Literal["open", "closed"] = "open"
    sizes: tuple[int, ...] = (1, 2)
    origin: float | None = None
    sampler: Euler = field(default_factory=Euler)

    def __post_init__(self) -> None:
        if self.steps > 100:
            raise ValueError("steps must be\nat most 100")
        if self.kappa > 50:
            raise ConfigErrors([ConfigError("kappa is large", hint="50"), ConfigError("and more")])

    def solve(self, x: float) -> float:
        return x


@dataclass(frozen=True)
class Record:
    """Public, but no equation."""

    label: str = ""


@dataclass(frozen=True)
class Hidden:
    """An equation that is not public."""

    name: ClassVar[str] = "hidden"

    def solve(self, x: float) -> float:
        return x


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small room that serves the groups `pde` and `sampler`."""
    module = ModuleType("fake_room")
    module.__dict__.update({c.__name__: c for c in (Equation, Euler, Heat, Record, Hidden)})
    module.__dict__["__all__"] = ["Equation", "Euler", "Heat", "Record"]
    monkeypatch.setitem(sys.modules, "fake_room", module)
    monkeypatch.setitem(config.ROOMS, "pde", "fake_room")
    monkeypatch.setitem(config.PROTOCOLS, "pde", "Equation")
    monkeypatch.setitem(config.ROOMS, "sampler", "fake_room")
    monkeypatch.setitem(config.PROTOCOLS, "sampler", "Absent")


def test_build_gives_the_object_with_nested_nodes(room: None) -> None:
    node = {"kind": "Heat", "kappa": 2, "sizes": [3, 4], "sampler": {"kind": "Euler", "eta": 1}}
    built = build("pde", node)
    assert built == Heat(kappa=2.0, sizes=(3, 4), sampler=Euler(1.0))
    assert type(built.kappa) is float
    assert isinstance(built.sizes, tuple)


def test_to_dict_is_the_inverse_of_build(room: None) -> None:
    node = to_dict(Heat(kappa=0.5, origin=1.0))
    assert node["kind"] == "Heat"
    assert node["sampler"] == {"kind": "Euler", "eta": 0.0}
    assert build("pde", node) == Heat(kappa=0.5, origin=1.0)


def test_only_public_classes_of_the_protocol_can_be_named(room: None) -> None:
    assert list(choices("pde")) == ["Heat"]
    for kind in ("Hidden", "Record", "Equation", "__class__", "os.system"):
        (problem,) = check("pde", {"kind": kind})
        assert problem.message == f"pde.kind={kind!r} is not one of Heat"


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [
        ({"kind": "Haet"}, "pde.kind='Haet' is not one of Heat", "did you mean 'Heat'?"),
        ({"kapa": 1.0}, "pde has no option 'kapa'", "did you mean 'kappa'?"),
        ({"kappa": "1%"}, "pde.kappa='1%' is not a number", None),
        ({"kappa": True}, "pde.kappa=True is not a number", None),
        ({"kappa": float("nan")}, "pde.kappa=nan is not a finite number", None),
        ({"kappa": float("inf")}, "pde.kappa=inf is not a finite number", None),
        ({"kappa": 0}, "pde.kappa=0 must be greater than 0", None),
        ({"kappa": None}, "pde.kappa=None is not a number", None),
        ({"steps": True}, "pde.steps=True is not a whole number", None),
        ({"steps": 1.5}, "pde.steps=1.5 is not a whole number", None),
        ({"steps": 2.0}, "pde.steps=2.0 is not a whole number", None),
        ({"steps": "3"}, "pde.steps='3' is not a whole number", None),
        ({"steps": 101}, "pde: steps must be at most 100", None),
        ({"periodic": 1}, "pde.periodic=1 is not true or false", None),
        ({"edge": "opne"}, "pde.edge='opne' is not one of open, closed", None),
        ({"sizes": 3}, "pde.sizes=3 is not a list", None),
        ({"sizes": [1, "a"]}, "pde.sizes[1]='a' is not a whole number", None),
        ({"origin": "left"}, "pde.origin='left' is not a number", None),
        ({"origin": object}, "pde.origin=<class 'object'> is not data (numbers, text, lists, maps)", None),
        ({"sampler": "euler"}, "pde.sampler must be a mapping with `kind: ClassName`, not 'euler'", None),
        ({"sampler": {"kind": "Euler", "eta": 2}}, "pde.sampler.eta=2 must be at most 1", None),
        ({"sampler": {"eta": 1}}, "pde.sampler must be a mapping with `kind: ClassName`, not {'eta': 1}", None),
    ],
)
def test_a_wrong_value_is_named_by_its_path(room: None, change: dict, message: str, hint: str | None) -> None:
    (problem,) = check("pde", {"kind": "Heat", "kappa": 1.0} | change)
    assert problem.message == message
    if hint:
        assert problem.hint == hint
    with pytest.raises(ConfigErrors):
        build("pde", {"kind": "Heat", "kappa": 1.0} | change)


def test_all_problems_are_listed_at_once(room: None) -> None:
    node = {"kind": "Heat", "stepz": 1, "periodic": "yes", "sampler": {"kind": "Euler", "eta": -1}}
    with pytest.raises(ConfigErrors) as caught:
        build("pde", node)
    assert {line for line in caught.value.lines() if line.startswith("error")} == {
        "error[config]: pde.sampler.eta=-1 must be at least 0",
        "error[config]: pde.kappa is missing",
        "error[config]: pde has no option 'stepz'",
        "error[config]: pde.periodic='yes' is not true or false",
    }


def test_problems_raised_by_the_class_keep_their_hints(room: None) -> None:
    found = check("pde", {"kind": "Heat", "kappa": 60.0})
    assert [(p.message, p.hint) for p in found] == [("pde: kappa is large", "50"), ("pde: and more", None)]


def test_nodes_inside_a_model_are_completed_and_checked(room: None) -> None:
    class Job(BaseModel):
        model_config = ConfigDict(**config.STRICT)
        pdes: list[Annotated[dict, canonical("pde")]]
        note: str = ""

    job = validate(Job, {"pdes": [{"kind": "Heat", "kappa": 1}]})
    assert job.pdes == [to_dict(Heat(kappa=1.0))]
    with pytest.raises(ConfigErrors) as caught:
        validate(Job, {"pdes": [{"kind": "Heat", "kappa": 1}, {"kind": "Haet"}], "note": 3, "nots": 1})
    assert [p.message for p in caught.value.problems] == [
        "pdes[1].kind='Haet' is not one of Heat",
        "unknown option 'nots'",
        "note=3 is not text",
    ]


def test_every_ready_made_config_builds_and_every_class_has_one() -> None:
    for group, options in compose.groups().items():
        if group == "compute":
            for option in options:
                validate(ComputeConfig, compose.node(group, option))
            continue
        built = {type(build(group, compose.node(group, option))).__name__ for option in options}
        assert built == set(choices(group)), f"configs/{group} lacks or exceeds the classes of {ROOMS[group]}"


@pytest.mark.parametrize("command", compose.commands())
def test_every_root_config_is_valid(command: str) -> None:
    from pdediff.launch import checked

    checked(command, [])


def test_a_group_option_and_a_value_of_it() -> None:
    made = compose.compose("generate", ["pde.low=2", "pde=darcy", "samples=2048", "+grid=32"])
    assert made["pde"] == compose.node("pde", "darcy") | {"low": 2}
    assert (made["samples"], made["grid"]) == (2048, 32)


def test_a_group_can_be_chosen_where_it_is_nested() -> None:
    made = compose.compose("demo", ["generate.pde=ks1d"])
    assert made["generate"]["pde"] == compose.node("pde", "ks1d")


def test_references_between_keys_are_filled_in() -> None:
    made = compose.compose("generate", ["seed=7", "shard=${seed}"])
    assert made["shard"] == 7


@pytest.mark.parametrize(
    "override",
    [
        "pde._target_=os.system",
        "pde={_target_: os.system}",
        "x._partial_=true",
        "x=[{_args_: [1]}]",
        "name=${oc.env:HOME}",
        "name=${oc.decode:x}",
        "name=a${oc.env:HOME}b",
        "name=${${seed}}",
        "name={a: '${hydra:runtime.cwd}'}",
        "'${oc.env:HOME}=1'",
        "hydra/launcher=joblib",
        "pde@other=darcy",
        "~pde",
        "samples=1,2",
        "samples",
        "samples=(",
    ],
)
def test_overrides_are_data(override: str) -> None:
    with pytest.raises(ConfigErrors):
        compose.compose("generate", [override])


def test_the_rest_is_checked_beside_a_bad_override() -> None:
    made, problems = compose.read("generate", ["pde=darci", "pde.low=2", "samples=7"])
    assert [p.message.split(" is ")[0] for p in problems] == ["pde='darci'"]
    assert problems[0].hint == "did you mean 'darcy'?"
    assert made["samples"] == 7
    assert made["pde"] == compose.node("pde", "darcy")


def test_defaults_are_part_of_the_config() -> None:
    generate = validate(GenerateConfig, {"pde": {"kind": "Darcy"}})
    assert generate.pde == to_dict(build("pde", {"kind": "Darcy"}))
    assert GenerateConfig.model_validate(generate.model_dump()) == generate


def test_observations_are_a_file_or_a_recipe() -> None:
    posterior = compose.node("posterior", "calibrated")
    read = validate(ReconstructConfig, {"posterior": posterior, "observations": "sensors.csv"})
    assert read.observations == "sensors.csv"
    recipe = {"sensors": {"pressure": 4}, "noise": 0.1}
    made = validate(ReconstructConfig, {"posterior": posterior, "observations": recipe})
    assert made.observations.sensors == {"pressure": 4}
    for wrong, message in [
        ({"noise": 0.1}, "observations.sensors is missing"),
        (recipe | {"on_grid": ["u"]}, "observations: on_grid names 'u', which has no sensors"),
        ({"sensors": {"pressure": 0}}, "observations.sensors.pressure=0 must be at least 1"),
    ]:
        with pytest.raises(ConfigErrors) as caught:
            validate(ReconstructConfig, {"posterior": posterior, "observations": wrong})
        assert [p.message for p in caught.value.problems] == [message]


def test_the_demo_names_its_reconstructions_and_leaves_out_null() -> None:
    composed = compose.compose("demo", ["posteriors.smc=null", "reconstruct.name=two"])
    composed.pop("compute")
    demo = validate(DemoConfig, composed)
    made = demo.reconstructions()
    assert "smc" not in made
    assert made["dps"].name == "two-dps"
    assert made["dps"].posterior == compose.node("posterior", "dps") | made["dps"].posterior
    assert made["dps"].draws == demo.reconstruct.draws


def test_levels_of_coverage_are_shares() -> None:
    assert validate(EvaluateConfig, {"levels": [0.5]}).levels == [0.5]
    with pytest.raises(ConfigErrors, match="must be less than 1"):
        validate(EvaluateConfig, {"levels": [1]})
