"""Sans-io codecs: how OpenAI-shaped requests reach a provider and how its replies come back."""
