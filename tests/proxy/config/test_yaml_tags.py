"""Tags that PyYAML trips over are problems of the configuration, not crashes."""

import pytest

from proxy.config.load import load_text
from proxy.config.problems import ConfigProblems


@pytest.mark.parametrize("text", ["a: !!int ''", "a: !!bool x", "server: {port: !!int ''}"])
def test_explicit_tags_with_other_values_are_problems(text):
    with pytest.raises(ConfigProblems):
        load_text(text, {})
