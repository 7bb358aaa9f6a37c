"""The admin surface: an aiohttp application on the optimizer's unix socket."""
