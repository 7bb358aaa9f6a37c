"""All codecs by name. A new provider is one module and one line here; the contract tests run over this mapping."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from proxy.providers.anthropic import AnthropicCodec
from proxy.providers.base import Codec
from proxy.providers.openai import OpenAICodec

_ALL: Final[tuple[Codec, ...]] = (OpenAICodec(), AnthropicCodec())

CODECS: Final[Mapping[str, Codec]] = MappingProxyType({codec.name: codec for codec in _ALL})
