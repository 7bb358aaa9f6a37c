"""The HTTP/1.1 engine, both directions: the only code that touches data-plane sockets.

``server`` answers clients, ``client`` talks to upstreams, ``messages`` is what an application on top of them
sees. Parsing is llhttp's (through httptools), always strict; the transports are uvloop's.
"""
