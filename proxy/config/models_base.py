"""What all configuration blocks share: no unknown keys, no truth values as numbers, empty keys are absent."""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationInfo,
    model_validator,
)

_LARGEST_NUMBER = 2**53


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        # pydantic turns only ValueError into a problem of the configuration.
        raise ValueError("a number is needed, not true or false")  # noqa: TRY004
    return value


def _bounded(value: Any) -> Any:
    # Beyond this a number is no longer exact in JSON, which the routing table and the event log are written in.
    if abs(value) > _LARGEST_NUMBER:
        raise ValueError("the number is too large")
    return value


def _comma_list(value: Any) -> Any:
    """``a,b`` means the list of both: environment variables have no lists."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _empty_mapping(value: Any) -> Any:
    return {} if value is None else value


Integer = Annotated[int, BeforeValidator(_number), AfterValidator(_bounded)]
Real = Annotated[float, BeforeValidator(_number), AfterValidator(_bounded)]
Count = Annotated[Integer, Field(ge=1)]
Natural = Annotated[Integer, Field(ge=0)]
Positive = Annotated[Real, Field(gt=0)]
NotNegative = Annotated[Real, Field(ge=0)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
Port = Annotated[Integer, Field(ge=0, le=65535)]
Text = Annotated[str, Field(min_length=1)]
CommaList = BeforeValidator(_comma_list)
Texts = Annotated[list[Text], CommaList]
# Names go into headers, metric labels and file names: visible ASCII, no quotes, commas or spaces.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9@][A-Za-z0-9._:/@+#~-]{0,127}$")]
EmptyIsNone = BeforeValidator(_empty_mapping)
# For ``json_schema_extra``: the processes read the key when they start, a reload does not change it.
AT_RESTART: dict[str, Any] = {"reload": "restart"}


def switched_off(value: Any) -> bool:
    """Whether a block is written as ``false`` or 0, also as the text that environment variables hold."""
    if isinstance(value, str):
        return value.strip().lower() in ("false", "off", "no", "0")
    return isinstance(value, (bool, int, float)) and value == 0


class Shapes:
    """Which keys each mapping of a document may have, by the mapping's identity; filled during validation."""

    def __init__(self) -> None:
        self._keys: dict[int, tuple[str, ...]] = {}

    def remember(self, mapping: dict[str, Any], keys: Iterable[str]) -> None:
        self._keys[id(mapping)] = tuple(keys)

    def keys_of(self, mapping: Any) -> tuple[str, ...]:
        return self._keys.get(id(mapping), ())


class Block(BaseModel):
    """Base of all blocks. ``shorthand`` lets a block be written as a single value.

    ``null_counts`` names keys for which a written null is a value of its own.
    """

    null_counts: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """Turn a short form into the mapping it stands for."""
        return {} if value is None else value

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        data = cls.shorthand(data)
        if isinstance(data, dict):
            if isinstance(info.context, Shapes):
                info.context.remember(data, cls.model_fields)
            # `key:` with nothing behind it is how YAML writes "not set".
            data = {
                key: value
                for key, value in data.items()
                if value is not None or key not in cls.model_fields or key in cls.null_counts
            }
        return handler(data)
