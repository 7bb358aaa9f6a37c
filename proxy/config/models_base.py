"""What all configuration blocks share: no unknown keys, no truth values as numbers, empty keys are absent."""

from collections.abc import Iterable
from typing import Annotated, Any, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationInfo,
    model_validator,
)


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        # pydantic turns only ValueError into a problem of the configuration.
        raise ValueError("a number is needed, not true or false")  # noqa: TRY004
    return value


def _comma_list(value: Any) -> Any:
    """``a,b`` means the list of both: environment variables have no lists."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _empty_mapping(value: Any) -> Any:
    return {} if value is None else value


Integer = Annotated[int, BeforeValidator(_number)]
Real = Annotated[float, BeforeValidator(_number)]
Count = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Natural = Annotated[int, BeforeValidator(_number), Field(ge=0)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0)]
NotNegative = Annotated[float, BeforeValidator(_number), Field(ge=0)]
Fraction = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]
Port = Annotated[int, BeforeValidator(_number), Field(ge=0, le=65535)]
Text = Annotated[str, Field(min_length=1)]
CommaList = BeforeValidator(_comma_list)
Texts = Annotated[list[Text], CommaList]
# Names go into headers, metric labels and file names: visible ASCII, no quotes, commas or spaces.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9@][A-Za-z0-9._:/@+#~-]{0,127}$")]
EmptyIsNone = BeforeValidator(_empty_mapping)


class Shapes:
    """Which keys each mapping of a document may have, by the mapping's identity; filled during validation."""

    def __init__(self) -> None:
        self._keys: dict[int, tuple[str, ...]] = {}

    def remember(self, mapping: dict[str, Any], keys: Iterable[str]) -> None:
        self._keys[id(mapping)] = tuple(keys)

    def keys_of(self, mapping: Any) -> tuple[str, ...]:
        return self._keys.get(id(mapping), ())


class Block(BaseModel):
    """Base of all blocks. ``shorthand`` lets a block be written as a single value."""

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
                key: value for key, value in data.items() if value is not None or key not in cls.model_fields
            }
        return handler(data)
